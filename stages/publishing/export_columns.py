"""The columns of an export: which there are, what they hold, and what must not be in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ...manifests.datasets import Description
from ...manifests.vocabularies import ACTION_UNITS
from ...pipeline.errors import InputError, nearest
from ..classification.tasks import find_task

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

#: Text columns that may name people or files, which are hashed with the keys.
HASHED_COLUMNS = ("key", "subject", "sequence")
#: Columns that say where a row is or why it is not ok; an export has its own.
NEVER_EXPORTED = (
    *("parent_key", "status", "reason", "decided_by", "image", "variant"),
    *("original", "file_name", "original_file_name"),
)
_LABEL = re.compile(r"(emotion|valence|arousal|AU\d+(_intensity)?)")
_ABOUT = {
    "key": "name of the row",
    "split": "split in the labels",
    "emotion": "emotion as labelled",
    "valence": "-1 to 1",
    "arousal": "-1 to 1",
    "subject": "which person",
}
_SCALAR = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer)


@dataclass(frozen=True)
class ExportColumn:
    """A column.

    Attributes:
        name, type, about: what it is.
        classes: names in the order of their numbers, where the values are classes.
        whole: whether the value of every exported row is known.
    """

    name: str
    type: pa.DataType
    about: str
    classes: tuple[str, ...] = ()
    whole: bool = False


def column_names(
    wanted: Sequence[str] | None, offered: Sequence[str], types: Mapping[str, pa.DataType]
) -> list[str]:
    """Return the columns to export besides ``key``; ``wanted``: None for the usual ones.

    Raises InputError for one that is not offered, or holds something else than text or numbers.
    """
    if wanted is None:
        return [n for n in offered if n == "split" or _LABEL.fullmatch(n)]
    names = [*dict.fromkeys(n for n in wanted if n != "key")]
    for name in names:
        if name not in offered:
            raise InputError(f"no column '{name}' can be exported{nearest(name, [*offered])}")
        kind = types[name]
        if not (any(fits(kind) for fits in _SCALAR) or pa.types.is_floating(kind)):
            raise InputError(f"column '{name}' holds {kind}, not text or numbers: leave it out")
    return names


def describe_column(name: str) -> str:
    """Return what a column holds, for people."""
    unit = ACTION_UNITS.get(name.removesuffix("_intensity"), "")
    if unit:
        scale = "0 (absent) to 5 (maximum)" if name.endswith("_intensity") else "1 occurs, 0 not"
        return f"{unit}: {scale}"
    return _ABOUT.get(name, "")


def refuse_paths(table: pa.Table, names: Sequence[str], hashed: bool) -> None:
    """Raise InputError for texts that are absolute paths or addresses; hashed, for any path."""
    for name in names:
        if hashed and name in HASHED_COLUMNS:
            continue
        values = table[name].combine_chunks()
        # A key begins with the dataset's name.
        pattern = (
            r"://|^/|^[A-Za-z]:[\\/]|^\\\\|^~"
            if name != "key"
            else r"^[^/]*/(/|[A-Za-z]:[\\/])|://"
        )
        if hashed:
            pattern = rf"{pattern}|[\\/]"
        found = values.filter(pc.match_substring_regex(values, pattern))
        if not len(found):
            continue
        if name == "key":
            raise InputError(
                f"{len(found)} keys hold addresses or absolute paths ({found[0]}): add --hash-keys"
            )
        raise InputError(
            f"column '{name}' holds paths or addresses ({found[0]}), which would say where the "
            "pictures come from: leave it out of --columns"
        )


def class_counts(table: pa.Table, description: Description | None) -> dict[str, int]:
    """Return emotion → rows, in the order of the task; empty if no row has one."""
    counts = {
        pair["values"]: pair["counts"]
        for pair in pc.value_counts(table["emotion"].combine_chunks()).to_pylist()
        if pair["values"] is not None
    }
    if not counts:
        return {}
    found = find_task(table, "emotion", [])
    protocol = description.tasks.get("emotion") if description is not None else None
    ordered = [*(protocol.names if protocol is not None else ()), *found.names]
    return {name: counts.get(name, 0) for name in dict.fromkeys([*ordered, *sorted(counts)])}
