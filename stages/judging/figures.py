"""Measured figures, with intervals from resampling people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        section: ``synthetic``, ``crossed``, ``fairness``, ``zero_shot``, ``transfer``,
            ``verification``, ``attacker`` or ``constancy``.
        name: what was measured, unique within its section together with ``group``.
        value: the figure; NaN where it is not defined on these data (``note`` says why).
        low, high: 95 % interval, NaN where there is none.
        group: the part of the data it speaks of (a source, a kind of degradation, a group of
            people), empty for all.
        count: how many pictures (or pairs) it rests on.
        goal: ``">= 0.95"`` or ``"<= 2"``: what the project wants to reach, empty where nothing is.
        note: what a reader must know, in a few words.
    """

    section: str
    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    group: str = ""
    count: int = 0
    goal: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a figure."""
        if not self.goal or not np.isfinite(self.value):
            return None
        sign, limit = self.goal.split()
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)

    def as_json(self) -> dict[str, Any]:
        """Return a dictionary for JSON: no NaN, and whether the goal is met."""
        plain = {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return {**plain, "met": self.met}


def bootstrap(
    people: NDArray[Any],
    measure: Callable[[NDArray[np.int64]], float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of a figure when people, not pictures, are drawn anew.

    Args:
        people: (N,) who is in each picture.
        measure: rows (M,), with repetitions → the figure; NaN where it is not defined.
        resamples: how often people are drawn.
        seed: of the draws.

    Returns:
        The 2.5th and 97.5th percentile; NaN twice where fewer than half of the draws have a figure.
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
    found = found[np.isfinite(found)]
    if len(found) < resamples / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
