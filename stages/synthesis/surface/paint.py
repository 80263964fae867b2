"""Paints a person on the atlas: skin, lips, lids, beard, brows and hair, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats
from ..scene.features import Colour
from ..scene.person import Person, generator
from .atlas import EVERYWHERE, Atlas, Stencil, Window, noise, polygon, smoothstep, spline, strokes
from .growth import CLOTH, beard_mask, bristles, hair_growth, strands
from .head import Head
from .skin import mark_skin, paint_lids, paint_skin, paint_sockets

_OUTER_LIPS = slice(48, 60)  # iBUG numbering
_BROWS = {-1: slice(17, 22), 1: slice(22, 27)}  # image left is the person's right


@dataclass(frozen=True)
class Paint:
    """Maps over the atlas, the same for every picture of a person.

    Attributes:
        albedo: (3, H, W) float32 linear RGB in [0, 1].
        relief: (H, W) float32 head units, fine height differences such as strands of hair.
        lift: (H, W) float32 head units, thickness of hair and beard.
        gloss: (H, W) float32 in [0, 1].
    """

    albedo: Floats
    relief: Floats
    lift: Floats
    gloss: Floats


def paint_person(head: Head, person: Person) -> Paint:
    """Paint one person."""
    atlas = head.atlas
    rng = generator(4, person.seed)
    shape = (atlas.height, atlas.width)
    relief, lift = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    albedo = paint_skin(rng, person, shape)
    if person.detail is not None:
        albedo *= np.moveaxis(person.detail, -1, 0)
    mark_skin(head, person, albedo, relief)
    gloss = np.full(shape, 0.6, np.float32)
    lips = _lips(head)
    _paint_lips(lips, person, albedo, relief)
    gloss[lips.window] += 0.4 * lips.mask
    paint_sockets(atlas, person, albedo)
    paint_lids(head, person, albedo, relief)
    strand = strands(atlas, person, rng)
    beard = beard_mask(atlas, person, rng, lips)
    if beard is not None:
        bristle = bristles(atlas, person)
        beard *= (0.75 + 0.6 * bristle).clip(0, 1)
        _blend(albedo, beard * person.beard.density, person.beard.colour, 0.35 * bristle)
        lift += beard * person.beard.thickness
        relief += 0.012 * beard * bristle
        gloss *= 1 - 0.7 * beard
    brows = _brow_mask(head, person, rng)
    if brows is not None:
        _blend(albedo, brows.mask, person.brows.colour, window=brows.window)
        gloss[brows.window] *= 1 - 0.5 * brows.mask
    hair = hair_growth(atlas, person, rng, strand)
    if hair is not None:
        cloth = person.hair.style in CLOTH
        colour = person.hair.hat_colour if cloth else person.hair.colour
        texture = noise(rng, shape, (60, 90), 0.15) if cloth else 0.55 * strand
        _blend(albedo, hair.cover, colour, texture)
        waves = noise(rng, shape, (10, 16), 0.3)
        waves += 1
        if person.hair.curl > 0:
            waves *= 1 + 0.3 * person.hair.curl * strand
        waves *= hair.body
        waves *= person.hair.thickness
        lift += waves
        strand *= (0.02 + 0.02 * person.hair.curl) * (0.3 if cloth else 1)
        strand *= hair.cover
        relief += strand
        gloss *= 1 - 0.4 * hair.cover
    hem = slice(int((atlas.y > -8.6).sum()), None), slice(None)
    _blend(albedo, smoothstep(-8.6, -9.4, atlas.y[hem[0]]), person.clothes, window=hem)
    return Paint(albedo, relief, lift, gloss)


def slopes(atlas: Atlas, relief: Floats) -> tuple[Floats, Floats]:
    """Return the gradients, (H, W) each, of a relief along the angle and upwards; no unit."""
    right, up = atlas.slope_scale
    across = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=right)
    upwards = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=-up)
    return np.asarray(across, np.float32), np.asarray(upwards, np.float32)


def _blend(
    albedo: Floats,
    mask: Floats,
    colour: Colour,
    texture: Floats | None = None,
    window: Window = EVERYWHERE,
) -> None:
    """Blend a colour over a window of (3, H, W), in place; ``texture``: in about [-1, 1]."""
    strength = None if texture is None else (1 + texture).clip(0.2, 2)
    for whole, value in zip(albedo, colour, strict=True):
        channel = whole[window]
        layer = value - channel if strength is None else value * strength
        if strength is not None:
            layer -= channel
        layer *= mask
        channel += layer


@lru_cache(maxsize=4)
def _lips(head: Head) -> Stencil:
    """Return a soft mask of the lips."""
    outline = head.texels[head.kit.landmarks68[_OUTER_LIPS]]
    mask = head.atlas.blank()
    polygon(mask, spline(outline, 48, closed=True))
    drawn = head.atlas.cut(mask, 0.5)
    return Stencil(drawn.window, head.atlas.blur(drawn.mask, 0.09))


def _paint_lips(lips: Stencil, person: Person, albedo: Floats, relief: Floats) -> None:
    """Paint the colour of the lips, and their pleats."""
    _blend(albedo, lips.mask * (person.lip_strength * 0.9), person.lip, window=lips.window)
    if person.marks.pores > 0:
        rng, shape = generator(13, person.seed), (relief.shape[0], relief.shape[1])
        pleats = lips.mask * noise(rng, shape, (5, shape[1]))[lips.window]
        albedo[:, lips.window[0], lips.window[1]] *= 1 + 0.15 * pleats
        relief[lips.window] += 0.008 * pleats


def _brow_mask(head: Head, person: Person, rng: np.random.Generator) -> Stencil | None:
    """Return the mask of brows, many short hairs over a soft ground; None without brows."""
    atlas, brows = head.atlas, person.brows
    ground, hairs = atlas.blank(), atlas.blank()
    if brows.density < 0.05:
        return None
    texel = atlas.texels_per_unit
    for side, landmarks in _BROWS.items():
        line = head.kit.neutral[head.kit.landmarks68[landmarks]].copy()
        line = line if side > 0 else line[::-1]  # from the nose outwards
        along = np.linspace(0, 1, len(line), dtype=np.float32)
        middle = line[0] + 0.1 * (line[-1] - line[0])
        line = middle + (line - middle) * brows.length
        uneven = 0.05 * rng.standard_normal()
        line[:, 1] += brows.raise_ - 0.25 + uneven - brows.slope * (1 - along) * 1.2
        line[:, 1] += brows.arch * np.sin(np.pi * along**1.3)
        centre = spline(atlas.texel(line), 40)
        t = np.linspace(0, 1, 40, dtype=np.float32)
        half = (
            0.5
            * brows.thickness
            * texel
            * (0.55 + 0.6 * np.sin(np.pi * (0.2 + 0.6 * t)))
            * (1 - 0.65 * t**2)
        )
        up = np.stack([np.zeros_like(half), -half], 1)
        polygon(ground, np.concatenate([centre + up * 0.9, (centre - up * 0.9)[::-1]]))
        count = int(60 + 160 * brows.density)
        root = rng.integers(0, 38, count)
        across = rng.uniform(-1, 1, count).astype(np.float32)
        start = centre[root] + up[root] * across[:, None]
        heading = centre[np.minimum(root + 3, 39)] - centre[root]
        heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-6
        lean = np.stack([np.zeros(count), -(0.9 - 1.1 * t[root]) - 0.35 * across], 1)
        length = texel * rng.uniform(0.25, 0.5, (count, 1))
        strokes(
            hairs, np.stack([start, start + (heading + lean) * length], 1).astype(np.float32), 255
        )
        _single_hairs(hairs, person, side, (centre, up), texel)
    window = atlas.cut(ground | hairs, 0.6).window
    soft, thin = (drawn[window].astype(np.float32) / 255 for drawn in (ground, hairs))
    soft = atlas.blur(soft, 0.12) * (0.25 + 0.45 * brows.density)
    thin = atlas.blur(thin, 0.04) * (0.35 + 0.6 * brows.density)
    return Stencil(window, np.maximum(soft, thin).clip(0, 1))


def _single_hairs(
    hairs: NDArray[np.uint8],
    person: Person,
    side: int,
    band: tuple[Floats, Floats],
    texel: float,
) -> None:
    """Draw thin hairs of varying darkness along a brow.

    ``band``: its centre line (K, 2) and half height (K, 2).
    """
    rng = generator(11, person.seed, 1 + side)
    centre, up = band
    last = len(centre) - 1
    for level in (90, 150, 210):
        count = int(55 * person.brows.fine * (0.4 + person.brows.density))
        root = rng.integers(0, last - 2, count)
        start = centre[root] + up[root] * rng.uniform(-1.15, 1.05, (count, 1))
        heading = centre[np.minimum(root + 3, last)] - centre[root]
        heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-6
        rise = np.stack([np.zeros(count), -rng.normal(0.55 - 0.7 * root / last, 0.3)], 1)
        tip = start + (heading + rise) * texel * rng.uniform(0.2, 0.5, (count, 1))
        strokes(hairs, np.stack([start, tip], 1).astype(np.float32), level)
