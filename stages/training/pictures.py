"""Pictures, and pairs of them, held in memory for training: decoded once where they fit."""

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

# iBUG points after a mirror.
_JAW = [*range(16, -1, -1)]
_BROWS_NOSE = [*range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
_EYES = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
_MOUTH = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
MIRRORED_POINTS = np.array([*_JAW, *_BROWS_NOSE, *_EYES, *_MOUTH])
POSE_UNIT_DEG = 30.0


@dataclass(frozen=True)
class Form:
    """How pictures are held.

    Attributes:
        colour: (S, S, 3) RGB, else (S, S) grey.
        size_px: their side; None keeps their own.
        exact: False only shrinks what is larger than ``size_px``.
    """

    colour: bool = False
    size_px: int | None = None
    exact: bool = False


class Pictures:
    """Pictures of one size, decoded, or encoded where that would take too much memory.

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
                "%d pictures of %s px stay encoded (%.1f GB of memory otherwise)",
                len(encoded), "x".join(map(str, first.shape[:2])), needed / 1e9,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> Pixels:
        """(S, S) or (S, S, 3) uint8."""
        if self._decoded is not None:
            return self._decoded[row]
        return decode_picture(self._encoded[self._ends[row] : self._ends[row + 1]], self.form)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """(N, S, S) or (N, S, S, 3) uint8."""
        if self._decoded is not None:
            return self._decoded[np.asarray(rows)]
        return np.stack([self[int(row)] for row in rows])


def decode_picture(data: bytes | Pixels, form: Form) -> Pixels:
    """Decode an encoded picture into a form: (S, S) or (S, S, 3) uint8. Raises InputError."""
    mode = cv2.IMREAD_COLOR if form.colour else cv2.IMREAD_GRAYSCALE
    found = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if found is None:
        raise InputError("a picture to train on cannot be decoded; run normpipe verify on it")
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
        landmarks: (N, 68, 2) float32 source pixels, of pictures as they are held.
        pose_deg: (N, 3) float32 yaw, pitch, roll.
        identity: (N,) int64.
        target: M pictures, (T, T, 3) uint8 RGB, of the pairs in ``target_of``; None without any.
        target_of: (M,) int64 indices into the pairs.
        target_landmarks: (M, 68, 2) float32 target pixels.
        target_note: which face the target is, as the shards say.
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
        """(N, S, S) uint8, all of them."""
        pictures = self.source.take(np.arange(len(self)))
        if not self.source.form.colour:
            return pictures
        return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])

    def targets(self, rows: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """(N, T, T, 3) uint8 target pictures; ``rows`` count in ``target_of``."""
        if self.target is None:
            raise InputError("no pair has a target picture; synthesize some with targets=true")
        return self.target.take(rows)

    def resting(self) -> Pixels:
        """(T, T, 3) uint8: the target face at rest, the median of what it does."""
        sample = np.arange(0, len(self.target_of), max(1, len(self.target_of) // 256))
        return np.median(self.targets(sample), axis=0).astype(np.uint8)

    def digest(self) -> str:
        """Sha256 of what is known of the pairs, to tell one set from another."""
        parts = (self.expression, self.identity, self.pose_deg, self.target_of)
        return hashlib.sha256(
            b"".join(np.ascontiguousarray(p).tobytes() for p in parts)
        ).hexdigest()


def mirrored(names: Sequence[str]) -> NDArray[np.int64]:
    """(E,) where each shape's mirror image is."""
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
