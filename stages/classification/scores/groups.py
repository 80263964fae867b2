"""Scores of groups: the rows that have one value of a label, such as a sex or a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from natsort import natsorted

from ....manifests.arrays import Mask
from ....pipeline.errors import InputError, nearest

#: Before the name of a label whose values are groups, among the columns of predictions.
GROUPED = "by_"
#: The group of rows whose label is empty.
NO_GROUP = "unknown"
#: The most groups that a label may make: more are no groups, but numbers of pictures.
_MOST_GROUPS = 50


def group_columns(labels: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    """Return the columns by which ``score`` also scores each group: (N,) text, none of it empty.

    Args:
        labels: of the test rows.
        names: of labels; each of their values is a group.

    Raises:
        InputError: no such label, or more values than can be groups.
    """
    columns: dict[str, pa.Array] = {}
    offered = [name for name in labels.column_names if name not in ("key", "parent_key")]
    for name in names:
        if name not in offered:
            hint = nearest(name, offered)
            raise InputError(f"the labels have no column '{name}' to group by{hint}")
        values = [_group_of(value) for value in labels[name].to_pylist()]
        if (count := len({*values})) > _MOST_GROUPS:
            raise InputError(
                f"label '{name}' has {count} values: group by one with at most {_MOST_GROUPS}"
            )
        columns[GROUPED + name] = pa.array(values, pa.string())
    return columns


def group_figures(
    predictions: pa.Table, kept: Mask, measure: Callable[[Mask], dict[str, float | None]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return label → group → its rows, people and figures, as ``GroupScores`` has them.

    Args:
        predictions: with the columns of ``group_columns``.
        kept: (N,) rows that the model predicted.
        measure: (N,) chosen rows → their figures.
    """
    subjects = np.array(predictions["subject"].to_pylist(), object)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column in predictions.column_names:
        if not column.startswith(GROUPED):
            continue
        groups = np.array(predictions[column].to_pylist(), object)
        found[column.removeprefix(GROUPED)] = {
            name: {
                "rows": int((rows := groups == name).sum()),
                "kept": int((rows & kept).sum()),
                "people": len({*subjects[rows]} - {None}) or None,
                "scores": {"full": measure(rows), "kept": measure(rows & kept)},
            }
            for name in natsorted({*groups})
        }
    return found


def _group_of(value: Any) -> str:
    if value is None or value == "" or value != value:
        return NO_GROUP
    if isinstance(value, float):  # all digits of whole numbers: 1234567 is not 1234568
        return str(int(value)) if value.is_integer() else f"{value:g}"
    return str(value)
