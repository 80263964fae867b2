"""Scores and picture sheets of a network, beside those of the average face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..networks.compact import CompactNormalizer
from .pictures import PairCache
from .scores import degraded_set, landmark_scores, read_all, score_readings

FloatArray = NDArray[np.floating]
ByteArray = NDArray[np.uint8]

_SHEET_COLUMNS = 12


def evaluate_network(
    network: CompactNormalizer, pairs: PairCache, train: PairCache, seed: int, sheet: Path
) -> dict[str, Any]:
    """Scores on held-out pairs, clean and degraded, and a sheet (source | normalized | exact)."""
    names, average = pairs.expression_names, train.expression.mean(0)
    scores: dict[str, Any] = {"pairs": len(pairs), "identities": len(np.unique(pairs.identity))}
    degraded, moved = degraded_set(pairs, seed)
    for kind, grey, truth in (
        ("clean", pairs.grey, pairs.expression),
        ("degraded", degraded, moved),
    ):
        reading = read_all(network, grey)
        scores[kind] = score_readings(names, reading, truth, average)
        if len(train.target_of) > len(names):
            constant = np.broadcast_to(average, truth.shape)
            scores[kind]["landmarks_percent"] = landmark_scores(train, reading.clip(0, 1), truth)
            scores[kind]["average_face_landmarks_percent"] = landmark_scores(train, constant, truth)
    if len(pairs.target_of):
        scores["pictures"] = _picture_scores(network, pairs, average)
        draw_sheet(network, pairs, sheet)
    return scores


@torch.inference_mode()
def _picture_scores(
    network: CompactNormalizer, pairs: PairCache, average: FloatArray
) -> dict[str, float]:
    """Mean absolute error of pixels in 1/255 where the target changes, by what is decoded."""
    rows = np.arange(min(128, len(pairs.target_of)))
    target = pairs.target[rows].astype(np.float32)
    change = target.std(0).mean(-1)
    region = change > np.quantile(change, 0.8)
    code = pairs.expression[pairs.target_of[rows]]
    picture = (
        torch.from_numpy(pairs.grey[pairs.target_of[rows]]).float()[:, None].expand(-1, 3, -1, -1)
        / 255
    )
    device = network.gain.device
    drawn = {
        "normalized": network(picture.to(device)),
        "exact_code": network.decoder(torch.from_numpy(code).to(device)).clamp(0, 1),
        "average_face": network.decoder(
            torch.from_numpy(np.broadcast_to(average, code.shape).copy()).to(device)
        ),
    }
    return {
        kind: round(float(np.abs(_pixels(faces) - target)[:, region].mean()), 3)
        for kind, faces in drawn.items()
    }


@torch.inference_mode()
def draw_sheet(network: CompactNormalizer, pairs: PairCache, path: Path) -> None:
    """Three rows a block: source, what the network makes of it, the exact target."""
    count = min(2 * _SHEET_COLUMNS, len(pairs.target_of))
    rows = np.linspace(0, len(pairs.target_of) - 1, count).astype(int)
    grey = pairs.grey[pairs.target_of[rows]]
    device = network.gain.device
    picture = torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1).to(device) / 255
    made = _pixels(network(picture))
    size = made.shape[1]
    blocks = []
    for start in range(0, count, _SHEET_COLUMNS):
        part = range(start, min(start + _SHEET_COLUMNS, count))
        sources = [cv2.resize(np.repeat(grey[i, :, :, None], 3, 2), (size, size)) for i in part]
        lines = [sources, [made[i] for i in part], [pairs.target[rows[i]] for i in part]]
        block = np.vstack(
            [np.hstack([np.asarray(face, np.uint8) for face in line]) for line in lines]
        )
        blocks.append(np.pad(block, ((0, 0), (0, _SHEET_COLUMNS * size - block.shape[1]), (0, 0))))
    cv2.imwrite(str(path), np.ascontiguousarray(np.vstack(blocks)[..., ::-1]))


def _pixels(faces: torch.Tensor) -> FloatArray:
    """(B, 3, S, S) in [0, 1] → (B, S, S, 3) float32 in [0, 255]."""
    return (faces.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.float32)
