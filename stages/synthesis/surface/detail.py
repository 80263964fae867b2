"""Level of detail: where the head has detail, and simplified heads for small pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats
from .head import GUMS, SKIN, TEETH, Head

_DETAIL = 0.004  # head units squared: triangles of lids, lips and nostrils are smaller
_NEAR = 0.5  # head units
_EARS = (6.6, 6.0)  # beyond this x, below this y: too thin to simplify
# Sides of the cubes in which vertices are merged, in pixels.
_SKIN_CUBE, _MOUTH_CUBE = 2.4, 1.8
_PIXELS_PER_UNIT = 0.05  # per pixel of the picture's width


def smooth_triangles(head: Head) -> NDArray[np.bool_]:
    """Return (T,) which triangles are skin without detail: away from lids and lips, and large.

    The kit's triangles are small where there is detail.
    """
    edges = head.kit.neutral[head.triangles]
    across = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    marks = head.kit.neutral[head.kit.landmarks68[36:]]  # eyes and mouth
    away = np.linalg.norm(edges.mean(1)[:, None] - marks, axis=2).min(1)
    area = 0.5 * np.linalg.norm(across, axis=1)
    return (head.parts == SKIN) & (area > _DETAIL) & (away > _NEAR)


def simplify(head: Head, size_px: int) -> Head:
    """Return the head with fewer triangles, for pictures of ``size_px`` pixels.

    Vertices of smooth skin, teeth and gums that are within a few pixels of each other are merged
    into one of them. It moves like the full head; landmarks are kept.
    """
    pixel = 1 / (_PIXELS_PER_UNIT * size_px)
    count = len(head.kit.neutral)
    free = np.ones(count, bool)
    free[head.triangles[(head.parts == SKIN) & ~smooth_triangles(head)]] = False
    x, y = np.abs(head.kit.neutral[:, 0]), head.kit.neutral[:, 1]
    free &= (x < _EARS[0]) | (y > _EARS[1])
    skin = _vertices(head, count, SKIN)
    mouth = (_vertices(head, count, TEETH) | _vertices(head, count, GUMS)) & ~skin
    free &= skin
    free[head.kit.landmarks68] = False
    stand_in = np.arange(count)
    normals = head.normals(head.kit.neutral)
    for chosen, side in ((free, _SKIN_CUBE * pixel), (mouth, _MOUTH_CUBE * pixel)):
        members = np.flatnonzero(chosen)
        if len(members):
            stand_in[members] = members[_gather(head, normals, members, side)]
    triangles = stand_in[head.triangles].astype(np.int32)
    first, second, third = triangles.T
    kept = (first != second) & (second != third) & (third != first)
    return replace(head, triangles=triangles[kept], parts=head.parts[kept])


def _vertices(head: Head, count: int, part: int) -> NDArray[np.bool_]:
    found = np.zeros(count, bool)
    found[head.triangles[head.parts == part]] = True
    return found


def _gather(
    head: Head, normals: Floats, members: NDArray[np.int64], side: float
) -> NDArray[np.int64]:
    """Return for every member (M,) the index in ``members`` of the vertex that replaces it."""
    points = head.kit.neutral[members]
    facing = normals[members]
    axis = np.abs(facing).argmax(1)
    towards = np.take_along_axis(facing, axis[:, None], 1)[:, 0] > 0
    keys = [*np.floor(points / side).astype(np.int64).T, 2 * axis + towards]
    names = head.kit.expression_names
    if "jawOpen" in names:  # do not merge vertices that move with the jaw with those that do not
        moved = np.linalg.norm(head.kit.expression[names.index("jawOpen"), members], axis=1)
        keys.append((moved > 0.5 * max(float(moved.max()), 1e-6)).astype(np.int64))
    group = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(group)
    middle = np.stack([np.bincount(group, plane) / sizes for plane in points.T], 1)
    order = np.lexsort((np.linalg.norm(points - middle[group], axis=1), group))
    nearest = np.full(len(sizes), -1, np.int64)
    nearest[group[order[::-1]]] = order[::-1]
    return nearest[group]
