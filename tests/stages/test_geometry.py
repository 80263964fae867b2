"""Transforms: exact inverses, the frame that the mouth cannot move, and honest warps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from normpipe.stages.faces import geometry as G
from normpipe.stages.synthesis.scene.camera import _rotation

SIZE = 224
coordinate = st.floats(-5000, 5000)
points = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=6).map(np.array)
similarities = st.tuples(
    st.floats(0.02, 50), st.floats(-np.pi, np.pi), coordinate, coordinate
)  # scale, angle, shift


def matrix(scale: float, angle: float, dx: float, dy: float) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, dx], [sin, cos, dy]])


def spread(where: np.ndarray) -> float:
    return float(np.ptp(where, axis=0).max())


@given(points, similarities)
def test_a_known_similarity_is_recovered(here: np.ndarray, known: tuple[float, ...]) -> None:
    if spread(here) < 1:
        return
    there = G.apply(matrix(*known), here)
    found = G.similarity(here, there)
    size = 1 + np.abs(here).max() + np.abs(there).max()
    assert np.abs(G.apply(found, here) - there).max() < 1e-8 * size
    assert G.scale_of(found) == pytest.approx(known[0], rel=1e-5)


@given(points, similarities)
def test_inverse_brings_points_back(here: np.ndarray, known: tuple[float, ...]) -> None:
    transform = matrix(*known)
    back = G.apply(G.inverse(transform), G.apply(transform, here))
    assert np.abs(back - here).max() < 1e-5


@given(points, points)
def test_least_squares_agrees_with_an_independent_library(
    here: np.ndarray, there: np.ndarray
) -> None:
    count = min(len(here), len(there))
    here, there = here[:count], there[:count]
    if spread(here) < 1 or spread(there) < 1:
        return
    p, q = here @ (1, 1j), there @ (1, 1j)
    moment = abs(((p - p.mean()).conj() * (q - q.mean())).sum())
    if moment < 1e-2 * np.linalg.norm(p - p.mean()) * np.linalg.norm(q - q.mean()):
        return  # rotation is hardly determined: any two methods differ
    expected = SimilarityTransform.from_estimate(here, there)
    if not expected:
        return
    ours = np.abs(G.apply(G.similarity(here, there), here) - there)
    theirs = np.abs(G.apply(expected.params[:2], here) - there)
    # Both minimise the same sum, the library's over the same family of transforms.
    assert (ours**2).sum() <= (theirs**2).sum() * (1 + 1e-6) + 1e-6


@given(similarities)
def test_a_face_in_the_template_s_shape_lands_on_the_template(known: tuple[float, ...]) -> None:
    mouth = np.array([[0.38, 0.78], [0.62, 0.78]])
    face = G.apply(matrix(*known), np.concatenate([G.TEMPLATE, mouth]))
    transform = G.transform_from_landmarks(face, SIZE)
    residual = np.abs(G.apply(transform, face[:3]) - G.TEMPLATE * SIZE)
    assert residual.max() < 1e-4


@given(st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=2).map(np.array))
def test_the_mouth_never_moves_the_frame(mouth: np.ndarray) -> None:
    eyes_and_nose = np.array([[110.0, 140.0], [235.0, 136.0], [170.0, 210.0]])
    calm = np.concatenate([eyes_and_nose, [[130.0, 270.0], [215.0, 268.0]]])
    moved = np.concatenate([eyes_and_nose, mouth])
    assert np.array_equal(
        G.transform_from_landmarks(calm, SIZE), G.transform_from_landmarks(moved, SIZE)
    )


def test_never_a_reflection() -> None:
    mirrored = G.TEMPLATE * [-100, 100]
    assert np.linalg.det(G.similarity(mirrored, G.TEMPLATE)[:, :2]) > 0


def test_a_box_lands_where_its_convention_says() -> None:
    frame = G.BoxFrame(centre=(0.5, 0.45), size=0.8)
    transform = G.transform_from_box((10, 20, 110, 180), SIZE, frame)
    corners = G.apply(transform, [[10, 20], [110, 180]])
    assert corners.mean(axis=0) == pytest.approx(np.array(frame.centre) * SIZE)
    assert np.sqrt(np.prod(corners[1] - corners[0])) == pytest.approx(frame.size * SIZE)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((5, 2)),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        np.zeros((4, 2)),
        np.full((5, 2), 1e6),
    ],
)
def test_degenerate_landmarks_are_an_error(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points"):
        G.transform_from_landmarks(bad, SIZE)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (0, 0, np.nan, 1)])
def test_an_empty_box_is_an_error(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="not a box"):
        G.transform_from_box(box, SIZE)


@given(st.floats(-np.pi, np.pi))
def test_either_naming_of_left_gives_the_same_order(angle: float) -> None:
    face = np.concatenate([G.TEMPLATE, [[0.4, 0.8], [0.6, 0.8]]])
    face = G.apply(matrix(100, angle, 30, 40), face)
    assert np.array_equal(G.order_landmarks(face), face)
    assert np.array_equal(G.order_landmarks(face[[1, 0, 2, 4, 3]]), face)


def dots(width: int, height: int, where: list[tuple[float, float]], radius: float) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    image = np.zeros((height, width))
    for cx, cy in where:
        image += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    return np.repeat((255 * np.clip(image, 0, 1)).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("scale", [0.11, 0.24, 0.4, 0.5, 0.73, 1.0, 1.9])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_pixels_go_where_the_transform_says(scale: float, angle: float) -> None:
    """Averaging, OpenCV's pixel centres and odd sizes must not shift the picture."""
    spot = (403.0, 331.0)
    image = dots(811, 613, [spot], radius=6 / scale)
    transform = matrix(scale, angle, 0, 0)
    transform[:, 2] = np.array([101.3, 120.7]) - G.apply(transform, [spot])[0]
    drawn = G.warp(image, transform, SIZE, "black")[:, :, 0].astype(float)
    weights = np.where(drawn > 20, drawn, 0)
    centres = np.arange(SIZE) + 0.5
    found = (weights.sum(0) @ centres, weights.sum(1) @ centres) / weights.sum()
    assert found == pytest.approx([101.3, 120.7], abs=0.06)


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than a target pixel must become grey, not other stripes."""
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    drawn = G.warp(stripes, matrix(0.19, 0.02, -2, -2), SIZE, "replicate")
    # Five pixels a block and stripes of two leave a fifth of the contrast, at most.
    assert drawn.std() < 127.5 / 5
    assert drawn.mean() == pytest.approx(127.5, abs=2)


def test_borders() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50], image[:, 50:] = 80, 200
    transform = G.transform_from_box((-50, 0, 50, 100), 64, G.BoxFrame((0.5, 0.5), 1.0))
    middle = {
        b: G.warp(image, transform, 64, b)[32, :, 0] for b in ("black", "replicate", "reflect")
    }
    assert middle["black"][4] == 0
    assert middle["replicate"][4] == 80
    beyond = G.transform_from_box((-100, 0, 0, 100), 64, G.BoxFrame((0.5, 0.5), 1.0))
    far = G.warp(image, beyond, 64, "reflect")
    assert far[32, 4, 0] == 200 and far[32, 60, 0] == 80
    for row in middle.values():
        assert row[60] == 80


def test_whole_image_is_neither_cut_nor_distorted() -> None:
    transform = G.transform_from_whole(178, 218, SIZE)
    corners = G.apply(transform, [[0, 0], [178, 218]])
    assert corners[:, 1] == pytest.approx([0, SIZE])
    assert corners[:, 0].sum() == pytest.approx(SIZE)
    assert abs(transform[0, 0]) == transform[1, 1]


def test_warp_of_an_identity_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert np.array_equal(G.warp(image, np.eye(2, 3), 64, "black"), image)


@given(st.floats(-180, 179), st.floats(0.02, 50))
def test_a_head_that_looks_ahead_leans_as_far_as_it_was_turned_back(
    angle: float, scale: float
) -> None:
    (roll,) = G.head_rolls([matrix(scale, -np.deg2rad(angle), 3, 4)], [0.0], [0.0])
    assert abs((roll - angle + 180) % 360 - 180) < 1e-6


@given(st.floats(-50, 50), st.floats(-25, 25), st.floats(-90, 90), st.floats(0.1, 10))
def test_the_mean_head_is_found_as_it_was_turned(
    yaw: float, pitch: float, roll: float, scale: float
) -> None:
    """Turned as the renderer turns heads, seen from afar, and aligned."""
    turned = (G._HEAD_ANCHORS * scale) @ _rotation(yaw, pitch, roll).T
    seen = turned[:, :2] * (1, -1) + (100, 200)
    transform = G.similarity(seen, G.TEMPLATE * SIZE)
    assert G.head_rolls([transform], [yaw], [pitch])[0] == pytest.approx(roll, abs=1e-2)


def test_a_turned_nose_turns_the_template_alike_on_both_sides() -> None:
    straight = np.array([[[1.0, 0, 0], [0, 1, 0]]] * 2)
    left, right = G.head_rolls(straight, [30.0, -30.0], [0.0, 0.0])
    assert left == pytest.approx(-right) and left == pytest.approx(10.8, abs=0.1)
