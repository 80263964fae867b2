"""Prepares pictures on the CPU before the batch is rendered.

A person is shaped and painted once (``prepare_person``); a scene becomes a ``Shot``: numbers for
the device, the background, and the overlay. All randomness comes from the scene's seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ....manifests.arrays import Floats, Pixels
from ..scene.background import paint_background
from ..scene.camera import View, camera_view
from ..scene.person import Person, generator
from ..scene.scene import Light, Scene
from ..surface.accessories import paint_glasses, paint_occluder
from ..surface.gaze import gaze_angles
from ..surface.growth import CLOTH
from ..surface.hair import Sheet, extra_sheet
from ..surface.head import Head
from ..surface.paint import Paint, paint_person, slopes
from ..surface.skin import tissue_offsets
from ..surface.wrinkles import wrinkle_layers, wrinkle_strengths

#: Samples per pixel, across and down.
SUPERSAMPLE = 2
# The inside of the mouth, a third of all triangles, is hidden if the lips are closer than this
# (head units).
_CLOSED_LIPS = 0.02
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # iBUG numbering
_SCLERA = np.array([0.80, 0.74, 0.70], np.float32)
_SPLATS = 28  # side of the coarse depth map that hides the temples of glasses

#: The numbers of a shot, in order, and their sizes.
NUMBERS = {
    "rotation": 9, "distance": 1, "scale": 2, "shift": 2, "unit": 1,
    "key_direction": 3, "half": 3, "key": 1, "key_colour": 3, "fill_direction": 3, "fill": 1,
    "ambient": 1, "ambient_tilt": 3, "shadow": 1, "shadow_frame": 9, "exposure": 1, "contrast": 1,
    "oil": 1, "lash": 1, "white": 3, "iris": 3, "iris_radius": 1, "pupil_radius": 1,
    "eye_shade": 1, "gaze": 4, "teeth": 3, "strands": 3,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PreparedPerson:
    """Data shared by all pictures of one person; worth caching.

    Attributes:
        person: its parameters.
        vertices: (V, 3) float32, the head without any movement.
        standing: (V, 3) float32, the head at rest under its hair and beard.
        resting: (68, 3) float32 landmarks of the resting face.
        skin: (H, W, 8) float32 over the atlas: albedo RGB, gloss, slope right and up, two zeros.
        furrows: (K, h, w) float32 relief of every group of furrows on the ``furrow_window``.
        sheet: long hair or the brim of a hat, if any.
    """

    person: Person
    vertices: Floats
    standing: Floats
    resting: Floats
    skin: Floats
    furrows: Floats
    sheet: Sheet | None


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture, ready for the device.

    Attributes:
        prepared: the person.
        amounts: (E,) float32 amount of every shape, beyond the resting face.
        strengths: (K, 2) float32, how deep every group of furrows is, right side first.
        numbers: (N,) float32, laid out as ``NUMBERS``.
        mouth_open: whether the inside of the mouth can show.
        background: (S, S, 3) uint8 RGB.
        overlay: (S, S, 4) uint8, drawn over the face: RGB times alpha, and alpha; or None.
        landmarks68: (68, 2) float32 x, y in pixels (the first pixel's centre is 0.5, 0.5).
    """

    prepared: PreparedPerson
    amounts: Floats
    strengths: Floats
    numbers: Floats
    mouth_open: bool
    background: Pixels
    overlay: Pixels | None
    landmarks68: Floats


def prepare_person(head: Head, person: Person) -> PreparedPerson:
    """Shape and paint a person."""
    vertices = head.shape(person.identity)
    outwards = head.normals(vertices)
    vertices += tissue_offsets(head, person) * outwards
    rest = head.movement(person.rest)
    marks = head.kit.landmarks68
    paint = paint_person(head, person)
    lift = head.atlas.sample(paint.lift, head.texels) * head.scalp[:, None]
    standing = vertices + rest + lift * outwards
    return PreparedPerson(
        person=person,
        vertices=vertices,
        standing=standing.astype(np.float32),
        resting=vertices[marks] + rest[marks],
        skin=_skin_table(head, paint),
        furrows=wrinkle_layers(head, person),
        sheet=extra_sheet(person),
    )


def _skin_table(head: Head, paint: Paint) -> Floats:
    nothing = np.zeros_like(paint.gloss)
    slope = slopes(head.atlas, paint.relief)
    table = cv2.merge([*paint.albedo, paint.gloss, *slope, nothing, nothing])
    return np.asarray(table, np.float32)


def take_shot(head: Head, prepared: PreparedPerson, scene: Scene, size_px: int) -> Shot:
    """Lay out a picture of ``size_px`` x ``size_px`` pixels of a prepared person."""
    person, coefficients = prepared.person, scene.expression.coefficients
    marks = head.kit.landmarks68
    amounts = shape_amounts(person, coefficients)
    gaze = gaze_angles(head.kit.expression_names, amounts)
    landmarks = prepared.vertices[marks] + head.landmark_movement(amounts)
    view = camera_view(scene.camera, landmarks, size_px * SUPERSAMPLE)
    gap = max(float(landmarks[top, 1] - landmarks[bottom, 1]) for top, bottom in _INNER_LIPS)
    rng = generator(6, scene.seed)
    background = paint_background(rng, scene.background, size_px, scene.photographs)
    points = view.project(view.to_camera(landmarks))[:, :2] / SUPERSAMPLE
    return Shot(
        prepared=prepared,
        amounts=(coefficients * (person.gain - 0.5 * person.rest)).astype(np.float32),
        strengths=wrinkle_strengths(head, person, coefficients),
        numbers=_numbers(person, scene.light, view, gaze),
        mouth_open=gap > _CLOSED_LIPS,
        background=(background * 255 + 0.5).clip(0, 255).astype(np.uint8),
        overlay=_overlay(prepared, scene, view, size_px, rng),
        landmarks68=points.astype(np.float32),
    )


def shape_amounts(person: Person, coefficients: Floats) -> Floats:
    """Return (E,) amounts of the shapes, with this person's gains and resting face."""
    return (coefficients * person.gain + person.rest * (1 - 0.5 * coefficients)).astype(np.float32)


def _numbers(person: Person, light: Light, view: View, gaze: Floats) -> Floats:
    """The numbers of a shot, laid out as ``NUMBERS``."""
    half = light.key_direction + np.array([0, 0, 1], np.float32)
    # The shadow's frame: horizontal, perpendicular to that, and towards the light.
    x, y, z = light.key_direction.tolist()
    flat = math.hypot(x, z)
    level = (z / flat, 0.0, -x / flat)
    across = (-y * x / flat, flat, -y * z / flat)
    eyes, hair = person.eyes, person.hair
    # Cameras expose for the face, but not fully: dark skin stays darker.
    metered = (0.55 * sum(person.skin) / 3 + 0.16) / 0.3
    values = {
        "rotation": view.rotation,
        "distance": view.distance,
        "scale": (view.scale.real, view.scale.imag),
        "shift": (view.shift.real, view.shift.imag),
        "unit": abs(view.scale) / SUPERSAMPLE,
        "key_direction": light.key_direction,
        "half": half / np.linalg.norm(half),
        "key": light.key,
        "key_colour": light.key_colour,
        "fill_direction": light.fill_direction,
        "fill": light.fill,
        "ambient": light.ambient,
        "ambient_tilt": light.ambient_tilt,
        "shadow": light.shadow if light.shadow > 0.1 else 0.0,
        "shadow_frame": (*level, *across, x, y, z),
        "exposure": light.exposure**2.2 * metered,
        "contrast": light.contrast,
        "oil": person.oiliness,
        "lash": eyes.lash,
        "white": eyes.sclera * _SCLERA,
        "iris": eyes.iris,
        "iris_radius": eyes.iris_radius,
        "pupil_radius": eyes.pupil_radius,
        "eye_shade": eyes.shadow_colour,
        "gaze": np.deg2rad(gaze),
        "teeth": person.teeth,
        "strands": hair.hat_colour if hair.style in CLOTH else hair.colour,
    }
    return np.concatenate([np.asarray(values[name], np.float32).reshape(-1) for name in NUMBERS])


def _overlay(
    prepared: PreparedPerson, scene: Scene, view: View, size_px: int, rng: np.random.Generator
) -> Pixels | None:
    """Draw glasses and occluders at the sample resolution, then downsample."""
    if not scene.glasses.worn and scene.occluder == "none":
        return None
    size = size_px * SUPERSAMPLE
    layer = np.zeros((size, size, 4), np.float32)
    if scene.glasses.worn:
        depth = _coarse_depth(prepared, view, size)
        paint_glasses(layer, depth, scene.glasses, view, prepared.resting, rng)
    paint_occluder(layer, scene, rng)
    smaller = cv2.resize(layer, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return (smaller * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _coarse_depth(prepared: PreparedPerson, view: View, size: int) -> Floats:
    """Return (size, size) float32: depth of the resting head, from some of its vertices."""
    points = prepared.standing[::3]
    if prepared.sheet is not None:
        points = np.concatenate([points, prepared.sheet.vertices])
    spots = view.project(view.to_camera(points))
    cells = (spots[:, :2] * (_SPLATS / size)).astype(int)
    held = ((cells >= 0) & (cells < _SPLATS)).all(1)
    depth = np.full(_SPLATS * _SPLATS, -1e3, np.float32)
    np.maximum.at(depth, cells[held, 1] * _SPLATS + cells[held, 0], spots[held, 2])
    square = depth.reshape(_SPLATS, _SPLATS)
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_NEAREST).astype(np.float32)
