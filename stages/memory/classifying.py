"""Classifiers on faces in memory; the same probabilities as the job's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from ..classification.classifiers import TrainedClassifier, open_classifier, predict_batches
from ..classification.views import PLANS, view_batch
from ..faces.pixels import encode
from ..networks.devices import resolve_device
from .given import Pictures, given_pictures, torch_threads
from .tools import Normalizer

_BATCH = 32


class Classifier:
    """A classifier that ``normpipe classify`` trained, for faces in memory. See :meth:`open`."""

    def __init__(
        self, model: TrainedClassifier, normalizer: Normalizer | None, device: str, threads: int
    ) -> None:
        self._model = model
        self._normalizer = normalizer
        self._device = device
        self._threads = threads

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        normalizer: Normalizer | None = None,
        device: str = "auto",
        threads: int = 1,
    ) -> Classifier:
        """Open a model.

        Args:
            path: ``OUT/classify``, or a ``classifier.safetensors``.
            normalizer: makes the second view of a model that has learnt from both. Default: the
                shipped weights that made the faces it has learnt from, if it was those.
            device: as for :class:`Normalizer`.
            threads: of torch on a CPU.

        Raises:
            InputError: not a classifier, a missing device, or a normalizer other than the one that
                the model has learnt from.
        """
        model = open_classifier(Path(path))
        found = str(resolve_device(device, "device"))
        needed = "normalized" in PLANS[model.views].reads
        if needed and normalizer is None:
            normalizer = _shipped_normalizer(model, device)
        if needed and normalizer and normalizer.weights_sha256 not in model.normalized_by:
            known = ", ".join(digest[:12] for digest in model.normalized_by) or "unknown"
            raise InputError(
                f"the classifier has learnt from faces that other weights normalized ({known}): "
                "give normalizer=Normalizer(FILE) with those"
            )
        return cls(model, normalizer if needed else None, found, threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the columns of the result mean: emotions, or action units."""
        return self._model.task.names

    @property
    def task(self) -> str:
        """``emotion``, ``action_units`` or ``intensity``."""
        return self._model.task.kind

    def __call__(self, faces: Pictures, normalized: Pictures | None = None) -> Floats:
        """Return probabilities (levels from 0 to 5 for ``intensity``), float32.

        The same as the job's on faces that are stored as PNG; JPEG changes pixels a little.

        Args:
            faces: aligned, one or several; see :class:`Normalizer`.
            normalized: the same, normalized, if they are there already.

        Returns:
            (L,) for one face, (N, L) for several, in the order of ``labels``.
        """
        given = given_pictures(faces)
        if not given.pixels:
            raise InputError("no faces: give at least one")
        if normalized is not None:
            second = given_pictures(normalized).pixels
            if len(second) != len(given.pixels):
                raise InputError(
                    f"{len(given.pixels)} faces and {len(second)} normalized ones: give one each"
                )
        elif self._normalizer is not None:
            second = list(self._normalizer.stream(given.pixels))
        else:
            second = []
        pairs = {"original": given.pixels, "normalized": second}
        with torch_threads(self._threads):
            batches = (
                self._batch({view: each[start : start + _BATCH] for view, each in pairs.items()})
                for start in range(0, len(given.pixels), _BATCH)
            )
            found = predict_batches(self._model, batches, self._device).values.astype(np.float32)
        return found[0] if given.single else found

    def _batch(self, pictures: dict[str, list[Pixels]]) -> dict[str, torch.Tensor]:
        model = self._model
        needed = PLANS[model.views].reads
        encoded = {view: [encode(one, "png", 0) for one in pictures[view]] for view in needed}
        return view_batch(encoded, model.views, model.network, model.normalizer)


def _shipped_normalizer(model: TrainedClassifier, device: str) -> Normalizer:
    """Return the shipped normalizer whose faces a model has learnt from. Raises InputError."""
    from ..networks.files.checkpoint import shipped_weights

    names = [name for name, digest in shipped_weights().items() if digest in model.normalized_by]
    if not names:
        raise InputError(
            "the classifier has learnt from faces that weights of your own normalized: give "
            "normalizer=Normalizer(FILE) with those"
        )
    return Normalizer(names[0], device=device)
