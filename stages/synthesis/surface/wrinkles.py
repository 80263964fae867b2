"""Furrows of expressions, as a relief on the atlas.

They follow the anatomy of the action units: frontalis (1, 2) across the forehead, corrugator (4)
between the brows, orbicularis (6) in a fan from the eye corners, nasalis (9) across the bridge of
the nose; the smile (12) and the raised lip (9, 10) deepen the fold from nose to mouth, frowning
lips (15) continue it downwards, mentalis (17) dimples the chin.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....manifests.arrays import Floats
from ..scene.person import Person, generator
from .atlas import Atlas, smoothstep, spline, stroke
from .head import Head

_DEEPEST = 0.09  # head units (about cm)
_BOTH_SIDES = 1.0  # degrees around the middle that belong to both sides
#: Groups of furrows, in the order of every array about them.
FURROWS = ("forehead", "glabella", "crow", "bridge", "fold", "marionette", "chin", "bag")


def furrow_window(atlas: Atlas) -> tuple[slice, slice]:
    """Return the rows and columns of the atlas that contain all furrows."""
    return atlas.window(47.0, -7.6, 10.6)


def wrinkle_layers(head: Head, person: Person) -> Floats:
    """Return (K, h, w) float32 head units: every group of furrows, fully folded on both sides.

    Groups are in the order of ``FURROWS``, on the ``furrow_window`` of the atlas; furrows are
    negative.
    """
    atlas = head.atlas
    rng = generator(7, person.seed)
    window = furrow_window(atlas)
    corner = np.array([window[1].start, window[0].start], np.float32)
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    masks = np.zeros((len(FURROWS), *shape), np.uint8)
    for side in (-1, 1):
        for mask, kind in zip(masks, FURROWS, strict=True):
            for line, share in _lines(kind, side, rng):
                curve = spline(atlas.at(line[:, 0], line[:, 1]) - corner, 16)
                _tapered(mask, curve, int(share * 255))
    layers = np.zeros(masks.shape, np.float32)
    for mask, layer in zip(masks, layers, strict=True):
        # Blur only the part with lines.
        lines = atlas.cut(mask, 1.0)
        deep, wide = atlas.blur(lines.mask, 0.07), atlas.blur(lines.mask, 0.22)
        layer[lines.window] = -_DEEPEST * (1.1 * deep + 1.2 * wide)
    return layers


def wrinkle_strengths(head: Head, person: Person, coefficients: Floats) -> Floats:
    """Return (K, 2) float32 in [0, 1]: depth of each group in an expression (E,), right, left."""
    rest = 0.6 * person.resting_wrinkles.clip(0)
    amounts = dict(zip(head.kit.expression_names, coefficients.tolist(), strict=True))
    sides = [
        rest + person.wrinkles * np.array(_pulled(amounts, side), np.float32)
        for side in ("_R", "_L")
    ]
    return np.stack(sides, 1).clip(0, 1).astype(np.float32)


def left_share(atlas: Atlas) -> Floats:
    """Return (w,) float32 for each column of the ``furrow_window``: 0 right, 1 left, or between."""
    degrees = atlas.degrees[0, furrow_window(atlas)[1]]
    return smoothstep(-_BOTH_SIDES, _BOTH_SIDES, degrees)


def wrinkle_relief(layers: Sequence[Tensor], strengths: Floats, left: Tensor) -> Tensor:
    """Blend every picture's layers: (B, h, w) head units on the ``furrow_window``.

    ``layers``: (K, h, w) of every picture's person. ``strengths``: (B, K, 2). ``left``: (w,), the
    share of the left side in every column.
    """
    sides = torch.from_numpy(strengths).to(left.device)
    weights = sides[..., :1] + (sides[..., 1:] - sides[..., :1]) * left  # (B, K, w)
    relief = torch.zeros(len(layers), *layers[0].shape[1:], device=left.device)
    for group in np.flatnonzero(strengths.any((0, 2))).tolist():
        layer = torch.stack([own[group] for own in layers])
        relief.addcmul_(layer, weights[:, group, None])
    return relief


def relief_slopes(relief: Tensor, scale: tuple[float, float]) -> Tensor:
    """Return (B, h, w, 4) for reliefs (B, h, w): slopes right and up, two zeros; 0 at the border.

    ``scale``: the atlas's ``slope_scale``. The same operator as ``paint.slopes``.
    """
    slopes = relief.new_zeros(*relief.shape, 4)
    across, up = scale
    tall = relief[:, :-2] + 2 * relief[:, 1:-1] + relief[:, 2:]
    flat = relief[:, :, :-2] + 2 * relief[:, :, 1:-1] + relief[:, :, 2:]
    slopes[:, 1:-1, 1:-1, 0] = (tall[:, :, 2:] - tall[:, :, :-2]) * across
    slopes[:, 1:-1, 1:-1, 1] = (flat[:, :-2] - flat[:, 2:]) * up
    return slopes


def _tapered(mask: NDArray[np.uint8], curve: Floats, value: int) -> None:
    layer = mask.copy()
    stroke(layer, curve, value // 2)
    stroke(layer, curve[3:-3], value, 2)
    cv2.max(mask, layer, mask)


def _pulled(amounts: dict[str, float], side: str) -> list[float]:
    """Return how strongly each group of furrows is pulled on one side: _R or _L."""

    def value(stem: str) -> float:
        return amounts.get(stem + side, amounts.get(stem, 0.0))

    pulled = {
        "forehead": max(value("browInnerUp"), value("browOuterUp")),
        "glabella": value("browDown"),
        "crow": max(value("cheekSquint"), 0.5 * value("mouthSmile"), 0.5 * value("eyeSquint")),
        "bridge": value("noseSneer"),
        "fold": max(value("mouthSmile"), value("noseSneer"), 0.7 * value("mouthUpperUp")),
        "marionette": max(value("mouthFrown"), 0.4 * value("mouthStretch")),
        "chin": value("mouthShrugLower"),
        "bag": max(value("cheekSquint"), 0.6 * value("eyeSquint"), 0.4 * value("noseSneer")),
    }
    return [pulled[kind] for kind in FURROWS]


def _lines(kind: str, side: int, rng: np.random.Generator) -> list[tuple[Floats, float]]:
    """Return furrows as (K, 2) points (degrees, height) with their share of the full depth.

    Always takes the same number of random values, so that a person's furrows stay in place.
    """
    wobble = rng.standard_normal(8).astype(np.float32)
    found: list[tuple[list[tuple[float, float]], float]] = []
    if kind == "forehead":
        for i in range(3):
            y = 7.4 + 0.85 * i + 0.12 * float(wobble[i])
            dip = 0.2 * float(wobble[3])
            found.append(
                ([(-0.5, y), (8, y + 0.1 + dip), (18, y + 0.25), (27, y - 0.25 + dip)], 0.9)
            )
    elif kind == "glabella":
        x = 3.6 + 0.5 * float(wobble[0])
        found.append(([(x, 4.7), (x - 0.3, 5.5), (x + 0.6, 6.3)], 1.0))
        found.append(([(x - 2.2, 4.9), (x - 2.4, 6.0)], 0.75))
    elif kind == "crow":
        for i in range(3):
            rise = 0.9 - 0.85 * i + 0.1 * float(wobble[i])
            found.append(
                ([(29, 3.4 + 0.15 * (1 - i)), (34, 3.4 + 0.7 * rise), (40, 3.3 + 1.2 * rise)], 0.8)
            )
    elif kind == "bridge":
        for i in range(2):
            y = 3.9 - 0.6 * i + 0.1 * float(wobble[i])
            found.append(([(-0.5, y), (3.5, y - 0.1), (6.5, y - 0.5)], 0.8))
    elif kind == "fold":
        out = 1.2 * float(wobble[0])
        found.append(([(7.6, 0.4), (11.5, -0.6), (15.5 + out, -1.9), (17.5 + out, -3.4)], 1.0))
    elif kind == "marionette":
        found.append(([(15.0, -3.8), (16.5, -4.6), (16.0, -5.6)], 0.9))
    elif kind == "chin":
        found.append(([(-0.5, -5.2), (4.5, -5.35), (8.5, -5.9)], 0.9))
        found.append(([(2.0, -6.1 + 0.1 * float(wobble[0])), (3.5, -6.5)], 0.5))
    else:
        found.append(([(10.5, 2.7), (17, 2.15), (25, 2.35), (29, 2.9)], 0.8))
    return [
        (np.array(line, np.float32) * np.array([side, 1], np.float32), share)
        for line, share in found
    ]
