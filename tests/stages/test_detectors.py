"""Detectors: insightface's own numbers, faces that fill the frame, and messages that help."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.data import astronaut

from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.errors import InputError
from normpipe.stages.faces import geometry, onnx
from normpipe.stages.faces.detectors import DETECTORS, Canvas, Detection, DetectorSettings
from normpipe.stages.faces.detectors.detector import (
    intersection_over_union,
    non_maximum_suppression,
)
from normpipe.stages.faces.detectors.insightface import SIDE_PX, InsightFace, find_pack
from normpipe.stages.faces.detectors.opencv import OpenCV
from normpipe.stages.faces.detectors.supplied import Supplied
from normpipe.stages.faces.pixels import Limits, decode

ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", Path(__file__).parents[2] / "../shared"))
# The astronaut's pupils and nose tip, read off an enlargement by eye.
ASTRONAUT = np.array([[203.0, 101.0], [247.0, 103.0], [223.0, 127.0]])


@pytest.fixture(scope="module")
def pack() -> Path:
    path = ASSETS / "insightface/models/mini"
    if not path.is_dir():
        pytest.skip(f"no model pack at {path} (set NORMPIPE_TEST_ASSETS)")
    return path


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    folder = ASSETS / "faces/images"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder} (set NORMPIPE_TEST_ASSETS)")
    files = sorted(folder.iterdir())
    return [decode(file.read_bytes(), Limits()) for file in files[:: len(files) // 60]]


@pytest.fixture(scope="module")
def scrfd(pack: Path) -> Iterator[InsightFace]:
    detector = InsightFace(DetectorSettings(pack=str(pack), device="cpu", threads=2))
    detector.open()
    yield detector
    detector.close()


@pytest.fixture(scope="module")
def haar() -> Iterator[OpenCV]:
    detector = OpenCV(DetectorSettings(threads=2))
    detector.open()
    yield detector
    detector.close()


def found(detector: Any, pictures: list[np.ndarray]) -> list[list[Detection]]:
    return detector.detect([detector.prepare(picture, {}) for picture in pictures])


def drawn(canvas: Canvas, patch: np.ndarray) -> np.ndarray:
    """The whole canvas, (side, side, 3) RGB."""
    whole = np.zeros((canvas.side_px, canvas.side_px, 3), np.uint8)
    rows = slice(canvas.top_px, canvas.top_px + canvas.height_px)
    whole[rows, canvas.left_px : canvas.left_px + canvas.width_px] = patch
    return whole


# insightface


@pytest.fixture(scope="module")
def judge(pack: Path) -> Any:
    """insightface itself, as its users run it."""
    from insightface.app import FaceAnalysis

    judge = FaceAnalysis(
        name=pack.name,
        root=str(pack.parents[1]),
        allowed_modules=["detection"],
        providers=["CPUExecutionProvider"],
        sess_options=onnx.session_options(1),
    )
    judge.prepare(ctx_id=0, det_thresh=0.5, det_size=(SIDE_PX, SIDE_PX))
    return judge


@pytest.mark.assets
@pytest.mark.parametrize(("padding", "step"), [(1.0, 8), (2.0, 2), (3.0, 8)])
def test_boxes_and_landmarks_are_insightface_s_own(
    scrfd: InsightFace, judge: Any, photographs: list[np.ndarray], padding: float, step: int
) -> None:
    photographs = photographs[::step]
    compared = 0
    group = np.concatenate([cv2.resize(picture, (200, 260)) for picture in photographs[:3]], axis=1)
    for picture in [*photographs, group, astronaut()]:
        canvas = Canvas.centred(picture.shape[1], picture.shape[0], SIDE_PX, padding)
        patch = canvas.patch(picture)
        theirs = judge.get(np.ascontiguousarray(drawn(canvas, patch)[:, :, ::-1]))
        ours = [f for f in scrfd.detect_canvas(canvas, patch) if (f.score or 0) >= 0.5]
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.bbox_xyxy is not None and mine.landmarks is not None
            box = canvas.to_original(other.bbox.reshape(2, 2)).reshape(4)
            assert np.abs(mine.bbox_xyxy - box).max() < 0.01
            assert np.abs(mine.landmarks - canvas.to_original(other.kps)).max() < 0.01
            assert mine.score == pytest.approx(float(other.det_score), abs=1e-4)
            compared += 1
    assert compared >= (1 if padding == 1 else len(photographs))


@pytest.mark.assets
def test_the_input_tensor_is_opencv_s_bit_for_bit(
    scrfd: InsightFace, photographs: list[np.ndarray]
) -> None:
    canvas = Canvas.centred(350, 350, SIDE_PX, 2.0)
    patch = canvas.patch(photographs[0])
    blob = cv2.dnn.blobFromImage(
        np.ascontiguousarray(drawn(canvas, patch)[:, :, ::-1]),
        1 / 128,
        (SIDE_PX, SIDE_PX),
        (127.5, 127.5, 127.5),
        swapRB=True,
    )
    assert np.array_equal(scrfd._tensor(canvas, patch), blob)  # pyright: ignore


@pytest.mark.assets
def test_faces_that_fill_their_picture_are_found(
    scrfd: InsightFace, photographs: list[np.ndarray]
) -> None:
    results = found(scrfd, photographs)
    assert sum(bool(faces) and (faces[0].score or 0) >= 0.5 for faces in results) >= 59
    plain = InsightFace(
        DetectorSettings(
            pack=str(scrfd.model_file.parent), device="cpu", canvases=(1.0,), threads=2
        )
    )
    plain.open()
    shown = found(plain, photographs[::4])
    hits = [f for faces in shown for f in faces if (f.score or 0) >= 0.5]
    plain.close()
    assert len(hits) <= 1  # what the padding is for


@pytest.mark.assets
def test_results_do_not_depend_on_threads_order_or_neighbours(
    scrfd: InsightFace, photographs: list[np.ndarray]
) -> None:
    def numbers(results: list[list[Detection]]) -> list[Any]:
        return [
            [(f.bbox_xyxy.tolist(), f.landmarks.tolist(), f.score) for f in faces]  # type: ignore[union-attr]
            for faces in results
        ]

    pictures = photographs[:12]
    together = numbers(found(scrfd, pictures))
    assert numbers(found(scrfd, pictures[::-1]))[::-1] == together
    assert [numbers(found(scrfd, [picture]))[0] for picture in pictures] == together
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda picture: found(scrfd, [picture]), pictures))
    assert [numbers(result)[0] for result in results] == together


@pytest.mark.assets
def test_the_astronaut_is_found_where_she_is(scrfd: InsightFace) -> None:
    face = found(scrfd, [astronaut()])[0][0]
    assert face.landmarks is not None and face.origin == "detector"
    assert np.abs(face.landmarks[:3] - ASTRONAUT).max() < 4


@pytest.mark.assets
def test_every_canvas_adds_faces_without_doubling_them(pack: Path) -> None:
    small = cv2.resize(astronaut()[40:260, 120:340], (60, 60), interpolation=cv2.INTER_AREA)
    scene = np.full((800, 800, 3), 90, np.uint8)
    scene[60:760, 60:760] = cv2.resize(astronaut()[40:260, 120:340], (700, 700))
    scene[0:60, 740:800] = small
    detector = InsightFace(
        DetectorSettings(pack=str(pack), device="cpu", every_canvas=True, threads=2)
    )
    detector.open()
    faces = [f for f in found(detector, [scene])[0] if (f.score or 0) >= 0.5]
    boxes = np.array([f.bbox_xyxy for f in faces])
    assert len(faces) >= 1
    for number, box in enumerate(boxes):
        assert (intersection_over_union(box, np.delete(boxes, number, 0)) <= 0.4).all()


@pytest.mark.assets
def test_a_pack_is_found_by_name_and_by_directory(pack: Path) -> None:
    assert find_pack("mini", str(pack.parents[1])) == find_pack(str(pack), "/nowhere")
    (digest,) = InsightFace(DetectorSettings(pack=str(pack))).digests().values()
    assert len(digest) == 64


def test_a_missing_pack_is_one_line_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", never)
    with pytest.raises(InputError, match=r"models get buffalo_l") as caught:
        InsightFace(DetectorSettings(pack="buffalo_l", model_root=str(tmp_path)))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"align\.pack"):
        InsightFace(DetectorSettings())


def test_a_folder_without_a_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no SCRFD"):
        InsightFace(DetectorSettings(pack=str(tmp_path))).open()
    (tmp_path / "det.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="cannot be read as ONNX"):
        InsightFace(DetectorSettings(pack=str(tmp_path))).open()


# ONNX Runtime


class Session:
    def __init__(self, *active: str) -> None:
        self._active = list(active)

    def get_providers(self) -> list[str]:
        return self._active


def builds(**versions: str) -> Callable[[str], str | None]:
    return lambda name: versions.get(name.replace("-", "_"))


def test_cuda_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [onnx.CPU])
    with pytest.raises(InputError, match="onnxruntime-gpu"):
        onnx.resolve_device_class("cuda")
    assert onnx.resolve_device_class("auto") == "cpu"
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [onnx.CUDA, onnx.CPU])
    assert onnx.resolve_device_class("auto") == onnx.resolve_device_class("cuda") == "cuda"
    assert onnx.providers_for("cuda")[0] == onnx.CUDA


def test_a_session_that_fell_back_is_an_error_where_cuda_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [onnx.CUDA, onnx.CPU])
    assert onnx.active_device_class(Session(onnx.CUDA, onnx.CPU), "cuda") == "cuda"
    assert onnx.active_device_class(Session(onnx.CPU), "cpu") == "cpu"
    # The build is there: blaming a shadow would send the user the wrong way.
    with pytest.raises(InputError, match=r"started without it.*nvidia-smi") as error:
        onnx.active_device_class(Session(onnx.CPU), "cuda")
    assert "shadows" not in str(error.value)
    assert onnx.active_device_class(Session(onnx.CPU), "auto") == "cpu"
    assert "on the CPU" in caplog.text


def test_auto_warns_of_a_shadowed_gpu_build(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [onnx.CPU])
    assert onnx.resolve_device_class("auto", builds(onnxruntime="1.32.0")) == "cpu"
    assert caplog.text == ""
    both = builds(onnxruntime="1.32.0", onnxruntime_gpu="1.31.0")
    assert onnx.resolve_device_class("cpu", both) == "cpu"
    assert caplog.text == ""
    assert onnx.resolve_device_class("auto", both) == "cpu"
    assert "shadows" in caplog.text and "pip uninstall" in caplog.text


def test_the_shadowed_gpu_build_is_told_with_the_command_that_mends_it() -> None:
    told = onnx.gpu_build_remedy(builds(onnxruntime="1.32.0", onnxruntime_gpu="1.31.0"))
    assert "shadows" in told
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu && " in told
    assert "pip install --no-deps onnxruntime-gpu==1.31.0" in told
    assert "pip install" in onnx.gpu_build_remedy(builds(onnxruntime="1.32.0"))


# opencv


def test_haar_finds_the_astronaut_and_her_five_points(haar: OpenCV) -> None:
    face = found(haar, [astronaut()])[0][0]
    assert face.score is not None and face.score > 0.9
    assert face.origin == "detector" and face.landmarks is not None
    assert np.abs(face.landmarks[:3] - ASTRONAUT).max() < 5


def test_haar_finds_a_face_that_fills_its_picture(haar: OpenCV) -> None:
    tight = cv2.resize(astronaut()[60:190, 165:290], (350, 350))
    (faces,) = found(haar, [tight])
    assert faces and faces[0].bbox_xyxy is not None


def test_haar_sees_nothing_in_nothing(haar: OpenCV) -> None:
    grey = np.full((300, 400, 3), 128, np.uint8)
    tiny = np.zeros((1, 1, 3), np.uint8)
    long = np.zeros((3, 4000, 3), np.uint8)
    assert found(haar, [grey, tiny, long]) == [[], [], []]


@pytest.mark.assets
def test_haar_is_the_same_in_any_thread(haar: OpenCV, photographs: list[np.ndarray]) -> None:
    def numbers(results: list[list[Detection]]) -> list[Any]:
        return [
            [(f.bbox_xyxy.tolist(), f.landmarks.tolist(), f.score) for f in faces]  # type: ignore[union-attr]
            for faces in results
        ]

    pictures = photographs[:8]
    once = numbers(found(haar, pictures))
    assert numbers(found(haar, pictures[::-1]))[::-1] == once
    assert sum(map(bool, once)) >= 7


@pytest.mark.assets
def test_haar_s_points_are_near_scrfd_s(
    haar: OpenCV, scrfd: InsightFace, photographs: list[np.ndarray]
) -> None:
    away = []
    for mine, theirs in zip(found(haar, photographs), found(scrfd, photographs), strict=True):
        if mine and theirs and (mine[0].score or 0) >= 0.5:
            ours, points = mine[0].landmarks, theirs[0].landmarks
            assert ours is not None and points is not None
            apart = np.linalg.norm(points[1] - points[0])
            away.append(np.linalg.norm(ours - points, axis=1).mean() / apart)
    assert len(away) >= 58
    assert np.median(away) < 0.05


# supplied, and what all share


def test_supplied_landmarks_come_before_the_box() -> None:
    points = [[40, 40], [60, 40], [50, 52], [43, 62], [57, 62]]
    picture = np.zeros((100, 100, 3), np.uint8)
    detector = Supplied(DetectorSettings())
    prepared = detector.prepare(picture, {"bbox_xyxy": [30, 20, 70, 80], "landmarks": points})
    ((face,),) = detector.detect([prepared])
    assert face.landmarks is not None and np.array_equal(face.landmarks, points)
    other_way = [points[i] for i in (1, 0, 2, 4, 3)]
    prepared = detector.prepare(picture, {"bbox_xyxy": None, "landmarks": other_way})
    assert np.array_equal(prepared.payload.landmarks, points) and prepared.payload.bbox_xyxy is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no_landmarks"),
        ({"bbox_xyxy": None, "landmarks": None}, "no_landmarks"),
        ({"bbox_xyxy": [10, 10, 10, 40]}, "bad_supplied_box"),
        ({"bbox_xyxy": [40, 10, 10, 40]}, "bad_supplied_box"),
        ({"bbox_xyxy": [200, 200, 300, 300]}, "bad_supplied_box"),
        ({"bbox_xyxy": [0, 0, float("nan"), 5]}, "bad_supplied_box"),
        ({"bbox_xyxy": [0, 0, None, 5]}, "bad_supplied_box"),
        ({"bbox_xyxy": [1, 2, 3]}, "bad_supplied_box"),
        ({"landmarks": [[5, 5]] * 5}, "bad_supplied_box"),
        ({"landmarks": [[5, 5]] * 4}, "bad_supplied_box"),
        ({"landmarks": [[500 + i, 500 + i * i] for i in range(5)]}, "bad_supplied_box"),
        ({"landmarks": [[5, 5], [6], [7, 7], [8, 8], [9, 9]]}, "bad_supplied_box"),
    ],
)
def test_what_a_list_gets_wrong(row: dict[str, Any], reason: str) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(SampleError) as caught:
        Supplied(DetectorSettings()).prepare(picture, row)
    assert caught.value.reason == reason


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_canvas_coordinates_come_back(
    width: int, height: int, padding: float, x: float, y: float
) -> None:
    canvas = Canvas.centred(width, height, SIDE_PX, padding)
    on_canvas = np.array(
        [canvas.left_px + x * canvas.width_px, canvas.top_px + y * canvas.height_px]
    )
    assert canvas.to_original(on_canvas) == pytest.approx([x * width, y * height], abs=1e-6)
    assert canvas.left_px >= 0 and canvas.left_px + canvas.width_px <= SIDE_PX
    assert canvas.top_px >= 0 and canvas.top_px + canvas.height_px <= SIDE_PX


def test_merging_keeps_the_best_whatever_the_order() -> None:
    def face(x: float, size: float, score: float) -> Detection:
        return Detection(np.array([x, 0, x + size, size]), None, score, "box")

    faces = [face(0, 10, 0.6), face(1, 10, 0.9), face(30, 10, 0.7), face(31, 9, 0.7)]
    for order in (faces, faces[::-1]):
        assert [f.score for f in non_maximum_suppression(order)] == [0.9, 0.7]
        assert non_maximum_suppression(order)[1] is faces[2]


def test_the_registry_names_what_it_holds() -> None:
    assert all(detector.name == name for name, detector in DETECTORS.items())
    assert geometry.TEMPLATE.tolist() == [[0.345, 0.40], [0.655, 0.40], [0.5, 0.585]]
