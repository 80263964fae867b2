"""What a score is over: the rows that count, those that do not, and what makes it too good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ....manifests.arrays import Mask, Numbers
from ..tasks import Task, count_known, units_of

#: A column that tables of predictions may have: whether the row's picture also trained the model;
#: null if that cannot be checked.
TRAINED = "trained"
#: Why a row of the test part is not in the test set.
UNLABELLED = "without a label"
_MOST_NAMES = 6
# Figure → its title, and why an action unit with known truths lacks it; others are defined then.
_UNDEFINED = {
    "precision": ("precision", "never predicted"),
    "recall": ("recall", "never occurs"),
    "auc": ("AUC", "never or always occurs"),
}

#: Rows (N,) → the headline on them, in words.
Headline = Callable[[Mask], str]


def unknown_classes(task: Task, predictions: pa.Table) -> list[str]:
    """Return the classes of the truth that the model does not know, sorted."""
    if task.kind != "emotion":
        return []
    return sorted({*predictions["truth"].to_pylist()} - {None, *task.names})


def coverage_of(task: Task, predictions: pa.Table, headline: Headline) -> tuple[Any, list[str]]:
    """Return what a ``Coverage`` says of unknown classes and training pictures, and the warnings.

    Args:
        predictions: N rows, see ``docs/protocols.md``.
        headline: of the rows of a mask.
    """
    fields: dict[str, Any] = {}
    notes: list[str] = []
    unknown = unknown_classes(task, predictions)
    if unknown:
        truth = np.asarray(predictions["truth"].to_pylist(), object)
        counts = Counter(name for name in truth if name in unknown)
        fields["unknown_classes"] = dict(counts.most_common())
        known = np.asarray([name in task.names for name in truth], np.bool_)
        count, others = counts.total(), int(known.sum())
        notes.append(
            f"{count} of {count + others} labelled test faces show {_counted(counts)}, which the "
            f"model does not know: they count as wrong; {_on_others(headline, known)}"
        )
    if TRAINED in predictions.column_names:
        seen = predictions[TRAINED].to_pylist()
        trained = np.asarray([one is True for one in seen], np.bool_)
        fields["trained"] = int(trained.sum())
        if trained.any():
            notes.append(
                f"{trained.sum()} of {len(seen)} test pictures also trained the model, so the "
                f"score is too good for new faces; {_on_others(headline, ~trained)}"
            )
        # A picture without a face trains nothing.
        unchecked = sum(
            one is None and status == "ok"
            for one, status in zip(seen, predictions["status"].to_pylist(), strict=True)
        )
        if unchecked:
            notes.append(
                f"whether {unchecked} of {len(seen)} test pictures also trained the model cannot "
                "be checked: the shards, or the model, do not record source_sha256"
            )
    return fields, notes


def _on_others(headline: Headline, others: Mask) -> str:
    if not others.any():
        return "there are no others"
    return f"on the other {others.sum()}: {headline(others)}"


def left_out_notes(left_out: Mapping[str, int]) -> list[str]:
    """Return the warning about rows of the test part that are not in the test set.

    Args:
        left_out: count by reason: ``UNLABELLED``, or the name of a class.
    """
    if not left_out:
        return []
    classes = {name: count for name, count in left_out.items() if name != UNLABELLED}
    parts = [f"{_counted(classes)}, by choice of the classes"] if classes else []
    if UNLABELLED in left_out:
        parts.append(f"{left_out[UNLABELLED]} {UNLABELLED} for this task")
    return [f"not scored, of the test part: {'; '.join(parts)}"]


def unscored_units(task: Task, labels: pa.Table) -> list[str]:
    """Return the warning about action units that labels have and the model does not predict."""
    if task.kind == "emotion":
        return []
    other = {
        name: count
        for name, column in units_of(labels, task.kind).items()
        if name not in task.names and (count := count_known(labels, column))
    }
    if not other:
        return []
    return [f"not scored, as the model does not predict them: {_counted(other)}"]


def unknown_units(task: Task, known: Sequence[Any]) -> list[str]:
    """Return the warning about action units without a known truth.

    Args:
        known: (L,) count of known truths of each.
    """
    none = [name for name, count in zip(task.names, known, strict=True) if not count]
    if not none:
        return []
    left = len(task.names) - len(none)
    return [
        f"the means are over {left} of {len(task.names)} action units: no test face has a known "
        f"{_listed(none)}"
    ]


def partial_means(task: Task, known: Numbers, figures: Mapping[str, Numbers]) -> list[str]:
    """Return the warnings about means that lack action units although their truth is known.

    Args:
        known: (L,) count of known truths of each.
        figures: by name, (L,) of each; NaN where undefined.
    """
    notes: list[str] = []
    for name, (title, why) in _UNDEFINED.items():
        gaps = (known > 0) & ~np.isfinite(figures.get(name, np.zeros(len(known))))
        units = [unit for unit, flag in zip(task.names, gaps, strict=True) if flag]
        left = int((known > 0).sum()) - len(units)
        if units and left:  # without any, there is no mean
            notes.append(
                f"the mean {title} is over {left} of {len(task.names)} action units, "
                f"without {_listed(units)} ({why})"
            )
    return notes


def _counted(counts: Mapping[str, int]) -> str:
    return _listed([f"{name} ({count})" for name, count in counts.items()])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
