"""All measures on real faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...pipeline.errors import InputError
from .criteria.attacker import measure_attacker, measure_reversal
from .criteria.covering import measure_covering
from .criteria.emotions import measure_emotions
from .criteria.strength import measure_strength
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
from .seen_faces import Look, NamedCoefficients, RealFaces, Seen

#: Sections of this module, and which of them need named people, and a recognizer.
SECTIONS = (
    "emotions", "zero_shot", "strength", "covering", "transfer", "verification", "attacker",
    "reversal",
)  # fmt: skip
NEED_PEOPLE = ("verification", "attacker", "reversal")
NEED_PACK = ("verification", "reversal")


def measure_real(
    faces: RealFaces, seen: Seen, look: Look, pack: Path | None = None
) -> list[Figure]:
    """Measure what the normalizer keeps of photographs, and what it hides.

    Emotions, transfer and the reversing attacker train on part ``train`` and test on ``test``;
    zero-shot, strength and covering use ``test``; the retrained attacker and verification all
    faces.

    Args:
        faces: N aligned faces.
        seen: what the normalizer makes of them.
        look: the normalizer and what reads its pictures, for faces that are half covered.
        pack: folder of an insightface pack with a detection and a recognition network; None
            skips what needs it.

    Raises:
        InputError: labels without parts, or with a person in both; an unusable pack.
    """
    _require_parts(faces)
    test = faces.parts == "test"
    tested = faces.take(test)
    readings = {
        name: NamedCoefficients(codes.values[test], codes.names)
        for name, codes in seen.readings.items()
    }
    figures = measure_emotions(faces, seen.readings)
    for name, codes in seen.readings.items():
        figures += measure_zero_shot(faces, codes, name)
    figures += measure_strength(tested, readings)
    figures += measure_covering(tested, readings, look)
    labels = (faces.emotions, faces.people, faces.sources)
    figures += measure_transfer(faces.images, seen.pictures, *labels, faces.parts)
    if faces.named:
        figures += measure_attacker(
            faces.images,
            seen.pictures,
            seen.readings["pictures"].values,
            faces.emotions,
            faces.people,
        )
        figures += _with_recognizer(faces, seen, pack) if pack is not None else []
    return figures


def _with_recognizer(faces: RealFaces, seen: Seen, pack: Path) -> list[Figure]:
    embed = open_recognizer(pack)
    points = locate(pack, seen.pictures)
    originals = embed_all(embed, crops_by_landmarks(faces.images, faces.landmarks))
    made = embed_all(embed, crops_by_frame(seen.pictures, points))
    coefficients = seen.readings["pictures"].values
    figures = measure_verification(originals, made, coefficients, faces.emotions, faces.people)
    figures += measure_reversal(faces, seen.pictures, coefficients, originals, made)
    if points is None:
        warning = "no face found in the mean normalized picture: cropped as aligned faces"
        figures = [replace(figure, note=f"{figure.note}; {warning}") for figure in figures]
    return figures


def _require_parts(faces: RealFaces) -> None:
    train, test = (faces.people[faces.parts == part] for part in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError(
            "the labels need a column 'split' (or 'part') with 'train', and 'test' or 'val'"
        )
    both = np.intersect1d(train, test)
    if len(both):
        raise InputError(
            f"{len(both)} people are in train and in test (such as {both[0]}): split by person"
        )
