"""Training batches of rendered pairs and real faces.

A batch is split into ``parts`` of equal size: one for every process and every step of gradient
accumulation. Which pictures are in a batch does not depend on the number of parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ....manifests.arrays import Floats, Pixels, Rows
from ....pipeline.errors import InputError
from ...synthesis.drawing.degrade import degrade
from ..batching import ENDLESS, batch_rows
from ..pictures import MIRRORED_POINTS, POSE_UNIT_DEG, PairCache, mirrored
from .label_heads import LOWER_COVERED, UPPER_COVERED

if TYPE_CHECKING:
    from ..real_faces import FaceCache

_BELOW_EYES = 0.5  # of an aligned picture's height; eyes are at 0.4, the tip of the nose at 0.585


@dataclass(frozen=True)
class Recipe:
    """The composition of a batch.

    Attributes:
        pairs: rendered pairs per batch, those to be drawn first.
        drawn: how many of them include their target picture.
        faces: real faces per batch.
        size_px: side of the network's input pictures.
        parts: equal parts that a batch is split into.
        shares: of the real faces, by dataset; empty: each face is shown as often.
        covered: share of the real faces whose mouth or brows and eyes are covered.
        even: how evenly labelled emotions are shown, 0 to 1.
    """

    pairs: int
    drawn: int
    faces: int
    size_px: int
    parts: int = 1
    shares: tuple[float, ...] = ()
    covered: float = 0.0
    even: float = 0.0

    def __post_init__(self) -> None:
        counts = (self.pairs, self.drawn, self.faces)
        if any(count % self.parts for count in counts):
            raise InputError(
                f"a batch of {self.pairs} pairs ({self.drawn} with target) and {self.faces} real "
                f"faces cannot be split into {self.parts} equal parts (accumulate x processes): "
                "change batch_size, real_share or picture_share"
            )


class Batches(Dataset[dict[str, Tensor]]):
    """Degraded renders with their labels, and degraded real faces.

    Item ``step * parts + part`` holds ``images`` (P + R, C, S, S) uint8, pairs first; for the pairs
    ``expression`` (P, E), ``landmarks`` (P, 136), 0 the centre and 1 the edge, ``pose`` (P, 3) in
    units of 30 degrees; ``target`` (D, T, T, 3) uint8 RGB of the first D; for the real faces
    ``weak`` (R, C, S, S) uint8, undegraded, and ``flipped`` (R,) bool; if they have labels, those
    of ``FaceLabels`` by name, (R, …) float32, and ``covered`` (R,) int64, see ``label_heads``.
    """

    def __init__(
        self, pairs: PairCache, recipe: Recipe, seed: int, faces: FaceCache | None = None
    ) -> None:
        self.pairs = pairs
        self.recipe = recipe
        self.seed = seed
        self.faces = faces
        self.mirror = mirrored(pairs.expression_names)
        self._cards: list[Rows] = []

    def _decks(self, faces: FaceCache) -> list[Rows]:
        """Return the rows of each dataset, rarer emotions several times."""
        if not self._cards:
            labels = faces.labels
            times = np.ones(len(faces), np.int64)
            if self.recipe.even and labels is not None:
                times = _evened(labels.emotions, self.recipe.even)
            self._cards = [np.repeat(own, times[own]) for own in faces.datasets]
        return self._cards

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        step, part = divmod(item, self.recipe.parts)
        batch, images = self._rendered(step, part)
        if self.faces is not None and self.recipe.faces:
            more, real = self._real(self.faces, step, part)
            batch |= more
            images = np.concatenate([images, real])
        return {"images": torch.from_numpy(images), **batch}

    def rows(self, step: int) -> tuple[Rows, Rows]:
        """Return (P,) the pairs of batch ``step``, and (D,) the target rows of the first D."""
        recipe = self.recipe
        targets = np.zeros(0, np.int64)
        if recipe.drawn:
            targets = batch_rows(len(self.pairs.target_of), recipe.drawn, step, self.seed, 16)
        others = batch_rows(len(self.pairs), recipe.pairs - recipe.drawn, step, self.seed, 11)
        return np.concatenate([self.pairs.target_of[targets], others]), targets

    def _places(self, part: int, first: int, count: int) -> Rows:
        """Return the places of one part, out of ``count`` places from ``first`` on."""
        share = count // self.recipe.parts
        return np.arange(first + part * share, first + (part + 1) * share)

    def _rendered(self, step: int, part: int) -> tuple[dict[str, Tensor], Pixels]:
        recipe, pairs, size = self.recipe, self.pairs, self.recipe.size_px
        all_rows, targets = self.rows(step)
        drawn = self._places(part, 0, recipe.drawn)
        places = np.concatenate(
            [drawn, self._places(part, recipe.drawn, recipe.pairs - recipe.drawn)]
        )
        rows = all_rows[places]
        images: list[Pixels] = []
        expression = pairs.expression[rows].copy()
        pose = pairs.pose_deg[rows] / POSE_UNIT_DEG
        points = np.empty((len(rows), 68, 2), np.float32)
        for i, (place, row) in enumerate(zip(places, rows, strict=True)):
            rng = np.random.default_rng([self.seed, 12, step, place])
            # The target's light comes from one side, so pairs with a target are not mirrored.
            mirror = 0.0 if place < recipe.drawn else 0.5
            done = degrade(pairs.source[row], pairs.landmarks[row], rng, size, mirror)
            images.append(done.picture)
            points[i] = done.points
            if done.flipped:
                points[i] = done.points[MIRRORED_POINTS]
                expression[i] = expression[i][self.mirror]
                pose[i] *= np.array([-1, 1, -1], np.float32)
        batch = {
            "expression": torch.from_numpy(expression),
            "landmarks": torch.from_numpy((points * 2 / size - 1).reshape(len(rows), -1)),
            "pose": torch.from_numpy(pose.astype(np.float32)),
        }
        if len(drawn):
            batch["target"] = torch.from_numpy(pairs.targets(targets[drawn]))
        return batch, planes(images)

    def _real(self, faces: FaceCache, step: int, part: int) -> tuple[dict[str, Tensor], Pixels]:
        places = self._places(part, 0, self.recipe.faces)
        rows = self.face_rows(faces, step)[places]
        size = self.recipe.size_px
        strong: list[Pixels] = []
        weak: list[Pixels] = []
        flipped = places % 2 == 1
        covered = np.zeros(len(rows), np.int64)
        for i, (place, row, flip) in enumerate(zip(places, rows, flipped, strict=True)):
            picture = faces.pictures[int(row)]
            rng = np.random.default_rng([self.seed, 15, step, place])
            done = degrade(picture, np.zeros((0, 2), np.float32), rng, size, float(flip))
            if rng.random() < self.recipe.covered:
                covered[i] = rng.integers(LOWER_COVERED, UPPER_COVERED + 1)
                cover_half(done.picture, bool(covered[i] == UPPER_COVERED), rng)
            strong.append(done.picture)
            weak.append(np.asarray(cv2.resize(picture, (size, size)), np.uint8))
        more = {"weak": torch.from_numpy(planes(weak)), "flipped": torch.from_numpy(flipped)}
        if faces.labels is not None:
            labels = {name: kind[rows] for name, kind in faces.labels.by_kind().items()}
            shapes = labels["shapes"]
            labels["shapes"] = np.where(flipped[:, None], shapes[:, self.mirror], shapes)
            more |= {name: torch.from_numpy(values) for name, values in labels.items()}
            more["covered"] = torch.from_numpy(covered)
        return more, planes(strong)

    def face_rows(self, faces: FaceCache, step: int) -> Rows:
        """Return (R,) the real faces of batch ``step``, each dataset with its share of them."""
        count, shares = self.recipe.faces, self.recipe.shares
        decks = self._decks(faces)
        if not shares:
            deck = np.concatenate(decks)
            return deck[batch_rows(len(deck), count, step, self.seed, 14)]
        ends = np.round(np.cumsum([0, *shares]) / sum(shares) * count).astype(int)
        parts = [
            own[batch_rows(len(own), int(last - first), step, self.seed, 14 + (number << 8))]
            for number, (own, (first, last)) in enumerate(zip(decks, pairwise(ends), strict=True))
        ]
        # Parts of a batch, and the faces that are flipped, must not be of one dataset.
        rng = np.random.default_rng([self.seed, 17, step])
        return rng.permutation(np.concatenate(parts))


class TargetBatches(Dataset[dict[str, Tensor]]):
    """Coefficients and target pictures, to train a decoder.

    Item ``step * parts + part`` holds ``expression`` (D, E) and ``target`` (D, T, T, 3) uint8 RGB.
    No mirroring: the target's light comes from one side.
    """

    def __init__(self, pairs: PairCache, batch_size: int, seed: int, parts: int = 1) -> None:
        self.pairs = pairs
        self.recipe = Recipe(batch_size, 0, 0, 0, parts)
        self.seed = seed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        step, part = divmod(item, self.recipe.parts)
        rng = np.random.default_rng([self.seed, 21, step])
        rows = rng.integers(0, len(self.pairs.target_of), self.recipe.pairs)
        rows = rows.reshape(self.recipe.parts, -1)[part]
        return {
            "expression": torch.from_numpy(self.pairs.expression[self.pairs.target_of[rows]]),
            "target": torch.from_numpy(self.pairs.targets(rows)),
        }


def _evened(emotions: Floats, even: float) -> Rows:
    """Return (N,) how often each face is in an epoch: 1 for the commonest emotion and unlabelled.

    Faces of an emotion that is n times as rare are shown n ** ``even`` times, rounded, at most 16.

    Args:
        emotions: (N, 8) shares, NaN where unknown.
        even: 0 to 1.
    """
    known = np.isfinite(emotions).all(1)
    leading = np.where(known, np.nan_to_num(emotions).argmax(1), -1)
    counts = np.bincount(leading[known], minlength=emotions.shape[1])
    rarer = counts.max(initial=1) / np.maximum(counts, 1)
    times = np.clip(np.round(rarer**even), 1, 16).astype(np.int64)
    return np.where(known, times[leading], 1)


def cover_half(picture: Pixels, upper: bool, rng: np.random.Generator) -> None:
    """Hide the upper or lower half of an aligned face, (S, S) or (S, S, 3) uint8, in place.

    The border is below the eyes and above the nostrils, give or take 3 %; what is behind it becomes
    even or noisy.
    """
    border = round(len(picture) * (_BELOW_EYES + 0.03 * float(rng.standard_normal())))
    hidden = picture[:border] if upper else picture[border:]
    if rng.random() < 0.5:
        hidden[:] = rng.integers(0, 256)
    else:
        hidden[:] = rng.integers(0, 256, hidden.shape, np.uint8)


def planes(pictures: list[Pixels]) -> Pixels:
    """Stack pictures (S, S) or (S, S, 3) → (N, C, S, S)."""
    stacked = np.stack(pictures)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2).copy()


def unit_rgb(images: Tensor) -> Tensor:
    """(N, C, S, S) uint8, C 1 or 3 → (N, 3, S, S) in [0, 1]."""
    return images.float().div(255).expand(-1, 3, -1, -1)
