"""Is an expression seen at a glance? How strongly movements are drawn, compared with the smile.

A movement's share is its mean reading in its emotion, relative to what that emotion's prototype
draws: the middle of the range that the renderer samples (``synthesis.scene.acting``). Where an
emotion has two prototypes (happiness and laughter, anger and shouting), it is the mean of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ....manifests.arrays import Floats, Mask, Numbers
from ...metrics.ranking import Ranking
from ...metrics.resampling import Draws, percentiles
from ...synthesis.scene.acting import prototype
from ..figures import Figure
from ..seen_faces import NamedCoefficients, RealFaces
from .zero_shot import NEUTRAL, RAISE, shape_score

RESAMPLES = 1000
GOAL, NEUTRAL_GOAL = ">= 0.6", "<= 0.10"
#: Below this share the smile itself is hardly drawn, and nothing can be compared with it.
MIN_SMILE = 0.1
#: Raters disagreed where the most votes of any emotion are a smaller share of all, agreed where
#: they are at least as large.
DISAGREED, AGREED = 0.6, 0.8
#: Emotions with fewer faces of either kind are left out of the comparison.
MIN_FACES = 5
#: Goals on both: a painted label is drawn equally strongly, ratio 1 and AUC 0.5.
WEAKER_GOAL, FOLLOWS_GOAL = "<= 1", ">= 0.6"
_SECTION = "strength"


@dataclass(frozen=True)
class Movement:
    """A movement of the face that shows an emotion.

    Attributes:
        name: for readers.
        emotion: in which it is looked for.
        shapes: the mean of their readings is the movement's, left and right averaged.
    """

    name: str
    emotion: str
    shapes: tuple[str, ...]

    @property
    def prototype(self) -> float:
        """Return what the prototypes of the emotion draw, in the middle of their ranges."""
        return float(prototype(self.emotion, self.shapes).mean())

    def read(self, codes: NamedCoefficients) -> Floats | None:
        """Return (N,) the movement's readings; None if a shape is not read."""
        score = shape_score(codes.values, codes.names, self.shapes)
        return None if score is None else score / len(self.shapes)


SMILE = Movement("smile", "happiness", ("mouthSmile",))
JAW = Movement("jaw drop", "surprise", ("jawOpen",))
LOWERED = Movement("browDown", "anger", ("browDown",))
RAISED = Movement("brow raise", "surprise", RAISE)
WIDE = Movement("eyeWide", "surprise", ("eyeWide",))
FROWN = Movement("mouthFrown", "sadness", ("mouthFrown",))
#: What must be seen as well as a smile.
JUDGED = (LOWERED, RAISED, WIDE, FROWN)
#: What shows each emotion, to compare faces by their votes.
SHOWN = (SMILE, JAW, *JUDGED)


def measure_strength(faces: RealFaces, readings: Mapping[str, NamedCoefficients]) -> list[Figure]:
    """Measure the strength of movements, and with votes whether it follows them.

    Args:
        faces: N faces to judge (part test).
        readings: of these faces, as ``seen_faces.Seen``.
    """
    draws = Draws(faces.people, RESAMPLES)
    figures: list[Figure] = []
    for reading, codes in readings.items():
        found = _of_movements(faces, codes, draws)
        if faces.voted:
            found += _by_votes(faces, codes, draws)
        figures += [replace(one, name=f"{one.name}, read from {reading}") for one in found]
    return figures


def mean_of(sums: Numbers) -> Numbers:
    """(…, 2) sums of readings and of faces → (…) mean reading; NaN without faces."""
    return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1), np.nan)


def terms_of(read: Floats, rows: Mask) -> Numbers:
    """(N,) readings, and which faces count → (N, 2), the terms of ``mean_of``."""
    return np.stack([np.where(rows, read, 0.0), rows], axis=-1)


def _figure(
    name: str, draws: Draws, terms: Numbers, measure: Callable[[Numbers], Numbers], goal: str = ""
) -> Figure:
    """Return a measure of the sums of terms (N, …), with its interval."""
    value, drawn = float(measure(terms.sum(0))), measure(draws.sums(terms))
    return Figure(_SECTION, name, value, *percentiles(drawn), goal=goal)


def _of_movements(faces: RealFaces, codes: NamedCoefficients, draws: Draws) -> list[Figure]:
    smile = SMILE.read(codes)
    if smile is None:
        return [Figure(_SECTION, "smile in happiness", float("nan"), note="a shape is not read")]
    smiles = terms_of(smile, faces.emotions == SMILE.emotion)

    def share(sums: Numbers) -> Numbers:
        return mean_of(sums) / SMILE.prototype

    figures = [
        replace(
            _figure("smile in happiness, as a share of its prototype", draws, smiles, share),
            count=int(smiles[:, 1].sum()), note=f"the prototype draws {SMILE.prototype:.2f}",
        )
    ]  # fmt: skip
    for movement in JUDGED:
        figures += _compared(movement, faces, codes, draws, smiles)
    return figures


def _compared(
    movement: Movement, faces: RealFaces, codes: NamedCoefficients, draws: Draws, smiles: Numbers
) -> list[Figure]:
    """Return a movement's share over that of the smile, and its reading in neutral faces."""
    name = f"{movement.name} in {movement.emotion}, as a share of the smile's"
    read = movement.read(codes)
    if read is None:
        return [Figure(_SECTION, name, float("nan"), note="a shape is not read")]
    here, neutral = (terms_of(read, faces.emotions == e) for e in (movement.emotion, NEUTRAL))

    def compared(sums: Numbers) -> Numbers:
        share, smile = (
            mean_of(part) / prototype
            for part, prototype in (
                (sums[..., :2], movement.prototype), (sums[..., 2:], SMILE.prototype)
            )
        )  # fmt: skip
        return np.where(smile >= MIN_SMILE, share / np.maximum(smile, MIN_SMILE), np.nan)

    figure = _figure(name, draws, np.hstack([here, smiles]), compared, GOAL)
    mean = float(mean_of(here.sum(0)))
    note = f"mean {mean:.3f}, the prototype draws {movement.prototype:.2f}"
    if np.isnan(figure.value):
        note += "; no such faces, or the smile itself is hardly drawn"
    resting = _figure(f"{movement.name} in neutral faces", draws, neutral, mean_of, NEUTRAL_GOAL)
    return [
        replace(figure, count=int(here[:, 1].sum()), note=note),
        replace(resting, count=int(neutral[:, 1].sum())),
    ]


def _by_votes(faces: RealFaces, codes: NamedCoefficients, draws: Draws) -> list[Figure]:
    """Compare faces whose raters disagreed with those that they agreed on, by emotion."""
    most = np.nan_to_num(faces.shares).max(1)
    voted = np.isfinite(faces.shares).all(1)
    split, sure = voted & (most < DISAGREED), voted & (most >= AGREED)
    terms: list[Numbers] = []
    rankings: list[tuple[Ranking, Mask]] = []
    counts: list[tuple[int, int]] = []
    used: list[str] = []
    for emotion in dict.fromkeys(movement.emotion for movement in SHOWN):
        strength = _strength(emotion, codes)
        here = faces.emotions == emotion
        if strength is None or min((here & split).sum(), (here & sure).sum()) < MIN_FACES:
            continue
        pair = [terms_of(strength, here & rows) for rows in (split, sure)]
        terms.append(np.stack(pair, axis=1))
        rows = here & (split | sure)
        rankings.append((Ranking(strength[rows], sure[rows]), rows))
        counts.append((int((here & split).sum()), int((here & sure).sum())))
        used.append(f"{counts[-1][0]} and {counts[-1][1]} of {emotion}")
    names = (
        "strength where raters disagreed, over where they agreed",
        "AUC of strength, agreed against disagreed",
    )
    if not terms:
        note = f"no emotion has {MIN_FACES} faces of both kinds"
        return [Figure(_SECTION, name, float("nan"), note=note) for name in names]

    def ratio(sums: Numbers) -> Numbers:
        disagreed, agreed = np.moveaxis(mean_of(sums).sum(-2), -1, 0)  # over the emotions
        return np.where(agreed > 0, disagreed / np.where(agreed > 0, agreed, 1), np.nan)

    def auc(weights: Numbers) -> float:
        """Return the mean of the emotions' AUCs, by how many faces there are of the rarer kind."""
        found = np.array([ranking.auc(weights[rows]) for ranking, rows in rankings])
        known = np.where(np.isfinite(found), np.min(counts, axis=1), 0)
        return float(np.nansum(found * known) / known.sum()) if known.any() else float("nan")

    weaker = _figure(names[0], draws, np.stack(terms, axis=1), ratio, WEAKER_GOAL)
    value, note = auc(np.ones(len(faces))), ", ".join(used)
    count = int(np.sum(counts))
    return [
        replace(weaker, count=count, note=note),
        Figure(_SECTION, names[1], value, *draws.interval(auc), "", count, FOLLOWS_GOAL, note),
    ]


def _strength(emotion: str, codes: NamedCoefficients) -> Floats | None:
    """Return (N,) the mean of the emotion's movements, as shares of their prototypes."""
    shares: list[Floats] = []
    for movement in SHOWN:
        read = movement.read(codes) if movement.emotion == emotion else None
        if read is not None:
            shares.append(read / movement.prototype)
    return np.mean(shares, axis=0) if shares else None
