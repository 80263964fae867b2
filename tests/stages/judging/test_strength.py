from dataclasses import replace

import numpy as np
import pytest

from normpipe.stages.judging.criteria.covering import COVERS, measure_covering
from normpipe.stages.judging.criteria.strength import (
    FROWN,
    JUDGED,
    LOWERED,
    RAISED,
    SMILE,
    measure_strength,
)
from normpipe.stages.judging.figures import Figure
from normpipe.stages.judging.seen_faces import NamedCoefficients, RealFaces, Seen

from .fakes import NAMES, voted

READ = ", read from code"


@pytest.fixture
def faces() -> RealFaces:
    return voted(400)


def codes(faces: RealFaces, **strengths: float) -> np.ndarray:
    """(N, E) with these shapes as strong in the emotion that they show; 0 elsewhere."""
    values = np.zeros((len(faces), len(NAMES)))
    shown = {one.shapes[0]: one.emotion for one in (SMILE, *JUDGED)}
    for shape, strength in strengths.items():
        columns = [name.removesuffix("_L").removesuffix("_R") == shape for name in NAMES]
        values[np.ix_(faces.emotions == shown[shape], columns)] = strength
    return values


def measured(faces: RealFaces, values: np.ndarray) -> dict[str, Figure]:
    figures = measure_strength(faces, {"code": NamedCoefficients(values, NAMES)})
    return {figure.name.removesuffix(READ): figure for figure in figures}


def test_prototypes_are_the_means_of_what_is_drawn() -> None:
    assert SMILE.prototype == pytest.approx((0.675 + 0.8) / 2)  # happiness and laughter
    assert LOWERED.prototype == pytest.approx((0.75 + 0.7) / 2)  # anger and shouting
    assert RAISED.prototype == pytest.approx(0.7)
    assert FROWN.prototype == pytest.approx(0.65)


def test_a_movement_is_compared_with_the_smile(faces: RealFaces) -> None:
    values = codes(faces, mouthSmile=SMILE.prototype / 2, mouthFrown=0.65, browInnerUp=0.35)
    values[faces.emotions == "neutral"] += 0.125
    found = measured(faces, values)
    assert found["smile in happiness, as a share of its prototype"].value == pytest.approx(0.5)
    frown = found["mouthFrown in sadness, as a share of the smile's"]
    assert [frown.value, frown.low, frown.high] == pytest.approx([2, 2, 2])
    assert frown.count == (faces.emotions == "sadness").sum()
    # One of its two shapes, half as strong as the prototype.
    raised = found["brow raise in surprise, as a share of the smile's"]
    assert raised.value == pytest.approx(0.5) and raised.met is False
    assert "mean 0.175, the prototype draws 0.70" in raised.note
    resting = found["brow raise in neutral faces"]
    assert resting.value == pytest.approx(0.125) and resting.met is False


def test_nothing_is_compared_with_a_smile_that_is_not_there(faces: RealFaces) -> None:
    found = measured(faces, codes(faces, mouthSmile=0.02, browDown=0.5))
    lowered = found["browDown in anger, as a share of the smile's"]
    assert np.isnan(lowered.value) and lowered.met is None and "hardly drawn" in lowered.note
    none = measured(replace(faces, emotions=np.full(len(faces), "fear")), codes(faces))
    assert all(np.isnan(figure.value) for figure in none.values())
    few = {"code": NamedCoefficients(np.zeros((len(faces), 1)), ("jawOpen",))}
    assert "not read" in measure_strength(faces, few)[0].note


def test_faces_of_split_votes_are_compared_within_their_emotion(faces: RealFaces) -> None:
    values = codes(faces, mouthSmile=0.8, browDown=0.4, mouthFrown=0.4)
    split = faces.shares.max(1) < 0.6
    angry = np.isin(faces.emotions, ["anger"])
    values[split & angry] *= 0.25
    found = measured(faces, values)
    weaker = found["strength where raters disagreed, over where they agreed"]
    shares = {"happiness": 0.8 / SMILE.prototype, "anger": 0.4 / 0.725, "sadness": 0.4 / 0.65}
    whole = sum(shares.values())
    assert weaker.value == pytest.approx((whole - 0.75 * shares["anger"]) / whole)
    assert f"{int((split & angry).sum())} and " in weaker.note and weaker.met
    auc = found["AUC of strength, agreed against disagreed"]
    assert 0.5 < auc.value < 0.7  # anger alone says it
    without = replace(faces, shares=np.full_like(faces.shares, np.nan))
    assert not any("raters" in name or "AUC" in name for name in measured(without, values))
    sure = replace(faces, shares=np.where(faces.shares == faces.shares.max(1, keepdims=True), 1, 0))
    assert np.isnan(measured(sure, values)["AUC of strength, agreed against disagreed"].value)


def test_covers_leave_the_rest_of_the_face() -> None:
    one, other = np.full((2, 224, 224, 3), 10, np.uint8), np.full((2, 224, 224, 3), 200, np.uint8)
    brows, mouth = (cover(one, other)[0, :, 0, 0] for cover in COVERS)
    assert (brows[:100] == 200).all() and (brows[100:] == 10).all()
    assert (mouth[:138] == 10).all() and (mouth[138:] == 200).all()
    assert (one == 10).all()


def test_covers_are_neutral_faces_of_others(faces: RealFaces) -> None:
    # A picture is the number of its row.
    plain = np.broadcast_to(
        np.arange(len(faces))[:, None, None, None] // 2, (len(faces), 96, 96, 3)
    )
    people = np.array([f"p{row // 8}" for row in range(len(faces))])
    numbered = replace(faces, images=plain.astype(np.uint8), people=people)
    looked: list[np.ndarray] = []

    def look(pictures: np.ndarray) -> Seen:
        looked.append(pictures)
        flat = NamedCoefficients(np.zeros((len(pictures), len(NAMES))), NAMES)
        return Seen(pictures, {"code": flat})

    values = codes(faces, mouthSmile=0.8, browDown=0.4, mouthFrown=0.04)
    found = measure_covering(numbered, {"code": NamedCoefficients(values, NAMES)}, look)
    by_name = {figure.name.removesuffix(READ): figure for figure in found}
    smile = by_name["smile in happiness that stays under a neutral face's mouth"]
    assert (smile.value, smile.low, smile.high, smile.met) == (0, 0, 0, True)
    frown = by_name["mouthFrown in sadness that stays under a neutral face's mouth"]
    assert np.isnan(frown.value) and "hardly drawn" in frown.note
    brows, mouth = looked
    assert len(brows) < len(
        mouth
    )  # anger, surprise, neutral; happiness, surprise, sadness, neutral
    neutral = {number // 2 for number in np.flatnonzero(faces.emotions == "neutral")}
    for covered, hidden, shown in ((brows, 5, 90), (mouth, 90, 5)):
        assert {*covered[:, hidden, 0, 0].tolist()} <= neutral
        assert (covered[:, hidden, 0, 0] // 4 != covered[:, shown, 0, 0] // 4).all()
    nobody = measure_covering(
        replace(numbered, people=np.full(len(faces), "one")),
        {"code": NamedCoefficients(values, NAMES)},
        look,
    )
    assert all(np.isnan(figure.value) and "two people" in figure.note for figure in nobody)
