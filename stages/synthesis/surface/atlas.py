"""The texture atlas on which skin, brows, lips, beard and wrinkles are painted.

A cylinder around the head: columns are the angle about the vertical axis, rows the height. Vertices
keep their texels at rest, so paint follows identity and expression without seams.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats, Pixels

Window = tuple[slice, slice]  # rows and columns

_HALF_ANGLE = 1.9  # radians; beyond the ears
_TOP, _BOTTOM = 15.0, -9.5  # head units
_SUBPIXEL_BITS = 4
EVERYWHERE: Window = (slice(None), slice(None))
_NO_SECOND_MAP = np.empty(0, np.float32)  # both coordinates are in the first one
# Up to this many rows, two small matrix products enlarge a grid several times faster than OpenCV.
_FEW_ROWS = 32


@dataclass(frozen=True)
class Stencil:
    """A mask (h, w) float32 in [0, 1] on a window of the atlas; 0 elsewhere."""

    window: Window
    mask: Floats


@dataclass(frozen=True)
class Atlas:
    """An unrolled cylinder of ``height`` x ``width`` texels; about 12-16 texels per head unit."""

    height: int = 384
    width: int = 512

    def texel(self, points: Floats) -> Floats:
        """(..., 3) head coordinates at rest → (..., 2) column, row (texel centres at integers)."""
        return self._place(np.arctan2(points[..., 0], points[..., 2]), points[..., 1])

    def at(self, degrees: Floats | float, y: Floats | float) -> Floats:
        """Return (..., 2) texels of points at angles (degrees, to the person's left) and heights.

        ``degrees`` and ``y``: (...), the same shape.
        """
        return self._place(np.deg2rad(np.asarray(degrees, np.float32)), np.asarray(y, np.float32))

    def _place(self, radians: Floats, y: Floats) -> Floats:
        column = (radians / _HALF_ANGLE + 1) * 0.5 * (self.width - 1)
        row = (_TOP - y) / (_TOP - _BOTTOM) * (self.height - 1)
        return np.stack([column, row], -1).astype(np.float32)

    @cached_property
    def degrees(self) -> Floats:
        """Return (1, W) float32: the angle of every column."""
        return np.rad2deg(np.linspace(-_HALF_ANGLE, _HALF_ANGLE, self.width, dtype=np.float32))[
            None
        ]

    @cached_property
    def y(self) -> Floats:
        """Return (H, 1) float32: the height of every row, in head units."""
        return np.linspace(_TOP, _BOTTOM, self.height, dtype=np.float32)[:, None]

    @property
    def texels_per_unit(self) -> float:
        """Return the number of rows per head unit."""
        return (self.height - 1) / (_TOP - _BOTTOM)

    @property
    def slope_scale(self) -> tuple[float, float]:
        """Return the factors from Sobel sums to slopes along the angle and upwards."""
        radius = 10.0  # head units, about that of a face
        per_column = np.deg2rad(float(self.degrees[0, 1] - self.degrees[0, 0])) * radius
        return float(1 / 8 / per_column), 1 / 8 * self.texels_per_unit

    def blank(self) -> Pixels:
        """Return an empty (H, W) uint8 mask."""
        return np.zeros((self.height, self.width), np.uint8)

    def window(self, degrees: float, low: float, high: float) -> Window:
        """Return the window of texels up to an angle on both sides, between two heights."""
        columns, rows = self.at(np.array([-degrees, degrees]), np.array([high, low])).astype(int).T
        return (
            slice(max(int(rows[0]), 0), int(rows[1]) + 1),
            slice(max(int(columns[0]), 0), int(columns[1]) + 1),
        )

    def cut(self, drawn: Pixels, margin: float) -> Stencil:
        """Crop a (H, W) mask to its content, with ``margin`` head units around it."""
        window = _around(drawn, round(margin * self.texels_per_unit))
        mask = drawn[window].astype(np.float32)
        mask /= 255
        return Stencil(window, mask)

    def blur(self, mask: Floats, units: float) -> Floats:
        """Blur a mask (h, w) by a Gaussian with sigma in head units; return (h, w) float32."""
        sigma = max(units * self.texels_per_unit, 0.05)
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma), np.float32)

    def sample(self, texture: Floats, texels: Floats) -> Floats:
        """Sample (H, W[, C]) bilinearly at (N, 2) texels → (N, C) float32."""
        count = len(texels)
        # remap refuses rows longer than 32767, so the points are reshaped to a rectangle.
        width = 256
        padded = np.zeros((-(-count // width) * width, 2), np.float32)
        padded[:count] = texels
        field = padded.reshape(-1, width, 2)
        picked = cv2.remap(
            texture, field, _NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return picked.reshape(len(padded), -1)[:count].astype(np.float32)


def _around(drawn: Pixels, pad: int) -> Window:
    left, top, wide, high = cv2.boundingRect(drawn)
    return (
        slice(max(top - pad, 0), top + high + pad),
        slice(max(left - pad, 0), left + wide + pad),
    )


def polygon(mask: Pixels, outline: Floats, value: int = 255) -> None:
    """Fill a closed outline (N, 2), anti-aliased, in place."""
    cv2.fillPoly(mask, [_fixed(outline)], value, cv2.LINE_AA, _SUBPIXEL_BITS)


def stroke(mask: Pixels, line: Floats, value: int, thickness: int = 1) -> None:
    """Draw an open line (N, 2), anti-aliased, in place."""
    cv2.polylines(mask, [_fixed(line)], False, value, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def strokes(mask: Pixels, lines: Floats, value: int) -> None:
    """Draw many thin open lines (K, N, 2), anti-aliased, in place."""
    cv2.polylines(mask, list(_fixed(lines)), False, value, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed(line: Floats) -> NDArray[np.int32]:
    return np.round(line * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def spline(points: Floats, count: int, closed: bool = False) -> Floats:
    """Return a Catmull-Rom curve through (K, D) points, (count, D) float32."""
    return np.asarray(_catmull_rom(len(points), count, closed) @ points, np.float32)


@lru_cache(maxsize=64)
def _catmull_rom(size: int, count: int, closed: bool) -> Floats:
    """Return (count, size) float32: the weight of every point in every sample of a curve."""
    steps = np.linspace(0, size if closed else size - 1, count, endpoint=not closed)
    base = np.minimum(np.floor(steps).astype(int), size - (1 if closed else 2))
    t = (steps - base)[:, None]
    index = base[:, None] + np.arange(-1, 3)
    index = index % size if closed else index.clip(0, size - 1)
    p0, p1, p2, p3 = (np.eye(size)[index[:, i]] for i in range(4))
    shares = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    return shares.astype(np.float32)


def noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], reach: float = 1.0
) -> Floats:
    """Return smooth noise in about [-reach, reach]: a (cells) grid of uniform values, bicubic.

    It is a new (H, W) float32 array of ``shape``.
    """
    size = (max(cells[0], 2), max(cells[1], 2))
    coarse = rng.uniform(-reach, reach, size).astype(np.float32)
    if size == shape:
        return coarse
    if size[0] > _FEW_ROWS:
        fine = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
        return np.asarray(fine, np.float32)
    wide = coarse @ _bicubic(size[1], shape[1]).T
    return np.asarray(_bicubic(size[0], shape[0]) @ wide, np.float32)


@lru_cache(maxsize=256)
def _bicubic(count: int, wanted: int) -> Floats:
    """Return OpenCV's bicubic enlargement of a row as a (wanted, count) float32 matrix."""
    one_by_one = np.eye(count, dtype=np.float32)
    return np.asarray(
        cv2.resize(one_by_one, (count, wanted), interpolation=cv2.INTER_CUBIC), np.float32
    )


def smoothstep(low: float, high: float, value: Floats) -> Floats:
    """Return 0 below ``low``, 1 above ``high``, smooth between (``low`` may exceed ``high``).

    ``value`` is (...); the result is a new float32 array of its shape.
    """
    t = np.subtract(value, low, dtype=np.float32)
    t *= 1 / (high - low)
    np.clip(t, 0, 1, out=t)
    rise = t * -2
    rise += 3
    rise *= t
    rise *= t
    return rise
