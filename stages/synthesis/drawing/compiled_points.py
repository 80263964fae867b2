"""The inner loops of rendering over shaded points, compiled for a CPU.

As in ``compiled``, each computes the same as the function of that name in ``texture`` or
``shading``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ....manifests.arrays import Float32s, Rows
from .compiled import compiled
from .rasterize import CoveredSamples
from .shading import NO_CASTER, SHADOW_REACH, SHADOW_SIZE, SHADOW_STEPS


def blend(planes: Tensor, corners: Tensor, cover: CoveredSamples) -> Tensor:
    """(B, C, N) float32, as ``texture.blend``."""
    found = np.empty((*planes.shape[:2], cover.place.shape[1]), np.float32)
    arrays = (planes, corners, cover.triangle, cover.weights)
    _blend(*(array.contiguous().numpy() for array in arrays), found)
    return torch.from_numpy(found)


@compiled
def _blend(
    planes: Float32s, corners: Rows, triangle: Rows, weights: Float32s, found: Float32s
) -> None:
    pictures, channels, count = found.shape
    vertices = planes.shape[2]
    for picture in range(pictures):
        begin = picture * count
        rows = np.empty((3, count), np.int64)
        for i in range(count):
            for corner in range(3):
                rows[corner, i] = corners[corner, triangle[begin + i]] - picture * vertices
        for channel in range(channels):
            plane, made = planes[picture, channel], found[picture, channel]
            for i in range(count):
                first, second, third = weights[begin + i]
                made[i] = (
                    first * plane[rows[0, i]]
                    + second * plane[rows[1, i]]
                    + third * plane[rows[2, i]]
                )


def sample(
    table: Tensor, texel: Tensor, size: tuple[Tensor, Tensor], begin: Tensor, channels: int
) -> Tensor:
    """(B, ``channels``, N) float32, as ``texture.sample``: texels (B, 2, N) of a table (M, C)."""
    found = np.empty((len(texel), channels, texel.shape[2]), np.float32)
    arrays = (table, texel, *size, begin)
    _sample(*(array.contiguous().numpy() for array in arrays), found)
    return torch.from_numpy(found)


@compiled
def _sample(
    table: Float32s, texel: Float32s, high: Float32s, wide: Float32s, begin: Rows, found: Float32s
) -> None:
    one, edge = np.float32(1), np.float32(1.001)
    pictures, channels, count = found.shape
    for picture in range(pictures):
        for i in range(count):
            across = wide[picture, i]
            column = min(max(texel[picture, 0, i], np.float32(0)), across - edge)
            row = min(max(texel[picture, 1, i], np.float32(0)), high[picture, i] - edge)
            left, top = np.floor(column), np.floor(row)
            right_share, low_share = column - left, row - top
            first = begin[picture, i] + int(top) * int(across) + int(left)
            below = first + int(across)
            upper, lower = one - low_share, low_share
            weight1, weight2 = (one - right_share) * upper, right_share * upper
            weight3, weight4 = (one - right_share) * lower, right_share * lower
            for channel in range(channels):
                found[picture, channel, i] = (
                    weight1 * table[first, channel]
                    + weight2 * table[first + 1, channel]
                    + weight3 * table[below, channel]
                    + weight4 * table[below + 1, channel]
                )


def cast_shadow(points: Tensor, position: Tensor, frame: Tensor) -> Tensor:
    """(B, N) float32 in [0, 1], as ``shading.cast_shadow``."""
    lit = np.empty((len(position), position.shape[2]), np.float32)
    arrays = (points, position, frame)
    _cast_shadow(*(array.contiguous().numpy() for array in arrays), lit)
    return torch.from_numpy(lit)


@compiled
def _cast_shadow(points: Float32s, position: Float32s, frame: Float32s, lit: Float32s) -> None:
    size, last = SHADOW_SIZE, np.float32(SHADOW_SIZE - 1)
    scale, middle = np.float32(SHADOW_SIZE / (2 * SHADOW_REACH)), np.float32(SHADOW_SIZE / 2)
    nothing, many = np.float32(NO_CASTER), np.float32(len(SHADOW_STEPS))
    for picture in range(len(points)):
        right, up, towards = (
            frame[picture, 0] * scale,
            frame[picture, 1] * -scale,
            frame[picture, 2],
        )
        x, y, z = points[picture]
        square = np.full((size + 4, size + 4), nothing, np.float32)  # two rows of nothing around
        for i in range(len(x)):
            column = int(np.floor(x[i] * right[0] + y[i] * right[1] + z[i] * right[2] + middle))
            row = int(np.floor(x[i] * up[0] + y[i] * up[1] + z[i] * up[2] + middle))
            if 0 <= column < size and 0 <= row < size:
                near = x[i] * towards[0] + y[i] * towards[1] + z[i] * towards[2]
                square[row + 2, column + 2] = max(square[row + 2, column + 2], near)
        nearest = _filled(square)
        x, y, z = position[picture]
        for i in range(len(x)):
            column = x[i] * right[0] + y[i] * right[1] + z[i] * right[2] + middle
            row = x[i] * up[0] + y[i] * up[1] + z[i] * up[2] + middle
            near = x[i] * towards[0] + y[i] * towards[1] + z[i] * towards[2]
            total = np.float32(0)
            for step in SHADOW_STEPS:
                across = min(max(np.floor(column + np.float32(step[0])), np.float32(0)), last)
                down = min(max(np.floor(row + np.float32(step[1])), np.float32(0)), last)
                behind = nearest[int(down), int(across)] - near
                t = (behind - np.float32(1.1)) / np.float32(0.4 - 1.1)
                t = min(max(t, np.float32(0)), np.float32(1))
                total += t * t * (np.float32(3) - np.float32(2) * t)
            lit[picture, i] = total / many


@compiled
def _filled(square: Float32s) -> Float32s:
    """Crop a map (S + 4, S + 4) to (S, S); fill holes by a morphological closing."""
    size = len(square) - 4
    nothing = np.float32(NO_CASTER)
    wider = np.full((size + 2, size + 2), np.float32(1e9), np.float32)
    for row in range(size):
        for column in range(size):
            most = nothing
            for low in range(1, 4):
                for right in range(1, 4):
                    most = max(most, square[row + low, column + right])
            wider[row + 1, column + 1] = most
    filled = square[2:-2, 2:-2].copy()
    for row in range(size):
        for column in range(size):
            if filled[row, column] > nothing:
                continue
            least = np.float32(1e9)
            for low in range(3):
                for right in range(3):
                    least = min(least, wider[row + low, column + right])
            filled[row, column] = least
    return filled
