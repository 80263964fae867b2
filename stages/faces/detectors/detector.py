"""The interface of detectors, the canvas they place a picture on, and which faces to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Pixels, Points
from ..geometry import TIGHT_BOX, BoxFrame
from ..onnx import Device

Origin = Literal["detector", "box", "supplied", "none"]
Trust = Literal["sure", "maybe", "no"]
#: A detection is of the listed face if their boxes' intersection over union is at least this (boxes
#: in lists may be twice as wide as tight ones, and neighbours' faces do not overlap), or if it
#: holds at least so many of the five listed landmarks.
LISTED_OVERLAP, LISTED_INSIDE = 0.2, 3


@dataclass(frozen=True)
class Detection:
    """One face, in original upright coordinates (see ``faces.geometry``).

    Attributes:
        bbox_xyxy: (4,) float64, may reach beyond the image; None where only landmarks are known.
        landmarks: (5, 2) float64 in the order of ``LANDMARK_NAMES``, or None.
        score: 0–1, or None where the detector has no meaningful one.
        origin: what the frame is based on; written as ``landmarks_from``.
        trust: whether it makes sense as a face (``second_look``); "sure" if nobody looked.
        turned_degrees: how far the picture was turned clockwise when it was found.
    """

    bbox_xyxy: Points | None
    landmarks: Points | None
    score: float | None
    origin: Origin
    trust: Trust = "sure"
    turned_degrees: int = 0


@dataclass(frozen=True)
class PreparedPicture:
    """A picture prepared for a detector, outside the thread that detects.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        payload: the detector's own data: a first canvas, or what the row supplied.
        tile: it is a part of a large picture, to be looked at once, without padding.
    """

    pixels: Pixels
    payload: Any
    tile: bool = False


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of all detectors; each one reads those that concern it.

    Attributes:
        pack: insightface model pack, a name below ``model_root`` or a directory.
        model_root: folder that holds ``models/<pack>``.
        threshold: least score of a face, for detectors that have scores.
        canvases: paddings to try in this order until a face is found.
        every_canvas: try all canvases and merge their faces, instead of stopping early.
        device: what networks run on; ``auto`` is resolved when they are opened.
        threads: pictures processed in parallel; never changes a result.
    """

    pack: str = ""
    model_root: str = "~/.insightface"
    threshold: float = 0.5
    canvases: tuple[float, ...] = (2.0, 1.0, 3.0)
    every_canvas: bool = False
    device: Device = "auto"
    threads: int = 1


class Detector(ABC):
    """Finds faces. One object per worker; ``detect`` runs on one thread, ``prepare`` on many.

    What a detector finds in one picture never depends on the other pictures of the batch.
    """

    name: ClassVar[str]
    # Whether its score says that the crop is an upright face: then it needs no second look.
    scores_upright: ClassVar[bool] = False
    # Whether it looks for faces in pixels, so that looking again may find others.
    searches: ClassVar[bool] = True
    # Where its boxes are in the canonical frame, for faces without landmarks.
    box_frame: BoxFrame = TIGHT_BOX

    def __init__(self, settings: DetectorSettings) -> None:
        self.settings = settings

    @property
    def device_class(self) -> Literal["cpu", "cuda"]:
        """Return what the results are computed on; part of the fingerprint, known once open."""
        return "cpu"

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the model files by name; available before ``open``."""
        return {}

    def open(self) -> None:  # noqa: B027 - most detectors load nothing
        """Load models, once per worker."""

    def close(self) -> None:  # noqa: B027
        """Release threads and memory."""

    def prepare(self, pixels: Pixels, row: Mapping[str, Any]) -> PreparedPicture:
        """Prepare a picture, (H, W, 3) uint8 RGB; may refuse its row with a ``SampleError``."""
        return PreparedPicture(pixels, None)

    def prepare_tile(self, pixels: Pixels) -> PreparedPicture:
        """Prepare a part of a large picture, (S, S, 3) uint8 RGB."""
        return self.prepare(pixels, {})

    @abstractmethod
    def detect(self, pictures: Sequence[PreparedPicture]) -> list[list[Detection]]:
        """Return the faces of each picture, best first."""


@dataclass(frozen=True)
class Canvas:
    """The position of a picture on a square black canvas.

    Detectors are trained on faces with surroundings. A face that fills its picture is larger than
    their largest anchor and is not found; with ``padding`` 2 the picture's longer side takes half
    of the canvas, and it is found.

    Attributes:
        side_px: side of the canvas.
        left_px, top_px, width_px, height_px: the picture's position and size on it.
        scale_x, scale_y: canvas pixels per original pixel; they differ by rounding only.
    """

    side_px: int
    left_px: int
    top_px: int
    width_px: int
    height_px: int
    scale_x: float
    scale_y: float

    @classmethod
    def centred(cls, width_px: int, height_px: int, side_px: int, padding: float) -> Canvas:
        """Place a picture in the middle, its longer side ``side_px / padding``."""
        scale = side_px / (padding * max(width_px, height_px))
        width, height = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        return cls(
            side_px,
            (side_px - width) // 2,
            (side_px - height) // 2,
            width,
            height,
            width / width_px,
            height / height_px,
        )

    def patch(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture at its size on the canvas, resized once from the original.

        (H, W) grey or (H, W, 3) RGB, uint8 → (height_px, width_px) or (height_px, width_px, 3).

        Averages if it shrinks by more than half: bilinear sampling would alias there and cost
        recall on large photographs; above that it is as good and five times faster.
        """
        how = cv2.INTER_AREA if self.scale_x < 0.5 else cv2.INTER_LINEAR
        size = (self.width_px, self.height_px)
        return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)

    def to_original(self, points: NDArray[Any]) -> Points:
        """Convert canvas coordinates (..., 2) to original coordinates, float64."""
        offset = (self.left_px, self.top_px)
        return (np.asarray(points, np.float64) - offset) / (self.scale_x, self.scale_y)


def intersection_over_union(box: Points, others: Points) -> Points:
    """Return the intersection over union of one box (4,) with others (N, 4): (N,) float64."""
    corner = np.maximum(box[:2], others[:, :2])
    opposite = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(opposite - corner, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def non_maximum_suppression(
    detections: Sequence[Detection], threshold: float = 0.4
) -> list[Detection]:
    """Return detections, best first, without those that overlap a better one too much.

    "Too much" is more than ``threshold``. "Better" is the higher score, then the larger box, then
    the one further up and left, so that the input order never matters. All must have boxes.
    """
    ranked = sorted(detections, key=_rank)
    kept: list[Detection] = []
    boxes = np.empty((0, 4))
    for face in ranked:
        box = face.bbox_xyxy
        assert box is not None
        if not (intersection_over_union(box, boxes) > threshold).any():
            kept.append(face)
            boxes = np.vstack([boxes, box])
    return kept


def choose(
    faces: Sequence[Detection],
    which: Literal["largest", "centre", "all"],
    width_px: int,
    height_px: int,
) -> list[Detection]:
    """Return the faces to keep, all of them from left to right.

    ``largest`` is by box area, ``centre`` by the distance of the box's centre from the picture's.
    Ties go to the detector's own order. Faces without boxes come alone.
    """
    if len(faces) == 1:
        return list(faces)
    boxes = np.array([face.bbox_xyxy for face in faces])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    if which == "all":
        return [faces[i] for i in np.lexsort((middles[:, 1], middles[:, 0]))]
    if which == "largest":
        return [faces[int(np.argmax(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))]]
    away = np.linalg.norm(middles - (width_px / 2, height_px / 2), axis=1)
    return [faces[int(np.argmin(away))]]


def choose_listed(faces: Sequence[Detection], listed: Detection) -> Detection | None:
    """Return the detection of the face that a list names, or None.

    The one that overlaps the listed box most, or holds most of the listed landmarks; see
    ``LISTED_OVERLAP``. All must have boxes.
    """
    best, found = (0.0, 0, 0.0), None
    for face in faces:
        box = face.bbox_xyxy
        assert box is not None
        overlap, inside, away = 0.0, 0, 0.0
        if listed.bbox_xyxy is not None:
            overlap = float(intersection_over_union(listed.bbox_xyxy, box[None])[0])
        if listed.landmarks is not None:
            points = listed.landmarks
            inside = int(((points >= box[:2]) & (points <= box[2:])).all(axis=1).sum())
            away = float(np.linalg.norm(points.mean(axis=0) - (box[:2] + box[2:]) / 2))
        if overlap < LISTED_OVERLAP and inside < LISTED_INSIDE:
            continue
        if found is None or (overlap, inside, -away) > best:
            best, found = (overlap, inside, -away), face
    return found


def _rank(face: Detection) -> tuple[float, ...]:
    box = face.bbox_xyxy
    assert box is not None
    left, top, right, bottom = (float(v) for v in box)
    return (-(face.score or 0.0), -(right - left) * (bottom - top), top, left)
