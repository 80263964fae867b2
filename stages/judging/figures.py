"""Measured figures, with intervals from resampling people (``metrics.resampling``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


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
