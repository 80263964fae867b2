"""Metrics of emotion recognition, over the whole set at once, never averaged over batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ...manifests.arrays import Mask, Numbers, Rows
from .action_units import mean_known


@dataclass(frozen=True)
class EmotionScores:
    """Scores of C classes.

    Attributes:
        confusion: (C, C) int64; rows: truth, columns: prediction.
    """

    confusion: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.int64]:
        """Return (C,) the number of pictures of each class."""
        return self.confusion.sum(axis=1)

    @property
    def accuracy(self) -> float:
        """Return the share of pictures classified correctly; NaN without pictures."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion) / total) if total else float("nan")

    @property
    def recall(self) -> Numbers:
        """Return (C,) the share of each class classified correctly; NaN without pictures."""
        right = np.diagonal(self.confusion)
        return np.where(self.known > 0, right / np.maximum(self.known, 1), np.nan)

    @property
    def precision(self) -> Numbers:
        """Return (C,) the share of predictions of each class that are right; NaN without any."""
        told = self.confusion.sum(axis=0)
        return np.where(told > 0, np.diagonal(self.confusion) / np.maximum(told, 1), np.nan)

    @property
    def mean_class_accuracy(self) -> float:
        """Return the mean ``recall`` of classes that occur (scikit-learn's balanced accuracy)."""
        return float(mean_known(self.recall))

    @property
    def f1(self) -> Numbers:
        """Return (C,) 2 TP / (2 TP + FP + FN); NaN if a class neither occurs nor is predicted."""
        right = np.diagonal(self.confusion)
        both = self.confusion.sum(axis=0) + self.known
        return np.where(both > 0, 2 * right / np.maximum(both, 1), np.nan)

    @property
    def macro_f1(self) -> float:
        """Return the mean ``f1`` of classes that occur or are predicted, as in scikit-learn."""
        return float(mean_known(self.f1))


def emotion_scores(truth: Numbers, probability: Numbers) -> EmotionScores:
    """Return the scores of predictions.

    Args:
        truth: (N,) index of the class; NaN is unknown and never counted.
        probability: (N, C); the largest is predicted, the first of equals.

    Raises:
        ValueError: shapes do not fit, or a probability is NaN.
    """
    known, predicted = _predicted(truth, probability)
    classes = probability.shape[1]
    if not known.any():
        return EmotionScores(np.zeros((classes, classes), np.int64))
    if classes == 1:  # torchmetrics wants two
        return EmotionScores(np.full((1, 1), int(known.sum()), np.int64))
    confusion = multiclass_confusion_matrix(
        torch.from_numpy(predicted[known]),
        torch.from_numpy(truth[known].astype(np.int64)),
        num_classes=classes,
    )
    return EmotionScores(confusion.numpy().astype(np.int64))


def hits(truth: Numbers, probability: Numbers) -> Numbers:
    """Return the counts of each picture for accuracy: (N, 2) float64, correct and known, 0 or 1.

    Args and errors as ``emotion_scores``.
    """
    known, predicted = _predicted(truth, probability)
    return np.stack([known & (predicted == truth), known], axis=-1).astype(np.float64)


def accuracy_of(sums: Numbers) -> Any:
    """Return the accuracy of pooled pictures: (…, 2) sums of ``hits`` → (…); NaN without any."""
    right, known = sums[..., 0], sums[..., 1]
    return np.where(known > 0, right / np.maximum(known, 1), np.nan)[()]


def _predicted(truth: Numbers, probability: Numbers) -> tuple[Mask, Rows]:
    if probability.ndim != 2 or truth.shape != probability.shape[:1] or not probability.shape[1]:
        raise ValueError(
            f"truth {truth.shape} and probability {probability.shape}: want (N,) and (N, C)"
        )
    if np.isnan(probability).any():
        raise ValueError("a probability is NaN")
    return ~np.isnan(truth), probability.argmax(axis=1).astype(np.int64)
