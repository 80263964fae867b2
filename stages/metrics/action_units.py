"""Metrics of action unit detection: arrays of N pictures and L action units.

A truth of NaN is unknown and never counted. An action unit counts as detected if its probability is
**above** the threshold, as in torchmetrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc

from ...manifests.arrays import Numbers
from .calibration import expected_calibration_error

#: Indices of the counts that ``outcomes`` returns.
TP, FP, TN, FN = range(4)


@dataclass(frozen=True)
class UnitScores:
    """Scores of each action unit, all (L,) float64.

    Attributes:
        f1: see ``f1_of``; NaN if no truth is known.
        accuracy: share of known truths predicted correctly; NaN if none is known.
        precision: share of detections that are right; NaN without detections.
        recall: share of occurrences that are detected; NaN without occurrences.
        auc: area under the ROC curve; NaN if one class is missing.
        ece: expected calibration error; NaN if no truth is known.
        known: number of pictures with a known truth.
        positives: number of pictures in which it occurs.
    """

    f1: Numbers
    accuracy: Numbers
    precision: Numbers
    recall: Numbers
    auc: Numbers
    ece: Numbers
    known: Numbers
    positives: Numbers

    @property
    def mean_f1(self) -> float:
        """Return the mean F1 over action units with a known truth; NaN if there are none."""
        return mean_known(self.f1)

    @property
    def prevalence(self) -> Numbers:
        """Return (L,) the share of known truths in which it occurs; NaN if none is known."""
        return _ratio(self.positives, self.known)

    @property
    def without_positives(self) -> NDArray[np.bool_]:
        """Return (L,) which are known but never occur: their F1 is 0 whatever is predicted."""
        return np.logical_and(self.known > 0, self.positives == 0)


def outcomes(truth: Numbers, probability: Numbers, threshold: float = 0.5) -> Numbers:
    """Return the TP, FP, TN and FN counts of each picture.

    Args:
        truth: (N, L) 0, 1 or NaN.
        probability: (N, L) in [0, 1].
        threshold: detected if the probability is above it.

    Returns:
        (N, L, 4) float64: TP, FP, TN, FN, each 0 or 1; all 0 if the truth is unknown.

    Raises:
        ValueError: shapes differ, or a probability is not within [0, 1] (NaN included).
    """
    if truth.shape != probability.shape or truth.ndim != 2:
        raise ValueError(f"truth {truth.shape} and probability {probability.shape}: want (N, L)")
    if not np.all((probability >= 0) & (probability <= 1)):
        raise ValueError("a probability is not within 0 and 1")
    # Not torchmetrics' stat_scores, which drops axes of length one.
    detected, occurs, absent = probability > threshold, truth == 1, truth == 0
    cells = [occurs & detected, absent & detected, absent & ~detected, occurs & ~detected]
    return np.stack(cells, axis=-1).astype(np.float64)


def f1_of(counts: Numbers) -> Numbers:
    """Return F1 = 2 TP / (2 TP + FP + FN) of pooled counts (van Rijsbergen 1979, chapter 7).

    0 if the action unit neither occurs nor is predicted, like scikit-learn's ``zero_division=0``;
    NaN if no truth is known.

    Args:
        counts: (…, 4) sums of ``outcomes``.

    Returns:
        (…) float64.
    """
    positive = 2 * counts[..., TP] + counts[..., FP] + counts[..., FN]
    f1 = 2 * counts[..., TP] / np.maximum(positive, 1)
    return np.where(counts.sum(axis=-1) > 0, f1, np.nan)


def mean_known(values: Numbers) -> Any:
    """Return the mean over the last axis, ignoring NaN; NaN if all are. (…, L) → (…)."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=-1)
    count = known.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)[()]


def mean_f1_of(counts: Numbers) -> Any:
    """Return the mean ``f1_of`` over action units: (…, L, 4) sums of ``outcomes`` → (…)."""
    return mean_known(f1_of(counts))


def unit_scores(truth: Numbers, probability: Numbers, threshold: float = 0.5) -> UnitScores:
    """Return all scores of each action unit, pooled over the pictures.

    Args, both (N, L), and errors as ``outcomes``.
    """
    counts = outcomes(truth, probability, threshold).sum(axis=0)
    known = counts.sum(axis=-1)
    each = [(truth[:, k], probability[:, k]) for k in range(truth.shape[1])]
    return UnitScores(
        f1=f1_of(counts),
        accuracy=_ratio(counts[:, TP] + counts[:, TN], known),
        precision=_ratio(counts[:, TP], counts[:, TP] + counts[:, FP]),
        recall=_ratio(counts[:, TP], counts[:, TP] + counts[:, FN]),
        auc=np.array([_auc(*pair) for pair in each]),
        ece=np.array([expected_calibration_error(*_known(*pair)) for pair in each]),
        known=known,
        positives=counts[:, TP] + counts[:, FN],
    )


def au_f1(
    truth: Numbers, probability: Numbers, threshold: float = 0.5
) -> tuple[Numbers, float, NDArray[np.bool_]]:
    """Return F1 of each action unit (L,), their mean, and which occur in no picture (L,).

    Args and errors as ``outcomes``. An action unit without a known truth has F1 NaN and does not
    count in the mean.
    """
    counts = outcomes(truth, probability, threshold).sum(axis=0)
    return f1_of(counts), float(mean_f1_of(counts)), counts[:, TP] + counts[:, FN] == 0


def best_threshold(truth: Numbers, probability: Numbers) -> tuple[float, float]:
    """Return the one threshold with the best mean F1 **on these pictures**, and that F1.

    Tries 0.01, 0.02 … 0.99; takes the lowest of equals. If chosen on the test set, the F1 is too
    optimistic: report it only under ``paper_style``.

    Args:
        truth: (N, L) 0, 1 or NaN.
        probability: (N, L) in [0, 1].
    """
    tried = np.arange(1, 100) / 100
    counts = np.zeros((len(tried), truth.shape[1], 4))
    # The number of thresholds below each probability gives the counts at all thresholds at once.
    above = np.searchsorted(tried, probability, side="left")
    for unit, label in product(range(truth.shape[1]), (0, 1)):
        reached = np.bincount(above[truth[:, unit] == label, unit], minlength=len(tried) + 1)
        detected = np.cumsum(reached[::-1])[::-1][1:]
        counts[:, unit, TP if label else FP] = detected
        counts[:, unit, FN if label else TN] = reached.sum() - detected
    found = mean_f1_of(counts)
    if np.isnan(found).all():
        return 0.5, float("nan")
    best = int(np.nanargmax(found))
    return float(tried[best]), float(found[best])


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    """Return part / whole, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _known(truth: Numbers, probability: Numbers) -> tuple[Numbers, Numbers]:
    """Return probabilities and truths where these are known."""
    known = ~np.isnan(truth)
    return probability[known].astype(np.float64), truth[known]


def _auc(truth: Numbers, probability: Numbers) -> float:
    told, known = _known(truth, probability)
    labels = known.astype(np.int64)
    if len(np.unique(labels)) < 2:
        return float("nan")
    scores = torch.from_numpy(told)
    return float(binary_auroc(scores, torch.from_numpy(labels)))
