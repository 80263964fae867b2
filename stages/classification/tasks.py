"""What a classifier predicts: an emotion, which action units occur, or their intensity."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...manifests.arrays import Floats
from ...manifests.datasets import Description, Protocol
from ...manifests.vocabularies import EMOTIONS, emotion_name
from ...pipeline.errors import InputError, nearest

# pyarrow makes these functions at run time; type checkers cannot see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

Kind = Literal["emotion", "action_units", "intensity"]
KINDS: tuple[Kind, ...] = ("emotion", "action_units", "intensity")
_COLUMN_OF = {"emotion": "'emotion'", "action_units": "'AU1' …", "intensity": "'AU1_intensity' …"}
_NOUN = {"emotion": "classes", "action_units": "action units", "intensity": "action units"}

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
        votes: learn the raters' shares of each class; inputs without a majority train, too.
    """

    kind: Kind
    names: tuple[str, ...]
    votes: bool = False

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
            places = places_of(self)
            spellings = {name for name in labels["emotion"].unique().to_pylist() if name}
            place_of = {n: places.get(n, places.get(emotion_name(n), np.nan)) for n in spellings}
            found = [place_of.get(name, np.nan) for name in labels["emotion"].to_pylist()]
            return np.asarray(found, np.float32)
        columns = [_numbers(labels, name) for name in self.columns]
        return np.stack(columns, axis=1) if columns else np.empty((labels.num_rows, 0), np.float32)


def places_of(task: Task) -> dict[str, int]:
    """Return the index of each class, by its name and by its standard name."""
    own = {name: place for place, name in enumerate(task.names)}
    # An own spelling comes first, so that labels with two of them stay two classes.
    return {emotion_name(name): place for name, place in own.items()} | own


def check_labels(labels: pa.Table, where: object) -> None:
    """Refuse labels that ``ingest`` would not have written: tables of users have any content.

    Args:
        labels: a label table, as ``labels.parquet``.
        where: they are, for the message.

    Raises:
        InputError: emotions that are no names, action units that are no numbers, an occurrence
            other than 0 and 1, or a level outside 0 to 5.
    """
    if "emotion" in labels.column_names:
        kind = labels.schema.field("emotion").type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.null()):
            raise InputError(
                f"{where}: the label 'emotion' holds {kind}: name each emotion, as datasets number "
                "them differently"
            )
    for levels in (False, True):
        allowed = "a level is from 0 to 5" if levels else (
            "occurrence is 0 or 1: name a column of levels 'AU12_intensity'"
        )  # fmt: skip
        for name in units_of(labels, "intensity" if levels else "action_units").values():
            try:
                values = _numbers(labels, name)
            except pa.ArrowException:
                raise InputError(f"{where}: the label '{name}' is no number") from None
            known = values[np.isfinite(values)]
            wrong = (known < 0) | (known > MAX_LEVEL) if levels else (known != 0) & (known != 1)
            if wrong.any():
                value = f"{known[wrong][0]:g}"
                raise InputError(f"{where}: the label '{name}' is {value}, but {allowed}")


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
    return Task(chosen, tuple(names) or tuple(_one_spelling(offered)))


def protocol_task(
    labels: pa.Table, kind: Kind | Literal["auto"], names: Sequence[str], description: Description
) -> tuple[pa.Table, Task, list[str]]:
    """Return the task of a dataset's protocol: its names, from levels where it is about levels.

    Args:
        labels: a label table, as of ``find_task``.
        kind: ``auto`` takes the first that both labels and description have.
        names: to predict others than the protocol's; empty: those.

    Returns:
        The labels, with the occurrence of action units from ``present_from`` on where only their
        levels are known, and without rows that the protocol leaves out; the task; lines about it.

    Raises:
        InputError: the labels lack names of the protocol, or what ``find_task`` raises.
    """
    if kind == "auto":  # by what is given: levels mean intensity
        known: list[Kind] = [k for k in KINDS if k in description.tasks and _available(labels, k)]
        kind = known[0] if known else "auto"
    protocol = description.tasks.get(kind)
    notes: list[str] = []
    if protocol is not None and protocol.present_from is not None:
        levels_of = [*(names or protocol.names)]
        labels, notes = occurrence_from(labels, protocol.present_from, levels_of)
    task = find_task(labels, kind, names)
    if protocol is None or not (protocol.folds or protocol.test):
        return labels, task, []
    if not names:
        held = [name for name in protocol.names if name in task.names]
        if lacking := [name for name in protocol.names if name not in held]:
            alike = ",".join(f'"{name}"' for name in held or task.names)
            raise InputError(
                f"{description.title} is scored on {len(protocol.names)} {_NOUN[task.kind]}, and "
                f"the labels never name {', '.join(lacking)}: to score those that they have, name "
                f"them (--set 'classify.labels=[{alike}]')"
            )
        task = Task(task.kind, protocol.names)
    which = of_protocol(task, protocol)
    lines = [f"{description.name}: scored on {', '.join(task.names)}: {which}", *notes]
    if not protocol.canonical:
        lines.append(f"{description.name}: {protocol.note}")
    if protocol.whole_rows and not names:
        labels, count = _whole_rows(labels, task)
        lines += [f"{count} faces lack one of these and are left out, as is usual"] * (count > 0)
    return labels, task, lines


def of_protocol(task: Task, protocol: Protocol) -> str:
    """Return how the names of a task relate to those of a protocol, for lines and score files."""
    own, noun = {*protocol.names}, _NOUN[task.kind]
    if {*task.names} == own:
        return f"its {len(own)} {noun}"
    if {*task.names} < own:
        return f"{len(task.names)} of its {len(own)} {noun}"
    return f"{len(task.names)} {noun}, not its {len(own)}"


def occurrence_from(
    labels: pa.Table, present_from: float, names: Sequence[str]
) -> tuple[pa.Table, list[str]]:
    """Return labels with occurrence where only a level is known, and lines about them.

    Args:
        labels: a label table, as of ``find_task``.
        present_from: the lowest level that counts as present.
        names: of action units; others stay as they are.
    """
    made: list[str] = []
    odd = 0
    for name in names:
        levels = f"{name}_intensity"
        if levels not in labels.column_names or not count_known(labels, levels):
            continue
        known = pc.cast(known_numbers(labels, levels), pa.float32())
        present = pc.cast(pc.greater_equal(known, present_from), pa.float32())
        if name not in labels.column_names:
            labels = labels.append_column(name, pa.nulls(labels.num_rows, pa.float32()))
        given = pc.cast(known_numbers(labels, name), pa.float32())
        odd += pc.sum(pc.not_equal(given, present)).as_py() or 0
        both = pc.coalesce(given, present)
        labels = labels.set_column(labels.column_names.index(name), name, both)
        made += [name] * (both.null_count < given.null_count)
    lines = [f"occurs from level {present_from:g} on: {', '.join(made)}"] if made else []
    if odd:
        lines.append(
            f"{odd} labels of occurrence differ from level {present_from:g} on and count as given: "
            "leave their columns out of the list to follow the levels"
        )
    return labels, lines


def _whole_rows(labels: pa.Table, task: Task) -> tuple[pa.Table, int]:
    """Return labels that are unknown in rows where some are, and how many such rows there are."""
    known = np.isfinite(task.truth(labels).reshape(labels.num_rows, -1))
    partly = pa.array(known.any(axis=1) & ~known.all(axis=1))
    for name in task.columns:
        values = pc.if_else(partly, pa.scalar(None, labels[name].type), labels[name])
        labels = labels.set_column(labels.column_names.index(name), name, values)
    return labels, pc.sum(partly).as_py() or 0


def _available(labels: pa.Table, kind: str) -> list[str]:
    """Return the names that a task of this kind could predict, in their usual order."""
    if kind == "emotion":
        if "emotion" not in labels.column_names:
            return []
        found = {name for name in labels["emotion"].unique().to_pylist() if name}
        return [*(n for n in EMOTIONS if n in found), *sorted(found - {*EMOTIONS})]
    offered = units_of(labels, kind).items()
    units = [unit for unit, name in offered if count_known(labels, name)]
    return sorted(units, key=lambda unit: int(unit[2:]))


def _one_spelling(names: Sequence[str]) -> list[str]:
    """Return names of classes without further spellings of one of them (happiness, happy)."""
    kept: dict[str, str] = {}
    for name in names:
        first = kept.setdefault(emotion_name(name), name)
        if first != name:
            log.warning("the labels '%s' and '%s' are one class: %s", first, name, first)
    return [*kept.values()]


def known_numbers(labels: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of numbers, null where unknown: tables of users also write NaN for it."""
    found = labels[name]
    if not pa.types.is_floating(found.type):
        return found
    return pc.if_else(pc.is_nan(found), pa.scalar(None, found.type), found)


def count_known(labels: pa.Table, name: str) -> int:
    """Return in how many rows a column of numbers is known."""
    return labels.num_rows - known_numbers(labels, name).null_count


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
