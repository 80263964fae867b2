"""A z-buffer in torch for batches of meshes with triangles about as small as pixels.

Every front-facing triangle lists the pixel centres in its bounding box; the nearest triangle that
covers a centre wins. The winner is the maximum of 64-bit keys of depth and order, which does not
depend on the order of comparison: the same picture on every run, also on a GPU. It is a handful of
array operations over all pictures at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A tolerance that closes the seams that rounding opens between neighbours.
SLACK = 1e-5
_NOTHING = torch.iinfo(torch.int64).min
_ORDER = 0xFFFFFFFF


@dataclass(frozen=True)
class CoveredSamples:
    """The visible surface of B pictures as lists of points to shade, padded to the longest, N.

    If all samples of a pixel show the same smooth surface, one point in its middle represents them.

    Attributes:
        place: (B, N) int64 flat index ``row * size + column`` of a point's first sample.
        share: (B, N) float32 number of samples it represents; 0 for padding.
        first: (B, N) bool, whether it is the first sample of its pixel.
        triangle: (B * N,) int64 index of the visible triangle.
        weights: (B * N, 3) float32 barycentric weights of its corners (affine in the image plane).
        depth: (B, N) float32, larger is nearer.
        samples: (B, 2, size, size) float32: depth of every sample (0 if empty), and whether it is
            covered (1 or 0).
    """

    place: Tensor
    share: Tensor
    first: Tensor
    triangle: Tensor
    weights: Tensor
    depth: Tensor
    samples: Tensor


@dataclass(frozen=True)
class SmoothAreas:
    """Where one point may represent a whole pixel.

    Attributes:
        surface: (T,) float32, triangles with the same number > 0 look alike; 0 is not smooth.
        reach: (B, 1) float32, the maximum variation of depth within a pixel.
    """

    surface: Tensor
    reach: Tensor


def rasterize(points: Tensor, corners: Tensor, smooth: SmoothAreas, size: int) -> CoveredSamples:
    """Find the visible triangle at every sample, and the points to shade.

    Args:
        points: (3, V) float32, vertices of all pictures; x right and y down in samples (the first
            one is at 0.5, 0.5), z larger is nearer.
        corners: (3, T) int64 into the vertices; every picture has T / pictures triangles, in order;
            counter-clockwise with y up; others face away and are skipped.
        smooth: where one point is enough.
        size: width and height of a picture in samples, even; two by two make a pixel.
    """
    pictures = len(smooth.reach)
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
    # Weights are affine in the pixel's position within the bounding box.
    x, y = left + 0.5 - x0, top + 0.5 - y0
    right1, down1, right2, down2 = y2 * inverse, -x2 * inverse, -y1 * inverse, x1 * inverse
    weights: list[Tensor] = []
    for right, low in ((right1, down1), (right2, down2)):
        start, right, low = _pick(owner, x * right + y * low, right, low)
        weights.append(start + column * right + row * low)
    weight1, weight2 = weights
    rest = 1 - weight1 - weight2
    inside = (torch.minimum(torch.minimum(weight1, weight2), rest) >= -SLACK).nonzero().squeeze(1)
    owner, weight1, weight2, row, column = _pick(inside, owner, weight1, weight2, row, column)
    z0, z1, z2 = (near.index_select(0, corner.index_select(0, kept)) for corner in corners)
    rise1, rise2 = z1 - z0, z2 - z0
    begin = kept // (corners.shape[1] // pictures) * size**2 + (top * size + left).long()
    at0, at1, at2, begin = _pick(owner, z0, rise1, rise2, begin)
    depth = at0 + weight1 * at1 + weight2 * at2
    sample = begin + (row * size + column).long()
    best = torch.full((pictures * size**2,), _NOTHING, device=points.device)
    best.scatter_reduce_(0, sample, _keys(depth), "amax")
    if not len(depth):
        return _empty(pictures, size, points.device)
    covered = best != _NOTHING
    winner = (best & _ORDER) * covered
    of, depth = _pick(winner, owner, depth)
    shown = covered.float()
    samples = torch.stack([depth * shown, shown]).view(2, pictures, size, size).transpose(0, 1)
    surface = smooth.surface.index_select(0, kept).index_select(0, of) * shown
    single = _single(samples[:, 0], surface.view(pictures, size, size), smooth.reach)
    place, share, first = _lists(covered.view(pictures, size, size), single)
    base = torch.arange(pictures, device=points.device)[:, None] * size**2
    winner = winner.index_select(0, (place + base).view(-1))
    owner, weight1, weight2 = _pick(winner, owner, weight1, weight2)
    half = (share.view(-1) > 1) * 0.5  # from the first sample to the middle of the pixel
    step1, step2, z0, rise1, rise2 = _pick(owner, right1 + down1, right2 + down2, z0, rise1, rise2)
    weight1, weight2 = weight1 + half * step1, weight2 + half * step2
    depth = (z0 + weight1 * rise1 + weight2 * rise2).view(place.shape)
    weight = torch.stack([1 - weight1 - weight2, weight1, weight2], 1)
    triangle = kept.index_select(0, owner)
    return CoveredSamples(place, share, first, triangle, weight, depth, samples)


def _empty(pictures: int, size: int, device: torch.device) -> CoveredSamples:
    """Return empty pictures."""
    place = torch.zeros(pictures, 1, dtype=torch.int64, device=device)
    blank = torch.zeros(pictures, 1, device=device)
    samples = torch.zeros(pictures, 2, size, size, device=device)
    weights = torch.zeros(pictures, 3, device=device)
    return CoveredSamples(place, blank, place == 0, place.view(-1), weights, blank, samples)


def _single(depth: Tensor, surface: Tensor, reach: Tensor) -> Tensor:
    """Return (B, S, S) bool: pixels whose samples (B, size, size) show one smooth surface."""

    def extremes(plane: Tensor) -> tuple[Tensor, Tensor]:
        top, low = plane[:, ::2], plane[:, 1::2]
        least, most = torch.minimum(top, low), torch.maximum(top, low)
        return (
            torch.minimum(least[..., ::2], least[..., 1::2]),
            torch.maximum(most[..., ::2], most[..., 1::2]),
        )

    (least, most), (near, far) = extremes(surface), extremes(depth)
    return (least > 0) & (least == most) & (far - near < reach[..., None])


def _lists(covered: Tensor, single: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return place, share and whether first of a pixel, (B, N) each, of the points to shade.

    ``covered`` (B, size, size) samples, ``single`` (B, S, S) pixels that need only one point.
    """
    pictures, pixels = len(covered), single.shape[1]
    blocks = covered.view(pictures, pixels, 2, pixels, 2)
    share = (blocks & ~single[:, :, None, :, None]).float()
    share[:, :, 0, :, 0] += 4 * single
    share = share.view(pictures, -1)
    flat = share.view(-1).nonzero().squeeze(1)
    picture = flat // share.shape[1]
    counts = torch.bincount(picture, minlength=pictures)
    rank = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[picture]
    place = flat.new_zeros(pictures, int(counts.max()))
    place[picture, rank] = flat - picture * share.shape[1]
    valid = torch.arange(place.shape[1], device=flat.device) < counts[:, None]
    row = place // (2 * pixels)
    first = ((row | (place - row * 2 * pixels)) & 1) == 0
    return place, share.gather(1, place) * valid, first & valid


def _pick(index: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Index each of ``values`` (N,); several times faster than ``value[index]`` on a CPU."""
    return tuple(value.index_select(0, index) for value in values)


def _span(start: Tensor, second: Tensor, third: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the first pixel centre in the extent of triangles, and their number; float32."""
    low = start + torch.minimum(second, third).clamp(max=0)
    high = start + torch.maximum(second, third).clamp(min=0)
    first = (low - 0.5).ceil_().clamp_(0, size)
    last = (high - 0.5).floor_().clamp_(-1, size - 1)
    return first, (last - first + 1).clamp_(min=0)


def _candidates(wide: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List all pixels of boxes (T,) by (T,): the box, the column and the row in it (float32)."""
    count = (wide * high).long()
    owner = torch.repeat_interleave(count)
    before, across = _pick(owner, count.cumsum(0) - count, wide)
    within = (torch.arange(len(owner), device=wide.device) - before).float()
    row = ((within + 0.5) / across).floor_()
    return owner, within - row * across, row


def _keys(depth: Tensor) -> Tensor:
    """Return integers that sort like (depth, index): of equal depths, the later one wins."""
    bits = depth.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | torch.arange(len(depth), device=depth.device)


def mean_of_pixels(samples: Tensor) -> Tensor:
    """Average the two by two samples of every pixel: (B, C, 2 S, 2 S) → (B, C, S, S)."""
    pictures, channels, size, _ = samples.shape
    blocks = samples.view(pictures, channels, size // 2, 2, size // 2, 2)
    upper, lower = blocks[:, :, :, 0], blocks[:, :, :, 1]
    return (upper[..., 0] + upper[..., 1] + lower[..., 0] + lower[..., 1]) * 0.25


def blend_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows of a table (R, C): rows and weights (N, K) → (N, C) float32."""
    return torch.nn.functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
