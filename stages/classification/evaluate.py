"""evaluate: scores a classifier on a test set and records everything behind the score."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...manifests.arrays import Rows
from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from ..networks.devices import resolve_device
from .classifiers import (
    EPOCHS_FILE,
    MODEL_FILE,
    Predictions,
    TrainedClassifier,
    check_normalizer,
    open_classifier,
    predict_faces,
    read_card,
    trained_by,
)
from .listing import Listing, photographs
from .protocol import Partition, foreign_part, list_elsewhere
from .scores.coverage import TRAINED, left_out_notes, unscored_units
from .scores.expert_use import ExpertUse, write_experts
from .scores.groups import group_columns
from .scores.score_files import SCHEMA_VERSION, SCORES, ScoreCard, read_scores, write_scores
from .scores.score_page import write_report
from .scores.scoring import FALLBACK, MODEL, score, table_columns
from .settings import EvaluateConfig
from .tasks import Task
from .views import PLANS, ViewData, ViewPool, normalizer_weights

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

log = logging.getLogger(__name__)


def evaluate(
    config: EvaluateConfig,
    model_folder: Path,
    listing: Listing,
    part: Partition,
    output: Path,
    pool: ViewPool | None = None,
) -> ScoreCard:
    """Score a model on the test rows of a listing, including inputs without a usable face.

    Args:
        part: its ``test`` is the full test set; unusable inputs get the training set's means.
        pool: pictures that were read already.

    Raises:
        InputError: no model, a listing without the views that it needs, or faces of another
            normalizer.
    """
    model = open_classifier(model_folder)
    views = config.views or model.views
    _require_trained(model, views)
    about = read_card(model_folder)
    digest = sha256_file(model_folder / MODEL_FILE)
    rows, split = part.test, part.name
    faces = listing.take(rows)
    groups = group_columns(faces.labels, config.by)
    data_digest = faces.digest(model.task)
    recipe = about["recipe"]
    notes = [*part.notes, *faces.notes, *left_out_notes(part.left_out)]
    if not recipe["labels"]:
        notes += unscored_units(model.task, faces.labels)
    trained = pa.array(trained_by(model_folder, photographs(faces)), pa.bool_())
    facts = {"subject": pa.array(faces.subjects(), pa.string()), TRAINED: trained, **groups}
    done = _done(output, digest, data_digest, config, views)
    if done is not None and {*notes} <= {*done.warnings} and _still(output, facts):
        log.info("%s: already scored: %s", split, output)
        return done
    if not config.any_normalizer:
        _check_normalizer(model, views, faces)
    usable = np.flatnonzero(faces.usable)
    pool = pool or ViewPool(listing, rows[usable], config.memory_gb, config.threads)
    data = ViewData(pool, rows[usable], views, model.network, model.normalizer)
    predictions = predict_faces(model, data, str(resolve_device(config.device, "evaluate.device")))
    table = prediction_table(
        model.task, faces, usable, predictions, about["fallback"], about["fold"]
    )
    for name in (TRAINED, *groups):
        table = table.append_column(name, facts[name])
    found = score(model.task, table, config.threshold)
    found["coverage"] |= {"left_out": dict(part.left_out), "excluded": faces.excluded}
    use = ExpertUse(model.task.names, predictions.input_load, predictions.output_gates)
    found["warnings"] = [*notes, *found["warnings"], *use.warnings()]
    card = ScoreCard(
        kind=model.task.kind,
        names=model.task.names,
        train_dataset=about["trained_on"]["dataset"],
        test_dataset=listing.name,
        split=split,
        fold=about["fold"],
        camera=config.camera or None,
        seed=recipe["seed"],
        threshold=config.threshold,
        views=views,
        head=recipe["head"],
        variant=", ".join(listing.variants) if "normalized" in PLANS[views].reads else None,
        model_sha256=digest,
        data_sha256=data_digest,
        fallback="the means of the training labels",
        paper_style=paper_style(model_folder),
        **found,
    )
    write_experts(output, use)
    write_report(output, card)
    return write_scores(output, card, table)


def prediction_table(
    task: Task,
    faces: Listing,
    usable: Rows,
    predictions: Predictions,
    fallback: list[float],
    fold: int | None,
) -> pa.Table:
    """Return one row per input: subject, truth, prediction, and what made it.

    Args:
        faces: the full test set.
        usable: rows of ``faces`` that ``predictions`` are for, in order.
        fallback: (L,) the prediction for all others.
    """
    values = np.tile(np.asarray(fallback, np.float64), (len(faces), 1))
    values[usable] = predictions.values
    predicted_by = np.full(len(faces), FALLBACK, object)
    predicted_by[usable] = MODEL
    truth = task.truth(faces.labels)
    columns = {
        "key": pa.array(faces.column("key"), pa.string()),
        "subject": pa.array(faces.subjects(), pa.string()),
        "fold": pa.array([fold] * len(faces), pa.int32()),
        "status": pa.array(faces.column("status"), pa.string()),
        "reason": pa.array(faces.column("reason"), pa.string()),
        "predicted_by": pa.array(predicted_by.tolist(), pa.string()),
    }
    columns |= table_columns(task, truth, values)
    if task.kind == "emotion":  # classes that the model does not know keep their names
        names = zip(columns["truth"].to_pylist(), faces.column("emotion"), strict=True)
        columns["truth"] = pa.array([known or name or None for known, name in names], pa.string())
    return pa.table(columns)


def paper_style(model_folder: Path) -> dict[str, float | str | None] | None:
    """Return the figures that were chosen on the test set, if training recorded them."""
    path = model_folder / EPOCHS_FILE
    if not path.is_file():
        return None
    epochs = json.loads(path.read_bytes())
    best = max(epochs, key=lambda row: row["headline"] or 0.0)
    return {
        "best_epoch": float(best["epoch"]),
        "best_epoch_" + best["name"]: best["headline"],
        **best["tuned"],
    }


def evaluate_partition(
    config: EvaluateConfig,
    listing: Listing,
    part: Partition,
    output: Path,
    test: tuple[Listing, str] | None = None,
    pool: ViewPool | None = None,
) -> ScoreCard:
    """Score the model of one partition on its own test rows, or on another dataset.

    Args:
        output: the model's folder; scores go into its subfolder ``scores``.
        test: another dataset and its split (empty: all of it).
        pool: pictures of the tested dataset that were read already.
    """
    folder = output / part.folder if part.folder else output
    if test is None:
        return evaluate(config, folder, listing, part, folder / "scores", pool)
    other, split = test
    there = part_elsewhere(config, folder, other, split)
    there = replace(there, name=f"cross-dataset, {there.name}")
    return evaluate(config, folder, other, there, folder / f"scores-{other.name}", pool)


def part_elsewhere(
    config: EvaluateConfig, model_folder: Path, data: Listing, split: str
) -> Partition:
    """Return the partition that tests a model on another dataset, or on its split.

    Raises:
        InputError: no model, or no input has a label that the model knows.
    """
    model = open_classifier(model_folder)
    recipe = read_card(model_folder)["recipe"]
    return foreign_part(data, model.task, split, leaves_out(config, recipe["labels"]))


def leaves_out(config: EvaluateConfig, labels: Sequence[str]) -> bool:
    """Return whether classes beside those of ``classify.labels`` are left out of a test."""
    chosen = config.other_classes
    return bool(labels) if chosen == "auto" else chosen == "leave_out"


def list_for(config: EvaluateConfig, model: TrainedClassifier, data: ShardDataset) -> Listing:
    """List another dataset with the views that a model needs; errors as ``list_faces``."""
    return list_elsewhere(data, PLANS[config.views or model.views].reads, model.task, config)


def _require_trained(model: TrainedClassifier, views: str) -> None:
    """Raise InputError for views that the model was not trained on."""
    asked, trained = PLANS[views], PLANS[model.views]
    if asked.first not in ("", trained.first) or asked.second not in ("", trained.second):
        raise InputError(
            f"the model was trained on '{model.views}' and does not know '{views}': set "
            "evaluate.views to what it was trained on, or to one view of it"
        )


def _check_normalizer(model: TrainedClassifier, views: str, faces: Listing) -> None:
    """Raise InputError for faces of a normalizer that the model was not trained with."""
    weights = normalizer_weights(views, faces, model.normalizer)
    # Shards not made by normpipe record no weights; accept them if training had none either.
    if weights is not None or model.normalized_by:
        check_normalizer(model, weights, "--set evaluate.any_normalizer=true")


def _still(output: Path, facts: Mapping[str, pa.Array]) -> bool:
    """Return whether scores have these columns: they may change while pictures and truth do not."""
    held = read_scores(output).predictions
    return all(
        name in held.column_names and held[name].to_pylist() == column.to_pylist()
        for name, column in facts.items()
    )


def _done(
    output: Path, model_sha256: str, data_sha256: str, config: EvaluateConfig, views: str
) -> ScoreCard | None:
    """Return the scores if they exist for the same model, data and settings."""
    if not (output / SCORES).is_file():
        return None
    card = read_scores(output).card
    if card.schema_version < SCHEMA_VERSION or not {*config.by} <= {*card.groups}:
        log.info("%s: scored again, for what the scores there lack", output)
        return None
    same = (card.model_sha256, card.data_sha256, card.threshold, card.camera or "", card.views)
    wanted = (model_sha256, data_sha256, config.threshold, config.camera, views)
    return card if same == wanted else None
