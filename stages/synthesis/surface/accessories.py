"""Glasses and occluders, drawn over the shaded picture."""

from __future__ import annotations

import cv2
import numpy as np

from ....manifests.arrays import Floats, Pixels
from ..scene.camera import View
from ..scene.scene import Glasses, Scene
from .atlas import polygon, spline, stroke


def paint_glasses(
    picture: Floats,
    depth: Floats,
    glasses: Glasses,
    view: View,
    landmarks: Floats,
    rng: np.random.Generator,
) -> None:
    """Draw glasses in place.

    Args:
        picture: (S, S, 4) float32 display RGB times alpha, and alpha.
        depth: (S, S) float32 camera depth, very low where there is no surface.
        glasses: their shape and colours.
        view: the view of the picture.
        landmarks: (68, 3) float32 head coordinates of the person at rest.
        rng: for reflections.
    """
    unit = abs(view.scale)
    width = max(1, round(glasses.frame_width * unit))
    frame, lens, shine = (np.zeros(picture.shape[:2], np.uint8) for _ in range(3))
    bridge = landmarks[28]
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    power = 2 / glasses.roundness
    across = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power * glasses.half_width
    up = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power * glasses.half_height
    for side, eye in ((-1, slice(36, 42)), (1, slice(42, 48))):
        middle = landmarks[eye].mean(0)
        x = middle[0] + side * 0.1 + across
        z = bridge[2] - 0.2 - 0.05 * np.abs(x) ** 1.5
        rim = np.stack([x, middle[1] - 0.2 + up, z], 1).astype(np.float32)
        outline = view.project(view.to_camera(rim))[:, :2]
        polygon(lens, outline)
        stroke(frame, np.concatenate([outline, outline[:1]]), 255, width)
        if glasses.reflection > 0:
            polygon(shine, _glare(outline, rng))
        hinge = rim[np.argmax(side * rim[:, 0])] + np.array([0, 0.5, 0], np.float32)
        ear = np.array([side * max(7.6, abs(hinge[0]) + 0.6), 3.9, 0.5], np.float32)
        temple = view.to_camera(
            hinge + np.linspace(0, 1, 24, dtype=np.float32)[:, None] * (ear - hinge)
        )
        spots = view.project(temple)
        inside = spots[:, :2].astype(int).clip(0, len(depth) - 1)
        visible = spots[:, 2] > depth[inside[:, 1], inside[:, 0]] - 0.3
        shown = spots[: int(np.argmin(visible)) if not visible.all() else len(spots), :2]
        if len(shown) > 1:
            stroke(frame, shown, 255, max(1, round(0.7 * width)))
    nose = landmarks[27:29].mean(0)
    reach = np.array([[-1.0, 0.25, -0.5], [0, 0.6, 0.2], [1.0, 0.25, -0.5]], np.float32)
    stroke(frame, spline(view.project(view.to_camera(nose + reach))[:, :2], 12), 255, width)
    _over(picture, lens, glasses.tint, np.array([0.03, 0.03, 0.035], np.float32))
    if glasses.reflection > 0:
        soft = cv2.GaussianBlur(cv2.min(shine, lens), (0, 0), 0.12 * unit + 0.3)
        _over(picture, soft.astype(np.uint8), 0.5 * glasses.reflection, np.ones(3, np.float32))
    _over(picture, frame, 0.95, np.power(np.array(glasses.frame, np.float32), 1 / 2.2))


def _glare(outline: Floats, rng: np.random.Generator) -> Floats:
    """Return the outline of a slanted strip of light across a lens; eyes mostly stay visible."""
    middle, reach = outline.mean(0), np.ptp(outline, axis=0)
    wide, lean, place = rng.uniform(0.06, 0.4), rng.normal(0, 0.5), rng.uniform(-0.5, 0.5)
    corners = np.array([[-wide, -0.5], [wide, -0.5], [wide, 0.5], [-wide, 0.5]])
    corners[:, 0] += place - lean * corners[:, 1]
    return (middle + corners * reach).astype(np.float32)


def paint_occluder(picture: Floats, scene: Scene, rng: np.random.Generator) -> None:
    """Draw a hand, a bar or a microphone in front of the lower or outer face, in place.

    ``picture``: (S, S, 4) float32 display RGB times alpha, and alpha.
    """
    if scene.occluder == "none":
        return
    size = len(picture)
    mask = np.zeros((size, size), np.uint8)
    if scene.occluder == "hand":
        colour = np.power(np.array(scene.person.skin, np.float32), 1 / 2.2) * rng.uniform(0.5, 1.1)
        side = rng.choice([-1.0, 1.0])
        palm = np.array([0.5 + side * rng.uniform(0.22, 0.5), rng.uniform(0.75, 1.1)]) * size
        for finger in range(4):
            lean = np.deg2rad(90 + side * (18 * finger - 10) + rng.normal(0, 6))
            tip = palm + np.array([np.cos(lean), -np.sin(lean)]) * size * rng.uniform(0.2, 0.34)
            stroke(mask, np.stack([palm, tip]).astype(np.float32), 255, max(2, round(0.075 * size)))
        cv2.circle(mask, (round(palm[0]), round(palm[1])), round(0.16 * size), 255, -1, cv2.LINE_AA)
    elif scene.occluder == "microphone":
        colour = np.full(3, rng.uniform(0.02, 0.4), np.float32)
        head = np.array([rng.uniform(0.25, 0.75), rng.uniform(0.86, 1.02)]) * size
        radius = round(rng.uniform(0.05, 0.09) * size)
        cv2.circle(mask, (round(head[0]), round(head[1])), radius, 255, -1, cv2.LINE_AA)
        foot = head + np.array([rng.normal(0, 0.2), 0.5]) * size
        stroke(mask, np.stack([head, foot]).astype(np.float32), 255, max(2, radius))
    else:
        colour = rng.uniform(0, 1, 3).astype(np.float32)
        near, far = sorted(rng.uniform(0.0, 0.3, 2))
        edge = np.array([[0, 0], [near, 0], [far, 1], [0, 1]], np.float32)
        edge = edge if rng.random() < 0.5 else np.array([1, 0]) + edge * np.array([-1, 1])
        polygon(mask, (edge * size).astype(np.float32))
    # The light is so soft that a quarter of the resolution is enough.
    few = cv2.resize(mask, (size // 4, size // 4), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(few.astype(np.float32) / 255, (0, 0), 0.03 * size / 4)
    light = cv2.resize(soft, (size, size), interpolation=cv2.INTER_LINEAR)
    _over(picture, mask, 1.0, colour, 0.55 + 0.45 * light)


def _over(
    picture: Floats,
    mask: Pixels,
    alpha: float,
    colour: Floats,
    light: Floats | None = None,
) -> None:
    """Blend a colour, times (S, S) light if given, over (S, S, 4): RGB times alpha, and alpha."""
    left, top, wide, high = cv2.boundingRect(mask)
    window = np.s_[top : top + high, left : left + wide]
    weight = alpha / 255 * mask[window].astype(np.float32)
    # Views: most of the picture is unchanged, and single channels are several times faster.
    planes = np.moveaxis(picture[window], -1, 0)
    for plane, value in zip(planes[:3], colour.tolist(), strict=True):
        plane += weight * ((value if light is None else value * light[window]) - plane)
    planes[3] += weight * (1 - planes[3])
