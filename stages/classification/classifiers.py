"""Build, save, load and run classifiers: safetensors files whose notes describe task and views."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...manifests.arrays import Floats
from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from ...pipeline.store.commit import write_bytes, write_json
from ..networks.base import NormalizerNetwork
from ..networks.classifier import (
    COMPACT_PICTURE,
    CompactTokens,
    MixtureClassifier,
    VitEncoder,
    probabilities,
)
from ..networks.compact import CompactNormalizer
from ..networks.files.checkpoint import find_weights, load_weights, read_notes, save_tensors
from ..networks.files.mae_checkpoints import PICKLES, load_encoder
from ..networks.files.normalizer_file import open_normalizer
from ..networks.norface import NorfaceNormalizer
from .listing import Listing, photographs
from .settings import RANDOM, WEIGHT_SUFFIXES, ClassifyConfig
from .tasks import Task
from .views import (
    PLANS,
    Batch,
    ClassifierView,
    ViewData,
    batches_in_order,
    normalizer_weights,
    second_size,
)

_BATCH = 64

#: Files in a model's folder: the weights, their card and, with ``paper_style``, the scores of each
#: epoch on the test set.
MODEL_FILE = "classifier.safetensors"
CARD_FILE = "classifier.json"
EPOCHS_FILE = "epochs.json"
#: The photographs that trained the model, sorted, uint64: 64 bits of the sha256 of the
#: ``source_sha256`` of each.
PICTURES_FILE = "training_pictures.npy"


def build_classifier(config: ClassifyConfig, task: Task) -> MixtureClassifier:
    """Build the configured network; its encoder gets the weights that it starts from.

    Raises:
        InputError: the start does not fit the preset, or settings require one.
    """
    start = _normalizer_to_start_from(config)
    network = MixtureClassifier(
        len(task.names),
        config.preset,
        experts=config.experts if config.head == "mixture" else 1,
        top=config.top if config.head == "mixture" else 0,
        layers=config.layers,
        second=PLANS[config.views].kind,
        second_size=second_size(config.views, config.normalizer),
        mirror=config.mirror,
        **_sizes(config, start),
    )
    encoder = network.encoder
    if start is not None:
        if isinstance(encoder, CompactTokens):
            encoder.body.load_state_dict(start.get_submodule("encoder.body").state_dict())
        elif isinstance(encoder, VitEncoder):
            encoder.vit.load_state_dict(start.get_submodule("encoder").state_dict())
    elif isinstance(encoder, VitEncoder) and start_of(config) != RANDOM:
        load_encoder(encoder.vit, Path(config.encoder))
    return network


def start_of(config: ClassifyConfig) -> str:
    """Return the weights that a classifier starts from, a path or a shipped name, or ``random``."""
    return config.encoder or ("compact" if config.preset == "compact" else RANDOM)


def start_digest(config: ClassifyConfig) -> str:
    """Return the sha256 of the weights that a classifier starts from; empty for random ones."""
    wanted = start_of(config)
    if wanted == RANDOM:
        return ""
    path = Path(wanted)
    if path.suffix in WEIGHT_SUFFIXES:  # else a shipped name
        if not path.is_file():
            raise InputError(f"no encoder weights {path}: correct classify.encoder")
        return sha256_file(path)
    return sha256_file(find_weights(wanted))


def _normalizer_to_start_from(config: ClassifyConfig) -> NormalizerNetwork | None:
    """Return the normalizer whose encoder starts; None for an MAE checkpoint or random weights."""
    wanted, preset = start_of(config), config.preset
    if wanted == RANDOM:
        for name, kept in (
            ("freeze_encoder", config.freeze_encoder),
            ("batch_norm = 'frozen'", config.batch_norm == "frozen"),
        ):
            if kept:
                raise InputError(
                    f"classify.{name} would keep random weights: set classify.encoder to weights "
                    "to start from"
                )
        return None
    if preset == "small":
        raise InputError(
            "preset = 'small' always starts from random weights: set classify.preset = 'compact' "
            "or 'norface' to start from classify.encoder"
        )
    if preset == "norface" and not _is_normalizer(wanted):
        return None
    found = open_normalizer(wanted)
    if found.network != preset:
        raise InputError(
            f"classify.encoder = '{wanted}' is a {found.network} normalizer: set classify.preset = "
            f"'{found.network}', or give weights of {preset}"
        )
    return found.module


def _is_normalizer(wanted: str) -> bool:
    """Return whether weights are a normalizer's, rather than an MAE checkpoint's."""
    if Path(wanted).suffix in PICKLES:
        return False  # load_encoder reads it, or says what is wrong
    return "network" in read_notes(find_weights(wanted))


def _sizes(config: ClassifyConfig, start: NormalizerNetwork | None) -> dict[str, Any]:
    """Return the settings of the encoder: those of the normalizer that it starts from, if any."""
    if isinstance(start, CompactNormalizer):
        return {"image_size": start.input_size, "widths": start.widths}
    if isinstance(start, NorfaceNormalizer):
        vit, found = start.encoder, start.settings()
        sizes = {"image_size": vit.image_size, "picture_size": start.input_size}
        return {"size": found["size"], "stem": vit.stem, **sizes}
    if config.preset == "compact":
        return {"image_size": COMPACT_PICTURE}
    return {"size": config.size, "image_size": config.image_size, "stem": config.stem}


@dataclass(frozen=True)
class TrainedClassifier:
    """A network with its task and its inputs.

    Attributes:
        network: on the CPU unless moved.
        task: kind and names of what it predicts.
        views: what it was trained on.
        normalizer: whose encoder makes a second view that is not a picture.
        normalized_by: sha256 of the normalizer weights behind its training views; empty if it used
            no normalizer, or if unknown.
        started_from: sha256 of the weights that its encoder started from; empty for random weights,
            or if unknown.
    """

    network: MixtureClassifier
    task: Task
    views: str
    normalizer: str
    normalized_by: tuple[str, ...] = ()
    started_from: str = ""


class Predictions(NamedTuple):
    """A classifier's predictions for N faces.

    Attributes:
        values: (N, L) probabilities; for ``intensity``, levels from 0 to 5.
        output_gates: (N, L, E) the experts' weights by label.
        input_load: (E,) each expert's share of the gate weights in the input mixture.
    """

    values: Floats
    output_gates: Floats
    input_load: Floats


def save_classifier(model: TrainedClassifier, path: Path) -> None:
    """Write weights and notes atomically."""
    notes = {
        "network": "classifier",
        "settings": model.network.settings(),
        "task": model.task.kind,
        "names": [*model.task.names],
        "views": model.views,
        "normalizer": model.normalizer,
        "normalized_by": [*model.normalized_by],
        "started_from": model.started_from,
    }
    save_tensors(model.network.state_dict(), path, notes)


def classifier_file(path: Path) -> Path:
    """Return the weights file of a classifier file or folder. Raises InputError if missing."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no classifier {file}: train one with normpipe classify")
    return file


def open_classifier(path: Path) -> TrainedClassifier:
    """Open weights that ``normpipe classify`` wrote.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        InputError: no such file, or not a classifier.
    """
    file = classifier_file(path)
    notes = read_notes(file)
    if notes.get("network") != "classifier":
        raise InputError(f"{file} is not a classifier: give a file that normpipe classify wrote")
    try:
        network = MixtureClassifier(**json.loads(notes["settings"]))
        task = Task(notes["task"], tuple(json.loads(notes["names"])))  # type: ignore[arg-type]
        made_by = tuple(json.loads(notes.get("normalized_by", "[]")))
    except (TypeError, ValueError, KeyError):
        raise InputError(
            f"{file} holds a classifier that this release of normpipe cannot read: upgrade normpipe"
        ) from None
    load_weights(network, file)
    network.eval().requires_grad_(False)
    start = notes.get("started_from", "")
    return TrainedClassifier(network, task, notes["views"], notes["normalizer"], made_by, start)


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a finished model. Raises InputError if there is none."""
    path = folder / CARD_FILE
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {CARD_FILE}, which a finished model has: give the folder that "
            "normpipe classify wrote, or run that command again"
        ) from None
    except ValueError:
        raise InputError(f"{path} is damaged: train the model anew (--overwrite)") from None


def check_normalizer(
    model: TrainedClassifier, weights: Collection[str] | None, unless: str
) -> None:
    """Refuse faces made by a normalizer other than the one a model was trained on.

    Args:
        weights: sha256 of the normalizer weights behind the faces; None if unknown.
        unless: the option or setting that accepts them anyway.

    Raises:
        InputError: the weights differ, or one side does not record them.
    """
    if weights == ():
        return
    way = f"or give {unless} to skip this check"
    if weights is None:
        raise InputError(
            "the shards do not say which weights normalized them: give the whole output of "
            f"normpipe run, {way}"
        )
    if not model.normalized_by:
        raise InputError(
            "the classifier does not say which normalizer made what it was trained on: run its "
            f"normpipe classify again, which adds it without training, {way}"
        )
    unknown = sorted({*weights} - {*model.normalized_by})
    if unknown:
        raise InputError(
            f"the classifier was trained on faces normalized by the weights "
            f"{', '.join(name[:12] for name in model.normalized_by)}… and these faces by "
            f"{unknown[0][:12]}…: use the same weights (--set normalize.weights=FILE), {way}"
        )


def save_pictures(folder: Path, sources: Sequence[str | None]) -> int:
    """Write which photographs trained a model, 8 bytes each; return how many do not say it.

    Args:
        sources: sha256 of the photographs' files; None where the shards do not record it.
    """
    known = [one for one in sources if one]
    (folder / PICTURES_FILE).unlink(missing_ok=True)  # of a model that is replaced
    if known:
        buffer = io.BytesIO()
        np.save(buffer, np.unique(_marks(known)))
        write_bytes(folder / PICTURES_FILE, buffer.getvalue())
    return len(sources) - len(known)


def add_origins(folder: Path, faces: Listing) -> None:
    """Add to a finished model what an earlier release did not record: normalizer and pictures.

    Args:
        faces: those that trained it.
    """
    before = (folder / CARD_FILE).read_bytes()
    card = json.loads(before)
    about = card["trained_on"]
    if not about.get("normalized_by"):
        model = open_classifier(folder)
        made_by = normalizer_weights(model.views, faces, model.normalizer) or ()
        if made_by:
            save_classifier(replace(model, normalized_by=made_by), folder / MODEL_FILE)
            about["normalized_by"] = [*made_by]
            card["sha256"] = sha256_file(folder / MODEL_FILE)
    if "pictures_unknown" not in about:
        about["pictures_unknown"] = save_pictures(folder, photographs(faces))
    if card != json.loads(before):
        write_json(folder / CARD_FILE, card)


def trained_by(folder: Path, sources: Sequence[str | None]) -> list[bool | None]:
    """Return which photographs also trained the model of a folder; None where that is unknown.

    A photograph is taken for another with a probability of (number of training pictures) / 2^64.
    """
    file = folder / PICTURES_FILE
    if not file.is_file():
        return [None] * len(sources)
    held = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
    seen = np.isin(_marks([one or "" for one in sources]), held)
    return [bool(one) if source else None for one, source in zip(seen, sources, strict=True)]


def _marks(sources: Sequence[str]) -> NDArray[np.uint64]:
    # Hashed once more, as foreign shards may name their pictures in any way.
    digests = (hashlib.sha256(one.encode()).digest()[:8] for one in sources)
    return np.asarray([int.from_bytes(one, "big") for one in digests], np.uint64)


def predict_faces(
    model: TrainedClassifier, data: ViewData, device: str = "cpu", batch_size: int = _BATCH
) -> Predictions:
    """Predict all faces of ``data``, in order; in fp32, without augmentation."""
    return predict_batches(model, batches_in_order(data, batch_size), device)


def predict_batches(
    model: TrainedClassifier, batches: Iterator[Batch], device: str = "cpu"
) -> Predictions:
    """Predict batch by batch; batches as of ``ViewData.batch``, with pictures (B, C, S, S)."""
    view = ClassifierView(model.network).to(device).eval()
    values: list[Floats] = []
    gates: list[Floats] = []
    load, tokens = np.zeros(1), 0.0
    with torch.inference_mode():
        for batch in batches:
            outputs = view({name: value.to(device) for name, value in batch.items()})
            values.append(probabilities(model.task.kind, outputs["logits"].float()).cpu().numpy())
            gates.append(outputs["output_gates"].float().cpu().numpy())
            present = outputs["seen"].float().unsqueeze(-1)  # tokens of the views that exist
            load = load + (outputs["input_gates"].float() * present).sum((0, 1)).cpu().numpy()
            tokens += float(present.sum())
    if not values:
        labels = len(model.task.names)
        return Predictions(np.empty((0, labels)), np.empty((0, labels, 1)), load)
    return Predictions(np.concatenate(values), np.concatenate(gates), load / max(tokens, 1))
