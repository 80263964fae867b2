"""Who plays in a set: the drawn people, in their own skin or a photograph's, and the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from .appearance import Portrait, read_portrait
from .render.features import Beard, Makeup, Marks
from .render.head import Head
from .render.person import Person, draw_person
from .render.target import target_person

Kind = Literal["mean", "identity", "image"]


@dataclass(frozen=True)
class TargetChoice:
    """The face that everything is normalized to.

    Attributes:
        kind: ``mean`` (the mean head), ``identity`` (a drawn person) or ``image`` (a photograph).
        name: ``mean``, the identity's number, or the photograph's file name.
        draw: makes the person, given the head that it is painted on.
        digest: sha256 of the photograph; empty for others.
    """

    kind: Kind
    name: str
    draw: Callable[[Head], Person]
    digest: str = ""


def choose_target(choice: str) -> TargetChoice:
    """``mean``, an identity number, or the path of a photograph of a face.

    Raises:
        InputError: it is none of these.
    """
    if choice == "mean":
        return TargetChoice("mean", "mean", target_person)
    if choice.isascii() and choice.isdigit():
        number = int(choice)
        return TargetChoice("identity", str(number), lambda head: _drawn(head, number))
    path = Path(choice)
    if not path.is_file():
        raise InputError(
            f"--target {choice}: no such file; give 'mean', the number of an identity, or the "
            "photograph of a face"
        )
    return TargetChoice(
        "image",
        path.name,
        lambda head: _photographed(head, read_portrait(path, head)),
        sha256_file(path),
    )


def _drawn(head: Head, number: int) -> Person:
    """A drawn person with the manner of the target: no resting expression, nothing in the way."""
    plain, kit = target_person(head), head.kit
    person = draw_person(number, kit.expression_names, len(kit.identity))
    bare = person.hair.style in ("hat", "scarf")
    return replace(
        person,
        rest=plain.rest,
        gain=plain.gain,
        wrinkles=plain.wrinkles,
        resting_wrinkles=plain.resting_wrinkles,
        oiliness=plain.oiliness,
        blotch=min(person.blotch, 0.05),
        beard=Beard("none", 0.0, person.beard.colour, 0.0),
        brows=replace(person.brows, density=max(person.brows.density, 0.7)),
        hair=plain.hair if bare else person.hair,
        eyes=replace(person.eyes, socket=min(person.eyes.socket, 0.3), sclera=0.8),
        marks=Marks(pores=0.5 * person.marks.pores, crease=person.marks.crease),
        makeup=Makeup(),
    )


def _photographed(head: Head, portrait: Portrait) -> Person:
    """The photographed person's shape and skin on the target's plain features."""
    plain = target_person(head)
    tone = np.array(plain.skin)
    if not portrait.grey:
        # A photograph does not tell how bright skin is from how brightly it was lit.
        hue = portrait.detail.tone / max(float(portrait.detail.tone.mean()), 1e-3)
        tone = hue * np.clip(portrait.detail.tone.mean(), 0.1, 0.5)
    red, green, blue = tone.clip(0.02, 0.95).tolist()
    return replace(
        plain,
        identity=portrait.fit.identity,
        skin=(red, green, blue),
        detail=portrait.detail.factor,
        brows=replace(plain.brows, density=0.0),
        lip_strength=0.5,
    )
