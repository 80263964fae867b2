"""Renders the pairs of a set: a person making an expression, and the target making the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...manifests.arrays import Floats, Pixels
from ..networks.devices import resolve_device
from .drawing.batch import BatchRenderer
from .drawing.renderer import PreparedPerson, Shot, prepare_person, take_shot
from .scene.camera import eyes_nose_mouth
from .scene.expressions import action_units
from .scene.scene import draw_scene

if TYPE_CHECKING:
    from .cast import Cast
    from .render_settings import SynthesizeConfig
    from .scene.pairs import PairSpec


@dataclass(frozen=True, eq=False)
class Draft:
    """A pair before it is rendered, with its exact labels.

    Attributes:
        source, target: what to render; the target may be None.
        coefficients: (E,) float32 in [0, 1], in the kit's order.
        intensities: action-unit intensities in [0, 5] by name.
        emotion: the intended prototype, or None.
        yaw_deg, pitch_deg, roll_deg: pose of the source before alignment.
        landmarks: (5, 2) float32 source pixels: eyes (image left first), nose tip, mouth corners.
    """

    source: Shot
    target: Shot | None
    coefficients: Floats
    intensities: dict[str, float]
    emotion: str | None
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    landmarks: Floats


@dataclass(frozen=True, eq=False)
class RenderedPair:
    """A rendered pair: (S, S, 3) and (T, T, 3) uint8 RGB; the target may be None."""

    draft: Draft
    source: Pixels
    target: Pixels | None


class PairRenderer:
    """Renders pairs with a cast; caches people between their pictures."""

    def __init__(self, config: SynthesizeConfig, cast: Cast, threads: int = 1) -> None:
        """``threads``: CPU threads that render, if the device is a CPU."""
        self.config = config
        self.cast = cast
        self.device = resolve_device(config.device, "synthesize.device")
        self._source = BatchRenderer(cast.head, config.size_px, self.device, threads)
        self._target = None
        if cast.target is not None:
            fine = cast.target.head
            self._target = BatchRenderer(fine, config.target_size_px, self.device, threads)
        # Rows are ordered by person; a few threads may be at the boundary between two.
        self._prepared = lru_cache(maxsize=8)(self._prepare)

    def _prepare(self, identity: int) -> PreparedPerson:
        return prepare_person(self.cast.head, self.cast.person(identity))

    def draft(self, spec: PairSpec) -> Draft:
        """Lay out one pair; thread-safe."""
        config, cast, prepared = self.config, self.cast, self._prepared(spec.identity)
        names = cast.expression_names
        scene = draw_scene(prepared.person, spec.seed, names, cast.options, spec.expression_seed)
        coefficients = scene.expression.coefficients
        source = take_shot(cast.head, prepared, scene, config.size_px)
        target = None
        if cast.target is not None:
            target = cast.target.shot(coefficients, config.target_size_px)
        five = eyes_nose_mouth(source.landmarks68[:, 0] + 1j * source.landmarks68[:, 1])
        return Draft(
            source=source,
            target=target,
            coefficients=coefficients,
            intensities=action_units(names, coefficients, cast.head.lip_gap(coefficients)),
            emotion=scene.expression.emotion,
            yaw_deg=scene.camera.yaw_deg,
            pitch_deg=scene.camera.pitch_deg,
            roll_deg=scene.camera.roll_deg,
            landmarks=np.stack([five.real, five.imag], 1).astype(np.float32),
        )

    def render(self, drafts: Sequence[Draft]) -> list[RenderedPair]:
        """Render a batch of pairs; a pair's pixels do not depend on the others."""
        sources = self._source.render([draft.source for draft in drafts])
        targets: Sequence[Pixels | None] = [None] * len(drafts)
        if self._target is not None:
            shots = [draft.target for draft in drafts if draft.target is not None]
            targets = list(self._target.render(shots))
        return [RenderedPair(*made) for made in zip(drafts, sources, targets, strict=True)]

    def pair(self, spec: PairSpec) -> RenderedPair:
        """Lay out and render one pair."""
        return self.render([self.draft(spec)])[0]
