import warnings

import numpy as np
import pytest

from normpipe.stages.judging.criteria.transfer import (
    balanced_accuracy,
    cell_weights,
    measure_transfer,
)
from normpipe.stages.judging.figures import Figure

from .fakes import Faces, average, expression_only, photographs


@pytest.fixture(scope="module")
def faces() -> Faces:
    return photographs(people=72, each=8)


def measured(faces: Faces, normalized: np.ndarray) -> dict[tuple[str, str], Figure]:
    figures = measure_transfer(
        faces.images, normalized, faces.emotions, faces.people, faces.sources, faces.parts
    )
    return {(figure.name, figure.group): figure for figure in figures}


def test_identity_keeps_all_and_gains_nothing(faces: Faces) -> None:
    found = measured(faces, faces.images)
    for emotion in ("happiness", "surprise", "anger", "sadness"):
        original = found[f"{emotion}: original → original", ""].value
        assert original > 0.65
        for way in ("normalized → normalized", "original → normalized", "normalized → original"):
            assert found[f"{emotion}: {way}", ""].value == original
        gain = found[f"{emotion}: (original + normalized) − (original + original)", ""]
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert found["sadness: share of above-chance accuracy kept", ""].value == 1
    assert found["happiness: normalized − original", ""].met is False  # not better


def test_average_face_is_at_chance(faces: Faces) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(faces, average(faces))
    for emotion in ("happiness", "sadness"):
        assert found[f"{emotion}: normalized → normalized", ""].value == 0.5
        assert found[f"{emotion}: original → normalized", ""].value == 0.5
        assert found[f"{emotion}: original → original", ""].value > 0.65
    assert found["sadness: share of above-chance accuracy kept", ""].value == 0


def test_expression_only_beats_originals(faces: Faces) -> None:
    found = measured(faces, expression_only(faces))
    better = found["anger: normalized − original", ""]
    assert better.met
    assert better.low > 0
    assert found["anger: normalized → normalized", ""].value == 1


def test_a_source_that_lost_its_expression_is_seen(faces: Faces) -> None:
    found = measured(faces, expression_only(faces, drop="b"))
    name = "happiness: normalized → normalized"
    assert found[name, "a"].value == 1
    assert found[name, "b"].value == 0.5
    assert 0.6 < found[name, ""].value < 0.9


def test_sources_without_one_class_take_no_part(faces: Faces) -> None:
    sources = np.where(faces.emotions == "sadness", "film", faces.sources)
    figures = measure_transfer(
        faces.images, faces.images, faces.emotions, faces.people, sources, faces.parts
    )
    (sadness,) = [figure for figure in figures if figure.name.startswith("sadness")]
    assert np.isnan(sadness.value)
    assert "no source" in sadness.note


def test_weights_leave_nothing_to_the_source() -> None:
    truth = np.array([True, False, False, False, True, True, True, False])
    sources = np.array(list("aaaabbbb"))
    weights = cell_weights(truth, sources)
    for source in "ab":
        here = sources == source
        assert weights[here & truth].sum() == weights[here & ~truth].sum() == 2


def test_balanced_accuracy_by_hand() -> None:
    right = np.array([True, False, True, True])
    truth = np.array([True, True, False, False])
    assert balanced_accuracy(right, truth) == 0.75
    assert balanced_accuracy(right, truth, np.array([3, 1, 1, 0])) == pytest.approx(0.875)
    assert np.isnan(balanced_accuracy(right, np.ones(4, bool)))
