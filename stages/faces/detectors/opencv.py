"""Haar cascades (Viola & Jones 2001; Lienhart & Maydt 2002), then a small landmark network.

The default, as it needs no download and no accepted terms: the cascades come with opencv-python,
the network with this package. Finds upright, near-frontal faces; ``insightface`` finds more.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import cv2
import cv2.data
import numpy as np

from ....manifests.arrays import Floats, Matrix, Pixels, Points
from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from ..geometry import (
    MIRRORED,
    BoxFrame,
    apply,
    inverse,
    transform_from_box,
    transform_from_landmarks,
    warp,
)
from .detector import (
    Canvas,
    Detection,
    Detector,
    DetectorSettings,
    PreparedPicture,
    non_maximum_suppression,
)

if TYPE_CHECKING:  # torch takes seconds to import; import it only to open a detector
    from ...networks.landmarks import LandmarkNet


WEIGHTS: Final = Path(__file__).parents[2] / "networks/weights/landmarks.safetensors"
# If the eyes are closer than this share of the crop, the first prediction is useless.
_LEAST_APART: Final = 0.1


class Attempt(NamedTuple):
    """One attempt to find a face; the first that finds one is used.

    Attributes:
        cascade: name of the face cascade.
        side_px, padding: the canvas; cascades were trained with a margin, so it is padded too.
        neighbours: overlapping hits that a face needs.
        least_face: smallest face, as a share of the canvas.
    """

    cascade: str
    side_px: int
    padding: float
    neighbours: int
    least_face: float


ALT: Final = "haarcascade_frontalface_alt2.xml"
DEFAULT: Final = "haarcascade_frontalface_default.xml"
# Measured on 366 of the tight crops: the first alone finds 98.9 %, in half the time of a canvas of
# 240 px; the network rejects its false positives. The second finds faces that the first misses;
# the third finds small faces in larger pictures.
ATTEMPTS: Final = (
    Attempt(ALT, 120, 1.5, 2, 0.25),
    Attempt(DEFAULT, 320, 1.5, 5, 0.20),
    Attempt(ALT, 640, 1.0, 4, 0.05),
)
_SCALE_STEP: Final = 1.1


class OpenCV(Detector):
    """Face cascade, then five landmarks inside the face.

    The score is the network's: how likely a box of the cascade is a face.
    """

    name: ClassVar[str] = "opencv"
    scores_upright: ClassVar[bool] = True
    box_frame: BoxFrame = BoxFrame(centre=(0.498, 0.485), size=0.809)

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        self._folder = Path(cv2.data.haarcascades)
        self._five = FivePoints(self.box_frame)
        # A CascadeClassifier is not thread-safe: one for each thread.
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the cascade files and of the landmark network."""
        names = sorted({attempt.cascade for attempt in ATTEMPTS})
        cascades = {name: hashlib.sha256(self._read(name)).hexdigest() for name in names}
        return {**cascades, "landmarks": self._five.digest()}

    def open(self) -> None:
        """Load the network and start the threads.

        Raises:
            InputError: this build of OpenCV has no cascades.
        """
        import torch

        self._read(ALT)
        self._five.open()
        # Pictures are processed in parallel; torch's own threads would compete with ours.
        self._pool = ThreadPoolExecutor(
            self.settings.threads, "detect", torch.set_num_threads, (1,)
        )

    def close(self) -> None:
        """Release the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def prepare(self, pixels: Pixels, row: Mapping[str, Any]) -> PreparedPicture:
        """Convert the picture, (H, W, 3) uint8 RGB, to grey, (H, W) uint8."""
        return PreparedPicture(
            pixels, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
        )

    def prepare_tile(self, pixels: Pixels) -> PreparedPicture:
        """Convert a part of a picture, (S, S, 3) uint8 RGB, to grey, (S, S) uint8."""
        return replace(self.prepare(pixels, {}), tile=True)

    def detect(self, pictures: Sequence[PreparedPicture]) -> list[list[Detection]]:
        """Return each picture's faces, best first; pictures are processed alone, in parallel."""
        assert self._pool is not None, "open() comes first"
        return list(self._pool.map(self._faces, pictures))

    def _faces(self, picture: PreparedPicture) -> list[Detection]:
        grey: Pixels = picture.payload
        found: list[Detection] = []
        for attempt in ATTEMPTS[-1:] if picture.tile else ATTEMPTS:
            boxes = self._boxes(grey, attempt)
            found += [self._detection(grey, box) for box in boxes]
            sure = any((face.score or 0) >= self.settings.threshold for face in found)
            if sure and not self.settings.every_canvas:
                break
        return non_maximum_suppression(found)

    def _boxes(self, grey: Pixels, attempt: Attempt) -> list[Points]:
        height, width = grey.shape
        canvas = Canvas.centred(width, height, attempt.side_px, attempt.padding)
        drawn = np.zeros((attempt.side_px, attempt.side_px), np.uint8)
        rows = slice(canvas.top_px, canvas.top_px + canvas.height_px)
        columns = slice(canvas.left_px, canvas.left_px + canvas.width_px)
        drawn[rows, columns] = canvas.patch(grey)
        least = round(attempt.least_face * attempt.side_px)
        hits = self._cascade(attempt.cascade).detectMultiScale(
            drawn, _SCALE_STEP, attempt.neighbours, minSize=(least, least)
        )
        corners = [((x, y), (x + w, y + h)) for x, y, w, h in hits]
        return [canvas.to_original(np.array(pair)).reshape(4) for pair in corners]

    def _detection(self, grey: Pixels, box: Points) -> Detection:
        face = self._five.find(grey, box)
        return Detection(box, face.landmarks, face.score, "detector")

    def _cascade(self, name: str) -> Any:
        cascades: dict[str, Any] = self._local.__dict__
        if name not in cascades:
            self._read(name)
            cascades[name] = cv2.CascadeClassifier(str(self._folder / name))
        return cascades[name]

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"OpenCV {cv2.__version__} has no {name}: pip install 'opencv-python>=4.10,<5'"
            ) from error


class Face(NamedTuple):
    """The network's prediction for a box.

    Attributes:
        landmarks: (5, 2) float64 original coordinates in the order of ``LANDMARK_NAMES``.
        score: probability that it is a face, 0-1.
    """

    landmarks: Points
    score: float


class FivePoints:
    """Predicts twice: on a crop around the box, then on one aligned by the first prediction."""

    def __init__(self, box_frame: BoxFrame, weights: Path = WEIGHTS) -> None:
        """``box_frame``: where the boxes are in the aligned frame."""
        self._box_frame = box_frame
        self._weights = weights
        self._network: LandmarkNet | None = None

    def digest(self) -> str:
        """Return the sha256 of the weights; available before ``open``."""
        try:
            return sha256_file(self._weights)
        except OSError as error:
            raise InputError(f"no landmark weights {self._weights}: reinstall normpipe") from (
                error
            )

    def open(self) -> None:
        """Load the network. Raises InputError for weights that do not fit."""
        from torch import nn
        from torch.nn.utils.fusion import fuse_conv_bn_eval

        from ...networks.files.checkpoint import load_weights
        from ...networks.landmarks import LandmarkNet

        network = LandmarkNet()
        load_weights(network, self._weights)
        network.eval()
        for block in network.blocks.children():  # fused, a single crop passes half the layers
            for conv, norm in (("down", "first_norm"), ("keep", "second_norm")):
                fused = fuse_conv_bn_eval(block.get_submodule(conv), block.get_submodule(norm))  # type: ignore[type-var]
                setattr(block, conv, fused)
                setattr(block, norm, nn.Identity())
        self._network = network.requires_grad_(False)

    def find(self, grey: Pixels, box: Points) -> Face:
        """Return the face in a box.

        Args:
            grey: (H, W) uint8, the whole picture.
            box: (4,) float64, x and y of two corners, original coordinates.
        """
        from ...networks.landmarks import INPUT_SIZE

        first = self._predict(grey, transform_from_box(box, INPUT_SIZE, self._box_frame), False)
        apart = np.linalg.norm(first.landmarks[1] - first.landmarks[0])
        if apart < _LEAST_APART * (box[2] - box[0]) / self._box_frame.size:
            return Face(first.landmarks, 0.0)
        return self._predict(grey, transform_from_landmarks(first.landmarks, INPUT_SIZE), True)

    def read(self, crops: Pixels) -> tuple[Points, Floats]:
        """Return (B, 5, 2) landmarks, in pixels, and (B,) scores of aligned crops, each for itself.

        Args:
            crops: (B, 80, 80) uint8 grey, cut as ``transform_from_landmarks`` says.
        """
        import torch

        from ...networks.landmarks import INPUT_SIZE

        assert self._network is not None, "open() comes first"
        with torch.inference_mode():
            found = self._network(torch.from_numpy(crops[:, None]).float() / 255)
            points = self._network.marks(found.points68).double().numpy()
            scores = torch.sigmoid(found.face.double()).numpy()
        return (points + 1) * INPUT_SIZE / 2, scores

    def _predict(self, grey: Pixels, transform: Matrix, mirrored: bool) -> Face:
        """Predict on one crop, or average it and its mirror image; the batch holds nothing else."""
        import torch

        from ...networks.landmarks import INPUT_SIZE

        assert self._network is not None, "open() comes first"
        crop = warp(grey, transform, INPUT_SIZE, "black")
        crops = np.stack([crop, crop[:, ::-1]] if mirrored else [crop])[:, None]
        with torch.inference_mode():
            found = self._network(torch.from_numpy(crops).float() / 255)
            points = self._network.marks(found.points68).double().numpy()
            score = float(torch.sigmoid(found.face.mean()))
        five = (points[0] + points[-1][MIRRORED] * [-1, 1]) / 2 if mirrored else points[0]
        return Face(apply(inverse(transform), (five + 1) * INPUT_SIZE / 2), score)
