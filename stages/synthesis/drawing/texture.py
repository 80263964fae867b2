"""Interpolation at points of surfaces: of vertex attributes, and of texture maps."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from ....manifests.arrays import Floats
from .rasterize import CoveredSamples, blend_rows


def halved(maps: Floats) -> Floats:
    """Halve maps (H, W) or (H, W, C); an odd last row or column is dropped."""
    high, wide = maps.shape[0] // 2, maps.shape[1] // 2
    even = maps[: 2 * high, : 2 * wide]
    return cv2.resize(even, (wide, high), interpolation=cv2.INTER_AREA).astype(
        np.float32, copy=False
    )


def with_half(maps: Floats) -> Floats:
    """Return the texels of maps (H, W, C) as rows (N, C), followed by those at half the size."""
    channels = maps.shape[2]
    return np.concatenate([maps.reshape(-1, channels), halved(maps).reshape(-1, channels)])


def blend(planes: Tensor, corners: Tensor, cover: CoveredSamples) -> Tensor:
    """Interpolate vertex attributes (B, C, V) at the points of a coverage: (B, C, N).

    ``corners`` (3, T): the vertices of every triangle, numbered over all pictures.
    """
    table = planes.transpose(1, 2).reshape(-1, planes.shape[1])
    rows = torch.stack([corner.index_select(0, cover.triangle) for corner in corners], 1)
    return _planes(blend_rows(table, rows, cover.weights), len(planes))


def sample(
    table: Tensor, texel: Tensor, size: tuple[Tensor, Tensor], begin: Tensor, channels: int
) -> Tensor:
    """Sample maps bilinearly: (B, ``channels``, N); their texels are rows (M, C) of a table.

    ``texel`` (B, 2, N): column and row, texel centres at integers, clamped at the edge.
    ``size``: height and width (B, N) of the map to sample, whose rows start at ``begin`` (B, N).
    """
    high, wide = size
    column = torch.minimum(texel[:, 0].clamp(min=0), wide - 1.001)
    row = torch.minimum(texel[:, 1].clamp(min=0), high - 1.001)
    left, top = column.floor(), row.floor()
    right_share, low_share = column - left, row - top
    first = (top * wide + left).long() + begin
    below = first + wide.long()
    rows = torch.stack([first, first + 1, below, below + 1], -1)
    upper = 1 - low_share
    weights = torch.stack(
        [
            (1 - right_share) * upper,
            right_share * upper,
            (1 - right_share) * low_share,
            right_share * low_share,
        ],
        -1,
    )
    picked = blend_rows(table, rows.view(-1, 4), weights.view(-1, 4))
    return _planes(picked[:, :channels], len(texel))


def _planes(rows: Tensor, pictures: int) -> Tensor:
    """Rows (B * N, C) → one plane per channel, (B, C, N)."""
    return torch.stack([column.view(pictures, -1) for column in rows.unbind(1)], 1)
