import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.faces.geometry import TEMPLATE
from normpipe.stages.judging.criteria import verification
from normpipe.stages.judging.criteria.attacker import one_hot
from normpipe.stages.judging.criteria.verification import (
    FRAME,
    crops_by_frame,
    crops_by_landmarks,
    draw_pairs,
    embed_all,
    locate,
    measure_verification,
    open_recognizer,
)
from normpipe.stages.judging.figures import Figure

from .fakes import Faces, average, expression_only, photographs

PACK = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared")) / "insightface/models/mini"
SAME = "AUC normalized ↔ normalized, same emotion"


def embed(crops: np.ndarray) -> np.ndarray:
    """Stands for a recognizer: coarse grey, so that looks count for more than thin lines."""
    small = [cv2.resize(crop[..., 0], (9, 9), interpolation=cv2.INTER_AREA) for crop in crops]
    flat = np.stack(small).reshape(len(crops), -1).astype(np.float64)
    return flat - 128


@pytest.fixture(scope="module")
def faces() -> Faces:
    return photographs(people=30, each=8)


def measured(faces: Faces, normalized: np.ndarray) -> dict[str, Figure]:
    originals, made = (embed_all(embed, crops_by_frame(x)) for x in (faces.images, normalized))
    figures = measure_verification(
        originals, made, one_hot(faces.emotions), faces.emotions, faces.people, resamples=60
    )
    return {figure.name: figure for figure in figures}


def test_identity_leaks_all(faces: Faces) -> None:
    found = measured(faces, faces.images)
    for measure in ("AUC", "EER", "TPR at FPR 0.001"):
        values = {
            found[f"{measure} {name}"].value
            for name in ("original ↔ original", "original ↔ normalized", "normalized ↔ normalized")
        }
        assert len(values) == 1
    assert found["AUC normalized ↔ normalized"].value > 0.9
    assert found[SAME].met is False


def test_average_face_is_at_chance(faces: Faces) -> None:
    found = measured(faces, average(faces))
    assert found["AUC normalized ↔ normalized"].value == 0.5
    assert found["EER normalized ↔ normalized"].value == 0.5
    assert found[SAME].value == 0.5
    assert found["TPR at FPR 0.001 normalized ↔ normalized"].value == 0


def test_expression_only_tells_what_the_label_tells(faces: Faces) -> None:
    # People with a habit: half of them smile always.
    smiling = np.array([person in faces.people[::16] for person in faces.people])
    habits = Faces(
        faces.images, np.where(smiling, "happiness", faces.emotions), faces.people,
        faces.sources, faces.parts, faces.looks,
    )  # fmt: skip
    found = measured(habits, expression_only(habits))
    label = found["AUC emotion label alone"]
    assert label.value > 0.55
    assert found["AUC normalized ↔ normalized"].value == pytest.approx(label.value, abs=0.06)
    assert found[SAME].value == pytest.approx(0.5, abs=0.02)
    assert found["AUC coefficients alone, same emotion"].value == 0.5
    assert found[SAME].met


def test_faint_pattern_is_caught(faces: Faces) -> None:
    found = measured(faces, expression_only(faces, leak=5.0))
    assert found[SAME].low > 0.55


def test_pairs_are_all_of_one_person_and_a_sample_of_two() -> None:
    people = np.repeat(np.arange(60), [4, 3, *[1] * 58])
    pairs = draw_pairs(people, 200)
    assert int(pairs.same.sum()) == 6 + 3
    assert len(pairs) == 6 + 3 + 200
    assert ((people[pairs.a] == people[pairs.b]) == pairs.same).all()
    both = {tuple(sorted(pair)) for pair in zip(pairs.a, pairs.b, strict=True)}
    assert len(both) == len(pairs)  # none twice
    with pytest.raises(InputError, match="two pictures of one"):
        draw_pairs(np.array(["a", "b"]))


def test_crops_bring_eyes_and_nose_where_the_recognizer_wants_them() -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    points = FRAME * 1.5 + [20, 10]
    for x, y in points:
        cv2.circle(image, (round(x - 0.5), round(y - 0.5)), 3, (255, 255, 255), -1)
    crop = crops_by_landmarks(image[None], points[None])[0]
    for x, y in FRAME:
        assert crop[int(y), int(x), 0] > 200
    image = np.zeros((192, 192, 3), np.uint8)
    x, y = TEMPLATE[2] * 192
    cv2.circle(image, (round(x - 0.5), round(y - 0.5)), 4, (255, 255, 255), -1)
    made = crops_by_frame(image[None])
    unknown = crops_by_landmarks(image[None], np.full((1, 5, 2), np.nan))
    np.testing.assert_array_equal(made, unknown)
    ys, xs = np.nonzero(made[0, ..., 0] > 127)
    # Three points of one frame on those of another: near, not on them.
    assert np.hypot(xs.mean() + 0.5 - FRAME[2, 0], ys.mean() + 0.5 - FRAME[2, 1]) < 5


def test_packs_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        open_recognizer(tmp_path / "none")
    with pytest.raises(InputError, match="no recognition network"):
        open_recognizer(tmp_path)


@pytest.mark.assets
@pytest.mark.skipif(not PACK.is_dir(), reason="no pack")
def test_the_frame_of_normalized_faces_is_found_where_the_face_is() -> None:
    import skimage.data

    image = cv2.resize(skimage.data.astronaut()[0:240, 110:350], (192, 192))
    moved = np.roll(image, 12, axis=0)
    here, there = (locate(PACK, np.stack([x] * 2)) for x in (image, moved))
    assert here is not None
    assert there is not None
    assert np.abs(there - here - [0, 12]).max() < 3
    crops = crops_by_frame(np.stack([image, image]), here)
    np.testing.assert_array_equal(crops[0], crops_by_landmarks(image[None], here[None])[0])
    assert locate(PACK, np.zeros((2, 96, 96, 3), np.uint8)) is None


@pytest.mark.assets
@pytest.mark.skipif(not PACK.is_dir(), reason="no pack")
def test_a_real_recognizer_tells_astronauts_apart() -> None:
    import skimage.data

    image = cv2.resize(skimage.data.astronaut()[0:240, 110:350], (224, 224))
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=6, size=image.shape)
    like = np.clip(image + noise, 0, 255).astype(np.uint8)
    found = embed_all(open_recognizer(PACK), crops_by_frame(np.stack([image, like, image[::-1]])))
    assert found.shape == (3, 128)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert found[0] @ found[1] > 0.7 > found[0] @ found[2]
    assert verification.FPR == 0.001
