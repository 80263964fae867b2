"""Bootstrap intervals over people, never pictures: those of one person resemble each other.

The cluster bootstrap with percentile intervals (Efron & Tibshirani, *An Introduction to the
Bootstrap*, 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Numbers

RESAMPLES = 1000


def bootstrap(
    people: NDArray[Any],
    measure: Callable[[NDArray[np.int64]], float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of a figure when people, not pictures, are resampled.

    For a measure that needs the rows themselves. One that takes weights is faster with ``Draws``.

    Args:
        people: (N,) the person in each picture.
        measure: rows (M,), with repetitions → the figure; NaN if it is undefined.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        As ``percentiles``.
    """
    order = np.argsort(people, kind="stable")
    _, counts = np.unique(people[order], return_counts=True)
    starts = np.cumsum(counts) - counts
    rng = np.random.default_rng([seed, 31])
    found = np.full(resamples, np.nan)
    for draw in range(resamples):
        chosen = rng.integers(0, len(counts), len(counts))
        rows = np.concatenate([order[starts[c] : starts[c] + counts[c]] for c in chosen])
        found[draw] = measure(rows)
    return percentiles(found)


class Draws:
    """Bootstrap draws of people with replacement: the weight of each picture in each draw.

    The same people, resamples and seed give the same draws; use one ``Draws`` for two measures to
    get paired differences.

    Args:
        people: (N,) the person in each picture.
        resamples: number of draws.
        seed: of the draws.
    """

    def __init__(self, people: NDArray[Any], resamples: int, seed: int = 0) -> None:
        names, places = np.unique(people, return_inverse=True)
        rng = np.random.default_rng([seed, 37])
        count = len(names)
        self._places = places.reshape(-1)
        self._draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)

    def __len__(self) -> int:
        return len(self._draws)

    @property
    def people(self) -> int:
        """Return the number of people to draw from."""
        return self._draws.shape[1]

    def weights(self, draw: int) -> NDArray[np.int64]:
        """Return (N,) the weight of each picture in a draw."""
        return self._draws[draw][self._places]

    def all_weights(self) -> NDArray[np.float64]:
        """Return (R, N) the weights of all draws, for measures that take them all at once."""
        return self._draws[:, self._places].astype(np.float64)

    def sums(self, statistics: Numbers) -> NDArray[np.float64]:
        """Return the sums over the rows of each draw, for measures that are functions of sums.

        Sums each person's rows once, so the number of pictures hardly matters.

        Args:
            statistics: (N, …) the terms of each row.

        Returns:
            (R, …) float64.
        """
        flat = statistics.reshape(len(statistics), -1).astype(np.float64)
        each = np.zeros((self.people, flat.shape[1]))
        np.add.at(each, self._places, flat)
        return (self._draws @ each).reshape(len(self), *statistics.shape[1:])

    def interval(self, measure: Callable[[NDArray[np.int64]], float]) -> tuple[float, float]:
        """Return the 95 % interval of a measure that takes the weights of the pictures, (N,) int64.

        Returns:
            As ``percentiles``.
        """
        return percentiles(np.array([measure(self.weights(draw)) for draw in range(len(self))]))


def paired_difference(
    draws: Draws,
    first: Numbers,
    second: Numbers,
    measure: Callable[[Numbers], Numbers],
) -> tuple[float, float, float]:
    """Return the difference second - first of a measure, with a paired 95 % interval.

    Args:
        draws: of the people in the rows, used for both.
        first, second: (N, …) the terms of each row, of the same rows in the same order.
        measure: sums (…, S) of the statistics → figures (…); for all draws at once.

    Returns:
        The difference on the rows themselves, and the interval's ends as ``percentiles``.
    """
    value = float(measure(second.sum(axis=0)) - measure(first.sum(axis=0)))
    drawn = measure(draws.sums(second)) - measure(draws.sums(first))
    return value, *percentiles(drawn)


def percentiles(found: NDArray[Any]) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of values (R,); NaN if over half are undefined."""
    known = found[np.isfinite(found)]
    if len(known) < max(len(found) / 2, 1):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
