"""Save, load and run classifiers: safetensors files whose notes describe task and views."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...manifests.arrays import Floats
from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from ...pipeline.store.commit import write_bytes, write_json
from ..networks.classifier import MixtureClassifier, probabilities
from ..networks.files.checkpoint import load_weights, read_notes, save_tensors
from .listing import Listing, photographs
from .tasks import Task
from .views import Batch, ClassifierView, ViewData, batches_in_order, normalizer_weights

_BATCH = 64

#: Files in a model's folder: the weights, their card and, with ``paper_style``, the scores of each
#: epoch on the test set.
MODEL_FILE = "classifier.safetensors"
CARD_FILE = "classifier.json"
EPOCHS_FILE = "epochs.json"
#: The photographs that trained the model, sorted, uint64: 64 bits of the sha256 of the
#: ``source_sha256`` of each.
PICTURES_FILE = "training_pictures.npy"


@dataclass(frozen=True)
class Classifier:
    """A network with its task and its inputs.

    Attributes:
        network: on the CPU unless moved.
        task: kind and names of what it predicts.
        views: what it was trained on.
        normalizer: whose encoder makes a second view that is not a picture.
        normalized_by: sha256 of the normalizer weights behind its training views; empty if it used
            no normalizer, or if unknown.
    """

    network: MixtureClassifier
    task: Task
    views: str
    normalizer: str
    normalized_by: tuple[str, ...] = ()


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


def save_classifier(model: Classifier, path: Path) -> None:
    """Write weights and notes atomically."""
    notes = {
        "network": "classifier",
        "settings": model.network.settings(),
        "task": model.task.kind,
        "names": [*model.task.names],
        "views": model.views,
        "normalizer": model.normalizer,
        "normalized_by": [*model.normalized_by],
    }
    save_tensors(model.network.state_dict(), path, notes)


def classifier_file(path: Path) -> Path:
    """Return the weights file of a classifier file or folder. Raises InputError if missing."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no classifier {file}: train one with normpipe classify")
    return file


def open_classifier(path: Path) -> Classifier:
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
    return Classifier(network, task, notes["views"], notes["normalizer"], made_by)


def check_normalizer(model: Classifier, weights: Collection[str] | None, unless: str) -> None:
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
    model: Classifier, data: ViewData, device: str = "cpu", batch_size: int = _BATCH
) -> Predictions:
    """Predict all faces of ``data``, in order; in fp32, without augmentation."""
    return predict_batches(model, batches_in_order(data, batch_size), device)


def predict_batches(
    model: Classifier, batches: Iterator[Batch], device: str = "cpu"
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
