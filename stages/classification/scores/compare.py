"""Compare scores: bootstrap intervals over people, and paired differences from the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from natsort import natsorted
from numpy.typing import NDArray

from ....pipeline.errors import InputError
from ...metrics.resampling import RESAMPLES, Draws, paired_difference, percentiles
from ..tasks import Task
from .figure_text import figure_text, in_unit, interval_text
from .score_files import ScoreFile, read_scores
from .scoring import HEADLINE, headline_of, row_statistics, truth_of

#: (N,) people → bootstrap draws of them.
Draw = Callable[[NDArray[np.int64]], Draws]

#: With fewer people than this, an interval is unreliable.
FEW_PEOPLE = 10
#: Differences between cards that a note reports.
_FACTS = ("train_dataset", "test_dataset", "split", "camera", "epoch_rule", "threshold")


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """Return a dictionary for JSON: no NaN."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def text(self, measure: str, sign: str = "") -> str:
        """Return ``69.30 [67.10, 71.50]``, in the unit of the measure; see ``interval_text``."""
        return interval_text(measure, self.value, (self.low, self.high), sign, more=1)


@dataclass(frozen=True)
class ComparisonRow:
    """One score file in the table.

    Attributes:
        name: its folder, as given by the user.
        measure: the name of its headline.
        rows, people: number of each in its test set; a row without a subject counts as one person.
        without_subject: rows without a subject.
        full: the headline on the full test set.
        kept: the headline on the rows that the model itself predicted; None if undefined.
        mean_of_folds: the mean of the folds' headlines, for pooled folds.
        difference: this minus the first, on their common rows; None for the first, or if refused.
        common: number of common rows.
        refused: why there is no difference, in one line; empty where there is one.
        notes: how data or settings differ from the first.
    """

    name: str
    measure: str
    rows: int
    people: int
    without_subject: int
    full: Interval
    kept: float | None
    mean_of_folds: float | None
    difference: Interval | None = None
    common: int | None = None
    refused: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        parts = {"full": self.full.as_json(), "notes": list(self.notes)}
        difference = self.difference.as_json() if self.difference else None
        return {**vars(self), **parts, "difference": difference}


@dataclass(frozen=True)
class Comparison:
    """All score files; the others are compared with the first."""

    rows: tuple[ComparisonRow, ...]
    resamples: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "resamples": self.resamples,
            "seed": self.seed,
            "scores": [row.as_json() for row in self.rows],
        }

    def table(self) -> str:
        """Return the table and its notes as text."""
        head = ("scores", "measure", "rows", "people", "full set [95 %]", "kept", "- first [95 %]")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        notes: list[str] = []
        for line in self.rows:
            own = list(line.notes)
            if line.refused:
                own.insert(0, f"not compared with the first: {line.refused}")
            if line.without_subject:
                own.append(
                    f"{line.without_subject} rows without a subject count as one person each, so "
                    "the interval may be too narrow"
                )
            if line.people < FEW_PEOPLE:
                own.append(f"the interval is based on {line.people} people only")
            if line.mean_of_folds is not None:
                mean = figure_text(line.measure, line.mean_of_folds, more=1)
                own.append(f"mean of folds {mean}")
            notes += [f"{line.name}: {note}" for note in own]
        return notes


def compare(folders: Sequence[Path], resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare score files with the first one.

    Intervals resample people, never rows. A difference uses the same draws for both, and only the
    rows that both have.

    Args:
        folders: of score files, at least one.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        InputError: a folder holds no score file, or has no row in common with the first.
    """
    if not folders:
        raise InputError("nothing to compare: give the folders of two score files or more")
    runs = [read_scores(folder) for folder in folders]
    names = [str(folder) for folder in folders]
    rows: list[ComparisonRow] = []

    def draw(people: NDArray[np.int64]) -> Draws:
        return Draws(people, resamples, seed)

    for name, run in zip(names, runs, strict=True):
        row = _alone(name, run, draw)
        rows.append(_against(row, run, rows[0], runs[0], draw) if rows else row)
    return Comparison(tuple(rows), resamples, seed)


def _alone(name: str, run: ScoreFile, draw: Draw) -> ComparisonRow:
    card = run.card
    statistics = row_statistics(card.task, run.predictions, card.threshold)
    draws = draw(_people(run.predictions))
    low, high = percentiles(headline_of(card.kind, draws.sums(statistics)))
    value = float(headline_of(card.kind, statistics.sum(axis=0)))
    return ComparisonRow(
        name=name,
        measure=HEADLINE[card.kind],
        rows=run.predictions.num_rows,
        people=draws.people,
        without_subject=run.predictions["subject"].null_count,
        full=Interval(value, low, high),
        kept=card.scores["kept"].get(card.headline),
        mean_of_folds=card.folds["full"].mean_of_folds if card.folds else None,
    )


def _against(
    line: ComparisonRow, run: ScoreFile, first: ComparisonRow, base: ScoreFile, draw: Draw
) -> ComparisonRow:
    """Return a row with its difference from the first, or why it has none."""
    if reason := _other_task(base.card.task, run.card.task):
        return _with(line, refused=reason)
    here, there = _common(base.predictions, run.predictions)
    if not len(here):
        raise InputError(
            f"{first.name} and {line.name} have no row in common: compare scores on the same "
            "test set"
        )
    task = base.card.task
    one, other = base.predictions.take(here), run.predictions.take(there)
    if task.kind == "emotion":  # by name, as the models may not know all classes
        pairs = zip(one["truth"].to_pylist(), other["truth"].to_pylist(), strict=True)
        differ = np.asarray([a != b for a, b in pairs], np.bool_)
    else:
        differ = ~_same(truth_of(task, one), truth_of(task, other))
    if differ.any():
        reason = f"{int(differ.sum())} of {len(here)} common rows have other labels"
        return _with(line, refused=reason, common=len(here))
    value, low, high = paired_difference(
        draw(_people(one)),
        row_statistics(task, one, base.card.threshold),
        row_statistics(task, other, run.card.threshold),
        lambda sums: headline_of(task.kind, sums),
    )
    notes = [
        f"{fact} is {getattr(run.card, fact)}, that of the first is {getattr(base.card, fact)}"
        for fact in _FACTS
        if getattr(run.card, fact) != getattr(base.card, fact)
    ]
    if len(here) < max(first.rows, line.rows):
        notes.insert(
            0,
            f"compared on the {len(here)} rows in common, of {line.rows} here and {first.rows} of "
            "the first",
        )
    difference = Interval(value, low, high)
    return _with(line, difference=difference, common=len(here), notes=tuple(notes))


def _with(line: ComparisonRow, **changes: Any) -> ComparisonRow:
    return ComparisonRow(**{**vars(line), **changes})


def _other_task(first: Task, other: Task) -> str:
    """Return why two tasks cannot be compared, in one line; empty where they can."""
    if first.kind != other.kind:
        return f"its task is {other.kind}, that of the first is {first.kind}"
    if missing := natsorted({*first.names} ^ {*other.names}):
        return f"its labels differ ({', '.join(missing[:5])} only on one side)"
    return ""


def _common(first: pa.Table, other: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the common keys in both tables, in the order of the first."""
    places = {key: place for place, key in enumerate(other["key"].to_pylist())}
    pairs = [
        (place, places[key]) for place, key in enumerate(first["key"].to_pylist()) if key in places
    ]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _same(first: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (N,) whether two truths agree; two unknown ones do."""
    equal = (first == other) | (np.isnan(first) & np.isnan(other))
    return equal if equal.ndim == 1 else equal.all(axis=1)


def _people(predictions: pa.Table) -> NDArray[np.int64]:
    """Return (N,) a number for each person; a row without a subject is a person of its own."""
    subjects = predictions["subject"].to_pylist()
    numbers: dict[Any, int] = {}
    names = [row if subject is None else subject for row, subject in enumerate(subjects)]
    # Subjects are strings and rows are numbers, so they never collide.
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _cells(line: ComparisonRow) -> tuple[str, ...]:
    kept = figure_text(line.measure, line.kept, unit=False, more=1)
    difference = line.difference.text(line.measure, "+") if line.difference else "–"
    if line.refused:
        difference = "refused"
    return (
        *(line.name, line.measure + in_unit(line.measure), str(line.rows), str(line.people)),
        *(line.full.text(line.measure), kept, difference),
    )


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
