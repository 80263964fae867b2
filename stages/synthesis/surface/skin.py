"""Skin: its colour and marks, the lids, make-up, and the bone and flesh under it.

Everything is painted on planar albedo (3, H, W) linear RGB and relief (H, W) head units, in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ....manifests.arrays import Floats
from ..scene.features import Colour
from ..scene.person import Person, generator
from .atlas import EVERYWHERE, Atlas, Stencil, Window, noise, polygon, smoothstep, spline, stroke
from .head import Head

# Number of atlases (and heads) whose masks are cached; a set uses two.
_ATLASES = 4

# Corner, lid, lid, corner of each eye (iBUG numbering); _CREASE: height of the crease above them.
_UPPER_LIDS = ((36, 37, 38, 39), (42, 43, 44, 45))
# The brightness of a spot, by how darkly it is drawn.
_BARE = (1 - np.arange(256) / 400).astype(np.float32)
_CREASE = np.array([0.22, 0.55, 0.55, 0.22], np.float32)


@dataclass(frozen=True)
class Lids:
    """(h, w) float32 masks in [0, 1] on a window of the atlas.

    The fold above each upper lid, the lid below it, its rim, and where eye shadow goes.
    """

    window: Window
    fold: Floats
    below: Floats
    rim: Floats
    shade: Floats


def paint_skin(rng: np.random.Generator, person: Person, shape: tuple[int, int]) -> Floats:
    """Return base colour, blotches, redness, spots: (3, H, W) linear RGB, planar for speed."""
    level = noise(rng, shape, (5, 7), 0.6 * person.blotch)
    level += noise(rng, shape, (24, 32), 0.4 * person.blotch)
    level += noise(rng, shape, (shape[0] // 2, shape[1] // 2), 0.03)
    level += 1
    redness = noise(rng, shape, (6, 8), 0.5 * person.blotch)
    spots = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(0, 12))):
        place = (int(rng.integers(shape[1] // 5, shape[1] * 4 // 5)), int(rng.integers(shape[0])))
        cv2.circle(spots, place, 1, int(rng.integers(60, 200)), -1, cv2.LINE_AA)
    level *= cv2.LUT(spots, _BARE)
    redness *= level
    albedo = np.empty((3, *shape), np.float32)
    red, green, blue = person.skin
    np.add(level, redness, out=albedo[0])
    np.subtract(level, redness, out=level)
    albedo[0] *= red
    np.multiply(level, green, out=albedo[1])
    np.multiply(level, blue, out=albedo[2])
    return albedo


def spot(
    atlas: Atlas, x: float, y: float, wide: float, high: float, window: Window = EVERYWHERE
) -> Floats:
    """Return a soft spot on both sides, (h, w) on a window.

    ``x`` and ``wide`` in degrees, ``y`` and ``high`` in head units.
    """
    across = np.exp(-(((np.abs(atlas.degrees[:, window[1]]) - x) / wide) ** 2))
    return (across * np.exp(-(((atlas.y[window[0]] - y) / high) ** 2))).astype(np.float32)


@lru_cache(maxsize=_ATLASES)
def _red_places(atlas: Atlas) -> Stencil:
    """Return where skin is redder: nose, chin, cheeks, forehead."""
    window = atlas.window(75, -8.6, 10.1)
    places = spot(atlas, 0, 0.3, 9, 1.0, window) + spot(atlas, 0, -5.8, 12, 0.9, window)
    places += spot(atlas, 32, 0.2, 14, 1.7, window) + 0.6 * spot(atlas, 0, 6.5, 22, 1.2, window)
    return Stencil(window, places)


@lru_cache(maxsize=_ATLASES)
def _sockets(atlas: Atlas) -> Stencil:
    """Return the hollows around the eyes and the bags below them."""
    window = atlas.window(53, -0.1, 7.5)
    places = 0.5 * spot(atlas, 19, 3.7, 11, 1.25, window)
    places += 0.35 * spot(atlas, 10, 3.9, 5, 1.1, window)
    places += 0.3 * spot(atlas, 19, 2.3, 9, 0.5, window)
    return Stencil(window, places)


@lru_cache(maxsize=_ATLASES)
def _blushing(atlas: Atlas) -> Stencil:
    """Return where blush goes."""
    window = atlas.window(73, -4.4, 4.8)
    return Stencil(window, spot(atlas, 33, 0.2, 13, 1.5, window))


def mark_skin(head: Head, person: Person, albedo: Floats, relief: Floats) -> None:
    """Paint pores, redness, freckles, moles, age spots, the shadow of a beard, in place.

    ``albedo``: (3, H, W) float32 linear RGB; ``relief``: (H, W) float32 head units.
    """
    atlas, marks = head.atlas, person.marks
    rng = generator(9, person.seed)
    shape = (atlas.height, atlas.width)
    if marks.pores > 0:
        _mottle(rng, person, albedo, relief)
    if marks.redness > 0:
        red = _red_places(atlas)
        uneven = noise(rng, shape, (20, 28), 0.5)[red.window]
        uneven += 0.8
        uneven *= red.mask
        _darken(albedo, red.window, marks.redness * uneven, (-0.04, 0.2, 0.17))
    if marks.freckles > 0:
        count = int(60 + 400 * marks.freckles)
        dots = _dots(rng, atlas, count, (0, 22), (1.4, 1.9), (0, 1))
        dark = dots.mask * (0.5 + 0.5 * marks.freckles)
        _darken(albedo, dots.window, dark, (0.3, 0.5, 0.62))
    if marks.age_spots > 0:
        count = int(4 + 26 * marks.age_spots)
        dots = _dots(rng, atlas, count, (0, 45), (3.5, 4.0), (1, 5))
        _darken(albedo, dots.window, 0.6 * atlas.blur(dots.mask, 0.06), (0.32, 0.5, 0.58))
    if marks.moles > 0:
        dots = _dots(rng, atlas, marks.moles, (0, 38), (0.5, 4.5), (1, 2))
        _darken(albedo, dots.window, dots.mask, (0.65, 0.78, 0.82))
        relief[dots.window] += 0.02 * dots.mask
    if marks.shadow > 0:
        _shave(rng, atlas, marks.shadow, albedo)


def _mottle(rng: np.random.Generator, person: Person, albedo: Floats, relief: Floats) -> None:
    """Paint pores, and colour variation at their scale."""
    pores, shape = person.marks.pores, (relief.shape[0], relief.shape[1])
    grain = rng.standard_normal(shape, np.float32)
    strength = pores * (0.03 + 0.6 * person.blotch)
    level = noise(rng, shape, (48, 64), 0.6 * strength)
    level += noise(rng, shape, (110, 150), 0.4 * strength)
    grain *= 0.035 * pores
    level += grain
    level += 1
    albedo *= level
    grain *= 0.0016 / 0.035
    relief += grain


def _shave(rng: np.random.Generator, atlas: Atlas, strength: float, albedo: Floats) -> None:
    """Paint the shadow of a shaved beard."""
    shape = (atlas.height, atlas.width)
    window = atlas.window(85, -9.6, 4.6)
    side, y = np.abs(atlas.degrees[:, window[1]]), atlas.y[window[0]]
    edge = noise(rng, shape, (12, 18), 0.3)[window]
    edge += y - 0.075 * (side - 18).clip(0)
    grown = smoothstep(-0.9, -2.2, edge)
    grown *= strength * smoothstep(85, 72, side)
    grown *= smoothstep(-10, -8, y)
    uneven = noise(rng, shape, shape, 0.35)[window]
    uneven += 0.75
    grown *= uneven
    _darken(albedo, window, grown, (0.36, 0.32, 0.24))


def _darken(albedo: Floats, window: Window, mask: Floats, shares: Colour) -> None:
    """Reduce each channel by its share where the mask (h, w) on a window is 1."""
    for channel, share in zip(albedo, shares, strict=True):
        left = mask * -share
        left += 1
        channel[window] *= left


def _dots(
    rng: np.random.Generator,
    atlas: Atlas,
    count: int,
    degrees: tuple[float, float],
    heights: tuple[float, float],
    radii: tuple[int, int],
) -> Stencil:
    """Return random dots, normally distributed (mean, deviation) over angle and height."""
    mask = atlas.blank()
    where = atlas.at(rng.normal(*degrees, count), rng.normal(*heights, count))
    sizes = rng.integers(radii[0], radii[1] + 1, (count, 2))
    levels = rng.integers(60, 256, count)
    for (x, y), (wide, high), level in zip(
        where.round().astype(int).tolist(), sizes.tolist(), levels.tolist(), strict=True
    ):
        cv2.ellipse(mask, (x, y), (wide, high), 0, 0, 360, level, -1, cv2.LINE_AA)
    return atlas.cut(mask, 0.3)


def paint_sockets(atlas: Atlas, person: Person, albedo: Floats) -> None:
    """Darken the hollows around the eyes and the bags below them, in place.

    ``albedo``: (3, H, W) float32 linear RGB.
    """
    places = _sockets(atlas)
    _darken(albedo, places.window, person.eyes.socket * places.mask, (0.75, 0.85, 0.8))


@lru_cache(maxsize=_ATLASES)
def find_lids(head: Head) -> Lids:
    """Return the masks of the upper lids on the atlas."""
    atlas = head.atlas
    fold, below, rim = atlas.blank(), atlas.blank(), atlas.blank()
    for lid in _UPPER_LIDS:
        margin = head.kit.neutral[head.kit.landmarks68[list(lid)]]
        crease = margin + np.array([0, 1, 0], np.float32) * _CREASE[:, None]
        low, high = (spline(atlas.texel(points), 24) for points in (margin, crease))
        stroke(fold, high[2:-2], 255, 1)
        stroke(rim, low, 255, 1)
        polygon(below, np.concatenate([low, high[::-1]]))
    window = atlas.cut(fold | below | rim, 1.3).window
    covered = atlas.blur(below[window].astype(np.float32) / 255, 0.1)
    return Lids(
        window=window,
        fold=(1.6 * atlas.blur(fold[window].astype(np.float32) / 255, 0.06)).clip(0, 1),
        below=covered,
        rim=(1.3 * atlas.blur(rim[window].astype(np.float32) / 255, 0.05)).clip(0, 1),
        shade=atlas.blur(covered, 0.18),
    )


def paint_lids(head: Head, person: Person, albedo: Floats, relief: Floats) -> None:
    """Paint the lid's crease and shade, eye shadow, liner and blush, in place.

    ``albedo``: (3, H, W) float32 linear RGB; ``relief``: (H, W) float32 head units.
    """
    marks, makeup, lids = person.marks, person.makeup, find_lids(head)
    relief[lids.window] -= 0.05 * marks.crease * lids.fold
    _darken(albedo, lids.window, 0.55 * marks.crease * lids.fold, (0.8, 0.9, 0.85))
    _darken(albedo, lids.window, 0.45 * marks.lid * lids.below, (0.7, 0.85, 0.8))
    if makeup.shade > 0:
        for channel, value in zip(albedo, makeup.shade_colour, strict=True):
            part = channel[lids.window]
            part += makeup.shade * lids.shade * (value - part)
    _darken(albedo, lids.window, makeup.liner * lids.rim, (0.9, 0.9, 0.88))
    if makeup.blush > 0:
        places = _blushing(head.atlas)
        _darken(albedo, places.window, makeup.blush * places.mask, (-0.05, 0.3, 0.22))


@lru_cache(maxsize=_ATLASES)
def _tissue_maps(head: Head) -> Floats:
    """Return (V, 3) float32: how much ridge, jowls and cheeks move every vertex."""
    atlas = head.atlas
    brow = spot(atlas, 17, 5.35, 13, 0.6) + 0.6 * spot(atlas, 0, 5.3, 7, 0.6)
    jowls = spot(atlas, 31, -4.8, 14, 1.6) + 0.6 * spot(atlas, 0, -7.9, 30, 0.9)
    cheeks = spot(atlas, 36, -0.3, 16, 2.4)
    return atlas.sample(np.stack([brow, jowls, cheeks], -1), head.texels) * head.scalp[:, None]


def tissue_offsets(head: Head, person: Person) -> Floats:
    """Return (V, 1) float32 head units: how far bone and flesh raise the skin along its normal."""
    build = person.build
    return _tissue_maps(head) @ np.array([[build.ridge], [build.jowls], [build.cheeks]], np.float32)
