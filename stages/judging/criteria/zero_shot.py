"""Zero-shot: does one coefficient, read off normalized pictures, separate an emotion from neutral?

No classifier is trained, so nothing can adapt to a normalizer's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...metrics.ranking import Ranking
from ...metrics.resampling import Draws
from ..figures import Figure

NEUTRAL = "neutral"
RESAMPLES = 1000


@dataclass(frozen=True)
class Question:
    """An emotion against neutral, by the shapes that should separate them.

    Attributes:
        emotion: the class.
        shapes: choices; each is a sum of shapes, left and right averaged. The choice with the
            highest AUC counts.
        goal: as in ``Figure``.
    """

    emotion: str
    shapes: tuple[tuple[str, ...], ...]
    goal: str = ""

    @property
    def name(self) -> str:
        """Return ``surprise by jawOpen or browInnerUp+browOuterUp``."""
        return f"{self.emotion} by " + " or ".join("+".join(choice) for choice in self.shapes)


_SMILE, _JAW, _FROWN = ("mouthSmile",), ("jawOpen",), ("mouthFrown",)
_RAISE, _LOWER, _INNER = ("browInnerUp", "browOuterUp"), ("browDown",), ("browInnerUp",)
_SNEER = ("noseSneer",)
QUESTIONS = (
    Question("happiness", (_SMILE,), ">= 0.95"),
    Question("surprise", (_JAW, _RAISE), ">= 0.90"),
    Question("surprise", (_JAW,)),
    Question("surprise", (_RAISE,)),
    Question("anger", (_LOWER,), ">= 0.80"),
    Question("anger", (_SNEER,)),
    Question("sadness", (_FROWN,)),
    Question("sadness", (_INNER,)),
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
    coefficients: NDArray[np.floating],
    names: Sequence[str],
    emotions: NDArray[Any],
    people: NDArray[Any],
    sources: NDArray[Any],
    reading: str = "pictures",
) -> list[Figure]:
    """Return the AUC of each question, pooled (group empty) and by source; intervals over people.

    Args:
        coefficients: (N, E) of the faces to judge (part test), by the frozen reader from the
            normalized pictures, or the normalizer's own code.
        names: of the coefficients.
        emotions: (N,) labels.
        people: (N,) who is in each picture.
        sources: (N,) where each picture comes from.
        reading: ``pictures`` or ``code``: where the coefficients come from. Only readings from
            pictures have goals.
    """
    figures: list[Figure] = []
    groups = ["", *sorted({str(source) for source in sources})]
    groups = groups if len(groups) > 2 else [""]
    for question in QUESTIONS:
        for group in groups:
            rows = np.isin(emotions, [question.emotion, NEUTRAL])
            rows &= (sources == group) if group else True
            figures.append(
                _answer(question, group, reading, coefficients[rows], names,
                        emotions[rows] == question.emotion, people[rows])
            )  # fmt: skip
    return figures


def _answer(
    question: Question,
    group: str,
    reading: str,
    coefficients: NDArray[np.floating],
    names: Sequence[str],
    truth: NDArray[np.bool_],
    people: NDArray[Any],
) -> Figure:
    name = f"AUC {question.name}, read from {reading}"
    scores = [shape_score(coefficients, names, shapes) for shapes in question.shapes]
    known = [score for score in scores if score is not None]
    note = f"{int(truth.sum())} {question.emotion}, {int((~truth).sum())} neutral"
    if len(known) < len(scores):
        return Figure("zero_shot", name, float("nan"), group=group, note="a shape is not read")
    if truth.all() or not truth.any():
        return Figure("zero_shot", name, float("nan"), group=group, count=len(truth), note=note)
    rankings = [Ranking(score, truth) for score in known]
    low, high = Draws(people, RESAMPLES).interval(
        lambda weights: max(ranking.auc(weights) for ranking in rankings)
    )
    value = max(ranking.auc() for ranking in rankings)
    # Goals are for all sources together, read from pictures.
    goal = question.goal if reading == "pictures" and not group else ""
    return Figure("zero_shot", name, value, low, high, group, len(truth), goal, note)
