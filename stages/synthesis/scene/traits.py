"""The distributions of people's features: every function samples one from a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....manifests.arrays import Floats
from .features import Beard, Brows, Build, Colour, Eyes, Hair, Makeup, Marks

_FURROW_GROUPS = 8  # see ``wrinkles.FURROWS``
# Standard deviations of resting faces, in coefficients.
_REST = {
    "browDown": 0.15, "browInnerUp": 0.1, "browOuterUp": 0.1, "mouthFrown": 0.12,
    "mouthSmile": 0.05, "eyeSquint": 0.15, "eyeBlink": 0.08, "eyeWide": 0.06,
    "mouthPress": 0.12, "mouthShrugLower": 0.07, "mouthRollLower": 0.1, "mouthRollUpper": 0.1,
    "cheekPuff": 0.1, "jawForward": 0.2, "mouthPucker": 0.06, "noseSneer": 0.05,
}  # fmt: skip


def resting_face(rng: np.random.Generator, names: Sequence[str], heavy: float) -> Floats:
    """Return (E,) float32 coefficients of a resting face: brows, lids and lips off the mean.

    The two sides differ slightly. ``names``: the E shapes, in the order of the coefficients.
    """
    common = {stem: sd * rng.standard_normal() for stem, sd in _REST.items()}
    common["browDown"] += 0.25 * (heavy - 0.35)
    rest = np.zeros(len(names), np.float32)
    for i, name in enumerate(names):
        stem = name.removesuffix("_L").removesuffix("_R")
        if stem in _REST:
            value = common[stem] + 0.35 * _REST[stem] * rng.standard_normal()
            # Shapes look wrong with negative coefficients; slightly negative is fine.
            rest[i] = np.clip(value, -0.12, 0.4)
        elif name == "mouthClose":
            rest[i] = rng.uniform(0.0, 0.09)  # the kit's lips are slightly open at rest
        elif stem in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            rest[i] = max(0.0, 0.05 * rng.standard_normal())
    return rest


def movement_gains(rng: np.random.Generator, names: Sequence[str]) -> Floats:
    """Return (E,) float32 gains, about 1, with which this person performs every shape."""
    gain = np.ones(len(names), np.float32)
    common: dict[str, float] = {}
    for i, name in enumerate(names):
        stem = name.removesuffix("_L").removesuffix("_R")
        spread = 0.08 if stem in ("eyeBlink", "jawOpen") else 0.18
        level = common.setdefault(stem, 1 + spread * rng.standard_normal())
        gain[i] = np.clip(level + 0.06 * rng.standard_normal(), 0.6, 1.5)
    return gain


def draw_furrows(rng: np.random.Generator, age: float) -> tuple[Floats, Floats]:
    """Return (8,) float32 depths of every group of furrows in an expression, and at rest.

    Neither predicts the expression by itself: some skins hardly fold, others are always folded.
    """
    supple = rng.random(_FURROW_GROUPS) < 0.45 - 0.25 * age
    folds = np.where(
        supple,
        rng.uniform(0.0, 0.2, _FURROW_GROUPS),
        (0.15 + 0.85 * age) * rng.uniform(0.4, 1.1, _FURROW_GROUPS),
    )
    kept = rng.random(_FURROW_GROUPS) < 0.3 + 0.4 * age
    resting = np.where(
        kept,
        rng.uniform(0.2, 1.0, _FURROW_GROUPS) * (0.45 + 0.55 * age),
        rng.uniform(0.0, 0.25, _FURROW_GROUPS) * age,
    )
    return folds.astype(np.float32), resting.astype(np.float32)


def draw_marks(rng: np.random.Generator, masculine: bool, age: float, melanin: float) -> Marks:
    """Sample pores, freckles on fair skin, age spots, the lid crease."""
    freckled = melanin < 0.45 and rng.random() < 0.35
    spotted = rng.random() < age * 0.7
    hooded = rng.random() < 0.25
    return Marks(
        pores=float(rng.beta(1.5, 2.0)),
        redness=float(rng.beta(1.2, 1.8)),
        freckles=rng.uniform(0.2, 1.0) if freckled else 0.0,
        moles=int(rng.poisson(1.6)),
        age_spots=rng.uniform(0.2, 1.0) if spotted else 0.0,
        shadow=rng.uniform(0.0, 0.8) if masculine else 0.0,
        crease=0.0 if hooded else rng.uniform(0.3, 1.0),
        lid=float(rng.beta(1.3, 2.0)),
    )


def draw_makeup(rng: np.random.Generator, painted: bool) -> Makeup:
    """Sample make-up, mostly for people with lipstick."""
    if not painted and rng.random() > 0.12:
        return Makeup()
    colour = rng.uniform(0.05, 0.5) * (1 + 0.5 * rng.standard_normal(3) * rng.random())
    return Makeup(
        liner=rng.uniform(0.0, 1.0),
        shade=rng.uniform(0.0, 0.6) if rng.random() < 0.6 else 0.0,
        shade_colour=clip_colour(colour),
        blush=rng.uniform(0.0, 0.7) if rng.random() < 0.6 else 0.0,
    )


def draw_build(rng: np.random.Generator, masculine: bool, age: float, heavy: float) -> Build:
    """Sample bone and flesh that the identity modes vary too little."""
    return Build(
        ridge=(0.45 if masculine else 0.2) * heavy * rng.uniform(0.4, 1.2),
        cheeks=float(np.clip(rng.normal(0.1, 0.3), -0.4, 0.9)),
        jowls=max(0.0, float(rng.normal(-0.1 + 0.35 * age, 0.3))),
    )


def skin_colour(rng: np.random.Generator, melanin: float) -> Colour:
    """Sample a skin colour from light (``melanin`` 0) to dark (1)."""
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
    srgb = srgb * (1 + 0.03 * rng.standard_normal() + 0.012 * rng.standard_normal(3))
    return _linear(srgb.clip(0.05, 0.98))


def lip_colour(rng: np.random.Generator, skin: Colour, painted: bool) -> Colour:
    """Sample a lip colour: redder than the skin, or lipstick."""
    base = np.array(skin)
    if painted:
        return _linear(
            np.array([rng.uniform(0.4, 0.75), rng.uniform(0.1, 0.32), rng.uniform(0.14, 0.4)])
        )
    natural = base * np.array(
        [rng.uniform(0.55, 0.85), rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.7)]
    )
    return clip_colour(natural)


def hair_colour(rng: np.random.Generator, melanin: float, age: float) -> Colour:
    """Sample a hair colour: grey with age, else fair or dark depending on the skin."""
    if rng.random() < 0.5 * age**3 + 0.02:
        level = rng.uniform(0.35, 0.85)
        return _linear(np.array([level, level, level * 0.98]))
    if melanin < 0.35 and rng.random() < 0.4:
        blond = rng.uniform(0.3, 0.75)
        return _linear(
            np.array([blond, blond * rng.uniform(0.68, 0.85), blond * rng.uniform(0.35, 0.6)])
        )
    dark = rng.uniform(0.04, 0.28)
    return _linear(np.array([dark, dark * rng.uniform(0.7, 0.95), dark * rng.uniform(0.5, 0.9)]))


def teeth_colour(rng: np.random.Generator, age: float) -> Colour:
    """Sample a tooth colour from bright to stained."""
    level = rng.uniform(0.5, 0.92) - 0.1 * age
    warm = rng.uniform(0.02, 0.2 + 0.15 * age)
    return clip_colour(level * np.array([1.0, 1 - 0.4 * warm, 1 - warm]))


def draw_brows(rng: np.random.Generator, masculine: bool, heavy: float, hair: Colour) -> Brows:
    """Sample brows, thicker and lower on a heavy ridge."""
    missing = rng.random() < 0.03
    density = np.clip(rng.normal(0.72 if masculine else 0.6, 0.22) + 0.2 * heavy, 0.1, 1)
    thickness = rng.uniform(0.4, 0.8) if masculine else rng.uniform(0.2, 0.55)
    return Brows(
        density=0.0 if missing else float(density),
        thickness=thickness + 0.35 * heavy,
        raise_=rng.normal(0.0 if masculine else 0.15, 0.22) - 0.35 * heavy,
        slope=rng.normal(0.1, 0.22),
        arch=rng.normal(0.05, 0.18),
        length=rng.uniform(0.85, 1.15),
        colour=clip_colour(np.array(hair) * rng.uniform(0.25, 0.9)),
        fine=rng.uniform(0.4, 1.0),
    )


_MEN = {"bald": 0.09, "short": 0.5, "fringe": 0.07, "parted": 0.14, "curly": 0.07, "bob": 0.02,
        "long": 0.02, "hat": 0.08, "scarf": 0.01}  # fmt: skip
_WOMEN = {"bald": 0.01, "short": 0.09, "fringe": 0.13, "parted": 0.09, "curly": 0.08, "bob": 0.19,
          "long": 0.22, "tied": 0.09, "hat": 0.05, "scarf": 0.05}  # fmt: skip


def draw_hair(rng: np.random.Generator, masculine: bool, age: float, colour: Colour) -> Hair:
    """Sample a hair style, a hat or a scarf."""
    shares = _MEN if masculine else _WOMEN
    style = str(rng.choice(list(shares), p=list(shares.values())))
    receding = age * rng.uniform(0, 2.0) if masculine else 0.0
    hairline = rng.uniform(6.8, 8.4) if style == "fringe" else rng.uniform(9.0, 10.4) + receding
    thin = style in ("short", "parted") and rng.random() < 0.3
    curl = rng.uniform(0.6, 1.0) if style == "curly" else rng.choice([0, rng.uniform(0, 0.5)])
    thickness = rng.choice([rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.3)])
    if style == "curly":
        thickness = rng.uniform(0.5, 2.6)
    return Hair(
        style=style,
        colour=colour,
        hairline=hairline,
        temple=rng.uniform(44, 60),
        thickness=float(0.15 if thin else thickness),
        raggedness=rng.uniform(0.1, 0.6),
        hat_colour=random_colour(rng, 0.5),
        cover=rng.uniform(0.45, 0.9) if thin else 1.0,
        soft=rng.uniform(0.3, 0.7),
        wisps=rng.uniform(0.2, 1.0),
        curl=float(curl),
        flow=float(rng.normal(0, 1.0)),
    )


def draw_beard(rng: np.random.Generator, masculine: bool, hair: Colour) -> Beard:
    """Sample facial hair, for men only."""
    styles = ["none", "stubble", "moustache", "goatee", "full"]
    shares = [0.45, 0.2, 0.15, 0.08, 0.12] if masculine else [1, 0, 0, 0, 0]
    style = str(rng.choice(styles, p=shares))
    return Beard(
        style=style,
        density=rng.uniform(0.15, 0.5) if style == "stubble" else rng.uniform(0.65, 1.0),
        colour=clip_colour(np.array(hair) * rng.uniform(0.3, 1.1)),
        thickness=0.0 if style == "stubble" else rng.uniform(0.0, 0.45),
    )


def draw_eyes(rng: np.random.Generator, melanin: float, heavy: float) -> Eyes:
    """Sample eyes: irises depend on the skin, sockets on the heaviness of the brow."""
    if melanin < 0.4 and rng.random() < 0.5:
        tone = rng.uniform(0.35, 0.6)
        iris = _linear(np.array([tone * rng.uniform(0.5, 0.9), tone, tone * rng.uniform(0.9, 1.3)]))
    else:
        tone = rng.uniform(0.1, 0.38)
        iris = _linear(
            np.array([tone, tone * rng.uniform(0.55, 0.8), tone * rng.uniform(0.3, 0.6)])
        )
    return Eyes(
        iris=iris,
        sclera=rng.uniform(0.35, 0.8),
        iris_radius=rng.uniform(0.53, 0.64),
        pupil_radius=rng.uniform(0.18, 0.38),
        socket=float(np.clip(0.65 * heavy + 0.55 * rng.beta(1.4, 1.9), 0, 1)),
        lash=rng.uniform(0.25, 1.0),
        shadow_colour=rng.uniform(0.55, 0.95),
    )


def random_colour(rng: np.random.Generator, brightest: float) -> Colour:
    """Sample a colour, usually muted, no brighter than ``brightest``."""
    level = rng.uniform(0.01, brightest)
    return clip_colour(level * (1 + 0.4 * rng.standard_normal(3) * rng.random()))


def clip_colour(value: Floats) -> Colour:
    """Clip (3,) linear RGB to plausible surface colours."""
    red, green, blue = np.asarray(value, float).clip(0.003, 0.98).tolist()
    return red, green, blue


def _linear(srgb: Floats) -> Colour:
    return clip_colour(np.asarray(srgb) ** 2.2)
