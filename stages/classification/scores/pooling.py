"""Merge the scores of folds: pooled over all rows, and the mean of the folds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ....pipeline.errors import InputError
from ...metrics.folds import over_folds
from ..tasks import Kind
from .groups import GROUPED
from .score_files import FoldSummary, ScoreCard, ScoreFile
from .scoring import MODEL, check_predictions, headline_of, row_statistics, score

#: Fields that must be equal in the cards of all folds.
_SHARED = (
    *("kind", "names", "train_dataset", "test_dataset", "camera", "epoch_rule", "threshold"),
    *("views", "head", "variant"),
)


def pool(folds: Sequence[ScoreFile]) -> ScoreFile:
    """Merge the score files of all folds into one, scored on all rows together.

    The card's ``scores`` are pooled; ``folds`` also has the mean of the folds' headlines.
    Publications report that mean for F1, and either for ICC. ``fold`` of the merged rows is the
    fold that tested them.

    Raises:
        InputError: fewer than two files, a file without a fold, a fold given twice, a row in two
            folds, or folds made with different data or settings.
    """
    ordered = _require_folds(folds)
    numbers = [int(run.card.fold or 0) for run in ordered]
    tables = [_with_fold(run.predictions, n) for run, n in zip(ordered, numbers, strict=True)]
    columns = set[str].intersection(*({*table.column_names} for table in tables))
    tables = [
        table.select([c for c in table.column_names if _stays(c, columns)]) for table in tables
    ]
    try:
        predictions = pa.concat_tables(tables, promote_options="permissive")
        check_predictions(ordered[0].card.task, predictions)
    except (pa.ArrowException, ValueError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"the folds cannot be pooled: {line}") from None
    first = ordered[0].card
    seeds = {run.card.seed for run in ordered}
    facts: dict[str, Any] = {name: getattr(first, name) for name in _SHARED}
    card = ScoreCard(
        **facts,
        **score(first.task, predictions, first.threshold),
        split=_pooled_split([run.card.split for run in ordered], numbers),
        seed=first.seed if len(seeds) == 1 else None,
        model_sha256=_digest([run.card.model_sha256 for run in ordered]),
        data_sha256=_digest([run.card.data_sha256 for run in ordered]),
        fallback=first.fallback,
        folds=_fold_summaries(first, predictions),
    )
    return ScoreFile(card, predictions)


def _require_folds(folds: Sequence[ScoreFile]) -> list[ScoreFile]:
    if len(folds) < 2:
        raise InputError("pooling needs the score files of at least two folds")
    for run in folds:
        if run.card.fold is None:
            raise InputError(f"'{run.card.split}' is not a fold: only folds can be pooled")
        for name in _SHARED:
            if getattr(run.card, name) != getattr(folds[0].card, name):
                raise InputError(
                    f"fold {run.card.fold} has another '{name}' than fold {folds[0].card.fold}: "
                    "pool folds made with the same data and settings"
                )
    ordered = sorted(folds, key=lambda run: int(run.card.fold or 0))
    for one, other in pairwise(ordered):
        if one.card.fold == other.card.fold:
            raise InputError(f"fold {one.card.fold} is given twice: give each fold once")
    return ordered


def _stays(column: str, shared: set[str]) -> bool:
    """Return whether to pool a column: groups only if all folds have them."""
    return column in shared or not column.startswith(GROUPED)


def _pooled_split(splits: Sequence[str], numbers: Sequence[int]) -> str:
    """Return ``folds 1, 2, 3 pooled (bp4d, …)``: with what all folds say in brackets."""
    notes = {split.partition(" (")[2] for split in splits}
    note = f" ({notes.pop()}" if len(notes) == 1 and notes != {""} else ""
    return f"folds {', '.join(map(str, numbers))} pooled{note}"


def _with_fold(predictions: pa.Table, fold: int) -> pa.Table:
    column = pa.array(np.full(predictions.num_rows, fold), pa.int32())
    return predictions.set_column(predictions.column_names.index("fold"), "fold", column)


def _fold_summaries(
    card: ScoreCard, predictions: pa.Table
) -> dict[Literal["full", "kept"], FoldSummary]:
    numbers = predictions["fold"].to_numpy()
    kept = np.array([by == MODEL for by in predictions["predicted_by"].to_pylist()], bool)
    statistics = row_statistics(card.task, predictions, card.threshold)
    # A row that was not kept adds nothing to the sums.
    weights = kept.reshape(-1, *[1] * (statistics.ndim - 1))
    return {
        "full": _summary(card.kind, numbers, statistics),
        "kept": _summary(card.kind, numbers, statistics * weights),
    }


def _summary(kind: Kind, numbers: Any, statistics: Any) -> FoldSummary:
    found = over_folds(numbers, lambda rows: float(headline_of(kind, statistics[rows].sum(axis=0))))
    return FoldSummary(
        pooled=_plain(found.pooled),
        mean_of_folds=_plain(found.mean_of_folds),
        each={fold: _plain(value) for fold, value in found.each.items()},
    )


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
