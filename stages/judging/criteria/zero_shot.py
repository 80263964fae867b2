"""Zero-shot: does one coefficient, read off normalized pictures, separate an emotion from neutral?

No classifier is trained, so nothing can adapt to a normalizer's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...metrics.ranking import Ranking
from ...metrics.resampling import Draws
from ...synthesis.scene.expressions import stems
from ..figures import Figure
from ..seen_faces import NamedCoefficients, RealFaces

NEUTRAL = "neutral"
RESAMPLES = 1000


@dataclass(frozen=True)
class Question:
    """An emotion against neutral, by the shapes that should separate them.

    Attributes:
        emotion: the class.
        shapes: added, left and right averaged; none: the one shape that separates best in part
            train.
        goal: as in ``Figure``, on photographs with one label each.
        voted_goal: on photographs that raters voted on (FER+).
    """

    emotion: str
    shapes: tuple[str, ...] = ()
    goal: str = ""
    voted_goal: str = ""

    @property
    def name(self) -> str:
        """Return ``surprise by browInnerUp+browOuterUp``."""
        return f"{self.emotion} by {'+'.join(self.shapes) or 'any one shape'}"


RAISE = ("browInnerUp", "browOuterUp")
QUESTIONS = (
    Question("happiness", ("mouthSmile",), ">= 0.97", ">= 0.985"),
    Question("surprise", ("jawOpen",), ">= 0.94", ">= 0.95"),
    Question("surprise", RAISE, ">= 0.75", ">= 0.90"),
    Question("surprise", ("eyeWide",), "", ">= 0.94"),
    Question("anger", ("browDown",), ">= 0.85", ">= 0.93"),
    Question("disgust", ("noseSneer",), "", ">= 0.95"),
    Question("sadness", (), "", ">= 0.75"),
    Question("sadness", ("mouthFrown",)),
    Question("sadness", ("browInnerUp",)),
)


def shape_score(
    coefficients: NDArray[np.floating], names: Sequence[str], shapes: Sequence[str]
) -> NDArray[np.floating] | None:
    """Return the sum over shapes of the left-right mean; None if a shape is not read.

    Args:
        coefficients: (N, E).
        names: of the E coefficients, ``browDown_L`` …
        shapes: without their sides, ``browDown``.
    """
    total = np.zeros(len(coefficients))
    for shape in shapes:
        columns = [i for i, name in enumerate(names) if name in (shape, f"{shape}_L", f"{shape}_R")]
        if not columns:
            return None
        total += coefficients[:, columns].mean(1)
    return total


def measure_zero_shot(
    faces: RealFaces, codes: NamedCoefficients, reading: str = "pictures"
) -> list[Figure]:
    """Return the AUC of each question, pooled (group empty) and by source; intervals over people.

    Args:
        faces: N faces; part ``test`` is judged, ``train`` chooses where any one shape will do.
        codes: of these faces.
        reading: ``pictures`` (by the frozen reader off the normalized ones) or ``code`` (the
            normalizer's own): where the coefficients come from.
    """
    figures: list[Figure] = []
    groups = ["", *sorted({str(source) for source in faces.sources})]
    groups = groups if len(groups) > 2 else [""]
    for question in QUESTIONS:
        shapes, chosen = question.shapes, ""
        if not shapes:
            shapes = _best_shape(faces, codes, question.emotion)
            chosen = f"{shapes[0]}, chosen in part train; " if shapes else ""
        score = shape_score(codes.values, codes.names, shapes) if shapes else None
        for group in groups:
            rows = np.isin(faces.emotions, [question.emotion, NEUTRAL]) & (faces.parts == "test")
            rows &= (faces.sources == group) if group else True
            # Goals are for all sources together.
            goal = question.voted_goal if faces.voted else question.goal
            figure = _answer(
                f"AUC {question.name}, read from {reading}",
                None if score is None else score[rows],
                faces.emotions[rows] == question.emotion,
                faces.people[rows],
                question.emotion,
            )
            note = chosen + figure.note if shapes else "no shape to choose in part train"
            figures.append(replace(figure, group=group, goal="" if group else goal, note=note))
    return figures


def _best_shape(faces: RealFaces, codes: NamedCoefficients, emotion: str) -> tuple[str, ...]:
    """Return the shape that separates best in part train; none without both classes there."""
    rows = np.isin(faces.emotions, [emotion, NEUTRAL]) & (faces.parts == "train")
    truth = faces.emotions[rows] == emotion
    if truth.all() or not truth.any():
        return ()

    def separates(shape: str) -> float:
        score = shape_score(codes.values[rows], codes.names, [shape])
        return 0.0 if score is None else Ranking(score, truth).auc()

    return (max(stems(codes.names), key=separates),)


def _answer(
    name: str,
    score: NDArray[np.floating] | None,
    truth: NDArray[np.bool_],
    people: NDArray[Any],
    emotion: str,
) -> Figure:
    if score is None:
        return Figure("zero_shot", name, float("nan"), note="a shape is not read")
    note = f"{int(truth.sum())} {emotion}, {int((~truth).sum())} neutral"
    if truth.all() or not truth.any():
        return Figure("zero_shot", name, float("nan"), count=len(truth), note=note)
    ranking = Ranking(score, truth)
    low, high = Draws(people, RESAMPLES).interval(ranking.auc)
    return Figure("zero_shot", name, ranking.auc(), low, high, count=len(truth), note=note)
