import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from normpipe.stages.judging.criteria.zero_shot import measure_zero_shot, shape_score
from normpipe.stages.judging.figures import Figure

NAMES = (
    "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R",
    "jawOpen", "mouthFrown_L", "mouthFrown_R", "mouthSmile_L", "mouthSmile_R",
)  # fmt: skip


def faces(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    emotions = rng.choice(["neutral", "happiness", "surprise", "anger", "sadness"], 600)
    people = rng.integers(0, 150, 600)
    return rng.random((600, len(NAMES))) * 0.3, emotions, people, np.where(people % 2, "a", "b")


def one(figures: list[Figure], words: str, group: str = "") -> Figure:
    (found,) = [f for f in figures if words in f.name and f.group == group]
    return found


def test_a_coefficient_that_says_all_and_one_that_says_nothing() -> None:
    codes, emotions, people, sources = faces()
    codes[:, 9:11] += 0.7 * (emotions == "happiness")[:, None]
    codes[:, 6] = 0.0
    figures = measure_zero_shot(codes, NAMES, emotions, people, sources)
    smile = one(figures, "happiness by mouthSmile")
    assert (smile.value, smile.low, smile.high, smile.met) == (1, 1, 1, True)
    assert one(figures, "surprise by jawOpen,").value == 0.5
    anger = one(figures, "anger by browDown")
    rows = np.isin(emotions, ["anger", "neutral"])
    score = codes[rows][:, :2].mean(1)
    assert anger.value == pytest.approx(roc_auc_score(emotions[rows] == "anger", score))
    assert anger.low < 0.5 < anger.high
    assert anger.met is False


def test_jaw_or_brow_takes_the_better_one() -> None:
    codes, emotions, people, sources = faces()
    codes[:, 2:6] += 0.9 * (emotions == "surprise")[:, None]
    figures = measure_zero_shot(codes, NAMES, emotions, people, sources)
    assert one(figures, "surprise by jawOpen or brow").value == 1
    assert one(figures, "surprise by browInnerUp+browOuterUp").value == 1
    assert one(figures, "surprise by jawOpen,").value < 0.7


def test_a_source_that_lost_the_smile_is_seen() -> None:
    codes, emotions, people, sources = faces()
    codes[:, 9:11] += 0.7 * ((emotions == "happiness") & (sources == "a"))[:, None]
    figures = measure_zero_shot(codes, NAMES, emotions, people, sources)
    pooled, a, b = (one(figures, "mouthSmile", group).value for group in ("", "a", "b"))
    assert a == 1
    assert b == pytest.approx(0.5, abs=0.12)
    assert b < pooled < a


def test_what_is_not_there_is_undefined_not_zero() -> None:
    codes, emotions, people, sources = faces()
    emotions = np.where((sources == "b") & (emotions == "neutral"), "fear", emotions)
    figures = measure_zero_shot(codes, NAMES[:-2], emotions, people, sources, "code")
    assert np.isnan(one(figures, "mouthSmile").value)
    assert np.isnan(one(figures, "anger by browDown", "b").value)
    assert not any(figure.goal for figure in figures)  # goals speak of pictures
    assert shape_score(codes, NAMES, ["jaw"]) is None
