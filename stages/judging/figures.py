"""Measured figures, with intervals from resampling people (``metrics.resampling``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        section: one of ``judge_page.SECTIONS``.
        name: what was measured, unique within its section together with ``group``.
        value: the figure; NaN if undefined on these data (``note`` says why).
        low, high: 95 % interval; NaN if there is none.
        group: the part of the data (a source, a kind of degradation, a group of people), empty for
            all.
        count: number of pictures (or pairs).
        goal: the project's goal, ``">= 0.95"`` or ``"<= 2"``; empty if there is none.
        note: a short caveat for readers.
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
        """Return whether the goal is met; None without a goal or a value."""
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
