"""All measures on real faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Pixels
from ...pipeline.errors import InputError
from .criteria.attacker import measure_attacker
from .criteria.transfer import measure_transfer
from .criteria.verification import (
    crops_by_frame,
    crops_by_landmarks,
    embed_all,
    locate,
    measure_verification,
    open_recognizer,
)
from .criteria.zero_shot import measure_zero_shot
from .figures import Figure
from .labelled_faces import RealFaces


@dataclass(frozen=True)
class NamedCoefficients:
    """Coefficients of N faces.

    Attributes:
        values: (N, E) in [0, 1].
        names: of the E coefficients.
    """

    values: NDArray[Any]
    names: Sequence[str]


def measure_real(
    faces: RealFaces,
    normalized: Pixels,
    reader: NamedCoefficients,
    own: NamedCoefficients | None = None,
    pack: Path | None = None,
) -> list[Figure]:
    """Measure zero-shot, transfer, attacker and, with a recognizer, verification.

    Zero-shot uses part ``test``; transfer trains on part ``train`` and tests on ``test``; the
    attacker and verification use all faces.

    Args:
        faces: N aligned faces.
        normalized: (N, S, S, 3) uint8 RGB, by ``renders.normalize_all``.
        reader: read off the normalized pictures by the frozen reader.
        own: the normalizer's own code, if it has one.
        pack: folder of an insightface pack with a detection and a recognition network; None
            skips verification.

    Raises:
        InputError: labels without parts, or with a person in both; an unusable pack.
    """
    _require_parts(faces)
    labels = (faces.emotions, faces.people, faces.sources)
    figures: list[Figure] = []
    test = faces.parts == "test"
    for codes, reading in ((reader, "pictures"), (own, "code")):
        if codes is not None:
            figures += measure_zero_shot(
                codes.values[test], codes.names, *(label[test] for label in labels), reading=reading
            )
    figures += measure_transfer(faces.images, normalized, *labels, faces.parts)
    figures += measure_attacker(
        faces.images, normalized, reader.values, faces.emotions, faces.people
    )
    if pack is not None:
        figures += _verification(faces, normalized, reader, pack)
    return figures


def _verification(
    faces: RealFaces, normalized: Pixels, reader: NamedCoefficients, pack: Path
) -> list[Figure]:
    embed = open_recognizer(pack)
    points = locate(pack, normalized)
    originals = embed_all(embed, crops_by_landmarks(faces.images, faces.landmarks))
    made = embed_all(embed, crops_by_frame(normalized, points))
    figures = measure_verification(originals, made, reader.values, faces.emotions, faces.people)
    if points is None:
        warning = "no face found in the mean normalized picture: cropped as aligned faces"
        figures = [replace(figure, note=f"{figure.note}; {warning}") for figure in figures]
    return figures


def _require_parts(faces: RealFaces) -> None:
    train, test = (faces.people[faces.parts == part] for part in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError("the labels need a column 'split' (or 'part') with 'train' and 'test'")
    both = np.intersect1d(train, test)
    if len(both):
        raise InputError(
            f"{len(both)} people are in train and in test (such as {both[0]}): split by person"
        )
