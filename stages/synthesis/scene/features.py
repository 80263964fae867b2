"""Parameters of the features that are drawn on or around the skin."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]  # linear RGB in [0, 1]


@dataclass(frozen=True)
class Brows:
    """``density`` 0 is no brows; lengths in head units; ``slope`` lowers the inner end.

    ``fine`` in [0, 1]: amount of additional single hairs.
    """

    density: float
    thickness: float
    raise_: float
    slope: float
    arch: float
    length: float
    colour: Colour
    fine: float = 0.0


@dataclass(frozen=True)
class Hair:
    """``style``: bald, short, fringe, parted, curly, bob, long, tied, hat or scarf.

    Lengths in head units. With ``cover`` below 1 the scalp shows, ``soft`` is the distance over
    which the hair rises from the skin, ``wisps`` how far single strands stray over its edge,
    ``curl`` in [0, 1] turns strands into locks, ``flow`` bends them sideways.
    """

    style: str
    colour: Colour
    hairline: float
    temple: float
    thickness: float
    raggedness: float
    hat_colour: Colour
    cover: float = 1.0
    soft: float = 0.0
    wisps: float = 0.0
    curl: float = 0.0
    flow: float = 0.0


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
class Marks:
    """Marks of the skin; 0 means none.

    ``pores``, ``redness`` (nose, cheeks, chin), ``freckles``, ``age_spots``, ``shadow`` (of a
    shaved beard), ``crease`` (above the upper lid) and ``lid`` (darkness below the crease) are in
    [0, 1]; ``moles`` is a count.
    """

    pores: float = 0.0
    redness: float = 0.0
    freckles: float = 0.0
    moles: int = 0
    age_spots: float = 0.0
    shadow: float = 0.0
    crease: float = 0.0
    lid: float = 0.0


@dataclass(frozen=True)
class Makeup:
    """Strengths in [0, 1]: ``liner`` on the lid margins, ``shade`` above them, ``blush``."""

    liner: float = 0.0
    shade: float = 0.0
    shade_colour: Colour = (0.1, 0.1, 0.1)
    blush: float = 0.0


@dataclass(frozen=True)
class Build:
    """How far flesh and bone stand out, in head units: brow ridge, cheeks, jowls."""

    ridge: float = 0.0
    cheeks: float = 0.0
    jowls: float = 0.0
