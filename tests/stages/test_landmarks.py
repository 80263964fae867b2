"""The default detector's five points: crops, pixels, and their training."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.pipeline.errors import InputError
from normpipe.stages.align import AlignConfig, make_detector
from normpipe.stages.faces import geometry as G
from normpipe.stages.faces.detectors.opencv import WEIGHTS, FivePoints, OpenCV
from normpipe.stages.networks.files.checkpoint import read_tensors, save_tensors
from normpipe.stages.networks.landmarks import FIVE_OF_68, INPUT_SIZE, LandmarkNet
from normpipe.stages.synthesis.synthesize import synthesized_schema
from normpipe.stages.training.landmarks import marks
from normpipe.stages.training.landmarks.face_crops import FaceCrops, face_crop, no_face, wide_mouths
from normpipe.stages.training.landmarks.fit_landmarks import FitLandmarksConfig, fit_landmarks
from normpipe.stages.training.landmarks.marks import Marked
from normpipe.stages.training.pictures import MIRRORED_POINTS, Form
from normpipe.stages.training.synthesized import load_pairs

ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared")).resolve()
#: About where the astronaut's face is in scikit-image's picture.
BOX = np.array([165.0, 60.0, 290.0, 185.0])
ASTRONAUT = skimage.data.astronaut()
EYES_AND_NOSE = np.array([[203.0, 101.0], [247.0, 103.0], [223.0, 127.0]])


@pytest.fixture(scope="module")
def finder() -> FivePoints:
    torch.set_num_threads(1)
    finder = FivePoints(OpenCV.box_frame)
    finder.open()
    return finder


def grey() -> np.ndarray:
    return cv2.cvtColor(ASTRONAUT, cv2.COLOR_RGB2GRAY)


def apart(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[1] - points[0]))


# the points


def test_five_are_means_of_68_and_mirror_with_them() -> None:
    assert FIVE_OF_68.sum(1) == pytest.approx(1)
    swapped = FIVE_OF_68[:, MIRRORED_POINTS][[1, 0, 2, 4, 3]]
    assert np.array_equal(swapped, FIVE_OF_68)


def test_the_order_is_eyes_nose_mouth_from_the_left_of_the_picture(finder: FivePoints) -> None:
    found = finder.find(grey(), BOX)
    left, right, nose, *mouth = found.landmarks
    assert found.score > 0.9
    assert left[0] < nose[0] < right[0] and mouth[0][0] < mouth[1][0]
    assert max(left[1], right[1]) < nose[1] < min(mouth[0][1], mouth[1][1])
    assert np.array_equal(G.order_landmarks(found.landmarks), found.landmarks)
    assert np.abs(found.landmarks[:3] - EYES_AND_NOSE).max() < 5


def test_a_mirrored_picture_has_mirrored_points(finder: FivePoints) -> None:
    once, width = finder.find(grey(), BOX).landmarks, grey().shape[1]
    box = np.array([width - BOX[2], BOX[1], width - BOX[0], BOX[3]])
    other = finder.find(np.ascontiguousarray(grey()[:, ::-1]), box).landmarks
    back = (other * [-1, 1] + [width, 0])[[1, 0, 2, 4, 3]]
    assert np.linalg.norm(back - once, axis=1).max() < 0.05 * apart(once)


@pytest.mark.parametrize("turn_deg", [-18, 18])
def test_points_turn_with_the_picture(finder: FivePoints, turn_deg: float) -> None:
    once = finder.find(grey(), BOX).landmarks
    middle = (BOX[:2] + BOX[2:]) / 2
    turn = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), turn_deg, 1)
    turned = cv2.warpAffine(grey(), turn, (512, 512))
    found = finder.find(turned, BOX).landmarks
    assert np.linalg.norm(found - G.apply(turn, once), axis=1).max() < 0.2 * apart(once)


@settings(max_examples=30, deadline=None)
@given(st.floats(20, 400), st.floats(-50, 300), st.floats(-50, 300))
def test_points_in_a_crop_come_back_to_the_pixels(side: float, x: float, y: float) -> None:
    """A network that names the template finds the template's place in the picture."""
    finder = FivePoints(OpenCV.box_frame)
    finder._network = _Template()  # type: ignore[assignment]
    box = np.array([x, y, x + side, y + side])
    found = finder.find(np.zeros((200, 300), np.uint8), box).landmarks
    frame = G.transform_from_box(box, INPUT_SIZE, OpenCV.box_frame)
    assert G.apply(frame, found)[:3] == pytest.approx(G.TEMPLATE * INPUT_SIZE, abs=1e-3)


class _Template(torch.nn.Module):
    """Sees a face of the template wherever it looks."""

    def forward(self, images: torch.Tensor) -> object:
        five = np.concatenate([G.TEMPLATE, [[0.4, 0.75], [0.6, 0.75]]]) * 2 - 1

        class NetworkOutputs:
            pass

        seen = NetworkOutputs()
        seen.points68 = torch.from_numpy(np.stack([five] * len(images)))  # type: ignore[attr-defined]
        seen.face = torch.ones(len(images))  # type: ignore[attr-defined]
        return seen

    def marks(self, points68: torch.Tensor) -> torch.Tensor:
        return points68  # it sees five alone


def test_flat_grey_is_no_face(finder: FivePoints) -> None:
    assert (
        finder.find(np.full((200, 200), 90, np.uint8), np.array([20.0, 20, 180, 180])).score < 0.5
    )


def test_the_same_in_any_thread(finder: FivePoints) -> None:
    boxes = [BOX + shift for shift in range(12)]
    once = [finder.find(grey(), box) for box in boxes]
    with ThreadPoolExecutor(4, "t", torch.set_num_threads, (1,)) as pool:
        again = list(pool.map(lambda box: finder.find(grey(), box), boxes[::-1]))[::-1]
    for mine, other in zip(once, again, strict=True):
        assert np.array_equal(mine.landmarks, other.landmarks) and mine.score == other.score


# the weights


def test_other_weights_make_another_dataset(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.safetensors"
    save_tensors(LandmarkNet().state_dict(), path, {})
    assert FivePoints(OpenCV.box_frame, path).digest() != FivePoints(OpenCV.box_frame).digest()
    detector = make_detector(AlignConfig(), 1)
    assert detector.digests()["landmarks"] == FivePoints(OpenCV.box_frame).digest()
    with pytest.raises(InputError, match="no landmark weights"):
        FivePoints(OpenCV.box_frame, tmp_path / "none").digest()


def test_the_shipped_weights_are_small_and_described() -> None:
    card = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    assert WEIGHTS.stat().st_size <= 2_000_000
    assert card["sha256"] == FivePoints(OpenCV.box_frame).digest()
    assert FitLandmarksConfig(**card["recipe"]).steps == card["recipe"]["steps"]


# training


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn ovals with points, as ``synthesize`` writes them."""
    folder = tmp_path_factory.mktemp("renders")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        picture = rng.integers(0, 255, (96, 96, 3), np.uint8)
        cv2.ellipse(picture, (48, 48), (30, 40), 0, 0, 360, (200, 180, 160), -1)
        angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
        points = 48 + 20 * np.stack([np.cos(angles), np.sin(angles)], 1)
        points[36:42], points[42:48], points[30], points[33] = (
            (33, 38),
            (63, 38),
            (48, 56),
            (48, 60),
        )
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        rows.append(
            {
                "key": f"s/{number}", "parent_key": f"s/{number}", "status": "ok",
                "image": {"bytes": jpeg, "path": None}, "identity": number,
                "split": "test" if number < 4 else "train", "expression": [0.8 * (number == 7)],
                "yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0,
                "landmarks68": points.tolist(),
            }
        )  # fmt: skip
    schema = synthesized_schema(("jawOpen",))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "shard-00000.parquet")
    return folder


def test_crops_keep_points_on_what_they_mark() -> None:
    rng = np.random.default_rng(1)
    picture = np.zeros((128, 128), np.uint8)
    cv2.circle(picture, (44, 50), 4, 255, -1)
    points = np.full((68, 2), 64.0, np.float32)
    points[36:42], points[42:48], points[30], points[33] = (
        (44.5, 50.5),
        (84, 50),
        (64, 72),
        (64, 76),
    )
    near = []
    for _ in range(40):
        crop, moved = face_crop(picture, points, rng)
        assert crop.shape == (INPUT_SIZE, INPUT_SIZE) and crop.dtype == np.uint8
        eyes = (FIVE_OF_68 @ moved + 1)[:2] * INPUT_SIZE / 2
        places = [tuple(np.clip(eye, 0, INPUT_SIZE - 1).astype(int)) for eye in eyes]
        near.append(max(int(crop[y, x]) for x, y in places) > np.median(crop) + 40)
    assert np.mean(near) > 0.7  # the rest is covered, or too dark


def test_batches_follow_from_their_number(renders: Path) -> None:
    sets = [load_pairs([renders], "train", source=Form())]
    one, two = FaceCrops(sets, 10, 0.2, 3)[5], FaceCrops(sets, 10, 0.2, 3)[5]
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["images"], FaceCrops(sets, 10, 0.2, 4)[5]["images"])
    assert one["face"].sum() == 8
    crop = no_face(sets[0].source[0], sets[0].landmarks[0], np.random.default_rng(0))
    assert crop.shape == (INPUT_SIZE, INPUT_SIZE)


def test_wide_mouths_are_drawn_as_often_as_asked(renders: Path) -> None:
    """One of eight training faces opens its mouth."""
    sets = [load_pairs([renders], "train", source=Form())]
    assert wide_mouths(sets[0]).sum() == 1
    (wide,) = np.flatnonzero(wide_mouths(sets[0]))
    shares = []
    for share in (0.0, 0.6):
        rng = np.random.default_rng(0)
        crops = FaceCrops(sets, 10, 0.2, 3, share)
        shares.append(np.mean([crops._draw(rng) == wide for _ in range(2_000)]))
    assert shares == pytest.approx([1 / 8, 0.6 + 0.4 / 8], abs=0.04)


def test_training_goes_on_from_weights(renders: Path, tmp_path: Path) -> None:
    """And says so in one line where there are none."""
    still = FitLandmarksConfig(
        device="cpu", precision="fp32", steps=1, batch_size=4, validation_crops=4,
        learning_rate=1e-9, weight_decay=0.0, begin=str(WEIGHTS),
    )  # fmt: skip
    result = fit_landmarks(still, [renders], tmp_path / "on")
    found, shipped = read_tensors(result.weights), read_tensors(WEIGHTS)
    for name in ("head.weight", "squeeze.weight", "point_mean"):
        torch.testing.assert_close(found[name], shipped[name], atol=1e-6, rtol=0)
    nowhere = still.model_copy(update={"begin": str(tmp_path / "none.safetensors")})
    with pytest.raises(InputError, match="none"):
        fit_landmarks(nowhere, [renders], tmp_path / "no")


def test_where_a_detector_marks_is_learnt_by_no_step(
    renders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the marks stays as it was; without pack and weights no step makes no sense."""
    points = 60 + 9 * np.random.default_rng(0).standard_normal((100, 68, 2))
    points[:, 42:48, 0] += 60
    marked = Marked(FIVE_OF_68 @ points + 1, points, np.arange(100))
    monkeypatch.setattr(marks, "read_marks", lambda *_: marked)
    config = FitLandmarksConfig(
        device="cpu", precision="fp32", steps=0, validation_crops=4, begin=str(WEIGHTS), pack="p"
    )
    done = fit_landmarks(config, [renders], tmp_path / "a", [renders])
    found, shipped = read_tensors(done.weights), read_tensors(WEIGHTS)
    changed = {name for name in found if not torch.equal(found[name], shipped[name])}
    assert changed == {"mark_weight", "mark_bias"}
    card = json.loads((tmp_path / "a/landmarks.json").read_text(encoding="utf-8"))
    assert "pack" not in card["recipe"] and card["scores"] == done.scores
    assert {"five_percent", "looks", "marks_percent"} <= set(done.scores)
    with pytest.raises(InputError, match="steps = 0 leaves the weights"):
        fit_landmarks(FitLandmarksConfig(steps=0), [renders], tmp_path / "b")


def test_training_stopped_and_run_again_gives_the_same_weights(
    renders: Path, tmp_path: Path
) -> None:
    from normpipe.stages.training.trainer import Trainer

    tiny = FitLandmarksConfig(
        device="cpu", precision="fp32", steps=6, batch_size=4, save_every=2, validation_crops=4
    )
    whole = fit_landmarks(tiny, [renders], tmp_path / "a")
    learn = Trainer._learn

    def dies(self: Trainer, batches: object) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        learn(self, batches)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_learn", dies)
        fit_landmarks(tiny, [renders], tmp_path / "b")
    again = fit_landmarks(tiny, [renders], tmp_path / "b")
    # The notes of a safetensors file come in any order, so its bytes may differ.
    one, other = read_tensors(whole.weights), read_tensors(again.weights)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert set(whole.scores) == {"five_percent", "faces_kept", "empty_kept"}
    finder = FivePoints(OpenCV.box_frame, whole.weights)
    finder.open()
    assert finder.find(grey(), BOX).landmarks.shape == (5, 2)


def test_training_needs_data() -> None:
    from typer.testing import CliRunner

    from normpipe.pipeline.commands.app import app

    result = CliRunner().invoke(app, ["fit-landmarks", "--output", "nowhere"])
    assert result.exit_code == 2
