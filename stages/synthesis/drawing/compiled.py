"""The inner loops of rendering over vertices and triangles, compiled for a CPU.

Each needs one pass over memory instead of a dozen array operations. It computes the same as the
function of the same name in ``mesh`` or ``rasterize``, which run on a GPU and document it; results
agree up to rounding. No loop is parallel and no operation is reordered, so a picture has the same
pixels on every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....manifests.arrays import Float32s, Rows
from .rasterize import SLACK, CoveredSamples, SmoothAreas

if TYPE_CHECKING:
    from .mesh import Faces


def compiled(loop: Callable[..., Any]) -> Any:
    """Compile a loop: once per machine, or once per process if nothing can be cached."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # neither the package's folder nor the user's cache is writable
        return numba.njit(**options)(loop)


def move_heads(standing: Tensor, amounts: Tensor, shapes: Tensor) -> Tensor:
    """(B, 3, V), as ``mesh.move_heads``; shapes with amount 0 are skipped."""
    moved = standing.clone()
    flat = moved.view(len(moved), -1).numpy()
    _add_shapes(flat, amounts.contiguous().numpy(), shapes.numpy())
    return moved


@compiled
def _add_shapes(points: Float32s, amounts: Float32s, shapes: Float32s) -> None:
    for picture in range(len(points)):
        own = points[picture]
        for shape in range(len(shapes)):
            amount = amounts[picture, shape]
            if amount != 0:
                moved = shapes[shape]
                for i in range(len(own)):
                    own[i] += amount * moved[i]


def normals(points: Tensor, faces: Faces) -> Tensor:
    """(B, 3, V) float32, as ``mesh.normals``."""
    found = np.zeros(points.shape, np.float32)
    _normals(points.contiguous().numpy(), faces.corners.numpy(), faces.share.numpy(), found)
    return torch.from_numpy(found)


@compiled
def _normals(points: Float32s, corners: Rows, share: Rows, found: Float32s) -> None:
    least = np.float32(1e-18)
    for picture in range(len(points)):
        x, y, z = points[picture]
        own = found[picture]
        total = np.zeros((points.shape[2], 3), np.float32)
        for t in range(corners.shape[1]):
            a, b, c = corners[0, t], corners[1, t], corners[2, t]
            ux, uy, uz = x[b] - x[a], y[b] - y[a], z[b] - z[a]
            vx, vy, vz = x[c] - x[a], y[c] - y[a], z[c] - z[a]
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            for vertex in (share[a], share[b], share[c]):
                total[vertex, 0] += nx
                total[vertex, 1] += ny
                total[vertex, 2] += nz
        for vertex in range(points.shape[2]):
            nx, ny, nz = total[share[vertex]]
            square = nx * nx + ny * ny + nz * nz
            scale = np.float32(1) / np.sqrt(max(square, least))
            own[0, vertex], own[1, vertex], own[2, vertex] = nx * scale, ny * scale, nz * scale


def rasterize(points: Tensor, corners: Tensor, smooth: SmoothAreas, size: int) -> CoveredSamples:
    """As ``rasterize.rasterize``: vertices (3, V) float32, corners (3, T) int64."""
    pictures, count = len(smooth.reach), corners.shape[1]
    vertices, three = points.contiguous().numpy(), corners.contiguous().numpy()
    surface, reach = smooth.surface.numpy(), smooth.reach.numpy()[:, 0]
    samples = np.zeros((pictures, 2, size, size), np.float32)
    place = np.zeros((pictures, size * size), np.int64)
    share = np.zeros((pictures, size * size), np.float32)
    triangle = np.zeros((pictures, size * size), np.int64)
    lengths: list[int] = []
    for picture in range(pictures):
        first = picture * (count // pictures)
        some = slice(first, first + count // pictures)
        winner = np.full((size, size), -1, np.int64)
        _find(vertices, three[:, some], winner, samples[picture])
        winner[winner >= 0] += first
        listed = (place[picture], share[picture], triangle[picture])
        lengths.append(_list(winner, samples[picture, 0], surface, reach[picture], *listed))
    longest = max(max(lengths), 1)
    cut = [np.ascontiguousarray(rows[:, :longest]) for rows in (place, share, triangle)]
    weights = np.zeros((pictures * longest, 3), np.float32)
    depth = np.zeros((pictures, longest), np.float32)
    first_of_pixel = np.zeros((pictures, longest), np.bool_)
    _weigh(vertices, three, size, (cut[0], cut[1], cut[2]), weights, depth, first_of_pixel)
    place_, share_, triangle_ = (torch.from_numpy(rows) for rows in cut)
    rest = (torch.from_numpy(rows) for rows in (weights, depth, samples))
    return CoveredSamples(
        place_, share_, torch.from_numpy(first_of_pixel), triangle_.view(-1), *rest
    )


@compiled
def _affine(points: Float32s, corners: Rows, t: int, size: int) -> Any:
    """Return a triangle's box of samples, and its second and third weight there.

    The box is first and last column and row; a weight is its value at the first sample of the box,
    and its change per column and per row.
    """
    across, down, _ = points
    half, none = np.float32(0.5), np.float32(0)
    a, b, c = corners[0, t], corners[1, t], corners[2, t]
    x0, y0 = across[a], down[a]
    x1, y1, x2, y2 = across[b] - x0, down[b] - y0, across[c] - x0, down[c] - y0
    area = x1 * y2 - y1 * x2
    left = max(np.ceil(x0 + min(x1, x2, none) - half), none)
    right = min(np.floor(x0 + max(x1, x2, none) - half), np.float32(size - 1))
    top = max(np.ceil(y0 + min(y1, y2, none) - half), none)
    bottom = min(np.floor(y0 + max(y1, y2, none) - half), np.float32(size - 1))
    inverse = np.float32(1) / area
    right1, down1, right2, down2 = y2 * inverse, -x2 * inverse, -y1 * inverse, x1 * inverse
    x, y = left + half - x0, top + half - y0
    box = (int(left), int(right), int(top), int(bottom))
    first = (x * right1 + y * down1, right1, down1)
    second = (x * right2 + y * down2, right2, down2)
    return box, first, second


@compiled
def _find(points: Float32s, corners: Rows, winner: Rows, samples: Float32s) -> None:
    """Find the nearest triangle at every sample of one picture; of equally near ones the last."""
    across, down, near = points
    depths, shown = samples
    slack = np.float32(-SLACK)
    for t in range(corners.shape[1]):
        a, b, c = corners[0, t], corners[1, t], corners[2, t]
        x0, y0 = across[a], down[a]
        area = (across[b] - x0) * (down[c] - y0) - (down[b] - y0) * (across[c] - x0)
        if not area < np.float32(-1e-9):  # half of all triangles face away
            continue
        box, first, second = _affine(points, corners, t, len(winner))
        left, right, top, bottom = box
        if right < left or bottom < top:
            continue
        z0 = near[a]
        rise1, rise2 = near[b] - z0, near[c] - z0
        for row in range(top, bottom + 1):
            low = np.float32(row - top)
            for column in range(left, right + 1):
                away = np.float32(column - left)
                weight1 = first[0] + away * first[1] + low * first[2]
                weight2 = second[0] + away * second[1] + low * second[2]
                rest = np.float32(1) - weight1 - weight2
                if min(weight1, weight2, rest) < slack:
                    continue
                depth = z0 + weight1 * rise1 + weight2 * rise2
                if winner[row, column] < 0 or depth >= depths[row, column]:
                    winner[row, column] = t
                    depths[row, column] = depth
                    shown[row, column] = 1


@compiled
def _list(
    winner: Rows,
    depths: Float32s,
    surface: Float32s,
    reach: np.float32,
    place: Rows,
    share: Float32s,
    triangle: Rows,
) -> int:
    """Fill in the points to shade of one picture; return their number."""
    size = len(winner)
    single = np.zeros((size // 2, size // 2), np.bool_)
    for row in range(0, size, 2):
        for column in range(0, size, 2):
            if winner[row, column] < 0:
                continue
            kind = surface[winner[row, column]]
            smooth = kind > 0
            nearest = furthest = depths[row, column]
            for low, right in ((0, 1), (1, 0), (1, 1)):
                other = winner[row + low, column + right]
                smooth = smooth and other >= 0 and surface[other] == kind
                nearest = max(nearest, depths[row + low, column + right])
                furthest = min(furthest, depths[row + low, column + right])
            single[row // 2, column // 2] = smooth and nearest - furthest < reach
    count = 0
    for row in range(size):
        for column in range(size):
            if winner[row, column] < 0:
                continue
            alone = single[row // 2, column // 2]
            if alone and (row % 2 == 1 or column % 2 == 1):
                continue
            place[count] = row * size + column
            share[count] = 4 if alone else 1
            triangle[count] = winner[row, column]
            count += 1
    return count


@compiled
def _weigh(
    points: Float32s,
    corners: Rows,
    size: int,
    listed: tuple[Rows, Float32s, Rows],
    weights: Float32s,
    depths: Float32s,
    first: NDArray[np.bool_],
) -> None:
    """Compute weights and depth at the listed points, and which are the first of their pixel."""
    near = points[2]
    place, share, triangle = listed
    for picture in range(len(place)):
        for i in range(place.shape[1]):
            if share[picture, i] == 0:
                break
            row, column = divmod(place[picture, i], size)
            t = triangle[picture, i]
            box, one, two = _affine(points, corners, t, size)
            away, low = np.float32(column - box[0]), np.float32(row - box[2])
            weight1 = one[0] + away * one[1] + low * one[2]
            weight2 = two[0] + away * two[1] + low * two[2]
            if share[picture, i] > 1:  # move to the middle of the pixel
                weight1 += np.float32(0.5) * (one[1] + one[2])
                weight2 += np.float32(0.5) * (two[1] + two[2])
            at = picture * place.shape[1] + i
            weights[at, 0] = np.float32(1) - weight1 - weight2
            weights[at, 1], weights[at, 2] = weight1, weight2
            z0 = near[corners[0, t]]
            rise1, rise2 = near[corners[1, t]] - z0, near[corners[2, t]] - z0
            depths[picture, i] = z0 + weight1 * rise1 + weight2 * rise2
            first[picture, i] = row % 2 == 0 and column % 2 == 0
