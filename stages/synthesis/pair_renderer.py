"""Renders the pairs of a set with its cast."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..normalize import resolve_device
from .cast import Cast
from .drawing.batch import BatchRenderer
from .drawing.renderer import PreparedPerson, prepare_person
from .render_settings import SynthesizeConfig
from .scene.pairs import Draft, Pair, PairSpec, draft_pair

ByteArray = NDArray[np.uint8]


class PairRenderer:
    """Renders pairs; people are kept between their pictures."""

    def __init__(
        self,
        config: SynthesizeConfig,
        cast: Cast | None = None,
        threads: int = 1,
    ) -> None:
        """``threads``: CPU threads that render, where the device is a CPU."""
        self.config = config
        self.cast = cast or Cast(config)
        self.device = resolve_device(config.device, "synthesize")
        self._source = BatchRenderer(self.cast.head, config.size_px, self.device, threads)
        self._target = None
        if self.cast.target is not None:
            fine = self.cast.target.head
            self._target = BatchRenderer(fine, config.target_size_px, self.device, threads)
        # Rows come person by person; a few threads may be at the border between two.
        self._prepared = lru_cache(maxsize=8)(self._prepare)

    def _prepare(self, identity: int) -> PreparedPerson:
        return prepare_person(self.cast.head, self.cast.person(identity))

    def draft(self, spec: PairSpec) -> Draft:
        """Work out one pair; threads may do so at once."""
        cast, sizes = self.cast, (self.config.size_px, self.config.target_size_px)
        prepared = self._prepared(spec.identity)
        return draft_pair(cast.head, cast.target, prepared, spec, sizes, cast.options)

    def render(self, drafts: Sequence[Draft]) -> list[Pair]:
        """Render a batch of pairs; a pair's pixels do not depend on the others."""
        sources = self._source.render([draft.source for draft in drafts])
        targets: Sequence[ByteArray | None] = [None] * len(drafts)
        if self._target is not None:
            shots = [draft.target for draft in drafts if draft.target is not None]
            targets = list(self._target.render(shots))
        return [Pair(*made) for made in zip(drafts, sources, targets, strict=True)]

    def pair(self, spec: PairSpec) -> Pair:
        """Work out and render one pair."""
        return self.render([self.draft(spec)])[0]
