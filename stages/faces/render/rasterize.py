"""A z-buffer for meshes whose triangles are about as small as pixels.

Every front-facing triangle lists the pixel centres in its bounding box; the nearest triangle that
covers a centre wins. Everything is a handful of vectorised array operations, so no Python loop and
no compiled extension is needed: about 5 ms for a 45,000 triangle head on 256 x 256 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Coverage:
    """The visible surface, listed by covered pixel.

    Attributes:
        pixel: (N,) int64 flat index ``row * size + column``, each at most once.
        triangle: (N,) int64 index of the visible triangle.
        weights: (N, 3) float32 barycentric weights of its corners (affine in the image plane).
        depth: (N,) float32, larger is nearer.
    """

    pixel: NDArray[np.int64]
    triangle: NDArray[np.int64]
    weights: FloatArray
    depth: FloatArray


def rasterize(points: FloatArray, triangles: NDArray[np.int32], size: int) -> Coverage:
    """Find the visible triangle at every pixel centre.

    Args:
        points: (V, 3) float32; x right and y down in pixels (the centre of the first pixel is
            0.5, 0.5), z larger is nearer.
        triangles: (T, 3) int32, counter-clockwise as seen with y up; others face away and are
            skipped.
        size: width and height of the image in pixels.
    """
    # One row per coordinate: column-wise arithmetic is several times faster than (T, 3, 3).
    across, down, near = np.ascontiguousarray(points.T)
    first, second, third = np.ascontiguousarray(triangles.T)
    x0, y0 = across[first], down[first]
    x1, y1 = across[second] - x0, down[second] - y0
    x2, y2 = across[third] - x0, down[third] - y0
    # y points down, so a triangle that is counter-clockwise with y up has a negative area here.
    kept = np.flatnonzero(x1 * y2 - y1 * x2 < -1e-9)
    x0, y0, x1, y1, x2, y2 = x0[kept], y0[kept], x1[kept], y1[kept], x2[kept], y2[kept]
    left = _first_centre(x0 + np.minimum(np.minimum(x1, x2), 0), size)
    top = _first_centre(y0 + np.minimum(np.minimum(y1, y2), 0), size)
    wide = _last_centre(x0 + np.maximum(np.maximum(x1, x2), 0), size) - left + 1
    high = _last_centre(y0 + np.maximum(np.maximum(y1, y2), 0), size) - top + 1
    seen = np.flatnonzero((wide > 0) & (high > 0))
    kept, wide, count = kept[seen], wide[seen], (wide * high)[seen]
    left, top = left[seen], top[seen]
    x0, y0, x1, y1, x2, y2 = x0[seen], y0[seen], x1[seen], y1[seen], x2[seen], y2[seen]
    inverse = 1 / (x1 * y2 - y1 * x2)
    z0 = near[first[kept]]
    # Weights and depth are affine in the pixel's place: six numbers a triangle.
    planes = np.stack(
        [y2 * inverse, -x2 * inverse, -y1 * inverse, x1 * inverse, left + 0.5 - x0, top + 0.5 - y0],
        1,
    ).astype(np.float32)

    owner = np.repeat(np.arange(len(kept), dtype=np.int32), count)
    within = np.arange(len(owner), dtype=np.int32)
    within -= np.repeat((np.cumsum(count) - count).astype(np.int32), count)
    row, column = np.divmod(within, wide[owner])
    a1, b1, a2, b2, x, y = planes[owner].T
    x, y = x + column.astype(np.float32), y + row.astype(np.float32)
    weight1 = x * a1 + y * b1
    weight2 = x * a2 + y * b2
    # A hair of slack closes the seams that rounding opens between neighbours.
    inside = np.flatnonzero(
        (weight1 >= -1e-5) & (weight2 >= -1e-5) & (weight1 + weight2 <= 1 + 1e-5)
    )
    owner, weight1, weight2 = owner[inside], weight1[inside], weight2[inside]
    pixel = ((row[inside] + top[owner]) * size + column[inside] + left[owner]).astype(np.int64)
    rise1, rise2 = near[second[kept]] - z0, near[third[kept]] - z0
    depth = z0[owner] + weight1 * rise1[owner] + weight2 * rise2[owner]

    nearest = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, depth)
    winner = np.full(size * size, -1, np.int64)
    front = np.flatnonzero(depth == nearest[pixel])
    winner[pixel[front]] = front  # equal depths: the later triangle, always the same one
    covered = np.flatnonzero(winner >= 0)
    chosen = winner[covered]
    weights = np.stack([1 - weight1[chosen] - weight2[chosen], weight1[chosen], weight2[chosen]], 1)
    return Coverage(covered, kept[owner[chosen]], weights.astype(np.float32), depth[chosen])


def _first_centre(low: FloatArray, size: int) -> NDArray[np.int32]:
    return np.ceil(low - 0.5).clip(0, size).astype(np.int32)


def _last_centre(high: FloatArray, size: int) -> NDArray[np.int32]:
    return np.floor(high - 0.5).clip(-1, size - 1).astype(np.int32)


def interpolate(values: FloatArray, triangles: NDArray[np.int32], cover: Coverage) -> FloatArray:
    """Per-vertex values (V, C) at every covered pixel: (N, C) float32."""
    corners = triangles[cover.triangle]
    result: FloatArray = values[corners[:, 0]] * cover.weights[:, :1]
    result += values[corners[:, 1]] * cover.weights[:, 1:2]
    result += values[corners[:, 2]] * cover.weights[:, 2:]
    return result
