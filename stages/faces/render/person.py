"""Who is in a picture: shape, skin, hair, resting face and way of moving, drawn from a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
Colour = tuple[float, float, float]  # linear RGB in [0, 1]


@dataclass(frozen=True)
class Brows:
    """``density`` 0 is no brows; lengths in head units; ``slope`` lowers the inner end."""

    density: float
    thickness: float
    raise_: float
    slope: float
    arch: float
    length: float
    colour: Colour


@dataclass(frozen=True)
class Hair:
    """``style``: bald, short, fringe, bob, long or hat. Lengths in head units."""

    style: str
    colour: Colour
    hairline: float
    temple: float
    thickness: float
    raggedness: float
    hat_colour: Colour


@dataclass(frozen=True)
class Beard:
    """``style``: none, stubble, moustache, goatee or full."""

    style: str
    density: float
    colour: Colour
    thickness: float


@dataclass(frozen=True)
class Eyes:
    """``socket`` darkens the hollow of the eye, ``lash`` the lid margins, both in [0, 1]."""

    iris: Colour
    sclera: float
    iris_radius: float
    pupil_radius: float
    socket: float
    lash: float
    shadow_colour: float


@dataclass(frozen=True)
class Person:
    """One identity. ``rest`` and ``gain`` act on the mesh and never enter the labels."""

    identity: FloatArray
    rest: FloatArray
    gain: FloatArray
    skin: Colour
    lip: Colour
    lip_strength: float
    blotch: float
    wrinkles: float
    resting_wrinkles: FloatArray
    oiliness: float
    brows: Brows
    hair: Hair
    beard: Beard
    eyes: Eyes
    clothes: Colour
    seed: int


def generator(*numbers: int) -> np.random.Generator:
    """A random generator that depends on nothing but these numbers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(numbers))))


def draw_person(identity: int, names: Sequence[str], modes: int) -> Person:
    """Draw who identity number ``identity`` is."""
    rng = generator(1, identity)
    masculine = rng.random() < 0.6
    age = rng.random()
    melanin = float(np.clip(rng.beta(1.1, 1.5), 0, 1))
    skin = _skin_colour(rng, melanin)
    hair_colour = _hair_colour(rng, melanin, age)
    lip_strength = rng.uniform(0.15, 0.6) if masculine else rng.uniform(0.3, 1.0)
    return Person(
        identity=rng.standard_normal(modes).astype(np.float32).clip(-2.2, 2.2),
        rest=_resting_face(rng, names),
        gain=_way_of_moving(rng, names),
        skin=skin,
        lip=_lip_colour(rng, skin, painted=not masculine and rng.random() < 0.4),
        lip_strength=lip_strength,
        blotch=rng.uniform(0.02, 0.12),
        wrinkles=0.25 + 0.75 * age,
        resting_wrinkles=(rng.random(8) ** 2 * (0.15 + 0.6 * age)).astype(np.float32),
        oiliness=rng.uniform(0.02, 0.35),
        brows=_draw_brows(rng, masculine, hair_colour),
        hair=_draw_hair(rng, masculine, age, hair_colour),
        beard=_draw_beard(rng, masculine, hair_colour),
        eyes=_draw_eyes(rng, melanin),
        clothes=any_colour(rng, 0.6),
        seed=identity,
    )


def _resting_face(rng: np.random.Generator, names: Sequence[str]) -> FloatArray:
    """Brows, lids and lips that sit where others only go in an expression; uneven sides."""
    spread = {
        "browDown": 0.16, "browInnerUp": 0.1, "browOuterUp": 0.1, "mouthFrown": 0.12,
        "mouthSmile": 0.05, "eyeSquint": 0.15, "eyeBlink": 0.08, "eyeWide": 0.06,
        "mouthPress": 0.12, "mouthShrugLower": 0.07, "mouthRollLower": 0.1, "mouthRollUpper": 0.1,
        "cheekPuff": 0.1, "jawForward": 0.2, "mouthPucker": 0.06, "noseSneer": 0.05,
    }  # fmt: skip
    common = {stem: sd * rng.standard_normal() for stem, sd in spread.items()}
    rest = np.zeros(len(names), np.float32)
    for i, name in enumerate(names):
        stem = name.removesuffix("_L").removesuffix("_R")
        if stem in spread:
            value = common[stem] + 0.35 * spread[stem] * rng.standard_normal()
            # Shapes bend the wrong way when run backwards; a little is fine.
            rest[i] = np.clip(value, -0.12, 0.4)
        elif name == "mouthClose":
            rest[i] = rng.uniform(0.0, 0.09)  # the kit's lips are a little open at rest
        elif stem in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            rest[i] = max(0.0, 0.05 * rng.standard_normal())
    return rest


def _way_of_moving(rng: np.random.Generator, names: Sequence[str]) -> FloatArray:
    gain = np.ones(len(names), np.float32)
    common: dict[str, float] = {}
    for i, name in enumerate(names):
        stem = name.removesuffix("_L").removesuffix("_R")
        spread = 0.08 if stem in ("eyeBlink", "jawOpen") else 0.18
        level = common.setdefault(stem, 1 + spread * rng.standard_normal())
        gain[i] = np.clip(level + 0.06 * rng.standard_normal(), 0.6, 1.5)
    return gain


def _skin_colour(rng: np.random.Generator, melanin: float) -> Colour:
    anchors = np.array(  # sRGB from light to dark
        [
            [240, 212, 198],
            [226, 188, 168],
            [204, 160, 135],
            [162, 118, 94],
            [115, 82, 65],
            [78, 56, 46],
        ]
    )
    place = melanin * (len(anchors) - 1)
    low = min(int(place), len(anchors) - 2)
    srgb = (anchors[low] + (place - low) * (anchors[low + 1] - anchors[low])) / 255
    srgb = (srgb * (1 + 0.03 * rng.standard_normal(3))).clip(0.05, 0.98)
    return _linear(srgb)


def _lip_colour(rng: np.random.Generator, skin: Colour, painted: bool) -> Colour:
    base = np.array(skin)
    if painted:
        return _linear(
            np.array([rng.uniform(0.5, 0.85), rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.45)])
        )
    natural = base * np.array(
        [rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.7), rng.uniform(0.4, 0.75)]
    )
    return _colour(natural)


def _hair_colour(rng: np.random.Generator, melanin: float, age: float) -> Colour:
    if rng.random() < 0.5 * age**3 + 0.02:
        level = rng.uniform(0.35, 0.9)
        return _linear(np.array([level, level, level * 0.98]))
    if melanin < 0.35 and rng.random() < 0.4:
        blond = rng.uniform(0.3, 0.75)
        return _linear(
            np.array([blond, blond * rng.uniform(0.65, 0.85), blond * rng.uniform(0.3, 0.6)])
        )
    dark = rng.uniform(0.04, 0.28)
    return _linear(np.array([dark, dark * rng.uniform(0.7, 0.95), dark * rng.uniform(0.5, 0.9)]))


def _draw_brows(rng: np.random.Generator, masculine: bool, hair: Colour) -> Brows:
    missing = rng.random() < 0.04
    return Brows(
        density=0.0
        if missing
        else float(np.clip(rng.normal(0.75 if masculine else 0.6, 0.25), 0.1, 1)),
        thickness=rng.uniform(0.45, 1.0) if masculine else rng.uniform(0.2, 0.7),
        raise_=rng.normal(-0.1 if masculine else 0.1, 0.25),
        slope=rng.normal(0.1, 0.22),
        arch=rng.normal(0.05, 0.18),
        length=rng.uniform(0.85, 1.15),
        colour=_colour(np.array(hair) * rng.uniform(0.4, 1.1)),
    )


def _draw_hair(rng: np.random.Generator, masculine: bool, age: float, colour: Colour) -> Hair:
    styles = ["bald", "short", "fringe", "bob", "long", "hat"]
    shares = (
        [0.1, 0.62, 0.12, 0.03, 0.03, 0.1] if masculine else [0.01, 0.14, 0.2, 0.25, 0.33, 0.07]
    )
    style = str(rng.choice(styles, p=shares))
    receding = age * rng.uniform(0, 2.0) if masculine else 0.0
    hairline = rng.uniform(6.6, 8.4) if style == "fringe" else rng.uniform(9.0, 10.6) + receding
    return Hair(
        style=style,
        colour=colour,
        hairline=hairline,
        temple=rng.uniform(44, 60),
        thickness=float(rng.choice([rng.uniform(0.1, 0.4), rng.uniform(0.4, 1.8)])),
        raggedness=rng.uniform(0.1, 1.2),
        hat_colour=any_colour(rng, 0.5),
    )


def _draw_beard(rng: np.random.Generator, masculine: bool, hair: Colour) -> Beard:
    styles = ["none", "stubble", "moustache", "goatee", "full"]
    shares = [0.42, 0.2, 0.19, 0.07, 0.12] if masculine else [1, 0, 0, 0, 0]
    style = str(rng.choice(styles, p=shares))
    return Beard(
        style=style,
        density=rng.uniform(0.15, 0.5) if style == "stubble" else rng.uniform(0.65, 1.0),
        colour=_colour(np.array(hair) * rng.uniform(0.3, 1.1)),
        thickness=0.0 if style == "stubble" else rng.uniform(0.0, 0.45),
    )


def _draw_eyes(rng: np.random.Generator, melanin: float) -> Eyes:
    if melanin < 0.4 and rng.random() < 0.5:
        tone = rng.uniform(0.35, 0.6)
        iris = _linear(
            np.array([tone * rng.uniform(0.5, 0.9), tone, tone * rng.uniform(0.9, 1.35)])
        )
    else:
        tone = rng.uniform(0.1, 0.38)
        iris = _linear(
            np.array([tone, tone * rng.uniform(0.55, 0.8), tone * rng.uniform(0.3, 0.6)])
        )
    return Eyes(
        iris=iris,
        sclera=rng.uniform(0.35, 0.85),
        iris_radius=rng.uniform(0.53, 0.64),
        pupil_radius=rng.uniform(0.18, 0.38),
        socket=float(rng.beta(1.4, 1.9)),
        lash=rng.uniform(0.25, 1.0),
        shadow_colour=rng.uniform(0.6, 1.0),
    )


def any_colour(rng: np.random.Generator, brightest: float) -> Colour:
    """Draw a colour no brighter than ``brightest``, muted more often than not."""
    level = rng.uniform(0.01, brightest)
    return _colour(level * (1 + 0.4 * rng.standard_normal(3) * rng.random()))


def _linear(srgb: FloatArray) -> Colour:
    return _colour(np.asarray(srgb) ** 2.2)


def _colour(value: FloatArray) -> Colour:
    red, green, blue = np.asarray(value, float).clip(0.003, 0.98).tolist()
    return red, green, blue
