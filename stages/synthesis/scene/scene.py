"""Everything random about a picture, sampled in advance from a seed.

A person (see ``person``) depends on the identity number alone; light, pose, camera, background and
expression on the picture's own seed. All randomness in rendering is derived from these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....manifests.arrays import Floats
from .acting import RAMP_STEPS, draw_expression, ramp_expression
from .background import BACKGROUND_SHARES
from .camera import Camera
from .expressions import Expression
from .features import Colour
from .person import Person, generator
from .picture_folder import PictureFolder
from .traits import random_colour


@dataclass(frozen=True)
class Glasses:
    """``tint`` 1 is opaque; ``roundness`` is the exponent of the rim's superellipse."""

    worn: bool
    tint: float
    frame: Colour
    frame_width: float
    half_width: float
    half_height: float
    roundness: float
    reflection: float


@dataclass(frozen=True)
class Light:
    """Directions: unit vectors from the head to the light; x right, y up, z to the viewer."""

    key_direction: Floats
    key: float
    key_colour: Colour
    fill_direction: Floats
    fill: float
    ambient: float
    ambient_tilt: Floats
    shadow: float
    exposure: float
    contrast: float


@dataclass(frozen=True)
class Scene:
    """A picture to render."""

    person: Person
    expression: Expression
    camera: Camera
    light: Light
    glasses: Glasses
    background: str
    occluder: str
    seed: int
    photographs: PictureFolder | None = None


@dataclass(frozen=True)
class SceneOptions:
    """Options common to a set of scenes.

    ``framing``: see ``Camera``. ``expressions``: one of ``acting.KINDS``. ``backgrounds``: pictures
    to use instead of painted backgrounds.
    """

    framing: str = "aligned"
    expressions: str = "mixed"
    backgrounds: PictureFolder | None = None


def draw_scene(
    person: Person,
    seed: int,
    names: Sequence[str],
    options: SceneOptions = SceneOptions(),
    expression_seed: int | None = None,
) -> Scene:
    """Sample the scene with the number ``seed`` of a person.

    The expression depends on ``expression_seed`` if given, so that many people can make the same
    one. With ramps, each ``RAMP_STEPS`` consecutive expression seeds are one ramp.
    """
    rng = generator(2, seed)
    number = seed if expression_seed is None else expression_seed
    if options.expressions == "ramps":
        ramp, step = divmod(number, RAMP_STEPS)
        expression = ramp_expression(generator(18, ramp), names, step)
    else:
        expression = draw_expression(generator(8, number), names, options.expressions)
    camera = _draw_camera(rng, options.framing)
    light = _draw_light(rng)
    usually_worn = generator(3, person.seed).random() < 0.15
    glasses = _draw_glasses(rng, worn=rng.random() < (0.8 if usually_worn else 0.04))
    background = str(rng.choice(list(BACKGROUND_SHARES), p=list(BACKGROUND_SHARES.values())))
    photographs = options.backgrounds
    if photographs is not None:
        background = "photograph"
    occluder = str(rng.choice(["none", "hand", "bar", "microphone"], p=[0.9, 0.05, 0.02, 0.03]))
    return Scene(
        person, expression, camera, light, glasses, background, occluder, seed, photographs
    )


def _draw_glasses(rng: np.random.Generator, worn: bool) -> Glasses:
    sunny = rng.random() < 0.12
    thick = rng.random() < 0.4
    return Glasses(
        worn=worn,
        tint=rng.uniform(0.6, 0.97)
        if sunny
        else float(rng.choice([0.0, 0.05, rng.uniform(0.05, 0.3)])),
        frame=random_colour(rng, 0.06) if thick or rng.random() < 0.5 else random_colour(rng, 0.6),
        frame_width=rng.uniform(0.18, 0.4) if thick else rng.uniform(0.06, 0.16),
        half_width=rng.uniform(2.1, 2.75),
        half_height=rng.uniform(1.2, 2.2),
        roundness=rng.uniform(2.0, 4.5),
        reflection=rng.uniform(0.2, 0.9) if rng.random() < 0.35 else 0.0,
    )


def _draw_light(rng: np.random.Generator) -> Light:
    harsh = rng.random() < 0.5
    key = rng.uniform(0.7, 1.6) if harsh else rng.uniform(0.2, 0.7)
    tint = rng.uniform(-0.12, 0.12)
    return Light(
        key_direction=_direction(rng.normal(0, 42), rng.normal(28, 22)),
        key=key,
        key_colour=(1 + tint, 1.0, 1 - tint),
        fill_direction=_direction(rng.uniform(-100, 100), rng.uniform(-20, 60)),
        fill=rng.uniform(0, 0.5),
        ambient=rng.uniform(0.12, 0.4) if harsh else rng.uniform(0.4, 0.8),
        ambient_tilt=(rng.standard_normal(3) * np.array([0.2, 0.25, 0.15])).astype(np.float32),
        shadow=rng.uniform(0.5, 1.0) if harsh else rng.uniform(0.0, 0.6),
        exposure=float(np.clip(rng.normal(0.5, 0.12), 0.22, 0.8)),
        contrast=rng.uniform(0.8, 1.35),
    )


def _draw_camera(rng: np.random.Generator, framing: str) -> Camera:
    snapshot = framing == "snapshot"
    careless = rng.random() < 0.25  # as by detectors that find only eyes, or boxes
    error = 0.07 if careless else 0.025
    turned = 28 if rng.random() < 0.35 else 12
    return Camera(
        yaw_deg=float(np.clip(rng.normal(0, 9 if snapshot else turned), -60, 60)),
        pitch_deg=float(np.clip(rng.normal(0, 4 if snapshot else 10), -32, 32)),
        roll_deg=float(rng.normal(0, 4 if snapshot else 9)),
        distance=float(np.exp(rng.uniform(np.log(38), np.log(220)))),
        framing=framing,
        jitter=np.zeros((3, 2), np.float32)
        if snapshot
        else (error * rng.standard_normal((3, 2))).astype(np.float32),
        zoom=rng.uniform(0.38, 0.6)
        if snapshot
        else float(np.exp(rng.normal(0, 0.05 if careless else 0.02))),
        shift=(float(rng.normal(0, 0.015)), float(rng.normal(0, 0.015))),
    )


def _direction(azimuth_deg: float, elevation_deg: float) -> Floats:
    azimuth, elevation = np.deg2rad([azimuth_deg, np.clip(elevation_deg, -40, 85)])
    return np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        np.float32,
    )
