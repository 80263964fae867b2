"""classify: trains a mixture of experts on both views of labelled faces.

Reads a dataset of pairs and its labels, writes ``classifier.safetensors`` and a card. After a kill,
the same command resumes from the last saved state, with the same result as an undisturbed run.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch
from lightning.fabric import Fabric

from ..manifests.arrays import Floats
from ..manifests.vocabularies import VOTE_COLUMNS
from ..pipeline.config import bracketed, differences
from ..pipeline.errors import InputError, OutputError
from ..pipeline.stage import sha256_file
from ..pipeline.store.commit import write_json
from .classification.classifier_losses import ClassifierObjective, class_targets, class_weights
from .classification.classifiers import (
    CARD_FILE,
    MODEL_FILE,
    TrainedClassifier,
    add_origins,
    build_classifier,
    save_classifier,
    save_pictures,
    start_digest,
    start_of,
)
from .classification.early_checks import planned_parts
from .classification.listing import Listing, class_shares, list_faces, photographs
from .classification.protocol import Partition, list_elsewhere, task_of
from .classification.scores.scoring import fallback
from .classification.settings import ClassifyConfig, EvaluateConfig
from .classification.tasks import Task
from .classification.views import (
    PLANS,
    BatchOrder,
    ClassifierBatches,
    ClassifierView,
    ViewData,
    ViewPool,
    normalizer_weights,
)
from .networks.classifier import MixtureClassifier
from .networks.files.checkpoint import find_weights, read_notes
from .training.trainer import Schedule, Trainer, TrainingTask, make_fabric

if TYPE_CHECKING:
    from ..pipeline.read.dataset import ShardDataset

log = logging.getLogger(__name__)

_PART = "classifier"


class TrainingDataChanged(OutputError):
    """A model with the same settings was trained on other labels or pictures."""


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Attributes:
        folder: of the model.
        finished: whether all steps were trained.
        first: whether this is the first process; only that one writes the model.
    """

    folder: Path
    finished: bool
    first: bool = True


def plan_partitions(
    config: ClassifyConfig,
    data: ShardDataset,
    crossed: tuple[ShardDataset, str] | None = None,
    scoring: EvaluateConfig | None = None,
) -> tuple[Listing, Task, list[Partition]]:
    """List the faces and choose which are for training and which for testing.

    Args:
        data: output of ``normpipe run``, opened as ``list_faces`` requires.
        crossed: test on another dataset only, opened likewise, and on a split of it (empty: all);
            train on the training split of ``data``, or on all of it if it has none.
        scoring: how that one is read; None: by the defaults.

    Raises:
        InputError: no labels for the task, or data that ``check_partition`` refuses.
    """
    views = PLANS[config.views].reads
    listing = list_faces(data, views, config.variant)
    listing, task = task_of(listing, config.task, config.labels, config.folds)
    task = replace(task, votes=config.votes)
    other = None
    if crossed:
        scoring = scoring or EvaluateConfig.model_validate({})
        reads = PLANS[scoring.views or config.views].reads
        other = list_elsewhere(crossed[0], reads, task, scoring)
    parts = planned_parts(config, listing, task, other, crossed[1] if crossed else "")
    return listing, task, parts


def train(
    config: ClassifyConfig,
    listing: Listing,
    task: Task,
    part: Partition,
    output: Path,
    pool: ViewPool | None = None,
    evaluate: Callable[[TrainedClassifier, int], None] | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train the model of one partition, or return it if it is finished.

    Args:
        pool: pictures that were read already.
        evaluate: with ``paper_style``, called after each epoch with the model and the epoch.
        overwrite: replace models made with other settings or data.

    Raises:
        OutputError: the folder holds a model of other settings or data.
    """
    began = time.monotonic()
    folder = output / part.folder if part.folder else output
    usable = listing.usable
    rows = part.train[usable[part.train]]
    faces = listing.take(rows)
    truth = task.truth(faces.labels)
    shares = class_shares(task, faces.labels) if task.votes else None
    about = _about(config, task, faces)
    if _finished(folder, about, overwrite):
        log.info("%s: already trained: %s", part.name, folder)
        add_origins(folder, faces)
        return TrainResult(folder, True)
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        state = folder / f"{_PART}.state.safetensors"
        if _is_stale(state, about):  # training could not resume from it
            state.unlink()
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # its own threads would compete with ours
    fabric = make_fabric(config.device, config.precision, "classify.device", config.devices)
    fabric.launch()
    fabric.seed_everything(config.seed, verbose=False)
    network = build_classifier(config, task)
    threads = config.threads or torch.get_num_threads()
    pool = pool or ViewPool(listing, rows, config.memory_gb, threads)
    data = ViewData(pool, rows, config.views, network, config.normalizer)
    training = _training(config, task, network, data, (truth, shares), about, fabric)
    schedule = _schedule(config, len(rows))
    trainer = Trainer(training, schedule, fabric, folder)
    started = about["files"].get("encoder", "")
    model = TrainedClassifier(network, task, config.views, config.normalizer, (), started)
    log.info("%s: starts from %s", part.name, start_of(config))
    log.info("%s: %d faces train, %d steps", part.name, len(rows), schedule.steps)
    steps_an_epoch = math.ceil(len(rows) / config.batch_size)

    def score(trainer: Trainer) -> None:
        if evaluate is not None and config.paper_style:
            evaluate(replace(model, network=_averaged(trainer)), trainer.step // steps_an_epoch)

    minutes = config.minutes

    def deadline() -> bool:
        return minutes is not None and time.monotonic() - began > 60 * minutes

    if not trainer.run(score, deadline):
        return TrainResult(folder, False)
    if fabric.is_global_zero:
        model = replace(model, network=_averaged(trainer).cpu().eval())
        known = {"part": part.name, "fold": part.fold, "about": about}
        known |= {"left_out": len(part.train) - len(rows), "dropped": part.dropped}
        _write(model, trainer, config, faces, known)
    return TrainResult(folder, True, fabric.is_global_zero)


def settings_match(
    config: ClassifyConfig, planned: tuple[Listing, Task, list[Partition]], output: Path
) -> bool:
    """Return whether all models and saved states in a folder were made with these settings.

    ``planned``: what ``plan_partitions`` returned for them.
    """
    listing, task, parts = planned
    for part in parts:
        folder = output / part.folder if part.folder else output
        about = _about(config, task, listing.take(part.train[listing.usable[part.train]]))
        try:
            _finished(folder, about, overwrite=False)
        except OutputError:
            return False
        if _is_stale(folder / f"{_PART}.state.safetensors", about):
            return False
    return True


def _about(config: ClassifyConfig, task: Task, faces: Listing) -> dict[str, Any]:
    """Return what identifies a model: its settings, training faces and labels."""
    return {
        "settings": config.shaping(),
        "data": faces.digest(task, VOTE_COLUMNS if config.votes else ()),
        "task": [*task.names],
        "files": _file_digests(config),
    }


def _write(
    model: TrainedClassifier,
    trainer: Trainer,
    config: ClassifyConfig,
    faces: Listing,
    known: dict[str, Any],
) -> None:
    """Write the weights, then the card, which marks them complete; then delete the saved state.

    Args:
        faces: the training faces.
        known: ``part``, ``fold``, ``about``, how many faces were ``left_out`` as unusable, and
            ``dropped`` as duplicates of the test part.
    """
    folder, task = trainer.state_file.parent, model.task
    made_by = normalizer_weights(config.views, faces, config.normalizer) or ()
    save_classifier(replace(model, normalized_by=made_by), folder / MODEL_FILE)
    unknown = save_pictures(folder, photographs(faces))
    card = {
        **{name: known[name] for name in ("part", "fold", "about")},
        "sha256": sha256_file(folder / MODEL_FILE),
        "recipe": config.model_dump(mode="json"),
        "trained_on": {
            "dataset": faces.name,
            "faces": len(faces),
            "left_out": known["left_out"],
            "dropped_duplicates": known["dropped"],
            "excluded": faces.excluded,
            "pictures_unknown": unknown,
            "subjects": len({*faces.subjects()} - {None}),
            "normalized_by": [*made_by],
        },
        "started_from": {"weights": Path(start_of(config)).name, "sha256": model.started_from},
        "steps": trainer.schedule.steps,
        "cpu_seconds": round(trainer.cpu_seconds, 1),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "classes" if task.kind == "emotion" else "labels": [*task.names],
        "fallback": [float(value) for value in fallback(task, task.truth(faces.labels))],
    }
    write_json(folder / CARD_FILE, card)
    trainer.state_file.unlink(missing_ok=True)


def _training(
    config: ClassifyConfig,
    task: Task,
    network: MixtureClassifier,
    data: ViewData,
    labels: tuple[Floats, Floats | None],
    about: dict[str, Any],
    fabric: Fabric,
) -> TrainingTask:
    truth, shares = labels
    weights: Floats | None = None
    if config.imbalance == "sampling":
        if task.kind != "emotion":
            raise InputError(
                "imbalance = sampling works for emotions only: use weights for action units"
            )
        classes = len(task.names)
        rare = class_weights(truth, classes, config.imbalance_power)
        found = class_targets(truth, shares, classes) @ rare
        weights = found / found.sum()
    parts = config.accumulate * fabric.world_size
    order = BatchOrder(config.batch_size, parts, config.seed, config.view_dropout, weights)
    terms = {
        "labels": 1.0,
        "icc": config.icc_weight if task.kind == "intensity" else 0.0,
        "balance": config.balance_weight if config.top and config.head == "mixture" else 0.0,
    }
    objective = ClassifierObjective(
        task,
        truth,
        terms,
        config.imbalance_power if config.imbalance == "weights" else 0.0,
        config.intensity_loss == "huber",
        config.label_smoothing,
    )
    view = ClassifierView(network, config.freeze_encoder, config.batch_norm == "frozen")
    trained = network.head if config.freeze_encoder else network
    batches = ClassifierBatches(data, truth, order, shares)
    rates = {} if config.freeze_encoder else {"encoder.": config.encoder_rate}
    return TrainingTask(_PART, view, trained, objective, batches, about, rates)


def _schedule(config: ClassifyConfig, count: int) -> Schedule:
    an_epoch = math.ceil(count / config.batch_size)
    steps = max(config.epochs * an_epoch, config.least_steps)
    return Schedule(
        steps=steps,
        learning_rate=config.learning_rate,
        warmup_steps=min(config.warmup_steps, max(1, steps // 4)),
        weight_decay=config.weight_decay,
        # Average over a tenth of the run at most, so that its start has no weight left.
        ema_decay=min(config.ema_decay, 1 - 10 / max(steps, 20)),
        save_every=config.save_every,
        evaluate_every=an_epoch if config.paper_style else steps,
        workers=config.workers,
        accumulate=config.accumulate,
        seed=config.seed,
    )


def _averaged(trainer: Trainer) -> MixtureClassifier:
    """Return a copy of the network with its averaged weights."""
    view: Any = trainer.task.views
    network: MixtureClassifier = copy.deepcopy(view.network)
    part = network.head if view.frozen_encoder else network
    part.load_state_dict(trainer.averaged())
    return network.eval().requires_grad_(False)


def _file_digests(config: ClassifyConfig) -> dict[str, str]:
    """Return the sha256 of the files that settings name, as their contents may change."""
    found: dict[str, str] = {}
    if start := start_digest(config):
        found["encoder"] = start
    if PLANS[config.views].kind != "picture":
        found["normalizer"] = sha256_file(find_weights(config.normalizer))
    return found


def _is_stale(state: Path, about: dict[str, Any]) -> bool:
    """Return whether there is a saved state of other settings or data."""
    if not state.is_file():
        return False
    try:
        saved = json.loads(read_notes(state)["fingerprint"])
    except (InputError, KeyError, ValueError):
        saved = {}
    wanted: dict[str, Any] = json.loads(json.dumps(about))
    return any(saved.get(name) != value for name, value in wanted.items())


def _finished(folder: Path, about: dict[str, Any], overwrite: bool) -> bool:
    """Return whether the model is there; refuse one of other settings or data."""
    path = folder / CARD_FILE
    if not path.is_file() or not (folder / MODEL_FILE).is_file():
        return False
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = {}
    if found.get("about") == json.loads(json.dumps(about)):
        return True
    if overwrite:
        return False
    wanted = {**json.loads(json.dumps(about)), "data": found.get("about", {}).get("data")}
    same = found.get("about") == wanted
    kind, what = (
        (TrainingDataChanged, "labels or pictures, or exclusions")
        if same
        else (OutputError, "settings")
    )
    before, files = (found.get("about", {}).get(name, {}) for name in ("settings", "files"))
    lines = differences(before, wanted["settings"], "classify.")
    lines += [  # the same name or path, but what it names has changed
        f"the weights of classify.{name} are others"
        for name, digest in sorted(wanted["files"].items())
        if files.get(name) != digest and before.get(name) == wanted["settings"][name]
    ]
    raise kind(
        f"{folder} holds a classifier with other {what}{bracketed(lines)}: redo it with "
        "--overwrite, or choose another --output"
    )
