"""How figures are written: each with the unit that its name implies, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..settings import RANDOM, WEIGHT_SUFFIXES


class _Unit(NamedTuple):
    factor: float
    decimals: int
    suffix: str


_SHARE = _Unit(100, 1, " %")
_PLAIN = _Unit(1, 3, "")
_COUNT = _Unit(1, 0, "")

#: Every figure of a score: its title, and its unit. Tables have them in this order.
_FIGURES: dict[str, tuple[str, _Unit]] = {
    "f1": ("F1", _SHARE),
    "precision": ("precision", _SHARE),
    "recall": ("recall", _SHARE),
    "accuracy": ("accuracy", _SHARE),
    "mean_class_accuracy": ("mean class accuracy", _SHARE),
    "macro_f1": ("macro F1", _SHARE),
    "icc": ("ICC(3,1)", _PLAIN),
    "mae": ("MAE", _Unit(1, 3, " levels")),
    "mse": ("MSE", _Unit(1, 3, " levels²")),
    "auc": ("AUC", _PLAIN),
    "ece": ("ECE", _SHARE),
    "prevalence": ("prevalence", _SHARE),
    "positives": ("positives", _COUNT),
    "known": ("labelled faces", _COUNT),
    "best_epoch": ("best epoch", _COUNT),
    "tuned_threshold": ("tuned threshold", _PLAIN),
}


def figure_text(
    name: str, value: float | str | None, sign: str = "", unit: bool = True, more: int = 0
) -> str:
    """Return a figure as text: ``66.7 %``, ``1.669 levels``, ``-0.003``, ``12``.

    Args:
        name: of the figure, as in score files; also ``best_epoch_f1`` and the like.
        value: as in score files: a share is in [0, 1]; text stays as it is.
        sign: ``+`` also shows the sign of positive numbers.
        unit: whether the unit stands behind the number.
        more: decimals beyond the usual.

    Returns:
        A dash where the value is None or not finite.

    Raises:
        ValueError: no such figure.
    """
    factor, decimals, suffix = _unit_of(name)
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{factor * value:{sign}.{decimals + (more if decimals else 0)}f}"
    # A small negative number is no zero with a sign.
    text = text.removeprefix("-") if not sign and float(text) == 0 else text
    return text + (suffix if unit else "")


def interval_text(
    name: str, value: float, ends: tuple[float, float], sign: str = "", more: int = 0
) -> str:
    """Return ``66.7 [60.1, 71.9]``: a figure and its interval, without the unit; see above."""
    low, middle, high = (figure_text(name, v, sign, False, more) for v in (ends[0], value, ends[1]))
    return f"{middle} [{low}, {high}]"


def figure_title(name: str) -> str:
    """Return the heading of a figure's column: ``MAE``."""
    known = _split(name)
    return name.replace("_", " ") if known != name else _FIGURES[known][0]


def in_unit(name: str) -> str:
    """Return `` in %``, `` in levels``; empty for counts and plain numbers."""
    suffix = _unit_of(name).suffix.strip()
    return f" in {suffix}" if suffix else ""


def text_scale(name: str) -> float:
    """Return what a figure of a score file is multiplied with in texts and plots: 100, or 1."""
    return _unit_of(name).factor


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of figures in the order of tables, whatever order a file has them in."""
    places = {name: place for place, name in enumerate(_FIGURES)}
    return sorted(names, key=lambda name: places.get(name, len(places)))


def _unit_of(name: str) -> _Unit:
    return _FIGURES[_split(name)][1]


def _split(name: str) -> str:
    """Return the figure that a name is about: ``f1`` for ``best_epoch_f1``."""
    for prefix in ("", "best_epoch_", "tuned_threshold_"):
        if name.startswith(prefix) and name.removeprefix(prefix) in _FIGURES:
            return name.removeprefix(prefix)
    raise ValueError(f"no figure is called '{name}'")


def from_start(start: str) -> str:
    """Return words on where an encoder starts; none for the preset's own start."""
    return f" from {'random weights' if start == RANDOM else start_name(start)}" if start else ""


def start_name(start: str) -> str:
    """Return a start's name in tables and folders: of a file without its suffix."""
    path = Path(start)
    return path.stem if path.suffix in WEIGHT_SUFFIXES else path.name
