"""The face kit prepared for rendering: everything that is the same in all pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats, Int32s
from ..facekit import FaceKit
from .atlas import Atlas

# Materials of visible triangles.
SKIN, EYE, TEETH, GUMS, HAIR, BRIM = range(6)
_PART_OF = {
    "M_Face": SKIN,
    "M_BackHead": SKIN,
    "M_ScleraLeft": EYE,
    "M_ScleraRight": EYE,
    "M_Teeth": TEETH,
    "M_GumsTongue": GUMS,
}
_LIP_GAP_TOP, _LIP_GAP_BOTTOM = 62, 66  # inner lips, iBUG numbering


@dataclass(frozen=True, eq=False)  # compared by identity: heads are cache keys
class Head:
    """Static geometry.

    Attributes:
        kit: the face kit.
        triangles: (T, 3) int32, those that can ever face the camera.
        parts: (T,) uint8, SKIN, EYE, TEETH or GUMS.
        canonical: (V,) vertices at the same position share a number, for normals across seams.
        texels: (V, 2) float32 position on the atlas.
        eye: (V, 2) float32 offset from the optical axis at rest, head units (0 elsewhere).
        lids: (V, 2) float32 in [0, 1], closeness to the upper and lower lid margin.
        scalp: (V,) bool, skin that hair may lift (no ears, eyelids or inner mouth).
    """

    kit: FaceKit
    atlas: Atlas
    triangles: Int32s
    parts: NDArray[np.uint8]
    canonical: NDArray[np.int64]
    texels: Floats
    eye: Floats
    lids: Floats
    scalp: NDArray[np.bool_]

    def shape(self, identity: Floats) -> Floats:
        """Return (V, 3) vertices of a person (I,) without expression."""
        modes = self.kit.identity.reshape(len(identity), -1)
        moved = identity.astype(np.float32) @ modes
        return self.kit.neutral + moved.reshape(-1, 3)

    def movement(self, amounts: Floats) -> Floats:
        """Return (V, 3) displacement for amounts (E,) of every expression shape."""
        shapes = self.kit.expression.reshape(len(amounts), -1)
        return (np.asarray(amounts, np.float32) @ shapes).reshape(-1, 3)

    @cached_property
    def _landmark_shapes(self) -> Floats:
        """Return (E, 204) float32: each expression shape's displacement of the landmarks."""
        shapes = self.kit.expression[:, self.kit.landmarks68]
        return np.ascontiguousarray(shapes, np.float32).reshape(len(shapes), -1)

    def landmark_movement(self, amounts: Floats) -> Floats:
        """Return (68, 3) displacement of the landmarks for amounts (E,) of all shapes."""
        return (np.asarray(amounts, np.float32) @ self._landmark_shapes).reshape(-1, 3)

    def lip_gap(self, coefficients: Floats) -> float:
        """Return the mean head's lip gap for coefficients (E,), minus that at rest, head units."""
        moved = self.landmark_movement(coefficients)
        return float(max(0.0, moved[_LIP_GAP_TOP, 1] - moved[_LIP_GAP_BOTTOM, 1]))

    def normals(self, vertices: Floats) -> Floats:
        """Return (V, 3) float32 unit vertex normals of the head with moved vertices (V, 3)."""
        around = self._around
        planes = np.ascontiguousarray(vertices.T, np.float32)
        corners = [planes.take(corner, 1) for corner in around.corners]
        faces = _cross(corners[1] - corners[0], corners[2] - corners[0])
        total = np.zeros_like(planes)
        total[:, around.vertices] = np.add.reduceat(
            faces.take(around.triangles, 1), around.first, 1
        )
        total /= np.maximum(np.sqrt((total * total).sum(0)), 1e-9)
        return total.take(self.canonical, 1).T

    @cached_property
    def _around(self) -> _Around:
        corners = self.canonical[self.triangles].reshape(-1)
        order = np.argsort(corners, kind="stable")
        vertices, first = np.unique(corners[order], return_index=True)
        return _Around(
            self.triangles.T.astype(np.int64), vertices, order // 3, first.astype(np.int64)
        )


@dataclass(frozen=True)
class _Around:
    """The triangles around every vertex, listed vertex by vertex.

    Attributes:
        corners: (3, T) the vertices of every triangle.
        vertices: (N,) the canonical vertices that have triangles.
        triangles: (3 T,) numbers of triangles.
        first: (N,) index in ``triangles`` of each vertex's first one.
    """

    corners: NDArray[np.int64]
    vertices: NDArray[np.int64]
    triangles: NDArray[np.int64]
    first: NDArray[np.int64]


def prepare_head(kit: FaceKit, atlas: Atlas) -> Head:
    """Compute everything that is the same in all pictures."""
    part = np.array([_PART_OF.get(name, 255) for name in kit.materials], np.uint8)
    parts = part[kit.triangle_material]
    middle = kit.neutral[kit.triangles].mean(1)
    edges = kit.neutral[kit.triangles]
    facing = _cross((edges[:, 1] - edges[:, 0]).T, (edges[:, 2] - edges[:, 0]).T)
    away = facing[2] < -0.6 * np.linalg.norm(facing, axis=0)
    # The iris mesh is inside the eyeball mesh, on which we paint the iris; the backs of eyeballs
    # and head never show at the poses we render.
    hidden = (parts == EYE) & (middle[:, 2] < 8.4) | (parts == SKIN) & away & (middle[:, 2] < 2)
    kept = (parts != 255) & ~hidden
    triangles, parts = kit.triangles[kept], parts[kept]
    places = np.unique(np.round(kit.neutral, 4), axis=0, return_inverse=True)[1]
    first = np.full(places.max() + 1, len(places), np.int64)
    np.minimum.at(first, places, np.arange(len(places)))
    canonical = first[places]
    skin = np.zeros(len(kit.neutral), bool)
    skin[triangles[parts == SKIN]] = True
    canonical = np.where(skin, canonical, np.arange(len(places)))
    return Head(
        kit=kit,
        atlas=atlas,
        triangles=triangles,
        parts=parts,
        canonical=canonical,
        texels=atlas.texel(kit.neutral),
        eye=_eye_offsets(kit, triangles[parts == EYE]),
        lids=_lid_margins(kit, triangles[parts == SKIN]),
        scalp=skin & ((np.abs(kit.neutral[:, 0]) < 7.5) | (kit.neutral[:, 1] > 4.5)),
    )


def _eye_offsets(kit: FaceKit, triangles: Int32s) -> Floats:
    """Return the offset from the optical axis, in the eyeball's own frame at rest."""
    offsets = np.zeros((len(kit.neutral), 2), np.float32)
    vertices = np.unique(triangles)
    for side in (-1, 1):
        ball = vertices[side * kit.neutral[vertices, 0] > 0]
        if len(ball):
            apex = kit.neutral[ball][kit.neutral[ball, 2].argmax()]
            offsets[ball] = kit.neutral[ball, :2] - apex[:2]
    return offsets


def _lid_margins(kit: FaceKit, triangles: Int32s) -> Floats:
    """Return how close skin is to the rim of the eye opening, above and below its corners."""
    closeness = np.zeros((len(kit.neutral), 2), np.float32)
    edges = np.sort(
        np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1
    )
    unique, count = np.unique(edges, axis=0, return_counts=True)
    rim = np.unique(unique[count == 1])
    skin = np.unique(triangles)
    for corners in ((36, 39), (42, 45)):
        ends = kit.neutral[kit.landmarks68[list(corners)]]
        centre, reach = ends.mean(0), 0.75 * np.linalg.norm(ends[1] - ends[0])
        near_rim = rim[np.linalg.norm(kit.neutral[rim] - centre, axis=1) < reach]
        near = skin[np.linalg.norm(kit.neutral[skin] - centre, axis=1) < reach + 0.5]
        if not len(near_rim):
            continue
        slope = (ends[1, 1] - ends[0, 1]) / (ends[1, 0] - ends[0, 0])
        line = ends[0, 1] + slope * (kit.neutral[near_rim, 0] - ends[0, 0])
        for channel, chosen in enumerate(
            (kit.neutral[near_rim, 1] >= line, kit.neutral[near_rim, 1] < line)
        ):
            lid = kit.neutral[near_rim[chosen]]
            if len(lid):
                gap = np.linalg.norm(kit.neutral[near][:, None] - lid[None], axis=2).min(1)
                closeness[near, channel] = np.exp(-((gap / 0.13) ** 2))
    return closeness


def _cross(a: Floats, b: Floats) -> Floats:
    """Return the cross product of vectors (3, N), several times faster than numpy's."""
    return np.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )
