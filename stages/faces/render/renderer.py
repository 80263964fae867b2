"""From a scene to pixels: one function, no randomness but the scene's own."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .accessories import occlude, wear_glasses
from .background import paint_background
from .camera import View, look_through
from .gaze import gaze_angles, seen_from_axis
from .growth import CLOTH
from .hair import Sheet, extra_sheet
from .head import EYE, GUMS, SKIN, TEETH, Head
from .paint import Paint, paint_person, slopes
from .person import Person, generator
from .rasterize import Coverage, interpolate, rasterize
from .scene import Scene
from .shading import Surface, cast_shadow, develop, eye_albedo, occlusion, part_albedo, shade
from .skin import masses
from .wrinkles import furrow_window, wrinkle_layers, wrinkle_relief, wrinkle_strengths

FloatArray = NDArray[np.floating]

# Nothing inside the mouth shows while the lips are closer than this (head units), and a third of
# all triangles is there.
_CLOSED_LIPS = 0.02
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # iBUG numbering


@dataclass(frozen=True)
class Render:
    """A picture and where the face is in it.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        landmarks68: (68, 2) float32 x, y in pixels (the first pixel's centre is 0.5, 0.5).
    """

    pixels: NDArray[np.uint8]
    landmarks68: FloatArray


@dataclass(frozen=True)
class _Body:
    """A posed head with its extra sheets: camera coordinates, triangles, parts."""

    camera: FloatArray
    pixels: FloatArray
    normals: FloatArray
    triangles: NDArray[np.int32]
    parts: NDArray[np.uint8]


@dataclass(frozen=True)
class PreparedPerson:
    """What all pictures of one person share; worth keeping between pictures.

    Attributes:
        person: who it is.
        vertices: (V, 3) float32, the head without any movement.
        resting: (68, 3) float32 landmarks of the resting face.
        paint: maps over the atlas.
        furrows: (K, H, W) float32 head units, furrows fully folded (see ``wrinkles``).
        lift: (V, 3) float32, how far hair and beard push the surface out.
        sheet: long hair or the brim of a hat.
    """

    person: Person
    vertices: FloatArray
    lift: FloatArray
    resting: FloatArray
    paint: Paint
    furrows: FloatArray
    sheet: Sheet | None


def prepare_person(head: Head, person: Person) -> PreparedPerson:
    """Shape and paint a person."""
    vertices = head.shape(person.identity)
    mass = head.atlas.sample(masses(head.atlas, person), head.texels) * head.scalp[:, None]
    vertices = vertices + mass * head.normals(vertices, head.triangles)
    resting = vertices[head.kit.landmarks68] + head.movement(person.rest)[head.kit.landmarks68]
    paint = paint_person(head, person)
    lift = head.atlas.sample(paint.lift, head.texels) * head.scalp[:, None]
    lift = lift * head.normals(vertices, head.triangles)
    furrows = wrinkle_layers(head, person)
    return PreparedPerson(person, vertices, lift, resting, paint, furrows, extra_sheet(person))


def render(
    head: Head, prepared: PreparedPerson, scene: Scene, size_px: int, supersample: int = 2
) -> Render:
    """Render a scene with its prepared person on ``size_px`` x ``size_px`` pixels."""
    size = size_px * supersample
    person, paint = prepared.person, prepared.paint
    coefficients = scene.expression.coefficients
    amounts = movement_of(person, coefficients)
    vertices = prepared.vertices + head.movement(amounts)
    gaze = gaze_angles(head.kit.expression_names, amounts)
    landmarks = vertices[head.kit.landmarks68]
    view = look_through(scene.camera, landmarks, size)
    strengths = wrinkle_strengths(head, person, coefficients)
    relief = paint.relief.copy()
    relief[furrow_window(head.atlas)] += wrinkle_relief(head, prepared.furrows, strengths)
    slope = slopes(head.atlas, relief)
    gap = max(float(landmarks[top, 1] - landmarks[bottom, 1]) for top, bottom in _INNER_LIPS)
    body = _pose(head, vertices + prepared.lift, prepared.sheet, view, gap > _CLOSED_LIPS)
    cover = rasterize(body.pixels, body.triangles, size)
    surface = _surface(head, body, cover, prepared, slope, view, gaze)
    openness = occlusion(cover, size, abs(view.scale))
    lit = np.ones(len(cover.pixel), np.float32)
    if scene.light.shadow > 0.1:
        lit = cast_shadow(body.camera, surface.position, scene.light)
    radiance = shade(surface, openness, lit, scene.light, person.oiliness)
    rng = generator(6, scene.seed)
    picture = paint_background(rng, scene.background, size, scene.photographs).reshape(-1, 3)
    skin = surface.part == SKIN
    # Cameras expose for the face, but not for every skin alike: dark skin stays darker.
    metered = float(np.median(radiance[skin])) if skin.any() else 0.2
    target = 0.55 * float(np.mean(person.skin)) + 0.16
    picture[cover.pixel] = develop(radiance * (target / 0.3), scene.light, metered)
    picture = picture.reshape(size, size, 3)
    if scene.glasses.worn:
        depth = np.full(size * size, -np.inf, np.float32)
        depth[cover.pixel] = cover.depth
        depth = depth.reshape(size, size)
        wear_glasses(picture, depth, scene.glasses, view, prepared.resting, rng)
    occlude(picture, scene, rng)
    pixels = (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)
    if supersample > 1:
        smaller = cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(smaller, np.uint8)
    points = view.pixels(view.turned(landmarks))[:, :2] / supersample
    return Render(pixels, points.astype(np.float32))


def movement_of(person: Person, coefficients: FloatArray) -> FloatArray:
    """(E,) what the mesh does: the expression, moved as this person does, on their rest."""
    return (coefficients * person.gain + person.rest * (1 - 0.5 * coefficients)).astype(np.float32)


def _pose(
    head: Head, vertices: FloatArray, sheet: Sheet | None, view: View, mouth_open: bool
) -> _Body:
    triangles, parts = head.triangles, head.parts
    if not mouth_open:
        outside = (parts != TEETH) & (parts != GUMS)
        triangles, parts = triangles[outside], parts[outside]
    if sheet is not None:
        triangles = np.concatenate([triangles, sheet.triangles + len(vertices)]).astype(np.int32)
        parts = np.concatenate([parts, np.full(len(sheet.triangles), sheet.part, np.uint8)])
        vertices = np.concatenate([vertices, sheet.vertices])
    camera = view.turned(vertices)
    normals = head.normals(camera, triangles)
    return _Body(camera, view.pixels(camera), normals, triangles, parts)


def _surface(
    head: Head,
    body: _Body,
    cover: Coverage,
    prepared: PreparedPerson,
    slope: FloatArray,
    view: View,
    gaze: FloatArray,
) -> Surface:
    """Everything about the visible pixels that light needs."""
    person, paint, sheet = prepared.person, prepared.paint, prepared.sheet
    count = len(body.camera) - len(head.texels)
    attributes = np.concatenate([head.texels, head.eye, head.lids], 1)
    attributes = np.concatenate([attributes, np.zeros((count, attributes.shape[1]), np.float32)])
    if sheet is not None:
        attributes[-count:, 0] = sheet.shade
    values = interpolate(
        np.concatenate([body.camera, body.normals, attributes], 1), body.triangles, cover
    )
    position, normal, texel = values[:, :3], values[:, 3:6], values[:, 6:8]
    part = body.parts[cover.triangle]
    skin, eye = part == SKIN, part == EYE
    albedo = np.zeros((len(part), 3), np.float32)
    gloss = np.full(len(part), 0.3, np.float32)
    albedo[skin] = head.atlas.sample(paint.albedo, texel[skin])
    lean = head.atlas.sample(slope, texel[skin])
    gloss[skin] = head.atlas.sample(paint.gloss, texel[skin])[:, 0]
    upper, lower = values[skin, 10], values[skin, 11]
    lash = person.eyes.lash * (0.9 * upper + 0.35 * lower)
    albedo[skin] *= (1 - lash.clip(0, 0.95))[:, None]
    offset = values[eye, 8:10]
    if gaze.any():
        left = (texel[eye, 0] > head.atlas.width / 2).astype(int)
        offset = seen_from_axis(offset, gaze[left])
    albedo[eye] = eye_albedo(offset, person.eyes) * person.eyes.shadow_colour
    part_albedo(part, albedo, person.teeth)
    if sheet is not None:
        strands = part == sheet.part
        colour = person.hair.hat_colour if person.hair.style in CLOTH else person.hair.colour
        albedo[strands] = np.array(colour, np.float32) * texel[strands, :1].clip(0.3, 1.8)
    right, up = view.rotation[:, 0], view.rotation[:, 1]
    # Relief leans the normal against its slope, along the skin's own right and up.
    normal[skin] -= 2.5 * (lean[:, :1] * right + lean[:, 1:2] * up)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    return Surface(position, normal, albedo, gloss, part)
