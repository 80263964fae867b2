"""Pose, background and idempotence: planted answers."""

import cv2
import numpy as np
import pytest

from normpipe.stages.judging.criteria import constancy
from normpipe.stages.judging.renders import normalize_all

from . import toys


def project(yaw=0.0, pitch=0.0, roll=0.0, size=192):
    """Five points of the mean head turned by known angles, through the camera of the measure."""
    y, p, r = np.deg2rad([-yaw, -pitch, roll])
    turn = (
        cv2.Rodrigues(np.array([0, 0, r]))[0]
        @ cv2.Rodrigues(np.array([0, y, 0]))[0]
        @ cv2.Rodrigues(np.array([p, 0, 0]))[0]
    )
    points = constancy.MEAN_HEAD @ turn.T + [0, 0, 80]
    return points[:, :2] / points[:, 2:] * 6 * size + size / 2


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, 0, 0), (0, -12, 0), (0, 0, 9), (8, 5, -6)])
def test_known_poses_are_found(angles):
    points = project(*angles)
    found = constancy.pose_deg(points[None], 192)[0]
    assert found == pytest.approx(angles, abs=0.05)


def test_the_signs_of_the_pose():
    """Looking to the picture's right moves the nose there; looking up moves it up."""
    assert project(yaw=20)[2, 0] > project()[2, 0] + 5
    assert project(pitch=20)[2, 1] < project()[2, 1] - 5
    assert project(roll=20)[1, 1] > project(roll=20)[0, 1] + 5


def test_a_missing_face_has_no_pose():
    assert np.isnan(constancy.pose_deg(np.full((1, 5, 2), np.nan), 192)).all()


def nodding(spread):
    """A detector that finds faces turned at random, never the first one."""

    def detect(pictures):
        rng = np.random.default_rng(0)
        still = len(np.unique(pictures[:, : toys.HALF].mean((1, 2, 3)).round())) == 1
        each = rng.normal(0, 1 if still else spread, (len(pictures), 3))
        points = np.stack([project(*angles, size=toys.SIZE) for angles in each])
        points[0] = np.nan
        return points

    return detect


def test_a_background_that_moves_and_a_head_that_nods():
    renders = toys.toy_renders()
    made = {
        "oracle": normalize_all(toys.oracle, renders.source),
        "restless": normalize_all(toys.restless, renders.source),
    }
    found = constancy.measure_constancy(renders, made, nodding(4.0), resamples=20)
    figures = {(figure.group, figure.name): figure for figure in found}
    background = "deviation of the background, over that of exact renders"
    assert figures["oracle", background].value <= 1.2 and figures["oracle", background].met
    assert figures["restless", background].value > 5
    yaw = "deviation of yaw, over that of exact renders"
    assert figures["oracle", yaw].value == pytest.approx(1, abs=0.01)
    assert figures["restless", yaw].value == pytest.approx(4, abs=0.1)
    assert figures["restless", "faces that the detector finds"].value == pytest.approx(143 / 144)


def test_the_background_is_where_nothing_moves():
    still = constancy.background(toys.toy_renders().target)
    assert still[: toys.HALF - 8].all() and not still[toys.HALF : toys.HALF + 16].any()


@pytest.mark.parametrize(
    ("normalize", "least", "most"),
    [(toys.average_face, 0, 0), (toys.oracle, 0, 1), (lambda x: 1 - toys.oracle(x), 20, 255)],
)
def test_idempotence(normalize, least, most):
    renders = toys.toy_renders(people=3, each=4)
    made = {"clean": normalize_all(normalize, renders.source)}
    figure = constancy.measure_idempotence(normalize, made, renders.identity, resamples=20)[0]
    assert least <= figure.value <= most
    assert figure.met == (most <= 2)
