"""Crops of rendered faces as from a detector's boxes, and crops without a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ....manifests.arrays import Floats, Matrix, Pixels
from ...faces.geometry import TEMPLATE, apply, similarity
from ...networks.landmarks import FIVE_OF_68, INPUT_SIZE
from ...synthesis.drawing.degrade import degrade
from ..batching import ENDLESS
from ..pictures import MIRRORED_POINTS, PairCache

# Coefficients above which a mouth counts as wide.
_WIDE = {"mouthSmile": 0.35, "mouthStretch": 0.4, "mouthUpperUp": 0.4, "jawOpen": 0.35}
_BORDERS = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT)


class FaceCrops(Dataset[dict[str, Tensor]]):
    """Batches of crops; batch n depends on (seed, n) alone.

    Items hold ``images`` (B, 1, 80, 80) uint8 grey, ``points`` (B, 68, 2) float32, 0 the crop's
    centre and 1 its edge, and ``face`` (B,) float32, 1 for faces. Points without a face are unused.
    """

    def __init__(
        self,
        sets: Sequence[PairCache],
        batch_size: int,
        empty_share: float,
        seed: int,
        wide_share: float = 0.0,
    ) -> None:
        """``sets``: grey renders, of one size per set. ``empty_share``: of crops without a face.

        ``wide_share``: of samples drawn from faces with wide or open mouths only.
        """
        self._sets = sets
        self._wide_share = wide_share
        self._wide = np.flatnonzero(np.concatenate([wide_mouths(pairs) for pairs in sets]))
        self._starts = np.cumsum([0, *map(len, sets)])
        self._empty = round(empty_share * batch_size)
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self._seed, 51, item])
        images = np.empty((self._batch_size, 1, INPUT_SIZE, INPUT_SIZE), np.uint8)
        points = np.zeros((self._batch_size, 68, 2), np.float32)
        face = np.zeros(self._batch_size, np.float32)
        for place in range(self._batch_size):
            picture, marks = self._render(self._draw(rng))
            if place < self._empty:
                images[place, 0] = no_face(picture, marks, rng)
            else:
                images[place, 0], points[place] = face_crop(picture, marks, rng)
                face[place] = 1
        return {
            "images": torch.from_numpy(images),
            "points": torch.from_numpy(points),
            "face": torch.from_numpy(face),
        }

    def _draw(self, rng: np.random.Generator) -> int:
        if self._wide_share and len(self._wide) and rng.random() < self._wide_share:
            return int(rng.choice(self._wide))
        return int(rng.integers(self._starts[-1]))

    def _render(self, number: int) -> tuple[Pixels, Floats]:
        which = int(np.searchsorted(self._starts, number, "right")) - 1
        row = number - int(self._starts[which])
        return self._sets[which].source[row], self._sets[which].landmarks[row]


def wide_mouths(pairs: PairCache) -> NDArray[np.bool_]:
    """Return (N,) whether a face smiles, shows its teeth or opens its mouth wide."""
    wide = np.zeros(len(pairs), np.bool_)
    for stem, least in _WIDE.items():
        sides = [i for i, name in enumerate(pairs.expression_names) if name.startswith(stem)]
        if sides:
            wide |= pairs.expression[:, sides].mean(1) > least
    return wide


def face_crop(picture: Pixels, points68: Floats, rng: np.random.Generator) -> tuple[Pixels, Floats]:
    """Return a degraded crop, (80, 80) uint8, and its points (68, 2) relative to the crop.

    60 % of the crops are off as much as cascade boxes, the rest as little as a first estimate,
    because the network runs twice.

    Args:
        picture: (S, S) uint8 grey.
        points68: (68, 2) pixels of the picture.
        rng: random generator.
    """
    rough = rng.random() < 0.6
    turn = np.clip(rng.normal(0, 12 if rough else 3), -30, 30)
    zoom = float(np.exp(rng.normal(0, 0.11 if rough else 0.04)))
    shift = rng.normal(0, 0.06 if rough else 0.02, 2)
    crop = _drawn(picture, _matrix(points68, turn, zoom, shift), rng)
    moved = apply(_matrix(points68, turn, zoom, shift), points68)
    done = degrade(crop, moved.astype(np.float32), rng)
    points = done.points[MIRRORED_POINTS] if done.flipped else done.points
    return done.picture, (points * 2 / INPUT_SIZE - 1).astype(np.float32)


def no_face(picture: Pixels, points68: Floats, rng: np.random.Generator) -> Pixels:
    """Return (80, 80) uint8 grey without a centred face: off-centre, part, pieces or texture."""
    kind = rng.choice(["beside", "part", "small", "pieces", "texture"])
    if kind == "texture":
        crop = _texture(rng)
    else:
        away = rng.uniform(0, 2 * np.pi)
        far = {"beside": rng.uniform(0.45, 0.9), "part": rng.uniform(0, 0.5)}.get(str(kind), 0.0)
        zoom = {"part": rng.uniform(2.2, 5), "small": rng.uniform(0.2, 0.42)}.get(str(kind), 1.0)
        shift = far * np.array([np.cos(away), np.sin(away)]) * (zoom if kind == "part" else 1)
        crop = _drawn(picture, _matrix(points68, rng.normal(0, 20), zoom, shift), rng)
        if kind == "pieces":
            crop = _shuffled(crop, rng)
    return degrade(crop, np.zeros((1, 2), np.float32), rng).picture


def _matrix(points68: Floats, turn_deg: float, zoom: float, shift: Floats) -> Matrix:
    """Return picture → crop: the aligned frame, off by rotation, zoom and shift (crop sides)."""
    anchors = (FIVE_OF_68 @ points68)[:3]
    frame = similarity(anchors, TEMPLATE * INPUT_SIZE)
    cos, sin = zoom * np.cos(np.deg2rad(turn_deg)), zoom * np.sin(np.deg2rad(turn_deg))
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.full(2, INPUT_SIZE / 2)
    offset = turn @ (frame[:, 2] - middle) + middle + shift * INPUT_SIZE
    return np.column_stack([turn @ frame[:, :2], offset])


def _drawn(picture: Pixels, matrix: Matrix, rng: np.random.Generator) -> Pixels:
    """Return (80, 80) uint8; outside the render black, its edge, its mirror image or texture."""
    centred = matrix.copy()
    centred[:, 2] += centred[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from pixel centres
    size = (INPUT_SIZE, INPUT_SIZE)
    if np.sqrt(abs(np.linalg.det(centred[:, :2]))) < 0.6:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.8), np.uint8)
    if rng.random() < 0.25:
        drawn = cv2.warpAffine(picture, centred, size, flags=cv2.INTER_LINEAR)
        inside = cv2.warpAffine(np.ones_like(picture), centred, size, flags=cv2.INTER_NEAREST)
        return np.where(inside > 0, drawn, _texture(rng)).astype(np.uint8)
    border = _BORDERS[int(rng.choice(3, p=[0.5, 0.2, 0.3]))]
    drawn = cv2.warpAffine(picture, centred, size, flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(drawn, np.uint8)


def _shuffled(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Return the crop with its 16 tiles shuffled."""
    side = INPUT_SIZE // 4
    tiles: Any = crop.reshape(4, side, 4, side).swapaxes(1, 2).reshape(16, side, side)
    tiles = rng.permutation(tiles, axis=0)
    return tiles.reshape(4, 4, side, side).swapaxes(1, 2).reshape(INPUT_SIZE, INPUT_SIZE)


def _texture(rng: np.random.Generator) -> Pixels:
    """Return (80, 80) uint8: blurred noise, sometimes with bars and spots."""
    cells = int(rng.integers(2, INPUT_SIZE))
    noise = rng.random((cells, cells), np.float32)
    picture: Any = cv2.resize(noise, (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_CUBIC)
    picture = (picture - 0.5) * rng.uniform(20, 300) + rng.uniform(30, 220)
    picture = picture.clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 8)) if rng.random() < 0.6 else 0):
        ends = [tuple(int(v) for v in rng.integers(-10, INPUT_SIZE + 10, 2)) for _ in range(2)]
        grey, thick = int(rng.integers(256)), int(rng.integers(1, 12))
        if rng.random() < 0.5:
            cv2.line(picture, ends[0], ends[1], grey, thick)
        else:
            cv2.circle(picture, ends[0], int(rng.integers(1, 16)), grey, -1)
    return picture
