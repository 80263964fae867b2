"""The data of a training run: pairs for training and evaluation, and real faces."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....pipeline.errors import InputError
from ...networks.base import NormalizerNetwork, is_separable
from ..pictures import Form, PairCache
from ..real_faces import FaceCache, WantedLabels, load_faces
from ..synthesized import NoPairs, load_pairs
from .batches import Recipe

if TYPE_CHECKING:
    from .fit_settings import FitNormalizerConfig

log = logging.getLogger(__name__)

# Sources are held larger than the network's input: shifts and rotations need a margin.
_MARGIN = 8 / 7


@dataclass(frozen=True)
class TrainingData:
    """Pairs for training, for evaluation during training and for the final test; real faces."""

    train: PairCache
    held_out: PairCache
    test: PairCache
    faces: FaceCache | None

    def summary(self) -> dict[str, Any]:
        """Return counts, for the card."""
        return {
            "pairs": len(self.train),
            "target_pictures": len(self.train.target_of),
            "identities": len({*self.train.identity.tolist()}),
            "real_faces": len(self.faces) if self.faces else 0,
            **self._labelled(),
        }

    def _labelled(self) -> dict[str, Any]:
        labels = self.faces.labels if self.faces else None
        return {"labelled_faces": labels.known()} if labels and labels.known() else {}

    def digest(self) -> str:
        """Return the sha256 of the training data."""
        parts = (self.train.digest(), self.faces.digest() if self.faces else "")
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def load_training_data(
    config: FitNormalizerConfig,
    network: NormalizerNetwork,
    sets: list[Path],
    faces: list[Path],
    labels: Sequence[Path] | None = None,
) -> TrainingData:
    """Read the data of a run, in the network's input and output sizes.

    ``labels``: lists with further labels of the faces; None reads the faces without labels.
    """
    side = round(network.input_size * _MARGIN)
    source = Form(network.sees_colour, side)
    target = Form(True, network.output_size, exact=True)
    limits = {"train": None, "validation": config.evaluation_pairs, "test": None}
    pairs = {
        split: _pairs(sets, split, limit, (source, target), config.memory_gb)
        for split, limit in limits.items()
    }
    train, held_out = pairs["train"], pairs["validation"]
    if train is None or held_out is None:
        raise InputError(f"no training or no validation pairs in {', '.join(map(str, sets))}")
    real = None
    if faces:
        form = Form(network.sees_colour, side, exact=True)
        wanted = (
            None
            if labels is None
            else WantedLabels(train.expression_names, labels, config.label_smoothing)
        )
        real = load_faces(faces, config.faces_split, form, config.memory_gb, wanted)
        _check_faces(config, real, len(faces), labels is not None)
    log.info(
        "%d training pairs, %d held out, %d real faces",
        len(train), len(held_out), len(real) if real else 0,
    )  # fmt: skip
    # Test on people that neither training nor calibration used, if there are any.
    return TrainingData(train, held_out, pairs["test"] or held_out, real)


def _check_faces(
    config: FitNormalizerConfig, faces: FaceCache, folders: int, labelled: bool
) -> None:
    """Raise InputError for labels that nothing can be learnt from, and for wrong shares."""
    shares = config.face_shares
    if shares and len(shares) != folders:
        raise InputError(
            f"fit_normalizer.face_shares has {len(shares)} shares for {folders} --faces: give one "
            "for each, in their order"
        )
    if shares and not sum(shares):
        raise InputError("fit_normalizer.face_shares are all 0: set one above 0")
    empty = [
        own for own, share in zip(faces.datasets, shares, strict=False) if share and not own.size
    ]
    if empty:
        raise InputError("fit_normalizer.face_shares gives a share to --faces without usable faces")
    if labelled and not (faces.labels and faces.labels.known()):
        raise InputError(
            "--labels: the faces have none that can be learnt from (emotion, EMOTION_votes, AU12, "
            "AU12_intensity, scores named as shapes): give a list that has, or leave --labels out"
        )


def _pairs(
    sets: list[Path], split: str, limit: int | None, forms: tuple[Form, Form], memory_gb: float
) -> PairCache | None:
    try:
        return load_pairs(sets, split, limit, *forms, memory_gb)
    except NoPairs:
        return None


def recipe(
    config: FitNormalizerConfig,
    network: NormalizerNetwork,
    data: TrainingData,
    parts: int,
    drawn: bool,
) -> Recipe:
    """Return the numbers of real faces, pairs and pairs with a target picture in a batch."""
    faces = round(config.batch_size * config.real_share) if data.faces else 0
    pairs = config.batch_size - faces
    share = config.picture_share or (0.25 if is_separable(network) else 1.0)
    with_target = max(parts, round(pairs * share)) if drawn else 0
    return Recipe(
        pairs,
        with_target,
        faces,
        network.input_size,
        parts,
        config.face_shares if data.faces else (),
        config.covered_share,
        config.even_emotions,
    )
