"""What a classifier predicts: an emotion, which action units occur, or their intensity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...manifests.arrays import Floats
from ...manifests.vocabularies import EMOTIONS, emotion_name
from ...pipeline.errors import InputError, nearest

Kind = Literal["emotion", "action_units", "intensity"]
KINDS: tuple[Kind, ...] = ("emotion", "action_units", "intensity")
_COLUMN_OF = {"emotion": "'emotion'", "action_units": "'AU1' …", "intensity": "'AU1_intensity' …"}

#: Levels of intensity: 0 (absent) to 5 (the letter E of FACS).
MAX_LEVEL = 5.0
_UNIT = re.compile(r"^AU(\d+)(_intensity)?$")


@dataclass(frozen=True)
class Task:
    """What is predicted for a face.

    Attributes:
        kind: ``emotion`` (one of several classes), ``action_units`` (each occurs or not) or
            ``intensity`` (each from 0 to 5).
        names: the classes, or the action units (``AU12``), in the order of all arrays.
    """

    kind: Kind
    names: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the label columns that hold the truth."""
        if self.kind == "emotion":
            return ("emotion",)
        return tuple(
            name + ("_intensity" if self.kind == "intensity" else "") for name in self.names
        )

    def truth(self, labels: pa.Table) -> Floats:
        """Return the truth of a label table's rows, float32, NaN where unknown.

        Returns:
            ``emotion``: (N,) index of the class, NaN also for classes not in ``names``. Other
            spellings of a name are the same class (``happy``, ``happiness``).
            Else (N, L): 0 or 1, or 0 to 5.
        """
        if self.kind == "emotion":
            if "emotion" not in labels.column_names:
                return np.full(labels.num_rows, np.nan, np.float32)
            own = {name: float(place) for place, name in enumerate(self.names)}
            # An own spelling comes first, so that labels with two of them stay two classes.
            places = {emotion_name(name): place for name, place in own.items()} | own
            spellings = {name for name in labels["emotion"].unique().to_pylist() if name}
            place_of = {n: places.get(n, places.get(emotion_name(n), np.nan)) for n in spellings}
            found = [place_of.get(name, np.nan) for name in labels["emotion"].to_pylist()]
            return np.asarray(found, np.float32)
        columns = [_numbers(labels, name) for name in self.columns]
        return np.stack(columns, axis=1) if columns else np.empty((labels.num_rows, 0), np.float32)


def people_of(subjects: Sequence[str | None], keys: Sequence[str]) -> list[str]:
    """Return who is in each row; a row without a subject is a person of its own."""
    return [
        f"input {key}" if who is None else f"subject {who}"
        for who, key in zip(subjects, keys, strict=True)
    ]


def find_task(labels: pa.Table, kind: Kind | Literal["auto"], names: Sequence[str]) -> Task:
    """Return the task that labels allow.

    Args:
        labels: a label table, as ``labels.parquet`` or ``open_dataset(…).table``.
        kind: ``auto`` takes emotions if there are any, else action units, else intensities.
        names: classes or action units to predict; empty: all in the labels.

    Raises:
        InputError: the labels have no values of that kind, or not all of ``names``.
    """
    available = {found: _available(labels, found) for found in KINDS}
    if kind == "auto":
        held_kinds: list[Kind] = [one for one in KINDS if available[one]]
        chosen: Kind = held_kinds[0] if held_kinds else "emotion"
    else:
        chosen = kind
    offered = available[chosen]
    if not offered:
        held = [k for k, found in available.items() if found]
        hint = f"; they have {', '.join(held)}" if held else ""
        empty = _empty(labels, KINDS if kind == "auto" else (kind,))
        if empty:
            raise InputError(
                f"nothing to learn: every label in {', '.join(empty)} is missing: see "
                f"ingest.{'emotion_names' if empty[0] == 'emotion' else 'au_missing'}{hint}"
            )
        raise InputError(
            f"nothing to learn for task '{chosen}': the labels have no known values in a column "
            f"{_COLUMN_OF[chosen]}{hint}"
        )
    for name in names:
        if name not in offered:
            raise InputError(f"the labels never name '{name}'{nearest(name, offered)}")
    return Task(chosen, tuple(names) or tuple(offered))


def _available(labels: pa.Table, kind: str) -> list[str]:
    """Return the names that a task of this kind could predict, in their usual order."""
    if kind == "emotion":
        if "emotion" not in labels.column_names:
            return []
        found = {name for name in labels["emotion"].unique().to_pylist() if name}
        return [*(n for n in EMOTIONS if n in found), *sorted(found - {*EMOTIONS})]
    offered = units_of(labels, kind).items()
    units = [unit for unit, name in offered if labels[name].null_count < labels.num_rows]
    return sorted(units, key=lambda unit: int(unit[2:]))


def units_of(labels: pa.Table, kind: str) -> dict[str, str]:
    """Return action unit → its column, in the order of the columns; ``kind`` as of ``Task``."""
    found: dict[str, str] = {}
    for name in labels.column_names:
        match = _UNIT.match(name)
        if match and bool(match[2]) == (kind == "intensity"):
            found[f"AU{match[1]}"] = name
    return found


def _empty(labels: pa.Table, kinds: Sequence[Kind]) -> list[str]:
    """Return the label columns of some kinds, none of which has a value."""
    if "emotion" in kinds and "emotion" in labels.column_names:
        return ["emotion"]
    return [name for kind in kinds if kind != "emotion" for name in units_of(labels, kind).values()]


def _numbers(labels: pa.Table, name: str) -> Floats:
    if name not in labels.column_names:
        return np.full(labels.num_rows, np.nan, np.float32)
    column: Any = labels[name].cast(pa.float32())
    return column.to_numpy().astype(np.float32)
