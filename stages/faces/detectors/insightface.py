"""SCRFD detectors from insightface model packs (Guo et al., ICLR 2022, arXiv:2105.04714).

insightface loads the pack and defines its outputs. Pre- and postprocessing are our own, because
they take a quarter of the time in insightface: it converts the whole canvas although only the
picture on it changes, and decodes all 16,800 anchors although a dozen count. On the same input
tensor the results are the same as insightface's (tested).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Float32s, Pixels
from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from .. import onnx as runtime
from ..geometry import order_landmarks
from .detector import (
    Canvas,
    Detection,
    Detector,
    DetectorSettings,
    PreparedPicture,
    non_maximum_suppression,
)

SIDE_PX: Final = 640  # the packs' training size; networks of fixed size accept nothing else
# Below the threshold but above this score, the reason is "low_score" instead of "no_face".
FLOOR: Final = 0.2

# Number of outputs → (strides, anchors per cell, landmarks): the families that insightface knows.
_FAMILIES: Final[dict[int, tuple[tuple[int, ...], int, bool]]] = {
    6: ((8, 16, 32), 2, False),
    9: ((8, 16, 32), 2, True),
    10: ((8, 16, 32, 64, 128), 1, False),
    15: ((8, 16, 32, 64, 128), 1, True),
}


class InsightFace(Detector):
    """The detection network of a pack; its other networks are not loaded."""

    name: ClassVar[str] = "insightface"

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        self._directory = find_pack(settings.pack, settings.model_root)
        self._model: Any = None
        self._device: Literal["cpu", "cuda"] = "cpu"
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()

    @property
    def device_class(self) -> Literal["cpu", "cuda"]:
        """Return what the network runs on; known once open."""
        return self._device

    @cached_property
    def model_file(self) -> Path:
        """Return the pack's detection network, chosen as insightface does."""
        return find_detection_file(self._directory)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the detection network."""
        return {self.model_file.name: sha256_file(self.model_file)}

    def open(self) -> None:
        """Load the network on the device of the settings.

        Raises:
            InputError: CUDA is requested and not active, or the file is no SCRFD network.
        """
        self._model = _load(self.model_file, runtime.resolve_device_class(self.settings.device))
        self._device = runtime.active_device_class(self._model.session, self.settings.device)
        self._family = _FAMILIES[len(self._model.output_names)]
        self._pool = ThreadPoolExecutor(self.settings.threads, "detect")

    def close(self) -> None:
        """Release the threads and the network."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._model = None

    def prepare(self, pixels: Pixels, row: Mapping[str, Any]) -> PreparedPicture:
        """Resize the picture, (H, W, 3) uint8 RGB, for the first canvas."""
        return PreparedPicture(pixels, self._place(pixels, self.settings.canvases[0]))

    def prepare_tile(self, pixels: Pixels) -> PreparedPicture:
        """Resize a part of a picture, (S, S, 3) uint8 RGB, so that it fills the canvas."""
        return PreparedPicture(pixels, self._place(pixels, 1.0), tile=True)

    def detect(self, pictures: Sequence[PreparedPicture]) -> list[list[Detection]]:
        """Return each picture's faces, best first; pictures are processed alone, in parallel."""
        assert self._pool is not None, "open() comes first"
        return list(self._pool.map(self._faces, pictures))

    def detect_canvas(self, canvas: Canvas, patch: Pixels) -> list[Detection]:
        """Return the faces on one canvas with a score of at least ``FLOOR``, original coordinates.

        Args:
            canvas: where the picture is.
            patch: (height_px, width_px, 3) uint8 RGB, the picture at its size on the canvas.
        """
        outputs = self._model.session.run(
            self._model.output_names, {self._model.input_name: self._tensor(canvas, patch)}
        )
        rows, landmarks = decode_outputs(outputs, self._family, FLOOR)
        keep = self._model.nms(rows) if len(rows) else []
        return [
            _detection(canvas, rows[i], None if landmarks is None else landmarks[i]) for i in keep
        ]

    def _faces(self, picture: PreparedPicture) -> list[Detection]:
        if picture.tile:
            return self.detect_canvas(*picture.payload)
        found: list[Detection] = []
        for number, padding in enumerate(self.settings.canvases):
            first = number == 0
            canvas, patch = picture.payload if first else self._place(picture.pixels, padding)
            faces = self.detect_canvas(canvas, patch)
            good = any((face.score or 0) >= self.settings.threshold for face in faces)
            if good and not self.settings.every_canvas:
                return faces
            found += faces
        return non_maximum_suppression(found)

    @staticmethod
    def _place(pixels: Pixels, padding: float) -> tuple[Canvas, Pixels]:
        canvas = Canvas.centred(pixels.shape[1], pixels.shape[0], SIDE_PX, padding)
        return canvas, canvas.patch(pixels)

    def _tensor(self, canvas: Canvas, patch: Pixels) -> NDArray[Any]:
        """Return (1, 3, 640, 640) RGB, bit for bit what OpenCV's blobFromImage makes of the canvas.

        One buffer per thread: new memory of this size costs a millisecond of page faults, and if
        the picture is placed like the last one, its surroundings are already filled in.
        """
        mean, std = np.float32(self._model.input_mean), np.float32(self._model.input_std)
        kind = getattr(self._model, "input_dtype", np.float32)
        tensor, place = getattr(self._local, "tensor", (None, None))
        if tensor is None:
            tensor = np.empty((1, 3, SIDE_PX, SIDE_PX), kind)
        if place != canvas:
            tensor.fill(-mean / std)
        values = patch.astype(kind)
        if kind == np.float32:
            values -= mean
            values *= 1 / std
        rows = slice(canvas.top_px, canvas.top_px + canvas.height_px)
        columns = slice(canvas.left_px, canvas.left_px + canvas.width_px)
        tensor[0, :, rows, columns] = values.transpose(2, 0, 1)
        self._local.tensor = (tensor, canvas)
        return tensor


def decode_outputs(
    outputs: Sequence[Float32s], family: tuple[tuple[int, ...], int, bool], floor: float
) -> tuple[Float32s, Float32s | None]:
    """Return the candidates of network outputs, best first, before suppression.

    Each anchor predicts distances from its cell's corner to the four sides, and offsets to the
    landmarks, in units of its stride.

    Returns:
        rows: (N, 5) float32, box in canvas pixels and score.
        landmarks: (N, 5, 2) float32 in canvas pixels, or None.
    """
    strides, anchors, has_landmarks = family
    rows: list[Any] = []
    landmarks: list[Any] = []
    for level, stride in enumerate(strides):
        scores = outputs[level].reshape(-1)
        chosen = np.flatnonzero(scores >= floor)
        y, x = np.divmod(chosen // anchors, SIDE_PX // stride)
        corner = (np.stack([x, y], 1) * stride).astype(np.float32)
        sides = outputs[level + len(strides)].reshape(-1, 4)[chosen] * np.float32(stride)
        box = np.concatenate([corner - sides[:, :2], corner + sides[:, 2:]], 1)
        rows.append(np.concatenate([box, scores[chosen, None]], 1))
        if has_landmarks:
            offsets = outputs[level + 2 * len(strides)].reshape(-1, 5, 2)[chosen]
            landmarks.append(corner[:, None] + offsets * np.float32(stride))
    together = np.concatenate(rows)
    order = np.argsort(-together[:, 4], kind="stable")
    return together[order], np.concatenate(landmarks)[order] if has_landmarks else None


def find_pack(pack: str, model_root: str) -> Path:
    """Return the folder of a pack; a job never downloads one.

    Raises:
        InputError: no pack is named, or it is not on disk.
    """
    if not pack:
        raise InputError(
            "detector insightface needs a model pack: set align.pack to a pack's name or directory"
        )
    by_name = Path(model_root).expanduser() / "models" / pack
    for directory in (Path(pack).expanduser(), by_name):
        if directory.is_dir():
            return directory.resolve()
    raise InputError(
        f"insightface pack {pack!r} is neither a directory nor in {by_name.parent}: run "
        f"`normpipe models get {pack}` (non-commercial terms) or set align.pack to a directory"
    )


def find_detection_file(directory: Path) -> Path:
    """Return the first file, by name, with as many outputs as an SCRFD network.

    Raises:
        InputError: the pack has none, or a file in it cannot be read.
    """
    from google.protobuf.message import DecodeError
    from onnx import load_model

    for path in sorted(directory.glob("*.onnx")):
        try:
            model = load_model(str(path), load_external_data=False)
        except (OSError, DecodeError) as error:
            raise InputError(
                f"{path} cannot be read as ONNX ({error}); download the pack again"
            ) from error
        if len(model.graph.output) in _FAMILIES:
            return path
    raise InputError(f"{directory} holds no SCRFD detection network (*.onnx)")


def _load(path: Path, device: Literal["cpu", "cuda"]) -> Any:
    try:
        from insightface.model_zoo import get_model
    except ImportError as error:
        raise InputError(f"insightface cannot be imported: {error}") from error
    try:
        # A path, never a name: a name may start a download.
        model: Any = get_model(
            str(path),
            providers=runtime.providers_for(device),
            sess_options=runtime.session_options(intra_op_threads=1),
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
    if model is None or model.taskname != "detection":
        raise InputError(f"{path} is not a detection network that insightface knows")
    sides = list(model.session.get_inputs()[0].shape)[2:]
    if any(isinstance(side, int) and side != SIDE_PX for side in sides):
        raise InputError(f"{path} takes {sides} pixels; normpipe needs {SIDE_PX} or any size")
    return model


def _detection(canvas: Canvas, row: Float32s, landmarks: Float32s | None) -> Detection:
    box = canvas.to_original(row[:4].reshape(2, 2)).reshape(4)
    points = None if landmarks is None else order_landmarks(canvas.to_original(landmarks))
    return Detection(
        bbox_xyxy=box,
        landmarks=points,
        score=float(row[4]),
        origin="box" if points is None else "detector",
    )
