"""PictureFolder laid on the head: planted poses come back, planted dots land where they belong."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from normpipe.stages.synthesis.scene.person import draw_person
from normpipe.stages.synthesis.surface.likeness import Fit, TexelMap, fit_head, mouth_is_open
from normpipe.stages.synthesis.surface.paint import paint_person

from .conftest import landmark_places

SIZE = 200


def turned(yaw_deg):
    yaw = np.deg2rad(yaw_deg)
    rows = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    return np.array(rows, np.float32)


def planted(head, identity, yaw_deg=8.0):
    return Fit(
        identity=np.array(identity, np.float32),
        frame=turned(yaw_deg),
        scale=9.0,
        shift=np.array([100.0, 105.0], np.float32),
        error=0.0,
        yaw_deg=yaw_deg,
    )


def points_of(head, fit):
    return fit.project(head.shape(fit.identity)[head.kit.landmarks68])


@pytest.fixture(scope="module")
def still(fake_head):
    return np.zeros(len(fake_head.kit.expression_names), np.float32)


@pytest.mark.parametrize("yaw", [-20.0, 0.0, 12.0])
def test_a_planted_head_is_found_again(fake_head, still, yaw):
    truth = planted(fake_head, [0.5, -0.6, 0.4], yaw)
    found = fit_head(fake_head, points_of(fake_head, truth), still)
    assert found.error < 0.02
    assert found.yaw_deg == pytest.approx(yaw, abs=4)
    assert np.abs(points_of(fake_head, found) - points_of(fake_head, truth)).max() < 2.5


def test_an_expression_is_not_taken_for_a_shape(fake_head, still):
    names = fake_head.kit.expression_names
    amounts = still.copy()
    amounts[names.index("jawOpen")] = 0.8
    truth = planted(fake_head, [0, 0, 0])
    vertices = fake_head.kit.neutral + fake_head.movement(amounts)
    points = truth.project(vertices[fake_head.kit.landmarks68])
    told, untold = (fit_head(fake_head, points, a) for a in (amounts, still))
    assert np.abs(told.identity).max() < 0.05 < np.abs(untold.identity).max()
    assert told.error < untold.error


def test_points_that_are_no_face_fit_badly(fake_head, still):
    rng = np.random.default_rng(0)
    found = fit_head(fake_head, rng.uniform(0, SIZE, (68, 2)), still)
    assert found.error > 0.2


def flat_photo(head, fit, colour=(150, 120, 100)):
    photo = np.zeros((SIZE, SIZE, 3), np.uint8)
    outline = fit.project(head.shape(fit.identity))
    hull = cv2.convexHull(outline.astype(np.int32))
    cv2.fillConvexPoly(photo, hull, colour)
    return photo


def test_a_dot_lands_on_its_texel(fake_head, still):
    """A dark dot beside the nose of a photograph is a dark dot beside the nose of the atlas."""
    fit = planted(fake_head, [0.3, 0.2, -0.2])
    photo = flat_photo(fake_head, fit)
    target = int(np.argmin(np.abs(fake_head.kit.neutral[:, :2] - [3.4, 0.6]).sum(1)))
    x, y = fit.project(fake_head.shape(fit.identity)[[target]])[0]
    cv2.circle(photo, (round(float(x)), round(float(y))), 5, (60, 48, 40), -1)
    made = TexelMap(fake_head).extract_detail(photo, fit, still)
    column, row = fake_head.texels[target].round().astype(int)
    assert made.factor[row, column].max() < 0.6
    far = made.factor[row - 8, column]
    assert made.weight[row, column] > 0.8 and np.abs(far - 1).max() < 0.15


def test_light_is_divided_out(fake_head, still):
    """A photograph lit from one side leaves a skin that is not."""
    fit = planted(fake_head, [0, 0, 0], 0.0)
    photo = flat_photo(fake_head, fit).astype(np.float32)
    photo *= np.linspace(0.6, 1.3, SIZE)[None, :, None]
    made = TexelMap(fake_head).extract_detail(photo.clip(0, 255).astype(np.uint8), fit, still)
    shown = made.weight > 0.9
    assert shown.mean() > 0.05
    assert np.abs(made.factor[shown] - 1).mean() < 0.06


def test_the_hidden_side_takes_the_mirror_of_the_other(fake_head, still):
    fit = planted(fake_head, [0, 0, 0], 0.0)
    photo = flat_photo(fake_head, fit)
    photo[:, SIZE // 2 + 4 :] = 0  # the person's left side is cut off, black to the border
    x, y = fit.project(np.array([[-3.4, 0.6, 9.0]], np.float32))[0]
    cv2.circle(photo, (round(float(x)), round(float(y))), 6, (60, 48, 40), -1)
    made = TexelMap(fake_head).extract_detail(photo, fit, still)
    dark = np.argwhere(made.factor[..., 1] < 0.8)
    half = fake_head.atlas.width / 2
    assert (dark[:, 1] < half - 4).any() and (dark[:, 1] > half + 4).any()


def test_detail_changes_the_skin_and_nothing_else(fake_head):
    person = draw_person(4, fake_head.kit.expression_names, 3)
    shape = (fake_head.atlas.height, fake_head.atlas.width, 3)
    plain, darker = (
        paint_person(fake_head, replace(person, detail=np.full(shape, value, np.float32)))
        for value in (1.0, 0.8)
    )
    np.testing.assert_array_equal(plain.relief, darker.relief)
    np.testing.assert_array_equal(plain.lift, darker.lift)
    assert (darker.albedo <= plain.albedo + 1e-6).all()
    assert (plain.albedo - darker.albedo).max() > 0.05


def test_open_mouths_are_told_from_closed_ones():
    closed = landmark_places() * [10, -10] + 100
    closed[60:68, 1] = closed[60, 1]
    opened = closed.copy()
    opened[[65, 66, 67], 1] += 15
    assert not mouth_is_open(closed) and mouth_is_open(opened)
