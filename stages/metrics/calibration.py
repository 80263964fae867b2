"""Calibration: how often what was predicted with a probability really happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_calibration_error

from ...manifests.arrays import Mask, Numbers

#: Bins of equal width from 0 to 1 (Guo et al., *On Calibration of Modern Neural Networks*, 2017).
BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram's numbers, one for each of B bins from 0 to 1.

    Attributes:
        counts: (B,) number of predictions.
        confidence: (B,) their mean probability; NaN in an empty bin.
        observed: (B,) the share of them that happened; NaN in an empty bin.
    """

    counts: NDArray[np.int64]
    confidence: Numbers
    observed: Numbers


def reliability(confidence: Numbers, happened: NDArray[Any]) -> Reliability:
    """Return the numbers of a reliability diagram (Niculescu-Mizil & Caruana 2005).

    Args:
        confidence: (N,) probabilities in [0, 1].
        happened: (N,) whether it happened, 0 or 1.
    """
    # A probability on an edge belongs to the bin above it, as in torchmetrics.
    places = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    counts = np.bincount(places, minlength=BINS)
    count = np.where(counts > 0, counts, np.nan)
    return Reliability(
        counts=counts,
        confidence=np.bincount(places, confidence, BINS) / count,
        observed=np.bincount(places, happened.astype(np.float64), BINS) / count,
    )


def expected_calibration_error(confidence: Numbers, happened: NDArray[Any]) -> float:
    """Return the mean gap between probability and frequency, over ``BINS`` bins, by their counts.

    As torchmetrics has it (L1 norm): a probability of exactly 1 is in a bin of its own.

    Args:
        confidence: (N,) probabilities in [0, 1].
        happened: (N,) whether it happened, 0 or 1.

    Returns:
        In [0, 1]; NaN without predictions.
    """
    if not len(confidence):
        return float("nan")
    probability = torch.from_numpy(np.ascontiguousarray(confidence, np.float64))
    target = torch.from_numpy(np.asarray(happened, np.int64))
    return float(binary_calibration_error(probability, target, n_bins=BINS, norm="l1"))


def top_label(truth: Numbers, probability: Numbers) -> tuple[Numbers, Mask]:
    """Return the probability of the predicted class, and whether it is right, where truth is known.

    Args:
        truth: (N,) index of the class, or NaN.
        probability: (N, C); the largest is predicted, the first of equals.

    Returns:
        (M,) float64 and (M,) bool.
    """
    known = ~np.isnan(truth)
    told = probability[known]
    return told.max(axis=1, initial=0.0), told.argmax(axis=1) == truth[known]
