"""Is a movement read where it shows? Half of each face is replaced by a neutral face's.

A network that guesses the emotion from the mouth and paints the brows that go with it, or the other
way round, draws what the face does not show. So the part of an emotional face where a movement
shows is covered with the same part of another person's neutral face: there, nothing moves. A flat
patch instead would leave open what is under it, and a guess would be no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....manifests.arrays import Mask, Numbers, Pixels, Rows
from ...faces.geometry import TEMPLATE
from ...metrics.resampling import Draws, percentiles
from ..figures import Figure
from ..seen_faces import Look, NamedCoefficients, RealFaces
from .strength import (
    FROWN,
    JAW,
    LOWERED,
    MIN_FACES,
    RAISED,
    RESAMPLES,
    SMILE,
    WIDE,
    Movement,
    mean_of,
    terms_of,
)
from .zero_shot import NEUTRAL

#: Faces of an emotion; each is normalized once more.
MOST_FACES = 200
#: A movement that is drawn less than this more strongly than in neutral faces cannot be judged.
MIN_DRAWN = 0.05
GOAL = "<= 0.3"
_SECTION = "covering"

_EYES, _NOSE = float(TEMPLATE[0, 1]), float(TEMPLATE[2, 1])
_EYE_DISTANCE = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])


@dataclass(frozen=True)
class Cover:
    """A part of the aligned face.

    Attributes:
        name: for readers.
        top, bottom: as fractions of the side.
        movements: those that show in it alone, as far as movements do.
    """

    name: str
    top: float
    bottom: float
    movements: tuple[Movement, ...]

    def __call__(self, faces: Pixels, others: Pixels) -> Pixels:
        """Return (M, H, W, 3) uint8 ``faces`` with this part of ``others``."""
        covered = faces.copy()
        rows = slice(round(self.top * faces.shape[1]), round(self.bottom * faces.shape[1]))
        covered[:, rows] = others[:, rows]
        return covered


#: Down to the lower rim of the eyes; and from below the nose.
COVERS = (
    Cover("brows and eyes", 0.0, _EYES + 0.15 * _EYE_DISTANCE, (LOWERED, RAISED, WIDE)),
    Cover("mouth", _NOSE + 0.1 * _EYE_DISTANCE, 1.0, (SMILE, JAW, FROWN)),
)


def measure_covering(
    faces: RealFaces, readings: Mapping[str, NamedCoefficients], look: Look
) -> list[Figure]:
    """Measure the share of each movement that stays when its part of the face is neutral.

    Args:
        faces: N faces to judge (part test).
        readings: of these faces, as ``seen_faces.Seen``.
        look: the normalizer and what reads its pictures.
    """
    figures: list[Figure] = []
    for cover in COVERS:
        rows, others = _choose(faces, cover)
        chosen = faces.take(rows)
        if not len(others):
            figures.append(_undefined(cover, "no neutral faces of two people to cover with"))
            continue
        after = look(cover(chosen.images, faces.images[others])).readings
        draws = Draws(chosen.people, RESAMPLES)
        for reading, codes in readings.items():
            before = NamedCoefficients(codes.values[rows], codes.names)
            for movement in cover.movements:
                name = f"{_name(cover, movement)}, read from {reading}"
                figures.append(
                    _stays(name, movement, chosen.emotions, (before, after[reading]), draws)
                )
    return figures


def _choose(faces: RealFaces, cover: Cover) -> tuple[Rows, Rows]:
    """Return the rows of faces to cover, and of a neutral face of another person for each."""
    rng = np.random.default_rng(53)
    emotions = dict.fromkeys((NEUTRAL, *(movement.emotion for movement in cover.movements)))
    drawn = [rng.permutation(np.flatnonzero(faces.emotions == e))[:MOST_FACES] for e in emotions]
    rows = np.sort(np.concatenate(drawn))
    neutral = np.flatnonzero(faces.emotions == NEUTRAL)
    if len(np.unique(faces.people[neutral])) < 2:
        return rows, np.empty(0, np.int64)
    others = rng.choice(neutral, len(rows))
    while (same := faces.people[others] == faces.people[rows]).any():
        others[same] = rng.choice(neutral, int(same.sum()))
    return rows, others


def _name(cover: Cover, movement: Movement) -> str:
    return f"{movement.name} in {movement.emotion} that stays under a neutral face's {cover.name}"


def _stays(
    name: str,
    movement: Movement,
    emotions: Numbers,
    codes: tuple[NamedCoefficients, NamedCoefficients],
    draws: Draws,
) -> Figure:
    """Compare readings before and after covering, each relative to neutral faces."""
    reads = [movement.read(one) for one in codes]
    rows: list[Mask] = [emotions == one for one in (movement.emotion, NEUTRAL)]
    count = int(rows[0].sum())
    if any(read is None for read in reads):
        return Figure(_SECTION, name, float("nan"), note="a shape is not read")
    if min(int(one.sum()) for one in rows) < MIN_FACES:
        note = f"fewer than {MIN_FACES} faces of {movement.emotion} or {NEUTRAL}"
        return Figure(_SECTION, name, float("nan"), count=count, note=note)
    terms = np.stack(
        [np.stack([terms_of(read, one) for one in rows], 1) for read in reads if read is not None],
        axis=1,
    )  # (M, before and after, emotion and neutral, 2)

    def stays(sums: Numbers) -> Numbers:
        means = mean_of(sums)
        drawn = means[..., 0] - means[..., 1]
        shown = np.maximum(drawn[..., 0], MIN_DRAWN)
        return np.where(drawn[..., 0] >= MIN_DRAWN, drawn[..., 1] / shown, np.nan)

    sums = terms.sum(0)
    (before, resting), (after, still) = mean_of(sums)
    value = float(stays(sums))
    note = (
        f"mean {before:.3f} over {resting:.3f} in neutral faces, covered {after:.3f} over "
        f"{still:.3f}"
    )
    if np.isnan(value):
        note += "; hardly drawn"
    interval = percentiles(stays(draws.sums(terms)))
    return Figure(_SECTION, name, value, *interval, "", count, GOAL, note)


def _undefined(cover: Cover, note: str) -> Figure:
    return Figure(_SECTION, _name(cover, cover.movements[0]), float("nan"), note=note)
