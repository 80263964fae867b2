"""The people of a set: generated ones, some with a photograph's skin, and the target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...pipeline.errors import InputError
from .drawing.batch import BatchRenderer
from .facekit import load_facekit
from .photograph_skins import Appearance, Portrait, portrait_digest, read_portrait
from .render_settings import SynthesizeConfig
from .scene.features import Beard, Makeup, Marks
from .scene.person import Person, draw_person
from .scene.picture_folder import PictureFolder
from .scene.scene import SceneOptions
from .scene.target import TARGET_VERSION, TargetFace, target_person
from .surface.atlas import Atlas
from .surface.head import Head, prepare_head

TargetKind = Literal["mean", "identity", "image"]


class Cast:
    """Heads, people and target of a set, according to its settings.

    Attributes:
        head: the head of all people.
        options: options common to all scenes.
        target: the face everything is normalized to; None without targets.
        target_note: JSON with what defines the target (kind, name, sha256 of the kit, version and
            size of its pictures, digest of the photograph if it is one) and the sha256 of its
            resting picture.
    """

    def __init__(self, config: SynthesizeConfig) -> None:
        """Read the kit and list the folders of pictures.

        Raises:
            InputError: no kit, a folder without pictures, or a target that is not a face.
        """
        if not config.facekit:
            raise InputError(
                "synthesize needs a face kit: --facekit PATH (ICT-FaceKit Light, an .npz)"
            )
        folder = PictureFolder(config.backgrounds, "--backgrounds") if config.backgrounds else None
        self.options = SceneOptions(config.framing, config.expressions, folder)
        kit = load_facekit(config.facekit)
        self.head = prepare_head(kit, Atlas())
        self._digests = {"facekit": kit.digest}
        if folder is not None:
            self._digests["backgrounds"] = folder.digest
        self._appearance = None
        if config.appearance:
            self._appearance = Appearance(config.appearance, config.appearance_share, self.head)
            self._digests |= self._appearance.digests()
        self.target = None
        self.target_note = ""
        if config.targets:
            choice = choose_target(config.target)
            self.target = TargetFace(self.head, choice.draw)
            note = {
                "kind": choice.kind,
                "name": choice.name,
                "facekit": kit.digest,
                "renderer": TARGET_VERSION,
                "size_px": config.target_size_px,
            }
            if choice.photograph:
                note["photograph"] = choice.photograph
            # Not of the picture, which other kinds of CPU round differently.
            defined = json.dumps(note, sort_keys=True)
            self._digests["target"] = hashlib.sha256(defined.encode()).hexdigest()
            note["sha256"] = resting_sha256(self.target, config.target_size_px)
            self.target_note = json.dumps(note, sort_keys=True)

    @property
    def expression_names(self) -> tuple[str, ...]:
        """Return the names of the shapes, in the order of the coefficients."""
        return self.head.kit.expression_names

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the kit, of the picture folders, and of the target."""
        return dict(self._digests)

    def person(self, identity: int) -> Person:
        """Generate the person with the number ``identity``."""
        kit = self.head.kit
        person = draw_person(identity, kit.expression_names, len(kit.identity))
        return person if self._appearance is None else self._appearance.apply(person)


def resting_sha256(target: TargetFace, size_px: int) -> str:
    """Return the sha256 of the target's resting face: (S, S, 3) RGB bytes, rendered on a CPU."""
    neutral = np.zeros(len(target.head.kit.expression_names), np.float32)
    picture = BatchRenderer(target.head, size_px, "cpu").render([target.shot(neutral, size_px)])[0]
    return hashlib.sha256(picture.tobytes()).hexdigest()


@dataclass(frozen=True)
class TargetChoice:
    """The face that everything is normalized to.

    Attributes:
        kind: ``mean`` (the mean head), ``identity`` (a generated person) or ``image`` (a
            photograph).
        name: ``mean``, the identity's number, or the photograph's file name.
        draw: makes the person for a given head.
        photograph: digest of the photograph and of its reader; empty for other kinds.
    """

    kind: TargetKind
    name: str
    draw: Callable[[Head], Person]
    photograph: str = ""


def choose_target(choice: str) -> TargetChoice:
    """Return the target for ``mean``, an identity number, or the path of a photograph of a face.

    Raises:
        InputError: it is none of these.
    """
    if choice == "mean":
        return TargetChoice("mean", "mean", target_person)
    if choice.isascii() and choice.isdigit():
        number = int(choice)
        return TargetChoice(
            "identity", str(number), lambda head: _target_from_identity(head, number)
        )
    path = Path(choice)
    if not path.is_file():
        raise InputError(
            f"--target {choice}: no such file; give 'mean', the number of an identity, or the "
            "photograph of a face"
        )
    return TargetChoice(
        "image",
        path.name,
        lambda head: _target_from_photograph(head, read_portrait(path, head)),
        portrait_digest(path),
    )


def _target_from_identity(head: Head, number: int) -> Person:
    """Return a generated person changed for a target: no resting expression, nothing occluded."""
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


def _target_from_photograph(head: Head, portrait: Portrait) -> Person:
    """Return the photographed person's shape and skin with the target's plain features."""
    plain = target_person(head)
    tone = np.array(plain.skin)
    if not portrait.grey:
        # In a photograph, bright skin and bright light cannot be told apart.
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
