"""Degrades pictures as cameras, print and detectors do, to train for real photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ....manifests.arrays import Floats, Pixels


@dataclass(frozen=True)
class Degraded:
    """A degraded picture and its moved points.

    Attributes:
        picture: (S, S) or (S, S, 3) uint8, like the original.
        points: (N, 2) float32 pixels.
        flipped: whether left and right are swapped.
    """

    picture: Pixels
    points: Floats
    flipped: bool


def simulate_camera(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Simulate a poor camera on (S, S, 3) uint8 RGB; nothing moves, so labels stay valid.

    Low resolution, blur, exposure, noise, white balance, lost colour and JPEG, each at random.
    """
    result = _expose(_resample(picture, rng), rng).astype(np.float32)
    grey = (result @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    strength = 0.0 if rng.random() < 0.15 else np.exp(0.25 * rng.standard_normal())
    result = (grey + strength * (result - grey)) * np.exp(0.05 * rng.standard_normal(3))
    done = np.ascontiguousarray(result.clip(0, 255)[..., ::-1].astype(np.uint8))
    if rng.random() < 0.6:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 96))]
        encoded = cv2.imencode(".jpg", done, quality)[1]
        done = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(done[..., ::-1])


def degrade(
    source: Pixels,
    points: Floats,
    rng: np.random.Generator,
    size: int | None = None,
    mirror: float = 0.5,
) -> Degraded:
    """Flip, shift, blur, relight, compress and occlude a picture, each at random.

    Args:
        source: (S, S) grey or (S, S, 3) RGB, uint8.
        points: (N, 2) float32 pixels, moved with the picture.
        rng: random generator.
        size: of the result in pixels; default: unchanged.
        mirror: probability of a flip.
    """
    size = size or len(source)
    matrix, flipped = _placement(rng, len(source), size, mirror)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.6 else cv2.BORDER_REPLICATE
    placed = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    # Pixel centres are at +0.5 for points and at integers for OpenCV.
    moved = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    picture = _resample(np.asarray(placed, np.uint8), rng)
    picture = _expose(picture, rng)
    if rng.random() < 0.5:
        picture = _frame_edge(picture, rng)
    if rng.random() < 0.25:
        picture = _cover(picture, rng)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 96))]
        encoded = cv2.imencode(".jpg", picture, quality)[1]
        picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)
    if picture.ndim == 3:
        picture = _tint(picture, rng)
    return Degraded(np.ascontiguousarray(picture, np.uint8), moved.astype(np.float32), flipped)


def _placement(
    rng: np.random.Generator, before: int, size: int, mirror: float
) -> tuple[Floats, bool]:
    """Return a slight random similarity transform about the centre, and whether it mirrors."""
    angle = np.deg2rad(4.0 * rng.standard_normal())
    scale = np.exp(0.05 * rng.standard_normal())
    shift = 0.02 * before * rng.standard_normal(2)
    flipped = bool(rng.random() < mirror)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flipped:
        turn = turn @ np.diag([-1.0, 1.0])
    middle = np.full(2, before / 2)
    offset = middle + shift - turn @ middle
    shrink = size / before
    # The origin of points is the corner of the first pixel, that of OpenCV its centre.
    centred = shrink * (turn @ np.full(2, 0.5) + offset) - 0.5
    return np.column_stack([shrink * turn, centred]).astype(np.float32), flipped


def _resample(picture: Pixels, rng: np.random.Generator) -> Pixels:
    size = len(picture)
    result: Any = picture
    if rng.random() < 0.5:
        small = int(rng.integers(size // 4, size * 3 // 4 + 1))
        result = cv2.resize(result, (small, small), interpolation=cv2.INTER_AREA)
        upward = cv2.INTER_LINEAR if rng.random() < 0.6 else cv2.INTER_CUBIC
        result = cv2.resize(result, (size, size), interpolation=upward)
    elif rng.random() < 0.35:
        result = cv2.GaussianBlur(result, (0, 0), rng.uniform(0.4, 1.6) * size / 128)
    if rng.random() < 0.15:
        soft = cv2.GaussianBlur(result, (0, 0), 1.2 * size / 128)
        amount = rng.uniform(0.3, 1.2)
        result = cv2.addWeighted(result, 1 + amount, soft, -amount, 0)
    return np.asarray(result).astype(np.uint8)


def _expose(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Change gamma, contrast and brightness; add a gradient of light and noise."""
    table = np.linspace(0, 1, 256, dtype=np.float32) ** np.exp(0.28 * rng.standard_normal())
    table = (
        0.5 + (table - 0.5) * np.exp(0.22 * rng.standard_normal()) + 0.05 * rng.standard_normal()
    )
    result = cv2.LUT(picture, (255 * table).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        ramp = np.linspace(-1, 1, len(picture), dtype=np.float32)
        slope = 0.25 * rng.standard_normal(2)
        light = np.clip(1 + slope[0] * ramp[None] + slope[1] * ramp[:, None], 0.2, 2)
        result = result * (light[..., None] if picture.ndim == 3 else light)
    if rng.random() < 0.5:
        spread = rng.uniform(1, 14)
        result = result + spread * rng.standard_normal(picture.shape, np.float32)
    return np.clip(result, 0, 255).astype(np.uint8)


def _frame_edge(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Black out the outside of a rotated frame, as in aligned crops of tight pictures."""
    size = len(picture)
    angle = rng.normal(0, 12)
    middle = (size / 2 + rng.normal(0, 0.06) * size, size / 2 + rng.normal(0, 0.06) * size)
    extent = (size * rng.uniform(0.7, 1.2), size * rng.uniform(0.74, 1.2))
    corners = cv2.boxPoints((middle, extent, angle)).astype(np.int32)
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, corners, 255)
    shown = (inside > 0)[..., None] if picture.ndim == 3 else inside > 0
    return np.where(shown, picture, 0).astype(np.uint8)


def _cover(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Cover part of the face with a rectangle."""
    size = len(picture)
    wide, high = (int(v) for v in rng.integers(size // 10, size * 2 // 5, 2))
    x, y = (int(v) for v in rng.integers(-size // 10, size, 2))
    result = picture.copy()
    cv2.rectangle(result, (x, y), (x + wide, y + high), _paint(picture, rng), -1)
    return result


def _paint(picture: Pixels, rng: np.random.Generator) -> tuple[int, ...]:
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    return tuple(int(value) for value in rng.integers(0, 256, channels))


def _tint(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Change white balance and saturation; sometimes remove all colour."""
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    strength = 0.0 if rng.random() < 0.15 else np.exp(0.25 * rng.standard_normal())
    result = grey[..., None] + strength * (picture - grey[..., None])
    result = result * np.exp(0.06 * rng.standard_normal(3))
    return np.clip(result, 0, 255).astype(np.uint8)
