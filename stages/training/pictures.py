"""Pictures and pairs held in memory for training; decoded if they fit, else encoded."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError

log = logging.getLogger(__name__)

# Indices of the iBUG points in a mirrored face.
_JAW = [*range(16, -1, -1)]
_BROWS_NOSE = [*range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
_EYES = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
_MOUTH = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
MIRRORED_POINTS = np.array([*_JAW, *_BROWS_NOSE, *_EYES, *_MOUTH])
POSE_UNIT_DEG = 30.0


@dataclass(frozen=True)
class Form:
    """How pictures are held in memory.

    Attributes:
        colour: (S, S, 3) RGB, else (S, S) grey.
        size_px: their side; None keeps their own.
        exact: resize to ``size_px``; False only shrinks larger pictures.
    """

    colour: bool = False
    size_px: int | None = None
    exact: bool = False


class Pictures:
    """Pictures of one size, decoded, or encoded if they would take too much memory.

    Reading gives the same pixels either way.
    """

    def __init__(self, encoded: Sequence[bytes], form: Form, memory_bytes: float) -> None:
        self.form = form
        self._decoded: Pixels | None = None
        first = decode_picture(encoded[0], form)
        needed = first.nbytes * len(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])
        if needed <= memory_bytes:
            self._decoded = np.empty((len(encoded), *first.shape), np.uint8)
            for row, data in enumerate(encoded):
                self._decoded[row] = decode_picture(data, form)
        else:
            # One buffer: a list of a million objects would be copied into every worker.
            self._encoded = np.frombuffer(b"".join(encoded), np.uint8)
            log.info(
                "%d pictures of %s px stay encoded (decoded: %.1f GB)",
                len(encoded), "x".join(map(str, first.shape[:2])), needed / 1e9,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> Pixels:
        """Return (S, S) or (S, S, 3) uint8."""
        if self._decoded is not None:
            return self._decoded[row]
        return decode_picture(self._encoded[self._ends[row] : self._ends[row + 1]], self.form)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """Return (N, S, S) or (N, S, S, 3) uint8."""
        if self._decoded is not None:
            return self._decoded[np.asarray(rows)]
        return np.stack([self[int(row)] for row in rows])


def decode_picture(data: bytes | Pixels, form: Form) -> Pixels:
    """Decode an encoded picture into a form: (S, S) or (S, S, 3) uint8. Raises InputError."""
    mode = cv2.IMREAD_COLOR if form.colour else cv2.IMREAD_GRAYSCALE
    found = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if found is None:
        raise InputError("a training picture cannot be decoded: run normpipe verify on its dataset")
    picture: Any = found[..., ::-1] if form.colour else found
    size = form.size_px
    if size and (form.exact or len(picture) > size) and len(picture) != size:
        way = cv2.INTER_AREA if len(picture) > size else cv2.INTER_CUBIC
        picture = cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=way)
    return np.asarray(picture, np.uint8)


@dataclass(frozen=True)
class PairCache:
    """Pairs of one split.

    Attributes:
        expression_names: shapes in the order of ``expression``.
        source: N pictures, (S, S) or (S, S, 3) uint8.
        expression: (N, E) float32.
        landmarks: (N, 68, 2) float32 pixels of the source as it is held.
        pose_deg: (N, 3) float32 yaw, pitch, roll.
        identity: (N,) int64.
        target: M pictures, (T, T, 3) uint8 RGB, of the pairs in ``target_of``; None if none.
        target_of: (M,) int64 indices into the pairs.
        target_landmarks: (M, 68, 2) float32 target pixels.
        target_note: which face the target is, as the shards record it.
    """

    expression_names: tuple[str, ...]
    source: Pictures
    expression: Floats
    landmarks: Floats
    pose_deg: Floats
    identity: NDArray[np.int64]
    target: Pictures | None
    target_of: NDArray[np.int64]
    target_landmarks: Floats
    target_note: dict[str, Any]

    def __len__(self) -> int:
        return len(self.expression)

    @property
    def grey(self) -> Pixels:
        """Return all source pictures, (N, S, S) uint8 grey."""
        pictures = self.source.take(np.arange(len(self)))
        if not self.source.form.colour:
            return pictures
        return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])

    def targets(self, rows: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """Return (N, T, T, 3) uint8 target pictures; ``rows`` are indices into ``target_of``."""
        if self.target is None:
            raise InputError("no pair has a target picture: synthesize some with targets=true")
        return self.target.take(rows)

    def resting(self) -> Pixels:
        """Return the target face at rest, (T, T, 3) uint8: the median of the targets."""
        sample = np.arange(0, len(self.target_of), max(1, len(self.target_of) // 256))
        return np.median(self.targets(sample), axis=0).astype(np.uint8)

    def digest(self) -> str:
        """Return the sha256 of the pairs' labels, which identifies the set."""
        parts = (self.expression, self.identity, self.pose_deg, self.target_of)
        return hashlib.sha256(
            b"".join(np.ascontiguousarray(p).tobytes() for p in parts)
        ).hexdigest()


def mirrored(names: Sequence[str]) -> NDArray[np.int64]:
    """Return (E,) the index of each shape's mirror image."""
    swap = {"_L": "_R", "_R": "_L"}
    whole = {
        "jawLeft": "jawRight",
        "jawRight": "jawLeft",
        "mouthLeft": "mouthRight",
        "mouthRight": "mouthLeft",
    }
    partner = [
        whole.get(name, name[:-2] + swap[name[-2:]] if name[-2:] in swap else name)
        for name in names
    ]
    return np.array([names.index(name) for name in partner], np.int64)
