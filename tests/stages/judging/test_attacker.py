import cv2
import numpy as np
import pytest

from normpipe.stages.judging.criteria import attacker
from normpipe.stages.judging.criteria.attacker import (
    choose_gallery,
    measure_attacker,
    measure_reversal,
    one_hot,
)
from normpipe.stages.judging.figures import Figure

from .fakes import Faces, average, expression_only, photographs, real

EXCESS = "normalized − expression only"
MORE = "normalized, given the expression − expression only"


@pytest.fixture(scope="module")
def faces() -> Faces:
    return photographs(people=20, each=8)


@pytest.fixture(autouse=True)
def one_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacker, "REPEATS", 1)


def measured(faces: Faces, normalized: np.ndarray) -> dict[str, Figure]:
    codes = one_hot(faces.emotions)
    figures = measure_attacker(faces.images, normalized, codes, faces.emotions, faces.people)
    return {figure.name: figure for figure in figures}


def test_identity_leaks_all(faces: Faces) -> None:
    found = measured(faces, faces.images)
    assert found["normalized"].value == found["original"].value > 0.8
    assert found[EXCESS].value > 0.6
    assert found[EXCESS].low > 0.02
    assert found[EXCESS].met is False


def test_expression_only_passes(faces: Faces) -> None:
    found = measured(faces, expression_only(faces))
    # 160 faces: chance alone is worth a few points, other ones on every kind of CPU.
    assert found[EXCESS].low <= 0.02 and found[EXCESS].value < 0.06
    assert found[MORE].value < 0.05
    assert found["normalized"].value < 0.2


def test_average_face_tells_nothing(faces: Faces) -> None:
    found = measured(faces, average(faces))
    assert found["normalized"].value == pytest.approx(found["chance"].value, abs=0.05)


def test_faint_pattern_is_caught(faces: Faces) -> None:
    found = measured(faces, expression_only(faces, leak=4.0))
    assert found[EXCESS].low > 0.02
    assert found[MORE].low > 0.02


def test_gallery_takes_people_with_enough_and_no_more_than_eight() -> None:
    people = np.repeat(["few", "some", "many"], [5, 6, 20])
    gallery = choose_gallery(people, 6)
    assert gallery.people == 2
    assert np.bincount(gallery.who).tolist() == [8, 6]
    assert {*people[gallery.rows]} == {"some", "many"}


def test_too_few_people_is_undefined(faces: Faces) -> None:
    (figure,) = measure_attacker(
        faces.images,
        faces.images,
        one_hot(faces.emotions),
        faces.emotions,
        faces.people,
        min_pictures=9,
    )
    assert np.isnan(figure.value)
    assert "9 pictures" in figure.note


def embedded(images: np.ndarray) -> np.ndarray:
    """Stands for a recognizer: coarse grey, so that looks count for more than thin lines."""
    small = [cv2.resize(image[..., 0], (6, 6), interpolation=cv2.INTER_AREA) for image in images]
    flat = np.stack(small).reshape(len(images), -1).astype(np.float64) - 128
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def crowd() -> Faces:
    return photographs(people=100, each=3)


def reversed_(faces: Faces, normalized: np.ndarray) -> dict[str, Figure]:
    figures = measure_reversal(
        real(faces), normalized, one_hot(faces.emotions), embedded(faces.images),
        embedded(normalized),
    )  # fmt: skip
    return {figure.name: figure for figure in figures}


OWN = "own original: "


def test_originals_lead_back_to_themselves(crowd: Faces) -> None:
    found = reversed_(crowd, crowd.images)
    assert found[f"{OWN}normalized"].value == found[f"{OWN}original"].value > 0.95
    assert found["another picture of the person: normalized"].value > 0.9
    for name in (EXCESS, MORE):
        assert found[OWN + name].low > 0.2 and found[OWN + name].met is False
    assert "learnt from 50 people, tried on 50" in found[f"{OWN}normalized"].note


def test_nothing_leads_back_from_the_expression(crowd: Faces) -> None:
    found = reversed_(crowd, expression_only(crowd))
    assert found[f"{OWN}original"].value > 0.95
    for name in (EXCESS, MORE):
        assert found[OWN + name].met and found[OWN + name].low <= 0
        assert not found[f"another picture of the person: {name}"].goal
    assert reversed_(crowd, average(crowd))[f"{OWN}normalized"].value == 0.5


def test_a_faint_pattern_leads_back(crowd: Faces) -> None:
    found = reversed_(crowd, expression_only(crowd, leak=5.0))
    assert found[OWN + EXCESS].low > 0.02 and found[OWN + EXCESS].met is False


def test_too_few_people_to_learn_from_is_undefined(faces: Faces) -> None:
    (figure,) = reversed_(faces, faces.images).values()
    assert np.isnan(figure.value) and "fewer than 20 people to learn from" in figure.note
