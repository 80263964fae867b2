"""Renders with exact targets, and normalizing them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from ..faces.pixels import encode
from ..networks.reader import as_images
from ..synthesis.drawing.degrade import degrade
from ..training.synthesized import (
    MEAN_TARGET,
    NoPairs,
    expression_names,
    same_target,
    synthesized_shards,
    target_of,
)

#: (B, 3, H, W) float RGB in [0, 1] → (B, 3, S, S) RGB in [0, 1].
Normalize = Callable[[Tensor], Tensor]
#: The default of the normalize stage: judge what users get.
QUALITY = 95


@dataclass(frozen=True)
class Renders:
    """Rendered people with the exact target picture of each.

    Attributes:
        expression_names: the E shapes, in the order of ``expression``.
        source: (N, S, S, 3) uint8 RGB; (0, 1, 1, 3) if not loaded.
        landmarks: (N, 68, 2) float32 source pixels.
        target: (N, T, T, 3) uint8 RGB, the exact targets as stored.
        target_landmarks: (N, 68, 2) float32 target pixels.
        expression: (N, E) float32 coefficients.
        identity: (N,) int64.
        emotion: (N,) the intended emotion, "" for none.
        target_note: which face the target is (``kind``; ``sha256`` if known).
    """

    expression_names: tuple[str, ...]
    source: Pixels
    landmarks: Floats
    target: Pixels
    target_landmarks: Floats
    expression: Floats
    identity: NDArray[np.int64]
    emotion: NDArray[np.str_]
    target_note: dict[str, Any]

    def __len__(self) -> int:
        return len(self.expression)

    def digest(self) -> str:
        """Return the sha256 of the renders' labels, which identifies the set."""
        parts = (self.expression, self.identity, self.landmarks, self.target_landmarks)
        known = (np.ascontiguousarray(part).tobytes() for part in parts)
        return hashlib.sha256(b"".join(known)).hexdigest()

    @property
    def inter_ocular(self) -> float:
        """Return the distance between the target's eye centres, in target pixels."""
        resting = np.median(self.target_landmarks, 0)
        return float(np.linalg.norm(resting[36:42].mean(0) - resting[42:48].mean(0)))


def load_renders(
    folders: Sequence[Path],
    split: str | None = "test",
    limit: int | None = None,
    sources: bool = True,
) -> Renders:
    """Decode synthesized pairs that have a target picture.

    Args:
        folders: outputs of ``normpipe synthesize``.
        split: ``train``, ``validation`` or ``test``; None takes all rows (crossed sets).
        limit: maximum number; the first ones are taken.
        sources: whether to load the source pictures, not only the targets.

    Raises:
        InputError: no synthesized shards, or sets that do not match.
        NoPairs: the sets have no pairs of that split with targets.
    """
    rows: list[dict[str, Any]] = []
    names: tuple[str, ...] = ()
    note: dict[str, Any] | None = None
    chosen: Any = [("status", "=", "ok")] + ([("split", "=", split)] if split else [])
    columns = ["target", "landmarks68", "target_landmarks68", "expression", "identity", "emotion"]
    for shard in synthesized_shards(folders):
        here, shown = expression_names(shard), target_of(shard)
        names, note = names or here, note or shown
        if here != names or (shown and note and not same_target(shown, note)):
            raise InputError(f"{shard} has other expression shapes or another target than the rest")
        table = pq.read_table(shard, columns=[*columns, *["image"] * sources], filters=chosen)
        rows += [_decoded(row) for row in table.to_pylist() if row["target"] is not None]
        if limit is not None and len(rows) >= limit:
            break
    rows = rows[:limit]
    if not rows:
        where = ", ".join(map(str, folders))
        raise NoPairs(f"no {split or ''} pairs with target pictures in {where}")
    return Renders(
        expression_names=names,
        source=np.stack([row["image"] for row in rows])
        if sources
        else np.zeros((0, 1, 1, 3), np.uint8),
        landmarks=np.array([row["landmarks68"] for row in rows], np.float32),
        target=np.stack([row["target"] for row in rows]),
        target_landmarks=np.array([row["target_landmarks68"] for row in rows], np.float32),
        expression=np.array([row["expression"] for row in rows], np.float32),
        identity=np.array([row["identity"] for row in rows], np.int64),
        emotion=np.array([row["emotion"] or "" for row in rows]),
        target_note=note or MEAN_TARGET,
    )


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    """Decode now, so that a set is never in memory both encoded and decoded."""
    return row | {
        name: _decode(row[name]["bytes"]) for name in ("image", "target") if row.get(name)
    }


def _decode(encoded: bytes) -> Pixels:
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError("a synthesized picture cannot be decoded: run normpipe verify on the set")
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def degraded(renders: Renders, seed: int = 0) -> Pixels:
    """Return (N, S, S, 3) uint8 RGB: each source degraded once by ``seed``, never mirrored."""
    result = np.empty_like(renders.source)
    for row, (picture, points) in enumerate(zip(renders.source, renders.landmarks, strict=True)):
        rng = np.random.default_rng([seed, 43, row])
        # A mirrored source would need a mirrored target, and its light comes from one side.
        result[row] = degrade(picture, points, rng, mirror=0.0).picture
    return result


@torch.inference_mode()
def normalize_all(normalize: Normalize, pictures: Pixels, batch: int = 32) -> Pixels:
    """Run pictures through a normalizer and through the codec of the normalize stage.

    Args:
        normalize: the normalizer.
        pictures: (N, H, W, 3) uint8 RGB or (N, H, W) uint8 grey.
        batch: batch size.

    Returns:
        (N, S, S, 3) uint8 RGB.

    Raises:
        InputError: the normalizer made a picture that is not finite.
    """
    made: list[Pixels] = []
    for start in range(0, len(pictures), batch):
        faces = normalize(as_images(pictures[start : start + batch])).float().cpu()
        if not torch.isfinite(faces).all():
            raise InputError("the normalizer made pictures that are not finite: train it again")
        pixels = (faces.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        made.append(through_codec(pixels))
    return np.concatenate(made)


def through_codec(pictures: Pixels, kind: Literal["jpeg", "png"] = "jpeg") -> Pixels:
    """Encode and decode (N, S, S, 3) uint8 RGB as the normalize stage and its readers do."""
    return np.stack([_decode(encode(picture, kind, QUALITY)) for picture in pictures])
