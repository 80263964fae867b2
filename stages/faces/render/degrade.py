"""What cameras, newspapers and detectors do to a face, so that photographs hold no surprises."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Degraded:
    """A degraded picture and where its points went.

    Attributes:
        grey: (S, S) uint8.
        points: (N, 2) float32 pixels.
        flipped: whether left and right were exchanged.
    """

    grey: ByteArray
    points: FloatArray
    flipped: bool


def degrade(grey: ByteArray, points: FloatArray, rng: np.random.Generator) -> Degraded:
    """Flip, shift, blur, relight, compress and cover a (S, S) uint8 grey picture, each by chance."""
    size = len(grey)
    matrix, flipped = _placement(rng, size)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.6 else cv2.BORDER_REPLICATE
    picture = cv2.warpAffine(grey, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    # Pixel centres are at +0.5 for points and at integers for OpenCV.
    moved = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    picture = _resample(picture, rng)
    picture = _expose(picture, rng)
    if rng.random() < 0.3:
        picture = _frame_edge(picture, rng)
    if rng.random() < 0.25:
        picture = _cover(picture, rng)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 96))]
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_GRAYSCALE)
    return Degraded(np.ascontiguousarray(picture, np.uint8), moved.astype(np.float32), flipped)


def _placement(rng: np.random.Generator, size: int) -> tuple[FloatArray, bool]:
    """A slight similarity transform about the middle, and a mirror every other time."""
    angle = np.deg2rad(4.0 * rng.standard_normal())
    scale = np.exp(0.05 * rng.standard_normal())
    shift = 0.02 * size * rng.standard_normal(2)
    flipped = bool(rng.random() < 0.5)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flipped:
        turn = turn @ np.diag([-1.0, 1.0])
    middle = np.full(2, (size - 1) / 2)
    return np.column_stack([turn, middle + shift - turn @ middle]).astype(np.float32), flipped


def _resample(picture: ByteArray, rng: np.random.Generator) -> ByteArray:
    size = len(picture)
    if rng.random() < 0.5:
        small = int(rng.integers(size // 4, size * 3 // 4 + 1))
        picture = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        upward = cv2.INTER_LINEAR if rng.random() < 0.6 else cv2.INTER_CUBIC
        picture = cv2.resize(picture, (size, size), interpolation=upward)
    elif rng.random() < 0.35:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.6) * size / 128)
    if rng.random() < 0.15:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2 * size / 128)
        amount = rng.uniform(0.3, 1.2)
        picture = cv2.addWeighted(picture, 1 + amount, soft, -amount, 0)
    return picture.astype(np.uint8)


def _expose(picture: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Gamma, contrast, brightness, a gradient of light, noise."""
    table = np.linspace(0, 1, 256, dtype=np.float32) ** np.exp(0.28 * rng.standard_normal())
    table = 0.5 + (table - 0.5) * np.exp(0.22 * rng.standard_normal()) + 0.05 * rng.standard_normal()
    result = cv2.LUT(picture, (255 * table).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        ramp = np.linspace(-1, 1, len(picture), dtype=np.float32)
        slope = 0.25 * rng.standard_normal(2)
        result = result * np.clip(1 + slope[0] * ramp[None] + slope[1] * ramp[:, None], 0.2, 2)
    if rng.random() < 0.5:
        spread = rng.uniform(1, 14)
        result = result + spread * rng.standard_normal(picture.shape, np.float32)
    return np.clip(result, 0, 255).astype(np.uint8)


def _frame_edge(picture: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Black where the photograph ended: aligned crops of tight pictures have such wedges."""
    size = len(picture)
    angle = rng.normal(0, 12)
    middle = (size / 2 + rng.normal(0, 0.06) * size, size / 2 + rng.normal(0, 0.06) * size)
    extent = (size * rng.uniform(0.86, 1.25), size * rng.uniform(0.86, 1.25))
    corners = cv2.boxPoints((middle, extent, angle)).astype(np.int32)
    inside = np.zeros_like(picture)
    cv2.fillConvexPoly(inside, corners, 255)
    return np.where(inside > 0, picture, 0).astype(np.uint8)


def _cover(picture: ByteArray, rng: np.random.Generator) -> ByteArray:
    """A patch over part of the face."""
    size = len(picture)
    wide, high = (int(v) for v in rng.integers(size // 10, size * 2 // 5, 2))
    x, y = (int(v) for v in rng.integers(-size // 10, size, 2))
    result = picture.copy()
    cv2.rectangle(result, (x, y), (x + wide, y + high), int(rng.integers(0, 256)), -1)
    return result
