"""Train and test every partition of a protocol, then pool the scores of folds."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pipeline.errors import InputError
from ...pipeline.store.commit import write_json
from ...pipeline.store.lock import locked
from ...pipeline.store.storage import is_store
from ..classify import TrainingDataChanged, plan_partitions, settings_match, train
from .classifiers import EPOCHS_FILE, TrainedClassifier, open_classifier, predict_faces
from .evaluate import evaluate_partition, prediction_table
from .listing import Listing
from .protocol import Partition, list_elsewhere
from .scores.coverage import left_out_notes
from .scores.figure_text import figure_text, in_order
from .scores.groups import group_columns
from .scores.pooling import pool
from .scores.score_files import ScoreCard, ScoreFile, read_scores, write_scores
from .scores.score_page import write_report
from .scores.scoring import HEADLINE, fallback, score, tuned_threshold
from .settings import ClassifyConfig, EvaluateConfig
from .tasks import Task
from .views import PLANS, ViewData, ViewPool

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ...pipeline.read.dataset import ShardDataset

Planned = tuple[Listing, Task, list[Partition]]


@dataclass(frozen=True)
class ProtocolResult:
    """The scores of a protocol.

    Attributes:
        scores: of each partition, in order; fewer if ``minutes`` ran out.
        pooled: over all folds; None without folds.
        finished: False if the same command has to be run again.
    """

    scores: list[ScoreFile]
    pooled: ScoreFile | None
    finished: bool

    def table(self) -> str:
        """Return the headline on all and on kept faces, and each label, of each partition."""
        lines: list[str] = []
        for found in [*self.scores, *([self.pooled] if self.pooled else [])]:
            card, cover = found.card, found.card.coverage
            full, kept = (
                figure_text(card.headline, card.scores[part][card.headline])
                for part in ("full", "kept")
            )
            lines.append(
                f"{card.split}: {card.headline} {full} on all {cover.test_rows} test faces, {kept} "
                f"on the {cover.kept} usable ones"
            )
            lines += [f"  warning: {warning}" for warning in card.warnings]
            lines += _figures(card)
            if card.folds:
                mean = card.folds["full"].mean_of_folds
                lines.append(f"  mean of the folds: {figure_text(card.headline, mean)}")
            if card.paper_style:
                figures = ", ".join(
                    f"{name} {figure_text(name, value)}" for name, value in card.paper_style.items()
                )
                lines.append(f"  paper-style (chosen on the test set): {figures}")
        return "\n".join(lines)


def run_protocol(
    config: ClassifyConfig,
    scoring: EvaluateConfig,
    planned: Planned,
    output: Path,
    test: tuple[ShardDataset, str] | None = None,
    overwrite: bool = False,
) -> ProtocolResult:
    """Train and score every partition; keep what is finished.

    Args:
        planned: what ``plan_partitions`` returned for the same settings.
        output: for models and scores.
        test: another dataset to test on, opened as ``list_faces`` requires, and its split (empty:
            all of it).
        overwrite: replace models made with other settings or data.

    Raises:
        InputError, OutputError: as ``classify`` and ``evaluate``.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # Fabric starts the others, too
    with locked(output) if first else nullcontext():
        return _run(config, scoring, planned, output, test, overwrite)


def _run(
    config: ClassifyConfig,
    scoring: EvaluateConfig,
    planned: Planned,
    output: Path,
    test: tuple[ShardDataset, str] | None,
    overwrite: bool,
) -> ProtocolResult:
    listing, task, parts = planned
    other = None
    if test:
        reads = PLANS[scoring.views or config.views].reads
        other = list_elsewhere(test[0], reads, task, scoring), test[1]
    group_columns((other[0] if other else listing).labels, scoring.by)  # before hours of training
    scores: list[ScoreFile] = []
    began = time.monotonic()
    for part in parts:
        folder = output / part.folder if part.folder else output
        scorer = None
        if config.paper_style and other is None:
            scorer = _epoch_scorer(config, scoring, (listing, task, part), folder)
        # The time limit is for all partitions together.
        left = config.minutes and max(1e-3, config.minutes - (time.monotonic() - began) / 60)
        some = config.model_copy(update={"minutes": left})
        done = train(some, listing, task, part, output, evaluate=scorer, overwrite=overwrite)
        if not done.finished:
            return ProtocolResult(scores, None, False)
        if not done.first:
            continue
        evaluate_partition(scoring, listing, part, output, other)
        name = f"scores-{other[0].name}" if other else "scores"
        scores.append(read_scores(folder / name))
    pooled = None
    if len(scores) > 1:
        pooled = _with_notes(pool(scores), scores, parts)
        write_report(output / "scores", pooled.card)
        write_scores(output / "scores", pooled.card, pooled.predictions)
        pooled = read_scores(output / "scores")
    return ProtocolResult(scores, pooled, True)


def _with_notes(pooled: ScoreFile, folds: list[ScoreFile], parts: Sequence[Partition]) -> ScoreFile:
    """Add what rows do not tell: inputs that are left out, and notes that all parts share."""
    left_out = sum((Counter(one.card.coverage.left_out) for one in folds), Counter[str]())
    card = pooled.card
    shared = [note for note in parts[0].notes if all(note in part.notes for part in parts)]
    more = (note for note in (*shared, *left_out_notes(left_out)) if note not in card.warnings)
    excluded = max(one.card.coverage.excluded for one in folds)  # of all folds together
    counts = {"left_out": dict(left_out.most_common()), "excluded": excluded}
    changes = {
        "coverage": card.coverage.model_copy(update=counts),
        "warnings": (*dict.fromkeys(more), *card.warnings),
    }
    return replace(pooled, card=card.model_copy(update=changes))


def _epoch_scorer(
    config: ClassifyConfig,
    scoring: EvaluateConfig,
    what: tuple[Listing, Task, Partition],
    folder: Path,
) -> Callable[[TrainedClassifier, int], None]:
    """Return a function that scores an epoch on the test set, for the paper-style figures."""
    listing, task, part = what
    faces = listing.take(part.test)
    usable = np.flatnonzero(faces.usable)
    held = ViewPool(listing, part.test[usable], scoring.memory_gb, scoring.threads)
    train_rows = part.train[listing.usable[part.train]]
    unusable = [float(v) for v in fallback(task, task.truth(listing.take(train_rows).labels))]

    def scored(model: TrainedClassifier, epoch: int) -> None:
        rows = part.test[usable]
        data = ViewData(held, rows, config.views, model.network, model.normalizer)
        predictions = predict_faces(model, data)
        table = prediction_table(task, faces, usable, predictions, unusable, part.fold)
        name = HEADLINE[task.kind]
        found: dict[str, Any] = {
            "epoch": epoch,
            "name": name,
            "headline": score(task, table, scoring.threshold)["scores"]["full"][name],
            "tuned": tuned_threshold(task, table) if task.kind == "action_units" else {},
        }
        path = folder / EPOCHS_FILE
        before = json.loads(path.read_bytes()) if path.is_file() else []
        write_json(path, [*(row for row in before if row["epoch"] < epoch), found])

    return scored


def _figures(card: ScoreCard) -> list[str]:
    """Return the other figures on all faces, that of each label, and those of groups."""
    full, labels = card.scores["full"], card.per_label["full"]
    others = [f"{n} {figure_text(n, full[n])}" for n in in_order(full) if n != card.headline]
    name = "recall" if card.kind == "emotion" else card.headline
    lines = ["  " + ", ".join(others)] if others else []
    lines += _several(
        name, [f"{label} {figure_text(name, labels[label][name])}" for label in labels]
    )
    for label, groups in card.groups.items():
        figures = [
            f"{group} {figure_text(card.headline, one.scores['full'][card.headline])} "
            f"({one.rows} faces)"
            for group, one in groups.items()
        ]
        lines += _several(f"{card.headline} by {label}", figures)
    return lines


def _several(what: str, cells: list[str]) -> list[str]:
    """Return lines of six cells each."""
    return [f"  {what}: " + ", ".join(cells[at : at + 6]) for at in range(0, len(cells), 6)]


def classify_job(
    settings: tuple[ClassifyConfig, EvaluateConfig],
    output: Path,
    sinks: Sequence[str],
    asked: bool,
    overwrite: bool,
    opened: Callable[[Path], ShardDataset],
    keep: Callable[[Path, Path, Sequence[BaseModel], Callable[[], bool]], None],
    say: Callable[[str], None],
) -> ProtocolResult | None:
    """Run classify and evaluate as the last stages of a job.

    Args:
        output: the job's folder.
        sinks: ``classify``, ``evaluate`` or both. Evaluating only needs a trained model.
        asked: False if they were not requested: unsuitable labels are then reported, and
            are no error.
        overwrite: redo what was made with other settings.
        opened: opens the job's dataset.
        keep: saves the settings in the job, given its folder, the model's, the settings, and what
            says whether they will be used.
        say: is given the line that says why they are left out.

    Returns:
        The scores; None if they are left out.

    Raises:
        InputError: as ``plan_partitions``, if they were asked for.
    """
    if is_store(output) and asked:
        raise InputError(f"{output}: classify and evaluate work on folders: copy the job to one")
    if is_store(output):
        say("classify, evaluate: left out, for they work on folders")
        return None
    config, scoring = settings
    folder = output / "classify"
    if "classify" not in sinks:
        open_classifier(folder)  # says so where there is none
    try:
        planned = plan_partitions(config, opened(output))
    except InputError as error:
        if asked:
            raise
        say(f"classify: left out: {error}")
        return None
    keep(output, folder, settings, lambda: overwrite or settings_match(config, planned, folder))
    try:
        return run_protocol(config, scoring, planned, folder, None, overwrite)
    except TrainingDataChanged as error:
        if asked:
            raise
        # New pictures are no reason to replace a trained model without being asked.
        say(f"classify: left as it was: {error}")
        return None
