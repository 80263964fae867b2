"""The Haar cascades that opencv-python carries (Viola & Jones 2001; Lienhart & Maydt 2002).

They need no download and no terms, hence the default. They find upright, near-frontal faces, and
tell eyes at best; ``insightface`` finds more and aligns better.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from ....pipeline.errors import InputError
from ..geometry import BoxFrame, Pixels, Points
from .base import Canvas, Detection, Detector, DetectorSettings, Look, merged

Grey = NDArray[np.uint8]


class Try(NamedTuple):
    """One way to look for a face; the first that finds one decides.

    Attributes:
        cascade: name of the face cascade.
        side_px, padding: the canvas; cascades learnt faces with a margin, so it is padded as well.
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
EYES: Final = ("haarcascade_eye_tree_eyeglasses.xml", "haarcascade_eye.xml")
# Measured on 293 of the tight crops: the first alone finds 98 %. The second mends frames that the
# first misses; the third finds small faces in larger pictures.
TRIES: Final = (
    Try(ALT, 240, 1.5, 3, 0.20),
    Try(DEFAULT, 320, 1.5, 5, 0.20),
    Try(ALT, 640, 1.0, 4, 0.05),
)
_SCALE_STEP: Final = 1.1
# The face is brought to this width before its eyes are looked for.
_EYE_FACE_PX: Final = 160


class OpenCV(Detector):
    """Face cascade, then eye cascades inside the face.

    With two plausible eyes the frame rests on them (``eyes``), else on the box (``box``). Cascades
    have no score that means the same from picture to picture, so ``score`` is None and
    ``threshold`` has no effect.
    """

    name: ClassVar[str] = "opencv"
    box_frame: ClassVar[BoxFrame] = BoxFrame(centre=(0.498, 0.485), size=0.809)

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        self._folder = Path(cv2.data.haarcascades)
        # A CascadeClassifier keeps scratch memory: one for each thread.
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None

    def digests(self) -> dict[str, str]:
        """sha256 of the cascade files."""
        names = sorted({attempt.cascade for attempt in TRIES} | set(EYES))
        return {name: hashlib.sha256(self._read(name)).hexdigest() for name in names}

    def open(self) -> None:
        """Start the threads that look.

        Raises:
            InputError: this build of OpenCV carries no cascades.
        """
        self._read(ALT)
        self._pool = ThreadPoolExecutor(self.settings.threads, "detect")

    def close(self) -> None:
        """Give back the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def look(self, pixels: Pixels, row: Mapping[str, Any]) -> Look:
        """Turn the picture grey."""
        return Look(pixels, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8))

    def detect(self, looks: Sequence[Look]) -> list[list[Detection]]:
        """Every picture on its own, several side by side; largest face first."""
        assert self._pool is not None, "open() comes first"
        return list(self._pool.map(self._faces, looks))

    def _faces(self, look: Look) -> list[Detection]:
        grey: Grey = look.ready
        found: list[Detection] = []
        for attempt in TRIES:
            boxes = self._boxes(grey, attempt)
            found += [self._detection(grey, box) for box in boxes]
            if found and not self.settings.every_canvas:
                break
        return merged(found)

    def _boxes(self, grey: Grey, attempt: Try) -> list[Points]:
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

    def _detection(self, grey: Grey, box: Points) -> Detection:
        eyes = self._eyes(grey, box)
        return Detection(box, None, eyes, None, "box" if eyes is None else "eyes")

    def _eyes(self, grey: Grey, box: Points) -> Points | None:
        """Two plausible eyes (2, 2) in the upper part of a face box, or None."""
        side = float(box[2] - box[0])
        scale = _EYE_FACE_PX / side
        left, top = int(max(0, box[0])), int(max(0, box[1] + 0.12 * side))
        right, bottom = math.ceil(box[2]), math.ceil(box[1] + 0.62 * side)
        upper = grey[top:bottom, left:right]
        if min(upper.shape) < 8:
            return None
        width, height = round(upper.shape[1] * scale), round(upper.shape[0] * scale)
        drawn = cv2.resize(
            upper, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        steps = np.array([upper.shape[1] / width, upper.shape[0] / height])
        least, most = round(0.16 * _EYE_FACE_PX), round(0.40 * _EYE_FACE_PX)
        for name in EYES:
            hits = self._cascade(name).detectMultiScale(
                drawn, 1.05, 3, minSize=(least, least), maxSize=(most, most)
            )
            centres = [
                (np.array([x + w / 2, y + h / 2]) * steps + (left, top)) for x, y, w, h in hits
            ]
            pair = plausible_eyes(centres, box)
            if pair is not None:
                return pair
        return None

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
                f"OpenCV {cv2.__version__} carries no {name}: pip install 'opencv-python>=4.10,<5'"
            ) from error


# Where the eyes lie in a cascade's face box, in units of its side: measured medians.
EXPECTED_EYES: Final = np.array([[0.31, 0.397], [0.69, 0.397]])


def plausible_eyes(centres: Sequence[Points], box: Points) -> Points | None:
    """The pair of eye candidates that looks most like a pair of eyes, or None.

    A pair must stand about where eyes stand in such a box, be apart by 0.26–0.52 of its side and
    level within 20 degrees; nostrils, brows and corners of glasses seldom are.

    Args:
        centres: candidates (2,), original coordinates.
        box: (4,) the face.

    Returns:
        (2, 2), left-image eye first.
    """
    side = float(box[2] - box[0])
    best: tuple[float, Points] | None = None
    for first in centres:
        for second in centres:
            pair = np.stack([first, second])
            across, down = (pair[1] - pair[0]) / side
            if not 0.26 <= across <= 0.52 or abs(down) > math.tan(math.radians(20)) * across:
                continue
            far = np.linalg.norm((pair - box[:2]) / side - EXPECTED_EYES, axis=1).max()
            if far <= 0.14 and (best is None or far < best[0]):
                best = (float(far), pair)
    return None if best is None else best[1]
