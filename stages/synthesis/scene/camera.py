"""Pose, perspective, and framing of the picture.

Source pictures look like those of the align stage: a similarity transform from the eyes and the
tip of the nose, not from mouth or chin (which would hide jaw drops).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats

# Left-image eye, right-image eye, nose tip in units of the picture's size: align's template.
TEMPLATE = np.array([[0.345, 0.40], [0.655, 0.40], [0.5, 0.585]], np.float32)
#: About where the neck turns, head units.
PIVOT = np.array([0.0, 0.0, 2.0], np.float32)
_NOSE = 30  # iBUG numbering
_EYES = (slice(36, 42), slice(42, 48))
_MOUTH_CORNERS = (48, 54)


@dataclass(frozen=True)
class Camera:
    """Angles in degrees; positive yaw: to the person's left, pitch: up, roll: to the right.

    ``framing`` is ``aligned`` (the frame of the align stage), ``snapshot`` (head with a margin) or
    ``target`` (a fixed frame).
    ``jitter`` (3, 2): errors of eyes and nose tip, in inter-ocular distances.
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    distance: float
    framing: str
    jitter: Floats
    zoom: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class View:
    """Maps head coordinates to pixels; ``scale``/``shift``: a complex similarity transform."""

    rotation: Floats
    distance: float
    scale: complex
    shift: complex

    def to_camera(self, points: Floats) -> Floats:
        """Head coordinates (N, 3) → camera coordinates (N, 3), z towards the viewer."""
        return (points - PIVOT) @ self.rotation.T

    def project(self, camera_points: Floats) -> Floats:
        """Camera coordinates (N, 3) → (N, 3): pixel x, y (y down) and depth (larger is nearer)."""
        plane = _perspective(camera_points, self.distance) * self.scale + self.shift
        return np.stack([plane.real, plane.imag, camera_points[:, 2]], 1).astype(np.float32)


def camera_view(camera: Camera, landmarks: Floats, size: int) -> View:
    """Return the view of a head with these (68, 3) landmarks, on ``size`` pixels."""
    rotation = _rotation(camera.yaw_deg, camera.pitch_deg, camera.roll_deg)
    turned = (landmarks - PIVOT) @ rotation.T
    anchors = eyes_nose_mouth(_perspective(turned, camera.distance))[:3]
    target = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * size
    if camera.framing == "snapshot":
        scale = complex(camera.zoom * size / 17.5)  # a head with hair is about 17.5 units high
        middle = complex(0.5 + 2 * camera.shift[0], 0.5 + 2 * camera.shift[1]) * size
        return View(rotation, camera.distance, scale, middle - scale * complex(anchors.mean()))
    if camera.framing == "target":
        # A fixed frame with room for a dropped jaw; not anchored on the face, so that raising the
        # brows or wrinkling the nose does not move the rest.
        scale = complex(0.047 * size)
        return View(rotation, camera.distance, scale, complex(0.5, 0.495) * size)
    apart = abs(anchors[1] - anchors[0])
    seen = anchors + apart * (camera.jitter[:, 0] + 1j * camera.jitter[:, 1])
    centred, wanted = seen - seen.mean(), target - target.mean()
    scale = complex((centred.conj() * wanted).sum() / (np.abs(centred) ** 2).sum()) * camera.zoom
    middle = complex(target.mean()) + complex(*camera.shift) * size
    return View(rotation, camera.distance, scale, middle - scale * complex(seen.mean()))


def eyes_nose_mouth(landmarks: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """(68,) landmarks → (5,): eye centres (image left first), nose tip, mouth corners; x + iy."""
    left, right = (landmarks[eye].mean() for eye in _EYES)
    return np.array([left, right, landmarks[_NOSE], *landmarks[list(_MOUTH_CORNERS)]])


def _perspective(points: Floats, distance: float) -> NDArray[np.complex128]:
    shrink = distance / (distance - points[:, 2].astype(float))
    return shrink * (points[:, 0] - 1j * points[:, 1])


def _rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Floats:
    """Yaw (to the person's left), then pitch (up), then roll (clockwise as seen)."""
    yaw, pitch, roll = np.deg2rad([yaw_deg, -pitch_deg, -roll_deg])
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (tilt @ nod @ turn).astype(np.float32)
