"""People: shape, skin, hair, resting face and movement gains, generated from a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....manifests.arrays import Floats
from . import traits
from .features import Beard, Brows, Build, Colour, Eyes, Hair, Makeup, Marks


@dataclass(frozen=True)
class Person:
    """One identity. ``rest`` and ``gain`` act on the mesh and never enter the labels.

    ``wrinkles`` and ``resting_wrinkles`` (K,) are the depths of every group of furrows in an
    expression and at rest, in [0, 1]. ``detail`` (H, W, 3) over the atlas multiplies the colour of
    the skin (see ``likeness``).
    """

    identity: Floats
    rest: Floats
    gain: Floats
    skin: Colour
    lip: Colour
    lip_strength: float
    blotch: float
    wrinkles: Floats
    resting_wrinkles: Floats
    oiliness: float
    brows: Brows
    hair: Hair
    beard: Beard
    eyes: Eyes
    clothes: Colour
    seed: int
    marks: Marks
    makeup: Makeup
    build: Build
    teeth: Colour
    detail: Floats | None = None


def generator(*numbers: int) -> np.random.Generator:
    """Return a random generator seeded by these numbers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(numbers))))


@dataclass(frozen=True)
class Demographics:
    """The basic traits of a person, on which the others depend.

    ``age`` from young (0) to old (1), ``melanin`` from light skin (0) to dark (1).
    """

    masculine: bool
    age: float
    melanin: float


def demographics_of(identity: int) -> Demographics:
    """Return the demographics of identity number ``identity``, used to judge fairness."""
    return _draw_demographics(generator(1, identity))


def _draw_demographics(rng: np.random.Generator) -> Demographics:
    return Demographics(
        masculine=bool(rng.random() < 0.55),
        age=float(rng.random()),
        melanin=float(rng.beta(1.1, 1.5)),
    )


def draw_person(identity: int, names: Sequence[str], modes: int) -> Person:
    """Generate the person with the number ``identity``."""
    rng = generator(1, identity)
    basic = _draw_demographics(rng)
    masculine, age, melanin = basic.masculine, basic.age, basic.melanin
    heavy = float(rng.beta(1.3, 2.0))  # brow, ridge and sockets are correlated
    skin = traits.skin_colour(rng, melanin)
    hair_colour = traits.hair_colour(rng, melanin, age)
    painted = not masculine and rng.random() < 0.45
    marks = traits.draw_marks(rng, masculine, age, melanin)
    folds, resting = traits.draw_furrows(rng, age)
    return Person(
        identity=rng.standard_normal(modes).astype(np.float32).clip(-2.2, 2.2),
        rest=traits.resting_face(rng, names, heavy),
        gain=traits.movement_gains(rng, names),
        skin=skin,
        lip=traits.lip_colour(rng, skin, painted),
        lip_strength=rng.uniform(0.3, 1.0) if painted else rng.uniform(0.15, 0.65),
        blotch=rng.uniform(0.02, 0.12),
        wrinkles=folds,
        resting_wrinkles=resting,
        oiliness=rng.uniform(0.02, 0.35),
        brows=traits.draw_brows(rng, masculine, heavy, hair_colour),
        hair=traits.draw_hair(rng, masculine, age, hair_colour),
        beard=traits.draw_beard(rng, masculine, hair_colour),
        eyes=traits.draw_eyes(rng, melanin, heavy),
        clothes=traits.random_colour(rng, 0.6),
        seed=identity,
        marks=marks,
        makeup=traits.draw_makeup(rng, painted),
        build=traits.draw_build(rng, masculine, age, heavy),
        teeth=traits.teeth_colour(rng, age),
    )
