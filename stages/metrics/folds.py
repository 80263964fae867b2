"""Cross-validated figures, in both published forms: pooled, and mean of folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FoldFigures:
    """A measure over folds.

    Attributes:
        pooled: over the pictures of all folds together.
        mean_of_folds: mean of ``each``, with equal weights; NaN if one is undefined.
        each: over each fold's pictures, by fold.
    """

    pooled: float
    mean_of_folds: float
    each: dict[int, float]


def over_folds(
    folds: NDArray[np.integer[Any]], measure: Callable[[NDArray[np.int64]], float]
) -> FoldFigures:
    """Measure all pictures together, and each fold alone.

    Args:
        folds: (N,) the fold that tested each picture.
        measure: rows (M,) → the figure.

    Raises:
        ValueError: there are no pictures.
    """
    if not len(folds):
        raise ValueError("no pictures: nothing to measure over folds")
    numbers = [int(number) for number in np.unique(folds)]
    each = {number: measure(np.flatnonzero(folds == number)) for number in numbers}
    pooled = measure(np.arange(len(folds)))
    return FoldFigures(pooled, float(np.mean([*each.values()])), each)
