"""Classifiers on disk and at work: safetensors with notes that say what they tell."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...manifests.arrays import Floats
from ...pipeline.errors import InputError
from ..networks.classifier import MixtureClassifier, probabilities
from ..networks.files.checkpoint import load_weights, read_notes, save_tensors
from .tasks import Task
from .views import Batch, ClassifierView, ViewData, batches_in_order

_BATCH = 64

#: Files of a trained model's folder: the weights, what made them, and, with ``paper_style``, the
#: scores of each epoch on the test set.
MODEL_FILE = "classifier.safetensors"
CARD_FILE = "classifier.json"
EPOCHS_FILE = "epochs.json"


@dataclass(frozen=True)
class Classifier:
    """A network with what it tells and what it has to be shown.

    Attributes:
        network: on the CPU unless moved.
        task: kind and names of what it tells.
        views: what it was trained on.
        normalizer: whose encoder makes a second view that is no picture.
        normalized_by: sha256 of the weights that made what it saw of a normalizer; empty where it
            saw nothing of one, or nobody knows.
    """

    network: MixtureClassifier
    task: Task
    views: str
    normalizer: str
    normalized_by: tuple[str, ...] = ()


class Told(NamedTuple):
    """What a classifier says of N faces.

    Attributes:
        values: (N, L) probabilities, of ``intensity`` levels from 0 to 5.
        output_gates: (N, L, E) the experts' weights by label.
        input_load: (E,) share of the tokens' weights that each expert of the input mixture has.
    """

    values: Floats
    output_gates: Floats
    input_load: Floats


def save_classifier(model: Classifier, path: Path) -> None:
    """Write weights and notes, whole or not at all."""
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
    """The file of a classifier given by file or folder. Raises InputError where there is none."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no classifier {file}: train one with normpipe classify")
    return file


def open_classifier(path: Path) -> Classifier:
    """Open weights that ``normpipe classify`` wrote.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        InputError: no such file, or no classifier.
    """
    file = classifier_file(path)
    notes = read_notes(file)
    if notes.get("network") != "classifier":
        raise InputError(f"{file} is no classifier: give what normpipe classify wrote")
    try:
        network = MixtureClassifier(**json.loads(notes["settings"]))
        task = Task(notes["task"], tuple(json.loads(notes["names"])))  # type: ignore[arg-type]
        made_by = tuple(json.loads(notes.get("normalized_by", "[]")))
    except (TypeError, ValueError, KeyError):
        raise InputError(
            f"{file} holds a classifier that this release of normpipe does not know: upgrade it"
        ) from None
    load_weights(network, file)
    network.eval().requires_grad_(False)
    return Classifier(network, task, notes["views"], notes["normalizer"], made_by)


def check_normalizer(model: Classifier, weights: Collection[str] | None, unless: str) -> None:
    """Refuse faces that another normalizer made than the one a model was trained on.

    Args:
        weights: sha256 of the normalizer weights behind the faces; None where nobody knows.
        unless: the option or setting that takes them all the same.

    Raises:
        InputError: they are others, or one side does not say.
    """
    if weights == ():
        return
    way = f"or give {unless} if you know better"
    if weights is None:
        raise InputError(f"the shards do not say which weights normalized them: pair anew, {way}")
    if not model.normalized_by:
        raise InputError(
            f"the classifier does not say which normalizer made what it was trained on: train it "
            f"anew, {way}"
        )
    strange = sorted({*weights} - {*model.normalized_by})
    if strange:
        raise InputError(
            f"the classifier was trained on faces normalized by the weights "
            f"{', '.join(name[:12] for name in model.normalized_by)}… and these are by "
            f"{strange[0][:12]}…: normalize with the same (--set normalize.weights=FILE), {way}"
        )


def tell(model: Classifier, data: ViewData, device: str = "cpu", batch_size: int = _BATCH) -> Told:
    """Tell all faces of ``data``, in order; in fp32, unaugmented."""
    return tell_batches(model, batches_in_order(data, batch_size), device)


def tell_batches(model: Classifier, batches: Iterator[Batch], device: str = "cpu") -> Told:
    """Tell faces batch by batch: of every batch ``ViewData.batch``, with pictures (B, C, S, S)."""
    view = ClassifierView(model.network).to(device).eval()
    values: list[Floats] = []
    gates: list[Floats] = []
    load, tokens = np.zeros(1), 0.0
    with torch.inference_mode():
        for batch in batches:
            seen = view({name: value.to(device) for name, value in batch.items()})
            values.append(probabilities(model.task.kind, seen["logits"].float()).cpu().numpy())
            gates.append(seen["output_gates"].float().cpu().numpy())
            there = seen["seen"].float().unsqueeze(-1)
            load = load + (seen["input_gates"].float() * there).sum((0, 1)).cpu().numpy()
            tokens += float(there.sum())
    if not values:
        labels = len(model.task.names)
        return Told(np.empty((0, labels)), np.empty((0, labels, 1)), load)
    return Told(np.concatenate(values), np.concatenate(gates), load / max(tokens, 1))
