"""The map from a face's 68 points to a detector's five landmarks."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from normpipe.manifests.arrays import Floats
from normpipe.pipeline.errors import InputError
from normpipe.stages.faces.geometry import MIRRORED, TEMPLATE
from normpipe.stages.networks.landmarks import FIVE_OF_68, LandmarkNet, five_of
from normpipe.stages.training.landmarks import marks
from normpipe.stages.training.landmarks.fit_landmarks import FitLandmarksConfig, fit_landmarks
from normpipe.stages.training.landmarks.marks import Marked, learn_marks
from normpipe.stages.training.pictures import MIRRORED_POINTS


def faces(count: int, seed: int = 0) -> Floats:
    """(N, 68, 2) scattered points whose eyes and nose are about the template's."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.2, 0.8, (68, 2)) + 0.01 * rng.standard_normal((count, 68, 2))
    for place, rule in enumerate(FIVE_OF_68[:3]):
        points[:, rule > 0] += TEMPLATE[place] - points[:, rule > 0].mean((0, 1))
    return 200 * points


def turned(points: Floats, angle_deg: float, scale: float, shift: float) -> Floats:
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return scale * points @ np.array([[cos, sin], [-sin, cos]]) + shift


def marked(network: LandmarkNet, points: Floats) -> Floats:
    return network.marks(torch.from_numpy(points).double()).numpy()


@pytest.fixture
def planted() -> LandmarkNet:
    """A network that marks in a way of its own, the same for mirror images."""
    network = LandmarkNet().double()
    rng = np.random.default_rng(5)
    weight = 0.03 * rng.standard_normal((5, 2, 68, 2))
    bias = 0.02 * rng.standard_normal((5, 2))
    sign = np.array([-1, 1])
    other = weight[MIRRORED][:, :, MIRRORED_POINTS] * sign[:, None, None] * sign
    bias = (bias + bias[MIRRORED] * sign) / 2
    network.mark_weight.copy_(torch.from_numpy(((weight + other) / 2).reshape(10, 136)))
    network.mark_bias.copy_(torch.from_numpy(bias.ravel()))
    # About the usual face, so that no mark is cut off.
    usual = turned(faces(200).mean(0)[None], 0, 1, 0)
    symmetric = (usual + (usual[:, MIRRORED_POINTS] * sign + [200, 0])) / 2
    moved = (marked(network, symmetric) - FIVE_OF_68 @ symmetric[0]) / 70
    network.mark_bias.sub_(torch.from_numpy(moved.ravel()))
    return network


def test_untaught_marks_are_the_means() -> None:
    points = faces(4)
    five = five_of(torch.from_numpy(points).float()).numpy()
    assert np.allclose(LandmarkNet().marks(torch.from_numpy(points).float()).numpy(), five)


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0, 1, 50), (30, 0.1, 0), (-90, 7, -3)])
def test_marks_move_with_the_face(
    planted: LandmarkNet, angle: float, scale: float, shift: float
) -> None:
    points = faces(6)
    still = marked(planted, points)
    assert np.abs(still - FIVE_OF_68 @ points).max() > 0.5
    there = marked(planted, turned(points, angle, scale, shift))
    assert there == pytest.approx(turned(still, angle, scale, shift), abs=1e-6 * scale * 200)


def test_a_mark_never_lies_far_from_its_mean() -> None:
    network = LandmarkNet().double()
    network.mark_bias.fill_(9.0)
    points = faces(3)
    five = FIVE_OF_68 @ points
    apart = np.linalg.norm(five[:, 1] - five[:, 0], axis=1)[:, None]
    away = np.linalg.norm(marked(network, points) - five, axis=2) / apart
    assert away == pytest.approx(np.full((3, 5), 0.15 * 2**0.5), abs=1e-6)


def test_the_way_a_detector_marks_is_learnt(
    planted: LandmarkNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly exactly, from noiseless marks; faces that the detector got wrong do not count."""
    rng = np.random.default_rng(2)
    points = np.stack(
        [turned(face, a, s, 9) for face, a, s in zip(
            faces(400), rng.uniform(-40, 40, 400), rng.uniform(0.2, 2, 400), strict=True
        )]
    )  # fmt: skip
    truth = marked(planted, points)
    truth[:20] += 60 * np.ptp(points[:20], axis=1)[:, None] / 200
    people = np.arange(400) // 4
    monkeypatch.setattr(marks, "read_marks", lambda *_: Marked(truth, points, people))
    network = LandmarkNet()
    scores = learn_marks(network, [Path("heads")], "pack")
    assert scores["looks"] == 380
    assert scores["marks_percent"] < 0.3 < 1 < scores["means_percent"]
    away = np.linalg.norm(marked(network.double(), points[20:]) - truth[20:], axis=2).mean(1)
    assert np.median(away / np.ptp(points[20:, :, 0], axis=1)) < 0.005


def test_every_head_is_marked_at_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with its edge drawn out by half of its side; of two sets nobody is the same."""
    head = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    pairs = SimpleNamespace(source=[head, head + 1], identity=np.array([3, 4]))
    monkeypatch.setattr(marks, "load_pairs", lambda *_, **__: pairs)
    found = list(marks._pictures([Path("one"), Path("other")]))
    assert [picture.shape for picture, _ in found] == [(8, 8, 3), (16, 16, 3)] * 4
    assert (found[0][0] == head).all() and (found[1][0][4:12, 4:12] == head).all()
    assert (found[1][0][:5, :5] == head[0, 0]).all()
    people = [person for _, person in found]
    assert people[::2] == people[1::2] and len({*people}) == 4


def test_too_few_marked_heads_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    few = faces(49)
    monkeypatch.setattr(
        marks, "read_marks", lambda *_: Marked(FIVE_OF_68 @ few, few, np.arange(49))
    )
    with pytest.raises(InputError, match=r"marks only 49 heads, 50 .*: give more --heads"):
        learn_marks(LandmarkNet(), [Path("heads")], "pack")


def test_pack_and_heads_belong_together(tmp_path: Path) -> None:
    for config, heads in (
        (FitLandmarksConfig(pack="buffalo_l"), []),
        (FitLandmarksConfig(), [tmp_path]),
    ):
        with pytest.raises(InputError, match="belong together"):
            fit_landmarks(config, [tmp_path], tmp_path / "out", heads)
