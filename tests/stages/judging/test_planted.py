"""Normalizers whose faults are known, each found out by named figures of the page."""

import numpy as np
import pytest

from normpipe.stages.judging.criteria.covering import measure_covering
from normpipe.stages.judging.criteria.emotions import measure_emotions
from normpipe.stages.judging.criteria.strength import measure_strength
from normpipe.stages.judging.criteria.zero_shot import measure_zero_shot
from normpipe.stages.judging.figures import Figure
from normpipe.stages.judging.seen_faces import Look, NamedCoefficients, RealFaces

from .fakes import constant, looking, painted, painted_by_votes, read_lines, voted

READINGS = ("pictures", "code")
FOLLOWS = "AUC of strength, agreed against disagreed"
WEAKER = "strength where raters disagreed, over where they agreed"


@pytest.fixture(scope="module")
def faces() -> RealFaces:
    return voted()


def page(faces: RealFaces, look: Look) -> dict[str, Figure]:
    """What the page says of photographs, by name."""
    seen = look(faces.images)
    test = faces.parts == "test"
    readings = {
        name: NamedCoefficients(codes.values[test], codes.names)
        for name, codes in seen.readings.items()
    }
    figures = measure_emotions(faces, seen.readings)
    for name, codes in seen.readings.items():
        figures += measure_zero_shot(faces, codes, name)
    figures += measure_strength(faces.take(test), readings)
    figures += measure_covering(faces.take(test), readings, look)
    found = {figure.name: figure for figure in figures}
    assert len(found) == len(figures)
    return found


def test_an_honest_normalizer_meets_every_goal(faces: RealFaces) -> None:
    found = page(faces, looking(read_lines))
    assert all(figure.low <= figure.value <= figure.high for figure in found.values()
               if np.isfinite(figure.low))  # fmt: skip
    goals = [figure for figure in found.values() if figure.goal and np.isfinite(figure.value)]
    assert len(goals) > 35
    assert [figure.name for figure in goals if not figure.met] == []


def test_an_average_face_tells_no_emotion(faces: RealFaces) -> None:
    found = page(faces, looking(constant))
    for reading in READINGS:
        balanced = found[f"balanced accuracy, read from {reading}"]
        assert balanced.value == pytest.approx(1 / 5, abs=0.1)
        assert balanced.met is (False if reading == "code" else None)
        for question in ("happiness by mouthSmile", "anger by browDown"):
            auc = found[f"AUC {question}, read from {reading}"]
            assert auc.value == pytest.approx(0.5, abs=0.12) and auc.met is False
        assert found[f"{FOLLOWS}, read from {reading}"].met is False
        stays = found[
            f"smile in happiness that stays under a neutral face's mouth, read from {reading}"
        ]
        assert np.isnan(stays.value) and "hardly drawn" in stays.note


def test_a_painted_label_is_as_strong_where_raters_disagreed(faces: RealFaces) -> None:
    found = page(faces, looking(painted))
    for reading in READINGS:
        assert found[f"accuracy, read from {reading}"].value > 0.98
        assert found[f"{WEAKER}, read from {reading}"].value == pytest.approx(1, abs=0.03)
        follows = found[f"{FOLLOWS}, read from {reading}"]
        assert follows.value == pytest.approx(0.5, abs=0.1) and follows.met is False


@pytest.mark.parametrize("paint", [painted, painted_by_votes])
def test_what_is_painted_stays_when_its_evidence_is_covered(faces: RealFaces, paint) -> None:
    found = page(faces, looking(paint))
    stays = [figure for name, figure in found.items() if "stays under" in name]
    assert len(stays) == 2 * 6
    for figure in stays:
        assert figure.value == pytest.approx(1, abs=0.05) and figure.met is False


def test_brows_that_are_guessed_from_the_mouth_are_found_out(faces: RealFaces) -> None:
    def guessed(pictures: np.ndarray) -> np.ndarray:
        strengths = read_lines(pictures)
        strengths[:, 1] = 1.4 * strengths[:, 3]  # whoever drops the jaw is surprised
        return strengths

    found = page(faces, looking(guessed))
    for reading in READINGS:
        raised, jaw = (
            found[f"{name} that stays under a neutral face's {cover}, read from {reading}"]
            for name, cover in (
                ("brow raise in surprise", "brows and eyes"), ("jaw drop in surprise", "mouth")
            )
        )  # fmt: skip
        assert raised.value > 0.9 and raised.met is False
        assert jaw.value < 0.1 and jaw.met
        assert found[f"AUC surprise by browInnerUp+browOuterUp, read from {reading}"].met
