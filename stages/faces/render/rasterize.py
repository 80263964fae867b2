"""A z-buffer in torch for batches of meshes whose triangles are about as small as pixels.

Every front-facing triangle lists the pixel centres in its bounding box; the nearest triangle that
covers a centre wins. The winner is the largest of 64-bit keys made of depth and order, and a
largest number does not depend on the order of comparison: the same picture on every run, on a GPU
too. Everything is a handful of array operations over all pictures at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A hair of slack closes the seams that rounding opens between neighbours.
_SLACK = 1e-5
_NOTHING = torch.iinfo(torch.int64).min
_ORDER = 0xFFFFFFFF


@dataclass(frozen=True)
class Coverage:
    """The visible surface, listed by covered pixel: B lists as long as the longest, N.

    Attributes:
        pixel: (B, N) int64 flat index ``row * size + column``, rising; each at most once.
        valid: (B, N) float32, 1, or 0 where a list is at its end.
        triangle: (B * N,) int64 index of the visible triangle.
        weights: (B * N, 3) float32 barycentric weights of its corners (affine in the image plane).
        depth: (B, N) float32, larger is nearer.
    """

    pixel: Tensor
    valid: Tensor
    triangle: Tensor
    weights: Tensor
    depth: Tensor


def rasterize(points: Tensor, corners: Tensor, pictures: int, size: int) -> Coverage:
    """Find the visible triangle at every pixel centre.

    Args:
        points: (3, V) float32, vertices of all pictures; x right and y down in pixels (the centre
            of the first pixel is 0.5, 0.5), z larger is nearer.
        corners: (3, T) int64 into the vertices; every picture has T / pictures triangles, in order;
            counter-clockwise as seen with y up; others face away and are skipped.
        pictures: B.
        size: width and height of a picture in pixels.
    """
    across, down, near = points
    first, second, third = corners
    x0, y0 = _pick(first, across, down)
    x1, y1 = _pick(second, across, down)
    x2, y2 = _pick(third, across, down)
    x1, y1, x2, y2 = x1 - x0, y1 - y0, x2 - x0, y2 - y0
    # y points down, so a triangle that is counter-clockwise with y up has a negative area here.
    area = x1 * y2 - y1 * x2
    kept = (area < -1e-9).nonzero().squeeze(1)
    x0, y0, x1, y1, x2, y2 = _pick(kept, x0, y0, x1, y1, x2, y2)
    left, wide = _span(x0, x1, x2, size)
    top, high = _span(y0, y1, y2, size)
    owner, column, row = _candidates(wide, high)
    inverse = 1 / (x1 * y2 - y1 * x2)
    # Weights are affine in the pixel's place within the bounding box.
    x, y = left + 0.5 - x0, top + 0.5 - y0
    affine: list[Tensor] = []
    for right_step, down_step in ((y2 * inverse, -x2 * inverse), (-y1 * inverse, x1 * inverse)):
        start = x * right_step + y * down_step
        start, right_step, down_step = _pick(owner, start, right_step, down_step)
        affine.append(start + column * right_step + row * down_step)
    weight1, weight2 = affine
    rest = 1 - weight1 - weight2
    inside = (torch.minimum(torch.minimum(weight1, weight2), rest) >= -_SLACK).nonzero().squeeze(1)
    owner, weight1, weight2, row, column = _pick(inside, owner, weight1, weight2, row, column)
    z0, z1, z2 = (near.index_select(0, corner.index_select(0, kept)) for corner in corners)
    begin = kept // (corners.shape[1] // pictures) * size**2 + (top * size + left).long()
    z0, rise1, rise2, begin = _pick(owner, z0, z1 - z0, z2 - z0, begin)
    depth = z0 + weight1 * rise1 + weight2 * rise2
    pixel = begin + (row * size + column).long()
    best = torch.full((pictures * size**2,), _NOTHING, device=points.device)
    best.scatter_reduce_(0, pixel, _keys(depth), "amax")
    pixel, valid = _lists((best != _NOTHING).view(pictures, -1))
    if not len(depth):
        nothing = pixel.new_zeros(pixel.numel())
        return Coverage(pixel, valid, nothing, torch.zeros(len(nothing), 3), valid)
    base = torch.arange(pictures, device=points.device)[:, None] * size**2
    winner = best.index_select(0, (pixel + base).view(-1)) & _ORDER
    # The end of a list repeats some pixel, or nothing at all.
    winner = winner.clamp_(max=len(depth) - 1)
    owner, weight1, weight2, depth = _pick(winner, owner, weight1, weight2, depth)
    weights = torch.stack([1 - weight1 - weight2, weight1, weight2], 1)
    return Coverage(pixel, valid, kept.index_select(0, owner), weights, depth.view(pixel.shape))


def _lists(covered: Tensor) -> tuple[Tensor, Tensor]:
    """Where (B, P) is true: indices (B, N), at least one, and whether they count."""
    flat = covered.view(-1).nonzero().squeeze(1)
    if len(covered) == 1 and len(flat):
        return flat[None], torch.ones(1, len(flat), device=flat.device)
    counts = covered.sum(1)
    longest = max(int(counts.max()), 1)
    picture = flat // covered.shape[1]
    rank = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[picture]
    pixel = flat.new_zeros(len(covered), longest)
    pixel[picture, rank] = flat - picture * covered.shape[1]
    valid = torch.arange(longest, device=flat.device) < counts[:, None]
    return pixel, valid.float()


def _pick(index: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Elements of each of ``values`` (N,); several times faster than ``value[index]`` on a CPU."""
    return tuple(value.index_select(0, index) for value in values)


def _span(start: Tensor, second: Tensor, third: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First pixel centre in the extent of triangles, and how many there are; float32."""
    low = start + torch.minimum(second, third).clamp(max=0)
    high = start + torch.maximum(second, third).clamp(min=0)
    first = (low - 0.5).ceil_().clamp_(0, size)
    last = (high - 0.5).floor_().clamp_(-1, size - 1)
    return first, (last - first + 1).clamp_(min=0)


def _candidates(wide: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pixel of boxes (T,) by (T,): the box, the column and the row in it (float32)."""
    count = (wide * high).long()
    owner = torch.repeat_interleave(count)
    before, across = _pick(owner, count.cumsum(0) - count, wide)
    within = (torch.arange(len(owner), device=wide.device) - before).float()
    row = ((within + 0.5) / across).floor_()
    return owner, within - row * across, row


def _keys(depth: Tensor) -> Tensor:
    """Numbers that sort like (depth, place in the list): equal depths go to the later one."""
    bits = depth.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | torch.arange(len(depth), device=depth.device)


def blend_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table (R, C): rows and weights (N, K) → (N, C) float32."""
    return torch.nn.functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
