"""ROC measures with sample weights, as ``resampling.Draws`` gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Numbers


class Ranking:
    """Scores of two classes, sorted once; every measure takes a weight for each sample.

    Equal scores are one step of the curve: a tie counts half in the AUC (Mann-Whitney), and no
    threshold separates them.

    Args:
        scores: (N,) higher means more likely the class.
        truth: (N,) whether the sample is of the class.
    """

    def __init__(self, scores: NDArray[Any], truth: NDArray[Any]) -> None:
        levels, places = np.unique(scores, return_inverse=True)
        self._levels = len(levels)
        self._places = places.reshape(-1)
        self._truth = truth.astype(np.float64)

    def _counts(self, weights: Numbers | None) -> tuple[Numbers, Numbers]:
        """Return the weight of positives and negatives at each level, from the lowest score."""
        weight = np.ones(len(self._truth)) if weights is None else weights.astype(np.float64)
        inside = weight * self._truth
        positives = np.bincount(self._places, inside, self._levels)
        return positives, np.bincount(self._places, weight - inside, self._levels)

    def auc(self, weights: Numbers | None = None) -> float:
        """Return the area under the curve, by weights (N,); NaN if a class has no weight."""
        positives, negatives = self._counts(weights)
        total = positives.sum() * negatives.sum()
        if total <= 0:
            return float("nan")
        below = np.cumsum(negatives) - negatives / 2
        return float((positives * below).sum() / total)

    def _rates(self, weights: Numbers | None) -> tuple[Numbers, Numbers]:
        """Return false and true positive rates as the threshold falls, both from 0 to 1."""
        positives, negatives = (counts[::-1] for counts in self._counts(weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            false = np.cumsum(negatives) / negatives.sum()
            true = np.cumsum(positives) / positives.sum()
        return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])

    def eer(self, weights: Numbers | None = None) -> float:
        """Return the equal error rate: where false positive and false negative rates are equal.

        ``weights``: (N,) of the samples; 1 each by default.
        """
        false, true = self._rates(weights)
        if not (np.isfinite(false[-1]) and np.isfinite(true[-1])):
            return float("nan")
        over = false + true - 1  # rises from -1 to 1 along the curve
        last = int(np.argmax(over >= 0))
        if last == 0:
            return float(false[0])
        share = -over[last - 1] / (over[last] - over[last - 1])
        return float(false[last - 1] + share * (false[last] - false[last - 1]))

    def tpr_at(self, fpr: float, weights: Numbers | None = None) -> float:
        """Return the true positive rate at the lowest threshold with at most this ``fpr``.

        ``weights``: (N,) of the samples; 1 each by default.
        """
        false, true = self._rates(weights)
        if not (np.isfinite(false[-1]) and np.isfinite(true[-1])):
            return float("nan")
        return float(true[int(np.searchsorted(false, fpr + 1e-12, side="right")) - 1])
