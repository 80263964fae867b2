from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from normpipe.stages.judging.criteria.emotions import (
    accuracy,
    balanced,
    hits_by_class,
    measure_emotions,
    usable_classes,
)
from normpipe.stages.judging.figures import Figure
from normpipe.stages.judging.seen_faces import NamedCoefficients, RealFaces

CLASSES = ["neutral", "happiness", "sadness"]


def faces(seed: int = 0, count: int = 900, voted: bool = False) -> tuple[np.ndarray, RealFaces]:
    rng = np.random.default_rng(seed)
    emotions = rng.choice([*CLASSES, "contempt"], count, p=[0.5, 0.2, 0.2, 0.1])
    real = RealFaces(
        np.zeros((count, 1, 1, 3), np.uint8), np.full((count, 5, 2), np.nan), emotions,
        rng.integers(0, 200, count).astype(str), np.full(count, "all"),
        np.where(rng.random(count) < 0.6, "train", "test"),
        np.full((count, 8), 1 / 8 if voted else np.nan),
    )  # fmt: skip
    codes = rng.normal(size=(count, 6))
    codes[:, :3] += 1.2 * (emotions[:, None] == np.array(CLASSES))
    return codes, real


def one(figures: list[Figure], name: str, group: str = "") -> Figure:
    (found,) = [f for f in figures if f.name == name and f.group == group]
    return found


def test_scores_are_those_of_scikit_learn() -> None:
    codes, real = faces()
    train, test = (
        np.isin(real.emotions, CLASSES) & (real.parts == part) for part in ("train", "test")
    )
    sums = hits_by_class(codes, real.emotions, train, test, CLASSES).sum(0)
    scale = StandardScaler().fit(codes[train])
    model = LogisticRegression(max_iter=2000, class_weight="balanced").fit(
        scale.transform(codes[train]), real.emotions[train]
    )
    told, truth = model.predict(scale.transform(codes[test])), real.emotions[test]
    assert accuracy(sums) == pytest.approx(accuracy_score(truth, told), abs=1e-12)
    assert balanced(sums) == pytest.approx(balanced_accuracy_score(truth, told), abs=1e-12)
    assert sums[:, 1].tolist() == [(truth == name).sum() for name in CLASSES]
    # In a draw without a class, the mean is over the others.
    assert balanced(np.array([[1, 2], [0, 0], [3, 3]])) == 0.75


def test_contempt_and_what_is_rare_are_left_out() -> None:
    parts = np.repeat(["train", "test"], 60)
    emotions = np.tile(np.repeat(["neutral", "anger", "contempt", "fear"], [20, 20, 10, 10]), 2)
    assert usable_classes(emotions, parts) == ["neutral", "fear", "anger"]
    emotions[np.flatnonzero((emotions == "fear") & (parts == "train"))[0]] = ""
    emotions[np.flatnonzero((emotions == "anger") & (parts == "test"))[4:]] = ""
    assert usable_classes(emotions, parts) == ["neutral"]
    assert usable_classes(emotions, np.full(120, "train")) == []


def test_code_and_pictures_are_compared_on_the_same_faces() -> None:
    codes, real = faces(voted=True)
    blurred = codes + np.random.default_rng(1).normal(0, 1.5, codes.shape)
    names = tuple("abcdef")
    readings = {
        "pictures": NamedCoefficients(blurred, names),
        "code": NamedCoefficients(codes, names),
    }
    found = measure_emotions(real, readings)
    code, pictures = (one(found, f"accuracy, read from {name}") for name in ("code", "pictures"))
    lost = one(found, "accuracy lost in the picture, code − pictures")
    assert lost.value == pytest.approx(code.value - pictures.value) and lost.value > 0.05
    assert 0 < lost.low < lost.value < lost.high and lost.met is False
    assert code.goal == ">= 0.82" and not pictures.goal and code.low < code.value < code.high
    assert one(found, "balanced accuracy, read from code").goal == ">= 0.75"
    assert code.note.startswith("neutral, happiness, sadness; ")
    for figure in measure_emotions(
        replace(real, shares=np.full_like(real.shares, np.nan)), readings
    ):
        assert not figure.goal  # neither raters nor the press


def test_sources_are_judged_apart() -> None:
    codes, real = faces(count=1800)
    sources = np.where(np.arange(1800) % 2, "lfw", "films")
    sources[:20] = "web"
    mixed = codes.copy()
    mixed[sources == "films"] = 0.0
    readings = {"code": NamedCoefficients(mixed, tuple("abcdef"))}
    found = measure_emotions(replace(real, sources=sources), readings)
    press, films = (one(found, "accuracy, read from code", group) for group in ("lfw", "films"))
    assert (press.goal, films.goal) == (">= 0.78", "")
    assert press.value > 0.6
    assert one(found, "balanced accuracy, read from code", "films").value == pytest.approx(1 / 3)
    assert "always the most frequent" in films.note
    assert np.isnan(one(found, "accuracy", "web").value)
