"""Photographs that a normalizer is judged on, and what it makes of them: arrays, no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Floats, Pixels, Words


class NamedCoefficients(NamedTuple):
    """Coefficients of N faces.

    Attributes:
        values: (N, E), about [0, 1].
        names: of the E coefficients.
    """

    values: NDArray[Any]
    names: tuple[str, ...]


class Seen(NamedTuple):
    """What a normalizer makes of N pictures.

    Attributes:
        pictures: (N, S, S, 3) uint8 RGB, normalized, through the codec.
        readings: ``pictures``: what the frozen reader reads off them; ``code``: the normalizer's
            own coefficients, if it has any.
    """

    pictures: Pixels
    readings: dict[str, NamedCoefficients]


#: (N, H, W, 3) uint8 RGB aligned faces → what the normalizer makes of them.
Look = Callable[[Pixels], Seen]


@dataclass(frozen=True)
class RealFaces:
    """N aligned photographs with their labels.

    Attributes:
        images: (N, H, W, 3) uint8 RGB, aligned.
        landmarks: (N, 5, 2) float64, x and y in pixels of the aligned square; NaN if the
            detector gives none.
        emotions: (N,) one of ``manifests.vocabularies.EMOTIONS``, empty where unknown.
        people: (N,) who is in the picture. Where the labels name nobody, each picture is a group
            of its own, together with those of equal pixels.
        sources: (N,) where the picture comes from; ``all`` if the labels do not say.
        parts: (N,) ``train``, ``test`` or another split; empty where unknown. Without a part
            ``test``, the validation part is called so.
        shares: (N, 8) float32 share of the raters who chose each of ``EMOTIONS``; NaN without.
        named: whether ``people`` says who is in the picture.
        note: how many there are, and what was left out.
    """

    images: Pixels
    landmarks: Floats
    emotions: Words
    people: Words
    sources: Words
    parts: Words
    shares: Floats
    named: bool = True
    note: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def voted(self) -> bool:
        """Return whether raters voted on any of the faces."""
        return bool(np.isfinite(self.shares).any())

    def take(self, rows: NDArray[Any]) -> RealFaces:
        """Return some of the faces; ``rows`` are numbers (M,) or a mask (N,)."""
        return RealFaces(
            self.images[rows], self.landmarks[rows], self.emotions[rows], self.people[rows],
            self.sources[rows], self.parts[rows], self.shares[rows], self.named, self.note,
        )  # fmt: skip
