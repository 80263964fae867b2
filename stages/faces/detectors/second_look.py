"""Whether a detection makes sense as a face: the landmark network looks at it once more.

Detectors mark eyes on the mouth of a face that is upside down, with good scores. The network of the
default detector sees the crop that those landmarks give. It was trained on upright faces only: on
others it sees no face, or marks it elsewhere than the detector did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from ....manifests.arrays import Matrix, Pixels, Points
from ..geometry import (
    TEMPLATE,
    BoxFrame,
    apply,
    inverse,
    transform_from_box,
    transform_from_landmarks,
    warp,
)

if TYPE_CHECKING:  # for shorter chains of imports
    from .detector import Detection, Trust
    from .opencv import FivePoints

# Measured by benchmarks/turned.py. Distances are means over the five points, in units of the
# template's distance between the eyes.
_SURE_SCORE: Final = 0.995
_SURE_APART: Final = 0.15
# Profiles, half a face, a hand before it: only the comparison with the turned crop tells.
_MAYBE_SCORE: Final = 0.2
_MAYBE_APART: Final = 0.30
_MAYBE_ODDS: Final = 3.0
# A mouth seen from the side may be turned over by this much, in sides of the aligned square.
_MOUTH_SLACK: Final = 0.1
_EYES_APART: Final = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])


class SecondLook:
    """Judges the detections of one detector."""

    def __init__(self, network: FivePoints, box_frame: BoxFrame, scores_upright: bool) -> None:
        """Keep the network, which need not be open yet.

        Args:
            network: of the default detector.
            box_frame: where the detector's boxes are in the aligned frame.
            scores_upright: whether the detector's score is the network's.
        """
        self.network = network
        self._box_frame = box_frame
        self._scores_upright = scores_upright

    def trust(self, pixels: Pixels, face: Detection) -> Trust:
        """Return whether a detection makes sense as a face, in the picture where it was found.

        ``sure``: the network sees a face there and marks it alike. ``maybe``: less so, but far
        rather than if the crop were turned by any quarter. 99 of 100 upright faces are sure.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            face: in its coordinates.
        """
        from ...networks.landmarks import INPUT_SIZE

        if face.landmarks is not None:
            if not is_in_order(face.landmarks):
                return "no"
            if self._scores_upright and (face.score or 0.0) >= _SURE_SCORE:
                return "sure"
            transform = transform_from_landmarks(face.landmarks, INPUT_SIZE)
        else:
            assert face.bbox_xyxy is not None
            transform = transform_from_box(face.bbox_xyxy, INPUT_SIZE, self._box_frame)
        crop = _grey_crop(pixels, transform, INPUT_SIZE)
        points, scores = self.network.read(crop[None])
        apart = 0.0
        if face.landmarks is not None:
            away = points[0] - apply(transform, face.landmarks)
            apart = float(np.linalg.norm(away, axis=1).mean()) / (_EYES_APART * INPUT_SIZE)
        if scores[0] >= _SURE_SCORE and apart <= _SURE_APART:
            return "sure"
        if scores[0] < _MAYBE_SCORE or apart > _MAYBE_APART:
            return "no"
        turned = np.stack([np.rot90(crop, quarters) for quarters in (1, 2, 3)])
        others = self.network.read(turned)[1]
        return "maybe" if _odds(scores[0]) >= _MAYBE_ODDS * _odds(others.max()) else "no"


def is_in_order(landmarks: Points) -> bool:
    """Return whether five landmarks are where a face has them, at any turn.

    Seen with level eyes: the nose below the eyes, the mouth below the nose, and its left corner not
    to the right of the other.

    Args:
        landmarks: (5, 2) in the order of ``LANDMARK_NAMES``, any unit.
    """
    points = np.asarray(landmarks, np.float64)
    if not np.isfinite(points).all() or np.ptp(points[:3], axis=0).max() <= 0:
        return False
    left_eye, right_eye, nose, left_mouth, right_mouth = apply(
        transform_from_landmarks(points, 1), points
    )
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    level = eyes[1] < nose[1] < mouth[1]
    return bool(level and right_mouth[0] - left_mouth[0] > -_MOUTH_SLACK)


def _odds(probability: float) -> float:
    return probability / max(1 - probability, 1e-12)


def _grey_crop(pixels: Pixels, transform: Matrix, size_px: int) -> Pixels:
    """Return the aligned (S, S) uint8 grey crop; only what it shows of a picture is converted."""
    square = np.array([[0, 0], [size_px, 0], [0, size_px], [size_px, size_px]], np.float64)
    corners = apply(inverse(transform), square)
    height, width = pixels.shape[:2]
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 2, 0, (width, height))
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, 0, (width, height))
    if (high <= low).any():
        return np.zeros((size_px, size_px), np.uint8)
    part = np.ascontiguousarray(pixels[low[1] : high[1], low[0] : high[0]])
    moved = transform.copy()
    moved[:, 2] += moved[:, :2] @ low
    grey = np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), np.uint8)
    return warp(grey, moved, size_px, "black")
