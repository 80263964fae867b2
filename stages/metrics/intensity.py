"""Metrics of action unit intensity: arrays of N pictures and L action units, levels 0 to 5.

A truth of NaN is unknown and never counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Numbers
from .action_units import mean_known

#: Rounding error of sums of squares, relative to them; smaller spreads count as 0.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class IntensityScores:
    """Scores of each action unit, all (L,) float64; NaN if no truth is known.

    Attributes:
        icc: ICC(3,1), see ``icc_of``.
        mae: mean absolute error.
        mse: mean squared error.
        known: number of pictures with a known truth.
        undefined: whether neither truth nor prediction varies: then ICC is 0/0, defined as 0 here.
    """

    icc: Numbers
    mae: Numbers
    mse: Numbers
    known: Numbers
    undefined: NDArray[np.bool_]

    @property
    def mean_icc(self) -> float:
        """Return the mean ICC over the action units with a known truth."""
        return float(mean_known(self.icc))

    @property
    def mean_mae(self) -> float:
        """Return the mean absolute error, averaged over action units."""
        return float(mean_known(self.mae))

    @property
    def mean_mse(self) -> float:
        """Return the mean squared error, averaged over action units."""
        return float(mean_known(self.mse))


def moments(truth: Numbers, level: Numbers) -> Numbers:
    """Return the terms of each picture in the sums from which ICC is computed.

    Args:
        truth: (N, L) levels, or NaN.
        level: (N, L) predicted levels, finite.

    Returns:
        (N, L, 6) float64: 1, x, y, x², y², xy; all 0 if the truth is unknown.

    Raises:
        ValueError: shapes differ, or a prediction is not finite.
    """
    if truth.shape != level.shape or truth.ndim != 2:
        raise ValueError(f"truth {truth.shape} and level {level.shape}: want (N, L)")
    if not np.isfinite(level).all():
        raise ValueError("a predicted level is not finite")
    known = ~np.isnan(truth)
    x = np.where(known, truth, 0).astype(np.float64)
    y = np.where(known, level, 0).astype(np.float64)
    return np.stack([known.astype(np.float64), x, y, x * x, y * y, x * y], axis=-1)


def icc_of(sums: Numbers) -> Numbers:
    """Return ICC(3,1), consistency, of k = 2 raters (Shrout & Fleiss 1979, equation for case 3).

    ICC = (MSR - MSE) / (MSR + (k - 1) MSE), MSR the mean square between pictures, MSE the residual
    one. With two raters MSR = (Sxx + Syy + 2 Sxy) / 2(n - 1) and MSE = (Sxx + Syy - 2 Sxy) /
    2(n - 1), S the centred sums of squares and products, so that

        ICC = 2 Sxy / (Sxx + Syy).

    A constant prediction gives 0. If truth **and** prediction are constant (or n = 1) it is 0/0,
    for which pingouin gives NaN, or -1 by rounding; here it is 0: see ``undefined_of``.

    Args:
        sums: (…, 6) sums of ``moments``.

    Returns:
        (…) float64; NaN if no truth is known.
    """
    n = sums[..., 0]
    product, spread = _centred(sums)
    icc = np.where(spread > 0, 2 * product / np.where(spread > 0, spread, 1), 0)
    return np.where(n > 0, icc, np.nan)


def undefined_of(sums: Numbers) -> NDArray[np.bool_]:
    """Return where ICC would be 0/0: (…, 6) sums of ``moments`` → (…)."""
    return (sums[..., 0] > 0) & (_centred(sums)[1] <= 0)


def _centred(sums: Numbers) -> tuple[Numbers, Numbers]:
    """Return Sxy and Sxx + Syy, set to exactly 0 if only rounding errors remain."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    count = np.maximum(n, 1)
    sxx, syy = xx - x * x / count, yy - y * y / count
    sxx = np.where(sxx > _ROUNDING * xx, sxx, 0)
    syy = np.where(syy > _ROUNDING * yy, syy, 0)
    # A constant is uncorrelated with everything.
    product = np.where((sxx > 0) & (syy > 0), xy - x * y / count, 0)
    return product, sxx + syy


def mean_icc_of(sums: Numbers) -> Any:
    """Return the mean ``icc_of`` over action units: (…, L, 6) sums of ``moments`` → (…)."""
    return mean_known(icc_of(sums))


def intensity_scores(truth: Numbers, level: Numbers) -> IntensityScores:
    """Return all scores of each action unit, over all pictures.

    Args, both (N, L), and errors as ``moments``.
    """
    sums = moments(truth, level).sum(axis=0)
    known = sums[:, 0]
    error = np.where(np.isnan(truth), 0, level - np.nan_to_num(truth)).astype(np.float64)
    count = np.where(known > 0, known, np.nan)
    return IntensityScores(
        icc=icc_of(sums),
        mae=np.abs(error).sum(axis=0) / count,
        mse=np.square(error).sum(axis=0) / count,
        known=known,
        undefined=undefined_of(sums),
    )
