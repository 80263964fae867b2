"""Training batches of rendered pairs and real faces.

A batch is split into ``parts`` of equal size: one for every process and every step of gradient
accumulation. Which pictures are in a batch does not depend on the number of parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ....manifests.arrays import Pixels, Rows
from ....pipeline.errors import InputError
from ...synthesis.drawing.degrade import degrade
from ..batching import ENDLESS, batch_rows
from ..pictures import MIRRORED_POINTS, POSE_UNIT_DEG, PairCache, mirrored
from ..real_faces import FaceCache


@dataclass(frozen=True)
class Recipe:
    """The composition of a batch.

    Attributes:
        pairs: rendered pairs per batch, those to be drawn first.
        drawn: how many of them include their target picture.
        faces: real faces per batch.
        size_px: side of the network's input pictures.
        parts: equal parts that a batch is split into.
    """

    pairs: int
    drawn: int
    faces: int
    size_px: int
    parts: int = 1

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
    ``weak`` (R, C, S, S) uint8, undegraded, and ``flipped`` (R,) bool.
    """

    def __init__(
        self, pairs: PairCache, recipe: Recipe, seed: int, faces: FaceCache | None = None
    ) -> None:
        self.pairs = pairs
        self.recipe = recipe
        self.seed = seed
        self.faces = faces
        self.mirror = mirrored(pairs.expression_names)

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
        rows = batch_rows(len(faces), self.recipe.faces, step, self.seed, 14)
        places = self._places(part, 0, self.recipe.faces)
        size = self.recipe.size_px
        strong: list[Pixels] = []
        weak: list[Pixels] = []
        flipped = places % 2 == 1
        for place, flip in zip(places, flipped, strict=True):
            picture = faces.pictures[int(rows[place])]
            rng = np.random.default_rng([self.seed, 15, step, place])
            done = degrade(picture, np.zeros((0, 2), np.float32), rng, size, float(flip))
            strong.append(done.picture)
            weak.append(np.asarray(cv2.resize(picture, (size, size)), np.uint8))
        more = {"weak": torch.from_numpy(planes(weak)), "flipped": torch.from_numpy(flipped)}
        return more, planes(strong)


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


def planes(pictures: list[Pixels]) -> Pixels:
    """Stack pictures (S, S) or (S, S, 3) → (N, C, S, S)."""
    stacked = np.stack(pictures)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2).copy()


def unit_rgb(images: Tensor) -> Tensor:
    """(N, C, S, S) uint8, C 1 or 3 → (N, 3, S, S) in [0, 1]."""
    return images.float().div(255).expand(-1, 3, -1, -1)
