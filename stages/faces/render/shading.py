"""Light on a surface, worked out per visible pixel in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .features import Colour, Eyes
from .head import EYE, GUMS, TEETH
from .rasterize import Coverage
from .scene import Light

FloatArray = NDArray[np.floating]

_SHADOW_SIZE = 80
_SHADOW_REACH = 15.0  # head units from the pivot that the map covers
_GUMS = np.array([0.30, 0.07, 0.07], np.float32)


@dataclass(frozen=True)
class Surface:
    """What is known of every visible pixel, (N, ...) float32.

    Attributes:
        position: (N, 3) camera coordinates, head units.
        normal: (N, 3) unit, camera coordinates.
        albedo: (N, 3) linear RGB.
        gloss: (N,) in [0, 1].
        part: (N,) uint8.
    """

    position: FloatArray
    normal: FloatArray
    albedo: FloatArray
    gloss: FloatArray
    part: NDArray[np.uint8]


def eye_albedo(offset: FloatArray, eyes: Eyes) -> FloatArray:
    """Sclera, iris with a dark rim, pupil: (N, 2) offsets from the optical axis → (N, 3)."""
    radius = np.sqrt((offset**2).sum(1))
    white = eyes.sclera * np.array([0.80, 0.74, 0.70], np.float32)
    redness = np.clip(np.abs(offset[:, :1]) - 0.7, 0, 1) * np.array([0.1, 0.35, 0.3], np.float32)
    colour = white * (1 - redness)
    iris = np.array(eyes.iris, np.float32)
    streaks = 1 + 0.25 * np.sin(9 * np.arctan2(offset[:, 1], offset[:, 0]))
    rim = _step(eyes.iris_radius, eyes.iris_radius - 0.14, radius)
    inside = (iris * streaks[:, None]) * (0.25 + 0.75 * rim[:, None])
    colour += _step(eyes.iris_radius + 0.03, eyes.iris_radius - 0.03, radius)[:, None] * (
        inside - colour
    )
    pupil = _step(eyes.pupil_radius + 0.04, eyes.pupil_radius - 0.04, radius)[:, None]
    return (colour * (1 - pupil) + 0.006 * pupil).astype(np.float32)


def part_albedo(part: NDArray[np.uint8], albedo: FloatArray, teeth: Colour) -> None:
    """Fill in teeth and gums, in place."""
    albedo[part == TEETH] = teeth
    albedo[part == GUMS] = _GUMS


def occlusion(cover: Coverage, size: int, unit: float) -> FloatArray:
    """(N,) in [0, 1]: how open a pixel is to the light around, from the depth picture alone.

    A pixel that lies deeper than its surroundings is in a hollow: sockets, nostrils, the corners of
    the mouth, the mouth itself. ``unit`` is pixels per head unit.
    """
    depth = np.zeros(size * size, np.float32)
    weight = np.zeros(size * size, np.float32)
    depth[cover.pixel], weight[cover.pixel] = cover.depth, 1
    depth, weight = depth.reshape(size, size), weight.reshape(size, size)
    openness = np.ones(len(cover.pixel), np.float32)
    for reach, strength, limit in ((0.22, 2.2, 0.5), (0.8, 0.75, 0.55), (2.2, 0.22, 0.5)):
        sigma = reach * unit
        # Wide blurs on a smaller picture: the same result, many times faster.
        shrink = max(1, int(sigma / 3))
        small = (size // shrink, size // shrink)
        pair = np.stack([depth, weight], -1)
        pair = cv2.resize(pair, small, interpolation=cv2.INTER_AREA)
        pair = cv2.GaussianBlur(pair, (0, 0), sigma / shrink)
        pair = cv2.resize(pair, (size, size), interpolation=cv2.INTER_LINEAR).reshape(-1, 2)
        around = pair[cover.pixel]
        mean = around[:, 0] / np.maximum(around[:, 1], 1e-3)
        openness *= 1 - (strength * (mean - cover.depth)).clip(0, limit + 0.3)
    return openness.clip(0.06, 1)


def cast_shadow(vertices: FloatArray, position: FloatArray, light: Light) -> FloatArray:
    """(N,) in [0, 1]: 0 where something stands between a pixel and the key light."""
    towards = light.key_direction
    right = np.cross(np.array([0, 1, 0], np.float32), towards)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(towards, right), towards]).astype(np.float32)
    scale = _SHADOW_SIZE / (2 * _SHADOW_REACH)
    flip = np.array([scale, -scale, 1], np.float32)
    middle = np.array([_SHADOW_SIZE / 2, _SHADOW_SIZE / 2, 0], np.float32)
    # Vertices lie closer together than the texels of this small map: no triangles needed.
    casting = (vertices @ frame.T) * flip + middle
    column, row = casting[:, 0].astype(np.int64), casting[:, 1].astype(np.int64)
    held = (column >= 0) & (row >= 0) & (column < _SHADOW_SIZE) & (row < _SHADOW_SIZE)
    nearest = np.full(_SHADOW_SIZE * _SHADOW_SIZE, -1e3, np.float32)
    np.maximum.at(nearest, row[held] * _SHADOW_SIZE + column[held], casting[held, 2])
    square = nearest.reshape(_SHADOW_SIZE, _SHADOW_SIZE)
    filled = cv2.morphologyEx(square, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    nearest = np.where(square > -999, square, filled).reshape(-1)
    place = (position @ frame.T) * flip + middle
    lit = np.zeros(len(place), np.float32)
    steps = ((-0.6, -0.6), (0.6, -0.6), (-0.6, 0.6), (0.6, 0.6), (0, 0))
    for dx, dy in steps:
        column = (place[:, 0] + dx).astype(np.int64).clip(0, _SHADOW_SIZE - 1)
        row = (place[:, 1] + dy).astype(np.int64).clip(0, _SHADOW_SIZE - 1)
        behind = nearest[row * _SHADOW_SIZE + column] - place[:, 2]
        lit += _step(1.1, 0.4, behind)
    return lit / len(steps)


def shade(
    surface: Surface, openness: FloatArray, lit: FloatArray, light: Light, oil: float
) -> FloatArray:
    """(N, 3) linear RGB radiance."""
    normal = surface.normal
    facing = normal @ light.key_direction
    key = light.key * (1 - light.shadow * (1 - lit))
    # Light bleeds through skin past the terminator, red furthest.
    wrap = np.array([0.28, 0.18, 0.14], np.float32)
    diffuse = ((facing[:, None] + wrap) / (1 + wrap)).clip(0) * key[:, None]
    diffuse = diffuse * np.array(light.key_colour, np.float32)
    ambient = light.ambient * (1 + normal @ light.ambient_tilt + 0.15 * normal[:, 1]).clip(0.1)
    fill = light.fill * (normal @ light.fill_direction).clip(0)
    received = diffuse * (0.45 + 0.55 * openness)[:, None] + ((ambient + fill) * openness)[:, None]
    radiance = surface.albedo * received

    view = np.array([0, 0, 1], np.float32)
    half = light.key_direction + view
    half = half / np.linalg.norm(half)
    aligned = (normal @ half).clip(0)
    eye = surface.part == EYE
    wet = eye | (surface.part == TEETH)
    shine = oil * surface.gloss * aligned**18 * 0.5
    shine = np.where(wet, 0.9 * aligned**90, shine)
    rim = 0.12 * light.ambient * oil * (1 - normal[:, 2].clip(0, 1)) ** 3
    radiance += (shine * key * openness + rim)[:, None]
    return radiance.astype(np.float32)


def develop(radiance: FloatArray, light: Light, reference: float) -> FloatArray:
    """Linear radiance → display values in [0, 1]: exposure, a film curve, gamma.

    ``reference`` is the brightness of the face that a camera would meter.
    """
    exposed = radiance * (light.exposure**2.2 / max(reference, 1e-3))
    display = np.power(exposed.clip(0), 1 / 2.2)
    display = 0.5 + (display - 0.5) * light.contrast
    # A shoulder instead of hard clipping.
    high = display > 0.8
    display[high] = 0.8 + 0.2 * np.tanh((display[high] - 0.8) / 0.2)
    return display.clip(0, 1).astype(np.float32)


def _step(low: float, high: float, value: FloatArray) -> FloatArray:
    t = ((value - low) / (high - low)).clip(0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
