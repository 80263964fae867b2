"""Shading of every sample of a batch of pictures, in linear RGB.

Shapes: B pictures of N samples each; a channel is (B, N), a colour (B, 3, N), a picture's own
number (B, 1) and colour (B, 3); everything float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .rasterize import CoveredSamples, mean_of_pixels

SHADOW_SIZE = 80
SHADOW_REACH = 15.0  # head units from the pivot that the map covers
NO_CASTER = -1e3
# Offsets in texels (right, down) of the shadow map's samples around a point.
SHADOW_STEPS = ((-0.6, -0.6), (0.6, -0.6), (-0.6, 0.6), (0.6, 0.6), (0.0, 0.0))
# Light scatters in skin beyond the terminator, red furthest.
_WRAP = (0.28, 0.18, 0.14)
# Radius in head units, strength, and maximum darkening of a hollow.
_HOLLOWS = ((0.22, 2.2, 0.8), (0.8, 0.75, 0.85), (2.2, 0.22, 0.8))


@dataclass(frozen=True)
class Surface:
    """The surface at every sample.

    Attributes:
        position: (B, 3, N) camera coordinates, head units.
        normal: (B, 3, N) unit, camera coordinates.
        albedo: (B, 3, N) linear RGB.
        gloss: (B, N) in [0, 1].
        wet: (B, N) 1 on eyes and teeth, else 0.
    """

    position: Tensor
    normal: Tensor
    albedo: Tensor
    gloss: Tensor
    wet: Tensor


def eye_albedo(offset: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
    """Return the colour of sclera, iris and pupil: (N, 2) offsets from the optical axis → (N, 3).

    ``numbers``: (N, 1) or (N, 3) of ``white``, ``iris``, ``iris_radius`` and ``pupil_radius``.
    """
    radius = offset.square().sum(1, keepdim=True).sqrt()
    iris_radius, pupil_radius = numbers["iris_radius"], numbers["pupil_radius"]
    redness = (offset[:, :1].abs() - 0.7).clamp(0, 1) * offset.new_tensor([0.1, 0.35, 0.3])
    colour = numbers["white"] * (1 - redness)
    streaks = 1 + 0.25 * torch.sin(9 * torch.atan2(offset[:, 1:], offset[:, :1]))
    rim = tensor_smoothstep(iris_radius, iris_radius - 0.14, radius)
    inside = numbers["iris"] * streaks * (0.25 + 0.75 * rim)
    colour = colour + tensor_smoothstep(iris_radius + 0.03, iris_radius - 0.03, radius) * (
        inside - colour
    )
    pupil = tensor_smoothstep(pupil_radius + 0.04, pupil_radius - 0.04, radius)
    return colour * (1 - pupil) + 0.006 * pupil


def occlusion(cover: CoveredSamples, unit: Tensor, size_px: int) -> Tensor:
    """Return screen-space ambient occlusion, (B, N) in [0, 1]; 1 is fully open.

    A sample deeper than its surroundings is in a hollow: sockets, nostrils, the corners of the
    mouth, the mouth itself. ``unit`` (B, 1) is pixels (not samples) per head unit; a picture has
    ``size_px`` pixels a side.
    """
    pictures, size = len(unit), cover.samples.shape[-1]
    pair = mean_of_pixels(cover.samples)
    openness = torch.ones_like(cover.depth)
    for reach, strength, most in _HOLLOWS:
        # Wide blurs use a coarser grid: the same result, faster.
        cells = max(size_px // max(1, round(size_px * reach / 40)), 8)
        blur = _gaussian(reach * unit, size_px, cells)[:, None]
        total, weight = (blur @ pair @ blur.transpose(2, 3)).unbind(1)
        mean = (total / weight.clamp(min=1e-4))[:, None]
        around = functional.interpolate(mean, (size, size), mode="bilinear").view(pictures, -1)
        around = around.gather(1, cover.place)
        openness *= 1 - (strength * (around - cover.depth)).clamp(0, most)
    return openness.clamp(0.06, 1)


def _gaussian(sigma: Tensor, size: int, cells: int) -> Tensor:
    """Return (B, cells, size) weights that blur a row of pixels into cells; sigma (B, 1) pixels."""
    pixel = torch.arange(size, device=sigma.device) + 0.5
    centre = (torch.arange(cells, device=sigma.device) + 0.5) * (size / cells)
    away = (centre[:, None] - pixel) / sigma[..., None]
    # Clamped to avoid denormal numbers far away, which make products ten times slower.
    weight = torch.exp(-0.5 * away.square().clamp(max=60))
    return weight / weight.sum(2, keepdim=True)


def cast_shadow(points: Tensor, position: Tensor, frame: Tensor) -> Tensor:
    """Return (B, N) in [0, 1]: 0 where something is between a sample and the key light.

    ``points`` (B, 3, V) and ``position`` (B, 3, N) camera coordinates; ``frame`` (B, 3, 3) rows
    right, up and towards the light.
    """
    scale = SHADOW_SIZE / (2 * SHADOW_REACH)
    frame = frame * frame.new_tensor([[scale], [-scale], [1.0]])
    middle = SHADOW_SIZE / 2
    # Vertices are denser than the texels of this small map: no triangles needed.
    across, down, near = torch.bmm(frame, points).unbind(1)
    across, down = (across + middle).floor(), (down + middle).floor()
    held = (torch.minimum(across, down) >= 0) & (torch.maximum(across, down) < SHADOW_SIZE)
    cell = (down * SHADOW_SIZE + across).long() * held
    square = torch.full((len(points), SHADOW_SIZE**2), NO_CASTER, device=points.device)
    square.scatter_reduce_(1, cell, near.masked_fill(~held, NO_CASTER), "amax")
    square = square.view(-1, 1, SHADOW_SIZE, SHADOW_SIZE)
    wider = functional.max_pool2d(square, 3, 1, 1)
    filled = -functional.max_pool2d(-wider, 3, 1, 1)
    nearest = torch.where(square > NO_CASTER, square, filled).view(len(points), -1)
    across, down, near = torch.bmm(frame, position).unbind(1)
    lit = torch.zeros_like(near)
    last = SHADOW_SIZE - 1
    for right, low in SHADOW_STEPS:
        column = (across + (middle + right)).floor_().clamp_(0, last)
        row = (down + (middle + low)).floor_().clamp_(0, last)
        cell = (row * SHADOW_SIZE + column).long()
        lit += tensor_smoothstep(1.1, 0.4, nearest.gather(1, cell) - near)
    return lit / len(SHADOW_STEPS)


def shade(surface: Surface, openness: Tensor, lit: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
    """Return (B, 3, N) linear RGB radiance; ``numbers`` are those of the pictures' lights."""
    normal = surface.normal
    key = numbers["key"] * (1 - numbers["shadow"] * (1 - lit))
    wrap = normal.new_tensor(_WRAP)[:, None]
    facing = _dot(normal, numbers["key_direction"])
    diffuse = ((facing[:, None] + wrap) / (1 + wrap)).clamp_(min=0)
    direct = (key * (0.45 + 0.55 * openness))[:, None] * numbers["key_colour"][..., None]
    tilt = 1 + _dot(normal, numbers["ambient_tilt"]) + 0.15 * normal[:, 1]
    ambient = numbers["ambient"] * tilt.clamp_(min=0.1)
    fill = numbers["fill"] * _dot(normal, numbers["fill_direction"]).clamp_(min=0)
    received = diffuse.mul_(direct).add_(((ambient + fill) * openness)[:, None])
    radiance = received.mul_(surface.albedo)

    aligned = _dot(normal, numbers["half"]).clamp_(min=0)
    # Powers by multiplication: 18 = 16 + 2, 90 = 64 + 16 + 8 + 2.
    second = aligned.square()
    eighth = second.square().square()
    sixteenth = eighth.square()
    dull, bright = sixteenth * second, sixteenth.square().square() * sixteenth * eighth * second
    oil = numbers["oil"]
    shine = oil * 0.5 * surface.gloss * dull
    shine = shine + surface.wet * (0.9 * bright - shine)
    rim = 0.12 * numbers["ambient"] * oil * (1 - normal[:, 2].clamp(0, 1)).pow(3)
    radiance += (shine * key * openness + rim)[:, None]
    return radiance


def develop(radiance: Tensor, gain: Tensor, contrast: Tensor) -> Tensor:
    """Convert linear radiance (B, 3, N) to display values in [0, 1]: exposure, gamma, contrast.

    ``gain`` and ``contrast``: (B, 1).
    """
    display = (radiance * gain[..., None]).clamp_(min=0).pow_(1 / 2.2)
    display = display.sub_(0.5).mul_(contrast[..., None]).add_(0.5)
    # Soft clipping of highlights.
    over = (display - 0.8).clamp_(min=0)
    return display.sub_(over).add_(0.2 * torch.tanh(over / 0.2)).clamp_(0, 1)


def tensor_smoothstep(low: Tensor | float, high: Tensor | float, value: Tensor) -> Tensor:
    """Return 0 below ``low``, 1 above ``high``, smooth between (``low`` may exceed ``high``).

    ``value`` is (...), ``low`` and ``high`` numbers or tensors of a shape that fits it.
    """
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _dot(vectors: Tensor, direction: Tensor) -> Tensor:
    """(B, 3, N) · (B, 3) → (B, N)."""
    x, y, z = direction.unbind(1)
    return vectors[:, 0] * x[:, None] + vectors[:, 1] * y[:, None] + vectors[:, 2] * z[:, None]
