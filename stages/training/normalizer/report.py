"""Scores and picture sheets of a network, compared with the average face; its target face."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from ....manifests.arrays import Floats, Pixels
from ...networks.base import CodeNormalizer, NormalizerNetwork, is_separable
from ..pictures import PairCache
from .batches import planes, unit_rgb
from .scores import degraded_set, landmark_error_by_region, read_coefficients, score_readings

if TYPE_CHECKING:
    from ..real_faces import FaceCache

_SHEET_COLUMNS = 12
_SCORED_PICTURES = 128
_BATCH = 32


def evaluate_network(
    network: NormalizerNetwork, pairs: PairCache, train: PairCache, seed: int
) -> dict[str, Any]:
    """Return scores on held-out pairs, clean and degraded."""
    names, average = pairs.expression_names, train.expression.mean(0)
    scores: dict[str, Any] = {"pairs": len(pairs), "identities": len(np.unique(pairs.identity))}
    clean = planes([pairs.source[row] for row in range(len(pairs))])
    degraded, moved = degraded_set(pairs, seed)
    for kind, images, truth in (
        ("clean", clean, pairs.expression),
        ("degraded", degraded, moved),
    ):
        reading = read_coefficients(network, images)
        scores[kind] = score_readings(names, reading, truth, average)
        if len(train.target_of) > len(names):
            constant = np.broadcast_to(average, truth.shape)
            scores[kind]["landmarks_percent"] = landmark_error_by_region(
                train, reading.clip(0, 1), truth
            )
            scores[kind]["average_face_landmarks_percent"] = landmark_error_by_region(
                train, constant, truth
            )
    if len(pairs.target_of):
        scores["pictures"] = _picture_scores(network, pairs, average)
    return scores


def _picture_scores(
    network: NormalizerNetwork, pairs: PairCache, average: Floats
) -> dict[str, float]:
    """Return the mean absolute pixel error in 1/255 where the target changes, by kind of input."""
    rows = np.arange(min(_SCORED_PICTURES, len(pairs.target_of)))
    target = pairs.targets(rows).astype(np.float32)
    change = target.std(0).mean(-1)
    region = change > np.quantile(change, 0.8)
    sources = [pairs.source[int(row)] for row in pairs.target_of[rows]]
    drawn = {"normalized": normalize(network, sources)}
    if is_separable(network):
        code = pairs.expression[pairs.target_of[rows]]
        drawn["exact_code"] = _decode(network, code)
        drawn["average_face"] = _decode(network, np.broadcast_to(average, code.shape).copy())
    return {
        kind: round(float(np.abs(faces.astype(np.float32) - target)[:, region].mean()), 3)
        for kind, faces in drawn.items()
    }


@torch.inference_mode()
def normalize(network: NormalizerNetwork, pictures: Sequence[Pixels]) -> Pixels:
    """Normalize N pictures, (S, S) or (S, S, 3) uint8 → (N, T, T, 3) uint8 RGB."""
    device = next(network.parameters()).device
    made: list[Pixels] = []
    for start in range(0, len(pictures), _BATCH):
        images = torch.from_numpy(planes(list(pictures[start : start + _BATCH]))).to(device)
        made.append(_pixels(network(unit_rgb(images))))
    return np.concatenate(made)


@torch.inference_mode()
def _decode(network: CodeNormalizer, code: Floats) -> Pixels:
    device = next(network.parameters()).device
    return _pixels(network.draw(torch.from_numpy(code).to(device)))


def sheet_of_renders(network: NormalizerNetwork, pairs: PairCache) -> Pixels:
    """Return (H, W, 3) uint8 RGB in blocks of three rows: source, normalized, target."""
    count = min(2 * _SHEET_COLUMNS, len(pairs.target_of))
    rows = np.linspace(0, len(pairs.target_of) - 1, count).astype(int)
    sources = [pairs.source[int(row)] for row in pairs.target_of[rows]]
    return _sheet([sources, normalize(network, sources), pairs.targets(rows)])


def sheet_of_faces(network: NormalizerNetwork, faces: FaceCache) -> Pixels:
    """Return (H, W, 3) uint8 RGB in blocks of two rows: real faces, normalized."""
    rows = np.linspace(0, len(faces) - 1, min(2 * _SHEET_COLUMNS, len(faces))).astype(int)
    sources = [faces.pictures[int(row)] for row in rows]
    return _sheet([sources, normalize(network, sources)])


def write_sheet(pixels_rgb_u8: Pixels, path: str) -> None:
    """Write (H, W, 3) RGB in the format of the suffix."""
    cv2.imwrite(path, np.ascontiguousarray(pixels_rgb_u8[..., ::-1]))


def target_notes(pairs: PairCache, output: Path) -> dict[str, Any]:
    """Return the note on the target face of the pairs, and write the face to ``target.png``.

    ``kind`` and all else that the shards record; ``sha256`` of the resting face, as recorded or
    else of the picture written here (its RGB values, row by row).
    """
    note = dict(pairs.target_note)
    if len(pairs.target_of):
        resting = pairs.resting()
        write_sheet(resting, str(output / "target.png"))
        note.setdefault("sha256", hashlib.sha256(resting.tobytes()).hexdigest())
    return note


def _sheet(lines: Sequence[Sequence[Pixels] | Pixels]) -> Pixels:
    """Arrange lines of pictures in blocks; all get the size of those in the last line."""
    size = len(lines[-1][0])
    blocks: list[Pixels] = []
    for start in range(0, len(lines[0]), _SHEET_COLUMNS):
        rows = [
            np.hstack([_tile(picture, size) for picture in line[start : start + _SHEET_COLUMNS]])
            for line in lines
        ]
        block = np.vstack(rows)
        wide = min(len(lines[0]), _SHEET_COLUMNS) * size
        blocks.append(np.pad(block, ((0, 0), (0, wide - block.shape[1]), (0, 0))))
    return np.vstack(blocks)


def _tile(picture: Pixels, size: int) -> Pixels:
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    return np.asarray(cv2.resize(colour, (size, size)), np.uint8)


def _pixels(faces: torch.Tensor) -> Pixels:
    """(B, 3, S, S) → (B, S, S, 3) uint8."""
    shown = (faces.float().clamp(0, 1) * 255).round().byte()
    return shown.permute(0, 2, 3, 1).cpu().numpy()
