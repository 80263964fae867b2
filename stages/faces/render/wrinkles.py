"""Furrows that an expression folds into skin, as a relief on the atlas.

Where they lie follows the anatomy of the action units: frontalis (1, 2) crosses the forehead,
corrugator (4) stands between the brows, orbicularis (6) fans out from the eye corners, nasalis (9)
crosses the bridge of the nose, the smile (12) and the raised lip (9, 10) deepen the fold from nose
to mouth, frowning lips (15) go on below it, mentalis (17) dimples the chin.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import spline, stroke
from .head import Head
from .person import Person, generator

FloatArray = NDArray[np.floating]

_DEEPEST = 0.09  # head units (about cm)
_KINDS = ("forehead", "glabella", "crow", "bridge", "fold", "marionette", "chin", "bag")


def wrinkle_relief(head: Head, person: Person, coefficients: FloatArray) -> FloatArray:
    """Relief (H, W) float32 in head units, furrows negative, of an expression (E,)."""
    atlas = head.atlas
    rng = generator(7, person.seed)
    depth = atlas.blank()
    for side in (-1, 1):
        strength = _strengths(head, coefficients, side)
        for order, kind in enumerate(_KINDS):
            moved = strength[kind] * person.wrinkles
            level = max(float(person.resting_wrinkles[order]) * 0.6, 0.0) + moved
            for line, share in _lines(kind, side, rng):
                value = int(np.clip(level * share, 0, 1) * 255)
                if value > 8:
                    curve = spline(atlas.at(line[:, 0], line[:, 1]), 16)
                    _tapered(depth, curve, value)
    soft = atlas.blur(depth.astype(np.float32) / 255, 0.07)
    wide = atlas.blur(depth.astype(np.float32) / 255, 0.22)
    return -_DEEPEST * (1.1 * soft + 1.2 * wide)


def _tapered(mask: NDArray[np.uint8], curve: FloatArray, value: int) -> None:
    layer = mask.copy()
    stroke(layer, curve, value // 2)
    stroke(layer, curve[3:-3], value, 2)
    cv2.max(mask, layer, mask)


def _strengths(head: Head, coefficients: FloatArray, side: int) -> dict[str, float]:
    """How hard each group of furrows is pulled on one side (1 is the person's left)."""
    suffix = "_L" if side > 0 else "_R"
    names = head.kit.expression_names

    def value(stem: str) -> float:
        for name in (stem + suffix, stem):
            if name in names:
                return float(coefficients[names.index(name)])
        return 0.0

    return {
        "forehead": max(value("browInnerUp"), value("browOuterUp")),
        "glabella": value("browDown"),
        "crow": max(value("cheekSquint"), 0.5 * value("mouthSmile"), 0.5 * value("eyeSquint")),
        "bridge": value("noseSneer"),
        "fold": max(value("mouthSmile"), value("noseSneer"), 0.7 * value("mouthUpperUp")),
        "marionette": max(value("mouthFrown"), 0.4 * value("mouthStretch")),
        "chin": value("mouthShrugLower"),
        "bag": max(value("cheekSquint"), 0.6 * value("eyeSquint"), 0.4 * value("noseSneer")),
    }


def _lines(kind: str, side: int, rng: np.random.Generator) -> list[tuple[FloatArray, float]]:
    """Furrows as (K, 2) points (degrees, height) with their share of the full depth.

    Always draws the same number of random values, so that a person's furrows stay where they are.
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
