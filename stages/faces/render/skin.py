"""Skin: its colour and what it bears, the lids, make-up, and the masses that lie under it.

Everything is laid on planar albedo (3, H, W) linear RGB and relief (H, W) head units, in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas, noise, polygon, smoothstep, spline, stroke
from .features import Colour
from .head import Head
from .person import Person, generator

FloatArray = NDArray[np.floating]

# Corner, lid, lid, corner of each eye (iBUG numbering), and how far the crease lies above them.
_UPPER_LIDS = ((36, 37, 38, 39), (42, 43, 44, 45))
_CREASE = np.array([0.22, 0.55, 0.55, 0.22], np.float32)


@dataclass(frozen=True)
class Lids:
    """(H, W) float32 masks in [0, 1]: the fold above each upper lid, the lid below it, its rim."""

    fold: FloatArray
    below: FloatArray
    rim: FloatArray


def paint_skin(rng: np.random.Generator, person: Person, shape: tuple[int, int]) -> FloatArray:
    """Base colour, blotches, redder places, spots: (3, H, W) linear RGB, planar for speed."""
    patches = noise(rng, shape, (5, 7)) * 0.6 + noise(rng, shape, (24, 32)) * 0.4
    fine = noise(rng, shape, (shape[0] // 2, shape[1] // 2))
    redness = 0.5 * person.blotch * noise(rng, shape, (6, 8))
    spots = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(0, 12))):
        place = (int(rng.integers(shape[1] // 5, shape[1] * 4 // 5)), int(rng.integers(shape[0])))
        cv2.circle(spots, place, 1, int(rng.integers(60, 200)), -1, cv2.LINE_AA)
    level = (1 + person.blotch * patches + 0.03 * fine) * (1 - spots.astype(np.float32) / 400)
    pale = level * (1 - redness)
    red, green, blue = person.skin
    return np.stack([red * level * (1 + redness), green * pale, blue * pale]).astype(np.float32)


def spot(atlas: Atlas, x: float, y: float, wide: float, high: float) -> FloatArray:
    """(H, W): a soft spot on both sides, ``x`` and ``wide`` in degrees, heights in head units."""
    across = np.exp(-(((np.abs(atlas.degrees) - x) / wide) ** 2))
    return (across * np.exp(-(((atlas.y - y) / high) ** 2))).astype(np.float32)


def mark_skin(head: Head, person: Person, albedo: FloatArray, relief: FloatArray) -> None:
    """Pores, redness, freckles, moles, spots of age, the shadow of a beard."""
    atlas, marks = head.atlas, person.marks
    rng = generator(9, person.seed)
    shape = (atlas.height, atlas.width)
    if marks.pores > 0:
        grain = rng.standard_normal(shape, np.float32)
        mottled = noise(rng, shape, (48, 64)) * 0.6 + noise(rng, shape, (110, 150)) * 0.4
        albedo *= 1 + marks.pores * (0.035 * grain + (0.03 + 0.6 * person.blotch) * mottled)
        relief += 0.0016 * marks.pores * grain
    if marks.redness > 0:
        places = spot(atlas, 0, 0.3, 9, 1.0) + spot(atlas, 0, -5.8, 12, 0.9)
        places += spot(atlas, 32, 0.2, 14, 1.7) + 0.6 * spot(atlas, 0, 6.5, 22, 1.2)
        places *= marks.redness * (0.8 + 0.5 * noise(rng, shape, (20, 28)))
        _darken(albedo, places, (-0.04, 0.2, 0.17))
    if marks.freckles > 0:
        count = int(60 + 400 * marks.freckles)
        dots = _dots(rng, atlas, count, (0, 22), (1.4, 1.9), (0, 1))
        _darken(albedo, dots * (0.5 + 0.5 * marks.freckles), (0.3, 0.5, 0.62))
    if marks.age_spots > 0:
        count = int(4 + 26 * marks.age_spots)
        dots = atlas.blur(_dots(rng, atlas, count, (0, 45), (3.5, 4.0), (1, 5)), 0.06)
        _darken(albedo, 0.6 * dots, (0.32, 0.5, 0.58))
    if marks.moles > 0:
        dots = _dots(rng, atlas, marks.moles, (0, 38), (0.5, 4.5), (1, 2))
        _darken(albedo, dots, (0.65, 0.78, 0.82))
        relief += 0.02 * dots
    if marks.shadow > 0:
        side = np.abs(atlas.degrees)
        edge = atlas.y - 0.075 * (side - 18).clip(0) + 0.3 * noise(rng, shape, (12, 18))
        grown = smoothstep(-0.9, -2.2, edge) * smoothstep(85, 72, side)
        grown = grown * smoothstep(-10, -8, atlas.y) * (0.75 + 0.35 * noise(rng, shape, shape))
        _darken(albedo, marks.shadow * grown, (0.36, 0.32, 0.24))


def _darken(albedo: FloatArray, mask: FloatArray, shares: Colour) -> None:
    """Take away a share of each channel where the mask is 1."""
    for channel, share in zip(albedo, shares, strict=True):
        channel *= 1 - share * mask


def _dots(
    rng: np.random.Generator,
    atlas: Atlas,
    count: int,
    degrees: tuple[float, float],
    heights: tuple[float, float],
    radii: tuple[int, int],
) -> FloatArray:
    """(H, W) in [0, 1]: dots spread normally (mean, deviation) over angle and height."""
    mask = atlas.blank()
    where = atlas.at(rng.normal(*degrees, count), rng.normal(*heights, count))
    sizes = rng.integers(radii[0], radii[1] + 1, (count, 2))
    levels = rng.integers(60, 256, count)
    for (x, y), (wide, high), level in zip(
        where.round().astype(int).tolist(), sizes.tolist(), levels.tolist(), strict=True
    ):
        cv2.ellipse(mask, (x, y), (wide, high), 0, 0, 360, level, -1, cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def paint_sockets(atlas: Atlas, person: Person, albedo: FloatArray) -> None:
    """Darker hollows around the eyes and bags below them."""
    hollow, inner = spot(atlas, 19, 3.7, 11, 1.25), spot(atlas, 10, 3.9, 5, 1.1)
    bag = spot(atlas, 19, 2.3, 9, 0.5)
    dark = person.eyes.socket * (0.5 * hollow + 0.35 * inner + 0.3 * bag)
    _darken(albedo, dark, (0.75, 0.85, 0.8))


def find_lids(head: Head) -> Lids:
    """Where the upper lids are on the atlas."""
    atlas = head.atlas
    fold, below, rim = atlas.blank(), atlas.blank(), atlas.blank()
    for lid in _UPPER_LIDS:
        margin = head.kit.neutral[head.kit.landmarks68[list(lid)]]
        crease = margin + np.array([0, 1, 0], np.float32) * _CREASE[:, None]
        low, high = (spline(atlas.texel(points), 24) for points in (margin, crease))
        stroke(fold, high[2:-2], 255, 1)
        stroke(rim, low, 255, 1)
        polygon(below, np.concatenate([low, high[::-1]]))
    return Lids(
        fold=(1.6 * atlas.blur(fold.astype(np.float32) / 255, 0.06)).clip(0, 1),
        below=atlas.blur(below.astype(np.float32) / 255, 0.1),
        rim=(1.3 * atlas.blur(rim.astype(np.float32) / 255, 0.05)).clip(0, 1),
    )


def paint_lids(head: Head, person: Person, albedo: FloatArray, relief: FloatArray) -> None:
    """The lid's crease and shade, eye shadow, liner and blush."""
    marks, makeup, atlas = person.marks, person.makeup, head.atlas
    if marks.crease > 0 or marks.lid > 0 or makeup.liner > 0 or makeup.shade > 0:
        lids = find_lids(head)
        relief -= 0.05 * marks.crease * lids.fold
        _darken(albedo, 0.55 * marks.crease * lids.fold, (0.8, 0.9, 0.85))
        _darken(albedo, 0.45 * marks.lid * lids.below, (0.7, 0.85, 0.8))
        if makeup.shade > 0:
            area = makeup.shade * atlas.blur(lids.below, 0.18)
            for channel, value in zip(albedo, makeup.shade_colour, strict=True):
                channel += area * (value - channel)
        _darken(albedo, makeup.liner * lids.rim, (0.9, 0.9, 0.88))
    if makeup.blush > 0:
        _darken(albedo, makeup.blush * spot(atlas, 33, 0.2, 13, 1.5), (-0.05, 0.3, 0.22))


def masses(atlas: Atlas, person: Person) -> FloatArray:
    """(H, W) float32 head units by which bone and flesh stand out from the head's shape."""
    build = person.build
    brow = spot(atlas, 17, 5.35, 13, 0.6) + 0.6 * spot(atlas, 0, 5.3, 7, 0.6)
    jowls = spot(atlas, 31, -4.8, 14, 1.6) + 0.6 * spot(atlas, 0, -7.9, 30, 0.9)
    cheeks = spot(atlas, 36, -0.3, 16, 2.4)
    return build.ridge * brow + build.jowls * jowls + build.cheeks * cheeks
