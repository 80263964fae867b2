"""All measures on real faces in one call."""

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
from .real import RealFaces


@dataclass(frozen=True)
class Codes:
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
    reader: Codes,
    own: Codes | None = None,
    pack: Path | None = None,
) -> list[Figure]:
    """Zero-shot, transfer, attacker and, with a recognizer, verification.

    Zero-shot looks at part ``test``; transfer trains on part ``train`` and tests on ``test``; the
    attacker and verification take everybody.

    Args:
        faces: N aligned faces.
        normalized: (N, S, S, 3) uint8 RGB, by ``renders.normalize_all``.
        reader: of the frozen reader from the normalized pictures.
        own: the normalizer's own code, where it has one.
        pack: folder of an insightface pack with a detection and a recognition network; None
            leaves verification out.

    Raises:
        InputError: labels without parts, or with a person in both; a pack that cannot be used.
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


def _verification(faces: RealFaces, normalized: Pixels, reader: Codes, pack: Path) -> list[Figure]:
    embed = open_recognizer(pack)
    points = locate(pack, normalized)
    originals = embed_all(embed, crops_by_landmarks(faces.images, faces.landmarks))
    made = embed_all(embed, crops_by_frame(normalized, points))
    figures = measure_verification(originals, made, reader.values, faces.emotions, faces.people)
    if points is None:
        words = "no face found in the mean normalized picture: cut where aligned faces lie"
        figures = [replace(figure, note=f"{figure.note}; {words}") for figure in figures]
    return figures


def _require_parts(faces: RealFaces) -> None:
    train, test = (faces.people[faces.parts == part] for part in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError("the labels need a column 'split' (or 'part') with 'train' and 'test'")
    both = np.intersect1d(train, test)
    if len(both):
        raise InputError(
            f"{len(both)} people are in train and in test ({both[0]} for one): split by person"
        )
