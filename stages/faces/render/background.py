"""What stands behind a head: blurred rooms, walls, crowds, none of them anything in particular."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import noise

FloatArray = NDArray[np.floating]


def paint_background(rng: np.random.Generator, kind: str, size: int) -> FloatArray:
    """(size, size, 3) float32 display RGB in [0, 1]."""
    if kind == "grey":
        return np.full((size, size, 3), 0.5, np.float32)
    base = _colour(rng)
    if kind == "plain":
        picture = np.broadcast_to(base, (size, size, 3)).copy()
    elif kind == "gradient":
        ramp = np.linspace(0, 1, size, dtype=np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        t = (np.cos(angle) * ramp[None] + np.sin(angle) * ramp[:, None])[..., None]
        picture = base + (_colour(rng) - base) * t.clip(0, 1)
    elif kind == "blobs":
        cells = int(rng.integers(3, 10))
        coarse = np.stack([noise(rng, (size, size), (cells, cells)) for _ in range(2)], -1)
        picture = (
            base + 0.5 * coarse[..., :1] * (_colour(rng) - base + 0.2) + 0.25 * coarse[..., 1:]
        )
    else:
        picture = _boxes(rng, base, size)
    grain = rng.uniform(0, 0.04) * noise(rng, (size, size), (size // 3, size // 3))
    return (picture + grain[..., None]).clip(0, 1).astype(np.float32)


def _boxes(rng: np.random.Generator, base: FloatArray, size: int) -> FloatArray:
    """Rectangles and lines out of focus: windows, shelves, people."""
    picture = np.broadcast_to(base, (size, size, 3)).copy()
    for _ in range(int(rng.integers(3, 14))):
        colour = [float(c) for c in _colour(rng)]
        x, y = (int(v) for v in rng.integers(-size // 4, size, 2))
        wide, high = (int(v) for v in rng.integers(size // 16, size * 3 // 4, 2))
        if rng.random() < 0.6:
            cv2.rectangle(picture, (x, y), (x + wide, y + high), colour, -1)
        else:
            axes = (max(wide // 2, 1), max(high // 2, 1))
            cv2.ellipse(picture, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 6) * size / 128).astype(np.float32)


def _colour(rng: np.random.Generator) -> FloatArray:
    """Mostly muted."""
    level = rng.beta(1.1, 1.2)
    tint = rng.standard_normal(3) * rng.choice([0.02, 0.06, 0.2], p=[0.4, 0.4, 0.2])
    return np.asarray(level + tint, np.float32).clip(0, 1)
