"""Plans the pairs of a set: person, expression and picture of each, from the set's seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .acting import RAMP_STEPS

# Identity numbers of different seeds are disjoint, so sets of different seeds can be joined.
IDENTITIES_PER_SEED = 1_000_000
_PICTURES_PER_SEED = 100_000_000


@dataclass(frozen=True)
class PairSpec:
    """Defines a pair; everything else is derived from these numbers.

    ``identity`` and ``seed`` are globally unique (the pictures of a ramp share a seed),
    ``expression_seed`` is None if the expression follows from ``seed``.
    """

    key: str
    split: str
    identity: int
    seed: int
    expression_seed: int | None


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
        pairs: number of pairs.
        identities: number of people in them.
        seed: another seed gives other people and other pictures.
        shares: fractions of the people in validation and test; each person is in one split.
        crossed: every person makes the same expressions.
        ramps: pictures are in runs that differ only in the strength of one movement.
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
    """Return the split of a person: evenly spread, and independent of the number of people."""
    golden = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1) evenly
    place = (person + 0.5) * golden % 1
    if place < shares[0]:
        return "validation"
    return "test" if place < sum(shares) else "train"
