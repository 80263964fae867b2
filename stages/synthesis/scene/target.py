"""The face everything is normalized to: average, frontal, evenly lit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....manifests.arrays import Floats
from ..drawing.renderer import PreparedPerson, Shot, prepare_person, take_shot
from ..surface.atlas import Atlas
from ..surface.head import Head, prepare_head
from .camera import Camera
from .expressions import Expression
from .features import Beard, Brows, Build, Eyes, Hair, Makeup, Marks
from .person import Person
from .scene import Glasses, Light, Scene

#: The version of ``synthesize`` that first drew the target as it is now. Raise it with a visible
#: change: sets with another version show another face.
TARGET_VERSION = 3

# The face moves exactly as the coefficients say: no resting expression, gain 1.
_HAIR = (0.03, 0.02, 0.014)


def target_person(head: Head) -> Person:
    """Return the mean head with plain features on which an expression is easy to see."""
    names = head.kit.expression_names
    rest = np.zeros(len(names), np.float32)
    if "mouthClose" in names:
        rest[names.index("mouthClose")] = 0.05  # the kit's lips are slightly open
    return Person(
        identity=np.zeros(len(head.kit.identity), np.float32),
        rest=rest,
        gain=np.ones(len(names), np.float32),
        skin=(0.56, 0.34, 0.24),
        lip=(0.40, 0.13, 0.12),
        lip_strength=0.75,
        blotch=0.02,
        wrinkles=np.ones(8, np.float32),
        resting_wrinkles=np.zeros(8, np.float32),
        oiliness=0.12,
        brows=Brows(0.95, 0.62, 0.12, 0.02, 0.05, 1.0, _HAIR),
        hair=Hair("short", _HAIR, 9.6, 52.0, 0.5, 0.35, _HAIR),
        beard=Beard("none", 0.0, _HAIR, 0.0),
        eyes=Eyes((0.07, 0.045, 0.03), 0.85, 0.58, 0.24, 0.1, 0.9, 1.0),
        clothes=(0.12, 0.13, 0.15),
        seed=0,
        marks=Marks(),
        makeup=Makeup(),
        build=Build(),
        teeth=(0.72, 0.68, 0.58),
    )


def target_scene(person: Person, coefficients: Floats) -> Scene:
    """Return the scene of the target making an expression (E,)."""
    light = Light(
        key_direction=_unit(0.25, 0.45, 1.0),
        key=0.55,
        key_colour=(1.0, 1.0, 1.0),
        fill_direction=_unit(-0.6, 0.1, 1.0),
        fill=0.25,
        ambient=0.45,
        ambient_tilt=np.zeros(3, np.float32),
        shadow=0.0,
        exposure=0.56,
        contrast=1.12,
    )
    camera = Camera(0.0, 0.0, 0.0, 120.0, "target", np.zeros((3, 2), np.float32), 1.0, (0.0, 0.0))
    glasses = Glasses(False, 0.0, (0.0, 0.0, 0.0), 0.1, 2.0, 1.5, 2.0, 0.0)
    return Scene(person, Expression(coefficients, None), camera, light, glasses, "grey", "none", 0)


class TargetFace:
    """The target's head, and shots of its expressions."""

    def __init__(self, head: Head, draw: Callable[[Head], Person] = target_person) -> None:
        """``draw``: makes the person for a given head."""
        # A finer atlas than for sources: this face is the one that matters.
        self.head = prepare_head(head.kit, Atlas(height=576, width=768))
        self.prepared: PreparedPerson = prepare_person(self.head, draw(self.head))

    def shot(self, coefficients: Floats, size_px: int) -> Shot:
        """(E,) coefficients → the target face on ``size_px`` x ``size_px`` pixels, to render."""
        scene = target_scene(self.prepared.person, coefficients)
        return take_shot(self.head, self.prepared, scene, size_px)


def _unit(x: float, y: float, z: float) -> Floats:
    vector = np.array([x, y, z], np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
