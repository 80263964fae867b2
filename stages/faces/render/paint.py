"""Paints a person's surface on the atlas: skin, lips, brows, sockets, beard, hair, wrinkles."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas, noise, polygon, smoothstep, spline, strokes
from .head import Head
from .person import Person, generator

FloatArray = NDArray[np.floating]

_OUTER_LIPS = slice(48, 60)  # iBUG numbering
_BROWS = {-1: slice(17, 22), 1: slice(22, 27)}  # image left is the person's right


@dataclass(frozen=True)
class Paint:
    """Maps over the atlas, the same for every picture of a person.

    Attributes:
        albedo: (H, W, 3) float32 linear RGB in [0, 1].
        relief: (H, W) float32 head units, the strands of hair.
        lift: (H, W) float32, head units by which hair and beard stand off the skin.
        gloss: (H, W) float32 in [0, 1].
    """

    albedo: FloatArray
    relief: FloatArray
    lift: FloatArray
    gloss: FloatArray


def paint_person(head: Head, person: Person) -> Paint:
    """Paint one person."""
    atlas = head.atlas
    rng = generator(4, person.seed)
    shape = (atlas.height, atlas.width)
    albedo = _skin(rng, person, shape)
    lips = _lip_mask(head)
    _blend(albedo, lips * person.lip_strength * 0.9, person.lip)
    _sockets(atlas, person, albedo)
    gloss = (0.6 + 0.4 * lips).astype(np.float32)
    relief, lift = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    strand = noise(rng, shape, (14, shape[1] // 3)) * 0.6 + noise(rng, shape, (40, shape[1])) * 0.4
    beard = _beard_mask(atlas, person, rng, lips) * (0.75 + 0.35 * strand).clip(0, 1)
    if person.beard.style != "none":
        _blend(albedo, beard * person.beard.density, person.beard.colour, 0.35 * strand)
        lift += beard * person.beard.thickness
        gloss *= 1 - 0.7 * beard
    brows = _brow_mask(head, person, rng)
    _blend(albedo, brows, person.brows.colour)
    gloss *= 1 - 0.5 * brows
    hair = hair_mask(atlas, person, rng)
    if hair is not None:
        hat = person.hair.style == "hat"
        colour = person.hair.hat_colour if hat else person.hair.colour
        texture = 0.15 * noise(rng, shape, (60, 90)) if hat else 0.55 * strand
        _blend(albedo, hair, colour, texture)
        lift += hair * person.hair.thickness * (1 + 0.3 * noise(rng, shape, (10, 16)))
        relief += 0.02 * hair * strand
        gloss *= 1 - 0.4 * hair
    _blend(albedo, np.repeat(smoothstep(-8.6, -9.4, atlas.y), atlas.width, 1), person.clothes)
    return Paint(np.stack(list(albedo), -1), relief, lift, gloss)


def slopes(atlas: Atlas, relief: FloatArray) -> FloatArray:
    """Gradient (H, W, 2) of a relief (head units) along the angle and upwards; no unit."""
    radius = 10.0  # head units, about that of a face
    per_column = np.deg2rad(float(atlas.degrees[0, 1] - atlas.degrees[0, 0])) * radius
    across = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8 / per_column)
    down = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8 * atlas.texels_per_unit)
    return cv2.merge([across, -down]).astype(np.float32)


def _skin(rng: np.random.Generator, person: Person, shape: tuple[int, int]) -> FloatArray:
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


def _blend(
    albedo: FloatArray,
    mask: FloatArray,
    colour: tuple[float, float, float],
    texture: FloatArray | None = None,
) -> None:
    """Lay a colour, textured by about [-1, 1] if given, over (3, H, W), in place."""
    strength = None if texture is None else (1 + texture).clip(0.2, 2)
    for channel, value in zip(albedo, colour, strict=True):
        layer = value if strength is None else value * strength
        channel += mask * (layer - channel)


def _lip_mask(head: Head) -> FloatArray:
    """Soft mask of the lips, (H, W) in [0, 1]."""
    outline = head.texels[head.kit.landmarks68[_OUTER_LIPS]]
    mask = head.atlas.blank()
    polygon(mask, spline(outline, 48, closed=True))
    return head.atlas.blur(mask.astype(np.float32) / 255, 0.09)


def _sockets(atlas: Atlas, person: Person, albedo: FloatArray) -> None:
    """Darker hollows around the eyes and bags below them, in place."""
    across = np.abs(atlas.degrees) - 19.0

    def spot(x: float, y: float, wide: float, high: float) -> FloatArray:
        return np.exp(-(((across - x) / wide) ** 2)) * np.exp(-(((atlas.y - y) / high) ** 2))

    hollow, inner, bag = spot(0, 3.7, 11, 1.25), spot(-9, 3.9, 5, 1.1), spot(0, 2.3, 9, 0.5)
    dark = person.eyes.socket * (0.5 * hollow + 0.35 * inner + 0.3 * bag)
    for channel, share in zip(albedo, (0.75, 0.85, 0.8), strict=True):
        channel *= 1 - share * dark


def _brow_mask(head: Head, person: Person, rng: np.random.Generator) -> FloatArray:
    """Brows as many short hairs over a soft ground, (H, W) in [0, 1]."""
    atlas, brows = head.atlas, person.brows
    ground, hairs = atlas.blank(), atlas.blank()
    if brows.density < 0.05:
        return ground.astype(np.float32)
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
    soft = atlas.blur(ground.astype(np.float32) / 255, 0.12) * (0.25 + 0.45 * brows.density)
    thin = atlas.blur(hairs.astype(np.float32) / 255, 0.04) * (0.35 + 0.6 * brows.density)
    return np.maximum(soft, thin).clip(0, 1)


def _beard_mask(
    atlas: Atlas, person: Person, rng: np.random.Generator, lips: FloatArray
) -> FloatArray:
    """Where facial hair grows, (H, W) in [0, 1]."""
    style = person.beard.style
    side, y = np.abs(atlas.degrees), atlas.y
    if style == "none":
        return np.zeros((atlas.height, atlas.width), np.float32)
    wobble = 0.25 * noise(rng, (atlas.height, atlas.width), (16, 24))
    reach = rng.uniform(11, 17)
    droop = rng.uniform(0, 0.5) * (side / reach) ** 2
    moustache = smoothstep(-1.15, -1.5, y + wobble + droop) * smoothstep(-3.6, -3.0, y + droop)
    moustache = moustache * smoothstep(reach + 2, reach - 1, side)
    if rng.random() < 0.4:  # bare under the nose
        moustache = moustache * smoothstep(0.3, 2.0, side)
    chin = smoothstep(9 + 5 * rng.random(), 7, side + 4 * wobble) * smoothstep(
        -4.5, -5.2, y + wobble
    )
    # The cheek line climbs from the corners of the mouth to the sideburns.
    knots = np.array([0, 12, 18, 30, 45, 58, 66, 74, 90], np.float32)
    heights = np.array([-4.6, -3.6, -2.4, -2.6, -2.2, -0.6, 2.0, 3.0, -3.0], np.float32)
    line = np.interp(side, knots, heights + rng.uniform(-0.6, 0.6)).astype(np.float32)
    jaw = smoothstep(0.35, -0.35, y - line + wobble) * smoothstep(88, 78, side)
    jaw = jaw * smoothstep(-10, -8, y)
    if style == "moustache":
        mask = moustache
    elif style == "goatee":
        ring = smoothstep(18, 15, side) * smoothstep(10, 13, side) * smoothstep(-1.8, -2.4, y)
        mask = np.maximum.reduce([moustache, chin, ring * smoothstep(-5.5, -5, y)])
    else:
        mask = np.maximum(moustache, jaw)
    hanging = rng.uniform(0.3, 1.0)  # thick moustaches cover the edge of the upper lip
    free = (1 - lips * np.where(y > -3.25, hanging, 1.0)).clip(0, 1)
    return (mask * free**1.5).astype(np.float32)


def hair_mask(atlas: Atlas, person: Person, rng: np.random.Generator) -> FloatArray | None:
    """Where hair (or a hat) covers the head, (H, W) in [0, 1]; None on a bald head."""
    hair = person.hair
    if hair.style == "bald":
        return None
    side, y = np.abs(atlas.degrees), atlas.y
    shape = (atlas.height, atlas.width)
    if hair.style == "hat":
        tilt = rng.uniform(-0.012, 0.012) * atlas.degrees
        return np.repeat(1.0, atlas.width)[None] * smoothstep(
            -0.08, 0.08, y + tilt - min(hair.hairline - 1.2, 9.2)
        )
    top = hair.hairline
    ears = 4.6 if hair.style in ("bob", "long") else 2.2 + 1.5 * rng.random()
    knots = np.array([0, 14, 28, hair.temple, hair.temple + 8, 72, 80, 100, 110], np.float32)
    dent = rng.uniform(0, 1.2)  # bays on both sides of the forehead
    burn = rng.uniform(-1.0, 3.0)
    behind = -2.0 if hair.style == "short" else -6.0
    heights = np.array(
        [
            top,
            top - 0.1 + 0.3 * dent,
            top - 0.4 + dent,
            top - 1.6,
            5.2,
            burn,
            ears + 0.6,
            ears,
            behind,
        ],
        np.float32,
    )
    if hair.style == "fringe":  # combed to one side
        swing = rng.uniform(-0.035, 0.035)
        heights[:3] = top + np.array([0, -0.1, -0.3])
        line = np.interp(side, knots, heights) + swing * atlas.degrees * (side < 50)
    else:
        line = np.interp(side, knots, heights)
    ragged = hair.raggedness * (
        0.6 * noise(rng, shape, (4, 60)) + 0.3 * noise(rng, shape, (4, 160))
    )
    edge = 0.15 + 0.5 * rng.random()
    return smoothstep(-edge, edge, (y - line).astype(np.float32) + ragged)
