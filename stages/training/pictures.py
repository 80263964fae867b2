"""Synthesized pairs held in memory for training: decoded once, then read at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ...pipeline.errors import InputError
from ..faces.render.degrade import degrade
from ..networks.compact import INPUT_SIZE

FloatArray = NDArray[np.floating]
ByteArray = NDArray[np.uint8]

# iBUG points after a mirror.
_JAW = [*range(16, -1, -1)]
_BROWS_NOSE = [*range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
_EYES = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
_MOUTH = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
MIRRORED_POINTS = np.array([*_JAW, *_BROWS_NOSE, *_EYES, *_MOUTH])
POSE_UNIT_DEG = 30.0


@dataclass(frozen=True)
class PairCache:
    """Pairs of one split.

    Attributes:
        expression_names: shapes in the order of ``expression``.
        grey: (N, S, S) uint8 sources.
        expression: (N, E) float32.
        landmarks: (N, 68, 2) float32 source pixels.
        pose_deg: (N, 3) float32 yaw, pitch, roll.
        identity: (N,) int64.
        target: (M, T, T, 3) uint8 RGB, of the pairs in ``target_of``.
        target_of: (M,) int64 indices into the pairs.
        target_landmarks: (M, 68, 2) float32 target pixels.
    """

    expression_names: tuple[str, ...]
    grey: ByteArray
    expression: FloatArray
    landmarks: FloatArray
    pose_deg: FloatArray
    identity: NDArray[np.int64]
    target: ByteArray
    target_of: NDArray[np.int64]
    target_landmarks: FloatArray

    def __len__(self) -> int:
        return len(self.grey)


def load_pairs(folders: Sequence[Path], split: str, limit: int | None = None) -> PairCache:
    """Decode the pairs of one split from synthesized datasets.

    Raises:
        InputError: a folder holds no synthesized shards, or the sets do not fit together.
    """
    names: tuple[str, ...] | None = None
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("grey", "expression", "landmarks", "pose", "identity", "target", "of", "tl")
    }
    for shard in _shards(folders):
        found = _expression_names(shard)
        if names not in (None, found):
            raise InputError(f"{shard} has other expression shapes than the sets before it")
        names = found
        table = pq.read_table(shard, filters=[("split", "=", split), ("status", "=", "ok")])
        _append(columns, table, limit)
        if limit is not None and len(columns["grey"]) >= limit:
            break
    if names is None or not columns["grey"]:
        raise InputError(f"no {split} pairs in {', '.join(map(str, folders))}")
    return PairCache(
        expression_names=names,
        grey=np.stack(columns["grey"]),
        expression=np.array(columns["expression"], np.float32),
        landmarks=np.array(columns["landmarks"], np.float32),
        pose_deg=np.array(columns["pose"], np.float32),
        identity=np.array(columns["identity"], np.int64),
        target=np.stack(columns["target"])
        if columns["target"]
        else np.zeros((0, 1, 1, 3), np.uint8),
        target_of=np.array(columns["of"], np.int64),
        target_landmarks=np.array(columns["tl"], np.float32).reshape(-1, 68, 2),
    )


def _shards(folders: Sequence[Path]) -> list[Path]:
    shards: list[Path] = []
    for folder in folders:
        inner = Path(folder) / "pairs"  # the output folder of normpipe synthesize
        found = sorted((inner if inner.is_dir() else Path(folder)).glob("shard-*.parquet"))
        if not found:
            raise InputError(f"no shards in {folder}: give a folder written by normpipe synthesize")
        shards += found
    return shards


def _expression_names(shard: Path) -> tuple[str, ...]:
    metadata = pq.read_schema(shard).metadata or {}
    if b"expression_names" not in metadata:
        raise InputError(f"{shard} was not written by normpipe synthesize: no expression names")
    return tuple(metadata[b"expression_names"].decode().split(","))


def _append(columns: dict[str, list[Any]], table: pa.Table, limit: int | None) -> None:
    for row in table.to_pylist():
        if limit is not None and len(columns["grey"]) >= limit:
            return
        columns["grey"].append(_decode(row["image"]["bytes"], cv2.IMREAD_GRAYSCALE))
        columns["expression"].append(row["expression"])
        columns["landmarks"].append(row["landmarks68"])
        columns["pose"].append([row["yaw_deg"], row["pitch_deg"], row["roll_deg"]])
        columns["identity"].append(row["identity"])
        if row["target"] is not None:
            columns["target"].append(_decode(row["target"]["bytes"], cv2.IMREAD_COLOR)[..., ::-1])
            columns["of"].append(len(columns["grey"]) - 1)
            columns["tl"].append(row["target_landmarks68"])


def _decode(encoded: bytes, mode: int) -> ByteArray:
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), mode)
    if picture is None:
        raise InputError("a synthesized picture cannot be decoded; run normpipe verify on the set")
    return picture.astype(np.uint8)


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


class Batches(Dataset[dict[str, Tensor]]):
    """Batch n of training, a function of (seed, n) alone: a resumed run sees the same."""

    def __init__(self, cache: PairCache, batch_size: int, seed: int) -> None:
        self.cache = cache
        self.batch_size = batch_size
        self.seed = seed
        self.mirror = mirrored(cache.expression_names)

    def __len__(self) -> int:
        return 1 << 40

    def chosen(self, step: int) -> NDArray[np.int64]:
        """(B,) pairs of batch ``step``: every pair once before any comes again."""
        count = len(self.cache)
        wanted = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        chosen = np.empty(len(wanted), np.int64)
        for epoch in np.unique(wanted // count):
            order = np.random.default_rng([self.seed, 11, int(epoch)]).permutation(count)
            here = wanted // count == epoch
            chosen[here] = order[wanted[here] % count]
        return chosen

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        size = INPUT_SIZE
        rows = self.chosen(step)
        grey = np.empty((len(rows), 1, size, size), np.uint8)
        expression = self.cache.expression[rows].copy()
        pose = self.cache.pose_deg[rows] / POSE_UNIT_DEG
        points = np.empty((len(rows), 68, 2), np.float32)
        for place, row in enumerate(rows):
            rng = np.random.default_rng([self.seed, 12, step, place])
            done = degrade(self.cache.grey[row], self.cache.landmarks[row], rng, size)
            grey[place, 0], points[place] = done.grey, done.points
            if done.flipped:
                points[place] = done.points[MIRRORED_POINTS]
                expression[place] = expression[place][self.mirror]
                pose[place] *= np.array([-1, 1, -1], np.float32)
        return {
            "grey": torch.from_numpy(grey),
            "expression": torch.from_numpy(expression),
            "landmarks": torch.from_numpy((points * 2 / size - 1).reshape(len(rows), -1)),
            "pose": torch.from_numpy(pose.astype(np.float32)),
        }
