"""Scores of a network's readings, compared with the average face."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import r2_score

from ....manifests.arrays import Floats, Pixels
from ...networks.base import NormalizerNetwork
from ...synthesis.drawing.degrade import degrade
from ...synthesis.scene.expressions import RENDERED_UNITS, action_units, stems
from ..pictures import PairCache, mirrored
from .batches import planes, unit_rgb
from .pair_statistics import REGIONS, displacement_basis


def degraded_set(pairs: PairCache, seed: int) -> tuple[Pixels, Floats]:
    """Degrade every picture once, with fixed seeds.

    Returns:
        (N, C, S, S) uint8 and the (N, E) coefficients, mirrored where the picture was.
    """
    mirror = mirrored(pairs.expression_names)
    expression = pairs.expression.copy()
    pictures: list[Pixels] = []
    for row in range(len(pairs)):
        rng = np.random.default_rng([seed, 13, row])
        done = degrade(pairs.source[row], pairs.landmarks[row], rng)
        pictures.append(done.picture)
        if done.flipped:
            expression[row] = expression[row][mirror]
    return planes(pictures), expression


@torch.inference_mode()
def read_coefficients(network: NormalizerNetwork, images: Pixels, batch_size: int = 64) -> Floats:
    """Read (N, C, S, S) uint8 → (N, E) coefficients, before clamping and calibration."""
    device = next(network.parameters()).device
    readings: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        part = torch.from_numpy(images[start : start + batch_size]).to(device)
        readings.append(network.raw_coefficients(unit_rgb(part)).float().cpu())
    return torch.cat(readings).numpy()


def r2_by_column(prediction: Floats, truth: Floats) -> Floats:
    """Return R² by column, (N, C) → (C,) float32; NaN where the truth does not vary."""
    scores = r2_score(
        torch.from_numpy(prediction).double(),
        torch.from_numpy(truth).double(),
        multioutput="raw_values",
    ).numpy()
    return np.where(truth.std(0) > 1e-6, scores, np.nan).astype(np.float32)


def score_readings(
    names: Sequence[str], prediction: Floats, truth: Floats, average: Floats
) -> dict[str, dict[str, float]]:
    """Return R² by shape and by action unit, of the readings and of the average face.

    Args:
        names: of the E shapes.
        prediction: (N, E) coefficients read.
        truth: (N, E) coefficients rendered.
        average: (E,) mean coefficients of the training pairs: the average face.
    """
    constant = np.broadcast_to(average, truth.shape)
    result: dict[str, dict[str, float]] = {"shapes": {}, "action_units": {}, "average_face": {}}
    for stem in stems(names):
        sides = [
            i for i, name in enumerate(names) if name.removesuffix("_L").removesuffix("_R") == stem
        ]
        if truth[:, sides].std() > 1e-6:
            score = r2_by_column(
                prediction[:, sides].reshape(-1, 1), truth[:, sides].reshape(-1, 1)
            )
            result["shapes"][stem] = _number(score[0])
    units = _units(names, prediction), _units(names, truth), _units(names, constant)
    for place, unit in enumerate(RENDERED_UNITS):
        if units[1][:, place].std() > 1e-6:
            column = slice(place, place + 1)
            result["action_units"][unit] = _number(
                r2_by_column(units[0][:, column], units[1][:, column])[0]
            )
            result["average_face"][unit] = _number(
                r2_by_column(units[2][:, column], units[1][:, column])[0]
            )
    result["mean"] = {
        "shapes": float(np.mean(list(result["shapes"].values()))),
        "action_units": float(np.mean(list(result["action_units"].values()))),
        "average_face": float(np.mean(list(result["average_face"].values()))),
    }
    return result


def landmark_error_by_region(
    pairs: PairCache, prediction: Floats, truth: Floats
) -> dict[str, float]:
    """Return the error of the target's landmarks by region, in % of the inter-ocular distance.

    ``prediction`` and ``truth``: (N, E) coefficients.
    """
    basis = displacement_basis(pairs).reshape(68, 2, -1)
    resting = pairs.target_landmarks.mean(0)
    eye_distance = float(np.linalg.norm(resting[36:42].mean(0) - resting[42:48].mean(0)))
    result: dict[str, float] = {}
    for region, points in REGIONS.items():
        moved = np.einsum("pce,ne->npc", basis[points], prediction - truth)
        result[region] = _number(100 * float(np.linalg.norm(moved, axis=2).mean()) / eye_distance)
    return result


def _units(names: Sequence[str], coefficients: Floats) -> Floats:
    rows = [list(action_units(names, row).values()) for row in coefficients.clip(0, 1)]
    return np.array(rows, np.float32)


def _number(value: float) -> float:
    return round(float(value), 4)
