"""Can emotions be predicted from photographs? Logistic regression on coefficients, nothing deeper.

Trained on part train and tested on part test, within each source: a classifier trained across
sources would learn to tell films from press photographs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ....manifests.arrays import Floats, Mask, Numbers, Words
from ....manifests.vocabularies import EMOTIONS
from ...metrics.resampling import Draws, paired_difference, percentiles
from ..figures import Figure
from ..seen_faces import NamedCoefficients, RealFaces

#: A class is told apart if it has so many pictures in both parts.
MIN_TRAIN, MIN_TEST = 10, 5
#: Contempt is rare, and raters hardly agree on it: published figures leave it out, too.
LEFT_OUT = "contempt"
RESAMPLES = 1000
#: Goals on sets with votes (FER+), and on press photographs.
VOTED_GOALS = {"accuracy": ">= 0.82", "balanced accuracy": ">= 0.75"}
PRESS, PRESS_GOALS = "lfw", {"accuracy": ">= 0.78"}
LOSS_GOAL = "<= 0.02"
_SECTION = "emotions"


def measure_emotions(faces: RealFaces, readings: Mapping[str, NamedCoefficients]) -> list[Figure]:
    """Measure accuracy and balanced accuracy of each reading, by source, and what pictures lose.

    Args:
        faces: N faces of the parts ``train`` and ``test``.
        readings: of these faces, as ``seen_faces.Seen``.
    """
    figures: list[Figure] = []
    sources = sorted({str(source) for source in faces.sources})
    for source in sources:
        group = source if len(sources) > 1 else ""
        here = faces.sources == source
        classes = usable_classes(faces.emotions[here], faces.parts[here])
        if len(classes) < 2:
            note = f"fewer than two emotions have {MIN_TRAIN} pictures to train, {MIN_TEST} to test"
            figures.append(Figure(_SECTION, "accuracy", float("nan"), group=group, note=note))
            continue
        goals = VOTED_GOALS if faces.voted and not group else {}
        goals = PRESS_GOALS if source == PRESS and not faces.voted else goals
        figures += _of_source(faces, here, classes, readings, group, goals)
    return figures


def usable_classes(emotions: Words, parts: Words) -> list[str]:
    """Return the emotions with enough pictures in parts train and test; both (N,)."""
    counts = {
        part: dict(zip(*np.unique(emotions[parts == part], return_counts=True), strict=True))
        for part in ("train", "test")
    }
    return [
        emotion
        for emotion in EMOTIONS
        if emotion != LEFT_OUT
        and counts["train"].get(emotion, 0) >= MIN_TRAIN
        and counts["test"].get(emotion, 0) >= MIN_TEST
    ]


def _of_source(
    faces: RealFaces,
    here: Mask,
    classes: list[str],
    readings: Mapping[str, NamedCoefficients],
    group: str,
    goals: Mapping[str, str],
) -> list[Figure]:
    known = here & np.isin(faces.emotions, classes)
    train, test = (known & (faces.parts == part) for part in ("train", "test"))
    draws = Draws(faces.people[test], RESAMPLES)
    share = max(float((faces.emotions[test] == name).mean()) for name in classes)
    note = (
        f"{', '.join(classes)}; {int(train.sum())} to train; always the most frequent: "
        f"{share:.3f}, balanced {1 / len(classes):.3f}"
    )
    figures: list[Figure] = []
    terms: dict[str, Numbers] = {}
    for reading, codes in readings.items():
        terms[reading] = hits_by_class(codes.values, faces.emotions, train, test, classes)
        drawn, total = draws.sums(terms[reading]), terms[reading].sum(0)
        recall = ", ".join(
            f"{name} {right / of:.2f}" for name, (right, of) in zip(classes, total, strict=True)
        )
        for name, measure in (("accuracy", accuracy), ("balanced accuracy", balanced)):
            figures.append(
                Figure(
                    _SECTION,
                    f"{name}, read from {reading}",
                    float(measure(total)),
                    *percentiles(measure(drawn)),
                    group,
                    int(test.sum()),
                    goals.get(name, "") if reading == "code" else "",
                    note if name == "accuracy" else f"recall: {recall}",
                )
            )
    if {"code", "pictures"} <= terms.keys():
        lost = paired_difference(draws, terms["pictures"], terms["code"], accuracy)
        figures.append(
            Figure(
                _SECTION, "accuracy lost in the picture, code − pictures", *lost, group,
                int(test.sum()), LOSS_GOAL if goals else "", "of the same faces",
            )
        )  # fmt: skip
    return figures


def hits_by_class(
    codes: Floats, emotions: Words, train: Mask, test: Mask, classes: list[str]
) -> NDArray[np.float64]:
    """Train on some faces and test on others; each class has the same weight in training.

    Args:
        codes: (N, E) coefficients.
        emotions: (N,) labels.
        train, test: (N,) which faces.
        classes: the C emotions of these faces.

    Returns:
        (M, C, 2) for each tested face in the column of its class: whether it was told, and 1.
    """
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
    )
    model.fit(codes[train], emotions[train])
    truth = emotions[test][:, None] == np.array(classes)[None]
    right = model.predict(codes[test]) == emotions[test]
    return np.stack([truth & right[:, None], truth], axis=-1).astype(np.float64)


def accuracy(sums: Numbers) -> Numbers:
    """(…, C, 2) sums of ``hits_by_class`` → (…) share of faces that were told."""
    right, of = np.moveaxis(sums.sum(-2), -1, 0)
    return right / np.maximum(of, 1)


def balanced(sums: Numbers) -> Numbers:
    """(…, C, 2) sums of ``hits_by_class`` → (…) mean over the classes that occur."""
    right, of = np.moveaxis(sums, -1, 0)
    shares = np.where(of > 0, right / np.maximum(of, 1), np.nan)
    return np.nanmean(shares, axis=-1)
