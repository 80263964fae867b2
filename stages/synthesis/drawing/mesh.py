"""The head's mesh on the device: moves, rotates and projects batches of heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..scene.camera import PIVOT
from ..surface.detail import smooth_triangles
from ..surface.hair import Sheet
from ..surface.head import GUMS, TEETH, Head


@dataclass(frozen=True)
class Faces:
    """Triangles that may be visible, and which of them meet at every vertex.

    Attributes:
        corners: (3, T) int64.
        parts: (T,) int64, materials.
        smooth: (T,) float32, 1 for skin without detail, else 0.
        meeting: (M,) int64 triangles, listed vertex by vertex.
        starts: (V,) int64 start of each vertex's list.
        share: (V,) int64, equal for vertices at the same position.
    """

    corners: Tensor
    parts: Tensor
    smooth: Tensor
    meeting: Tensor
    starts: Tensor
    share: Tensor


@dataclass(frozen=True, eq=False)
class Sheets:
    """Extra geometry of B pictures, padded with degenerate triangles.

    Attributes:
        points: (B, 3, N) float32 head coordinates.
        normals: (B, 3, N) float32, of one of the two sides.
        attributes: (B, 6, N) float32, the shade of the strands, then zeros.
        corners: (B, 3, M) int64 into a picture's vertices (the head's come first).
        parts: (B, M) int64.
    """

    points: Tensor
    normals: Tensor
    attributes: Tensor
    corners: Tensor
    parts: Tensor


class Mesh:
    """Static tensors of a head, restricted to the vertices that triangles use."""

    def __init__(self, head: Head, device: torch.device) -> None:
        self.device = device
        self.used = np.unique(head.triangles)
        place = np.full(len(head.kit.neutral), -1, np.int64)
        place[self.used] = np.arange(len(self.used))
        triangles = place[head.triangles]
        outside = (head.parts != TEETH) & (head.parts != GUMS)
        share = np.unique(head.canonical[self.used], return_inverse=True)[1]
        smooth = smooth_triangles(head)
        some = (triangles[outside], head.parts[outside], smooth[outside])
        self.closed = self._faces(*some, share)
        self.open = self._faces(triangles, head.parts, smooth, share)
        shapes = head.kit.expression[:, self.used].transpose(0, 2, 1)  # (E, 3, V)
        self.shapes = self._put(shapes.reshape(len(shapes), -1).astype(np.float32))
        static = np.concatenate([head.texels, head.eye, head.lids], 1)[self.used]
        self.static = self._put(static.T.astype(np.float32))  # (6, V)
        self.pivot = self._put(PIVOT)[:, None]

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _faces(
        self,
        triangles: NDArray[np.int64],
        parts: NDArray[np.uint8],
        smooth: NDArray[np.bool_],
        share: NDArray[np.int64],
    ) -> Faces:
        groups = share[triangles].reshape(-1)  # triangle by triangle
        order = np.argsort(groups, kind="stable")
        counts = np.bincount(groups, minlength=share.max() + 1)
        begin = np.cumsum(counts) - counts
        # Vertices at the same position list the same triangles, for normals across seams.
        lists = [order[begin[g] : begin[g] + counts[g]] // 3 for g in share]
        starts = np.cumsum([0, *(len(one) for one in lists[:-1])])
        return Faces(
            self._put(triangles.T),
            self._put(parts.astype(np.int64)),
            self._put(smooth.astype(np.float32)),
            self._put(np.concatenate(lists)),
            self._put(starts),
            self._put(share),
        )

    def corners_of(self, faces: Faces, mouth_open: list[bool]) -> Tensor:
        """Return (B, 3, T) corners; triangles inside a closed mouth shrink to a point."""
        every = faces.corners.expand(len(mouth_open), -1, -1)
        if faces is self.closed or all(mouth_open):
            return every
        inside = (faces.parts == TEETH) | (faces.parts == GUMS)
        closed = torch.tensor(mouth_open, device=self.device).logical_not()
        return every.masked_fill((closed[:, None] & inside)[:, None], 0)

    def turn(self, points: Tensor, rotation: Tensor) -> Tensor:
        """Rotate head coordinates (B, 3, V) to camera coordinates, by rotations (B, 3, 3)."""
        return torch.bmm(rotation, points - self.pivot)


def move_heads(standing: Tensor, amounts: Tensor, shapes: Tensor) -> Tensor:
    """Move heads (B, 3, V) by amounts (B, E) of shapes (E, 3 * V)."""
    return standing + (amounts @ shapes).view(standing.shape)


def normals(points: Tensor, faces: Faces) -> Tensor:
    """Return (B, 3, V) unit vertex normals of heads (B, 3, V): area-weighted means of triangles."""
    batch, _, count = points.shape
    pictures = torch.arange(batch, device=points.device)[:, None]
    first, second, third = ((corner + pictures * count).view(-1) for corner in faces.corners)
    edges: list[tuple[Tensor, Tensor]] = []
    for axis in points.unbind(1):
        flat = axis.reshape(-1)
        start = flat.index_select(0, first)
        edges.append((flat.index_select(0, second) - start, flat.index_select(0, third) - start))
    (ux, vx), (uy, vy), (uz, vz) = edges
    facing = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx]
    table = torch.stack([*facing, torch.zeros_like(ux)], 1)  # (B * T, 4)
    # Sums over fixed lists in a fixed order: no races, so the same on every run.
    total = torch.nn.functional.embedding_bag(
        (faces.meeting + pictures * faces.corners.shape[1]).view(-1),
        table,
        (faces.starts + pictures * len(faces.meeting)).view(-1),
        mode="sum",
    )
    planes = torch.stack([axis.view(batch, count) for axis in total.unbind(1)[:3]], 1)
    return unit(planes)


def unit(vectors: Tensor) -> Tensor:
    """Normalize vectors (B, 3, N); much faster than torch's own, which sums over the slow axis."""
    x, y, z = vectors.unbind(1)
    return vectors * (x * x + y * y + z * z).clamp_(min=1e-18).rsqrt_()[:, None]


def project(camera: Tensor, distance: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Project camera coordinates (B, 3, V) to pixel x, y (down) and depth.

    ``distance`` (B, 1) head units; ``scale`` and ``shift`` (B, 2), real and imaginary parts of the
    similarity transform of ``camera.View``.
    """
    x, y, z = camera.unbind(1)
    shrink = distance / (distance - z)
    x, y = x * shrink, y * shrink
    (real, imaginary), (right, down) = (pair.T[..., None] for pair in (scale, shift))
    return torch.stack([x * real + y * imaginary + right, x * imaginary - y * real + down, z], 1)


def put_sheet(sheet: Sheet | None, mesh: Mesh) -> Sheets:
    """Move one person's sheet to the device; None becomes an empty one."""
    if sheet is None:
        nothing = torch.zeros(1, 3, 0, device=mesh.device)
        corners = nothing.long()
        return Sheets(nothing, nothing, torch.cat([nothing, nothing], 1), corners, corners[:, 0])
    one_side = sheet.triangles[: len(sheet.triangles) // 2]
    edges = sheet.vertices[one_side]
    facing = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    normals = np.zeros_like(sheet.vertices)
    for corner in one_side.T:
        np.add.at(normals, corner, facing)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    attributes = np.zeros((6, len(sheet.vertices)), np.float32)
    attributes[0] = sheet.shade
    corners = sheet.triangles.T.astype(np.int64) + len(mesh.used)
    parts = np.full(len(sheet.triangles), sheet.part, np.int64)
    arrays = (sheet.vertices.T, normals.T, attributes, corners, parts)
    put = (torch.from_numpy(np.ascontiguousarray(a)).to(mesh.device)[None] for a in arrays)
    return Sheets(*put)


def pad_sheets(sheets: list[Sheets]) -> Sheets:
    """Combine the sheets of several people (B = 1 each) in one batch."""
    points = max(sheet.points.shape[2] for sheet in sheets)
    triangles = max(sheet.parts.shape[1] for sheet in sheets)

    def padded(name: str, length: int) -> Tensor:
        parts: list[Tensor] = [getattr(sheet, name) for sheet in sheets]
        return torch.cat([torch.nn.functional.pad(p, (0, length - p.shape[-1])) for p in parts])

    return Sheets(
        padded("points", points),
        padded("normals", points),
        padded("attributes", points),
        padded("corners", triangles),
        padded("parts", triangles),
    )
