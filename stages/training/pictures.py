"""Synthesized pairs held in memory for training: decoded once where they fit, read at random."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from .targets import MEAN_TARGET, expression_names, same_target, target_of

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


# Names of the shapes, and which target is shown: None as long as none is.
_Said = tuple[tuple[str, ...], dict[str, Any] | None]


def load_pairs(
    folders: Sequence[Path],
    split: str,
    limit: int | None = None,
    source: Form | None = None,
    target: Form | None = None,
    memory_gb: float = 8.0,
) -> PairCache:
    """Read the pairs of one split from synthesized datasets.

    Args:
        folders: outputs of ``normpipe synthesize``, or their ``pairs`` folders.
        split: ``train``, ``validation`` or ``test``.
        limit: at most so many pairs.
        source: how sources are held; grey and their own size by default.
        target: how targets are held; RGB and their own size by default.
        memory_gb: sources, and targets, beyond this stay encoded.

    Raises:
        InputError: a folder holds no synthesized shards, or the sets do not fit together.
    """
    said: _Said | None = None
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("source", "expression", "landmarks", "pose", "identity", "target", "of", "tl")
    }
    for shard in synthesized_shards(folders):
        said = _same(shard, said)
        table = pq.read_table(shard, filters=[("split", "=", split), ("status", "=", "ok")])
        _append(columns, table, limit)
        if limit is not None and len(columns["source"]) >= limit:
            break
    if said is None or not columns["source"]:
        raise InputError(f"no {split} pairs in {', '.join(map(str, folders))}")
    pictures = Pictures(columns["source"], source or Form(), memory_gb * 1e9)
    shapes = [_size(columns[name][0]) for name in ("source", "target") if columns[name]]
    scale = len(pictures[0]) / shapes[0]
    targets = (
        Pictures(columns["target"], target or Form(colour=True), memory_gb * 1e9)
        if columns["target"]
        else None
    )
    target_scale = len(targets[0]) / shapes[1] if targets else 1.0
    return PairCache(
        expression_names=said[0],
        source=pictures,
        expression=np.array(columns["expression"], np.float32),
        landmarks=scale * np.array(columns["landmarks"], np.float32),
        pose_deg=np.array(columns["pose"], np.float32),
        identity=np.array(columns["identity"], np.int64),
        target=targets,
        target_of=np.array(columns["of"], np.int64),
        target_landmarks=target_scale * np.array(columns["tl"], np.float32).reshape(-1, 68, 2),
        target_note=said[1] or MEAN_TARGET,
    )


def _size(encoded: bytes) -> int:
    return len(Pictures([encoded], Form(), 1e9)[0])


def synthesized_shards(folders: Sequence[Path]) -> list[Path]:
    """Return the shards of outputs of ``normpipe synthesize``, or of folders of such shards.

    Raises:
        InputError: a folder holds none.
    """
    shards: list[Path] = []
    for folder in folders:
        inner = Path(folder) / "pairs"  # the output folder of normpipe synthesize
        found = sorted((inner if inner.is_dir() else Path(folder)).glob("shard-*.parquet"))
        if not found:
            raise InputError(f"no shards in {folder}: give a folder written by normpipe synthesize")
        shards += found
    return shards


def _same(shard: Path, before: _Said | None) -> _Said:
    """What is known after a shard, whose names and target must be those of the shards before it."""
    names, note = expression_names(shard), target_of(shard)
    if before is None:
        return names, note
    if before[0] != names:
        raise InputError(f"{shard} has other expression shapes than the sets before it")
    if note and before[1] and not same_target(note, before[1]):
        raise InputError(
            f"{shard} shows another target face ({json.dumps(note)}) than the sets before it "
            f"({json.dumps(before[1])}): one network learns one target"
        )
    return names, before[1] or note


def _append(columns: dict[str, list[Any]], table: pa.Table, limit: int | None) -> None:
    for row in table.to_pylist():
        if limit is not None and len(columns["source"]) >= limit:
            return
        columns["source"].append(row["image"]["bytes"])
        columns["expression"].append(row["expression"])
        columns["landmarks"].append(row["landmarks68"])
        columns["pose"].append([row["yaw_deg"], row["pitch_deg"], row["roll_deg"]])
        columns["identity"].append(row["identity"])
        if row["target"] is not None:
            columns["target"].append(row["target"]["bytes"])
            columns["of"].append(len(columns["source"]) - 1)
            columns["tl"].append(row["target_landmarks68"])


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
