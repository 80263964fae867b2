"""Paired pictures: somebody making an expression, and the target face making the same one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..drawing.renderer import PreparedPerson, Shot, take_shot
from ..surface.head import Head
from .acting import RAMP_STEPS
from .camera import five_points
from .expressions import action_units
from .scene import SceneOptions, draw_scene
from .target import TargetFace

FloatArray = NDArray[np.floating]
ByteArray = NDArray[np.uint8]

# Identity numbers of different seeds never meet, so sets of different seeds can be joined.
IDENTITIES_PER_SEED = 1_000_000
_PICTURES_PER_SEED = 100_000_000


@dataclass(frozen=True)
class PairSpec:
    """Which pair to make; everything else follows from these numbers.

    ``identity`` and ``seed`` are globally unique numbers (the pictures of a ramp share a seed),
    ``expression_seed`` is None where the expression is the picture's own.
    """

    key: str
    split: str
    identity: int
    seed: int
    expression_seed: int | None


@dataclass(frozen=True, eq=False)
class Draft:
    """A pair before it is rendered, with its exact labels.

    Attributes:
        source, target: what is to be rendered; the target may be left out.
        coefficients: (E,) float32 in [0, 1], in the kit's order.
        intensities: action-unit intensities in [0, 5] by name.
        emotion: the prototype meant, or None.
        yaw_deg, pitch_deg, roll_deg: pose of the source before alignment.
        landmarks: (5, 2) float32 source pixels: eyes (image left first), nose tip, mouth corners.
    """

    source: Shot
    target: Shot | None
    coefficients: FloatArray
    intensities: dict[str, float]
    emotion: str | None
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    landmarks: FloatArray


@dataclass(frozen=True, eq=False)
class Pair:
    """A rendered pair: (S, S, 3) and (T, T, 3) uint8 RGB; the target may be left out."""

    draft: Draft
    source: ByteArray
    target: ByteArray | None


def plan_pairs(
    pairs: int,
    identities: int,
    seed: int,
    shares: tuple[float, float],
    crossed: bool,
    ramps: bool = False,
) -> Iterator[PairSpec]:
    """List the pairs of a set, person by person.

    Args:
        pairs: how many.
        identities: how many people they are shared among.
        seed: another seed gives other people and other pictures.
        shares: fractions of the people that go to validation and test; a person is in one split.
        crossed: every person makes the same expressions.
        ramps: pictures come in runs that differ in the strength of one movement alone.
    """
    each = -(-pairs // identities)
    if ramps:
        each = -(-each // RAMP_STEPS) * RAMP_STEPS  # a ramp stays with its person
    counters = {"train": 0, "validation": 0, "test": 0}
    for number in range(pairs):
        person, picture = divmod(number, each)
        split = split_of(person, shares)
        first = seed * _PICTURES_PER_SEED
        shot = number // RAMP_STEPS * RAMP_STEPS if ramps else number  # light, pose, place
        expression = picture if crossed else number
        yield PairSpec(
            key=f"synth/{split}/{counters[split]:06d}",
            split=split,
            identity=seed * IDENTITIES_PER_SEED + person,
            seed=first + shot,
            expression_seed=first + expression if crossed or ramps else None,
        )
        counters[split] += 1


def split_of(person: int, shares: tuple[float, float]) -> str:
    """The split of a person: evenly spread, and the same however many people follow."""
    golden = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1) evenly
    place = (person + 0.5) * golden % 1
    if place < shares[0]:
        return "validation"
    return "test" if place < sum(shares) else "train"


def draft_pair(
    head: Head,
    target: TargetFace | None,
    prepared: PreparedPerson,
    spec: PairSpec,
    sizes_px: tuple[int, int],
    options: SceneOptions = SceneOptions(),  # noqa: B008 - frozen
) -> Draft:
    """Work out one pair; ``sizes_px``: source and target; ``target`` None leaves it out."""
    names = head.kit.expression_names
    scene = draw_scene(prepared.person, spec.seed, names, options, spec.expression_seed)
    coefficients = scene.expression.coefficients
    source = take_shot(head, prepared, scene, sizes_px[0])
    five = five_points(source.landmarks68[:, 0] + 1j * source.landmarks68[:, 1])
    return Draft(
        source=source,
        target=None if target is None else target.shot(coefficients, sizes_px[1]),
        coefficients=coefficients,
        intensities=action_units(names, coefficients, head.lip_gap(coefficients)),
        emotion=scene.expression.emotion,
        yaw_deg=scene.camera.yaw_deg,
        pitch_deg=scene.camera.pitch_deg,
        roll_deg=scene.camera.roll_deg,
        landmarks=np.stack([five.real, five.imag], 1).astype(np.float32),
    )
