"""Backgrounds: walls, rooms, streets, foliage, crowds, stages, or the user's pictures.

They are painted small and out of focus, which is all that shows behind a face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats
from ..surface.atlas import noise

if TYPE_CHECKING:
    from .picture_folder import PictureFolder


_CANVAS = 96  # side of a painted background in pixels


def paint_background(
    rng: np.random.Generator, kind: str, size: int, photographs: PictureFolder | None = None
) -> Floats:
    """Paint a background: (size, size, 3) float32 display RGB in [0, 1].

    ``kind``: grey, one of ``BACKGROUNDS`` or ``photograph``, a crop of one of ``photographs``.
    """
    if kind == "grey":
        return np.full((size, size, 3), 0.5, np.float32)
    if kind == "photograph":
        if photographs is None:
            raise ValueError("kind = photograph needs photographs")
        return _crop(rng, photographs, size)
    canvas = np.empty((_CANVAS, _CANVAS, 3), np.float32)
    _box(canvas, (0, 0, _CANVAS, _CANVAS), _colour(rng))
    BACKGROUNDS[kind](rng, canvas)
    if kind not in ("plain", "gradient", "blobs"):
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1) ** 2 * 5)
    picture = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_LINEAR)
    grain = rng.uniform(0, 0.04) * noise(rng, (size, size), (size // 3, size // 3))
    return np.asarray(cv2.add(picture, _coloured(grain, [1, 1, 1])), np.float32).clip(0, 1)


def _crop(rng: np.random.Generator, photographs: PictureFolder, size: int) -> Floats:
    """Return a random square crop of a picture, randomly flipped and blurred."""
    picture = photographs.read_small(int(rng.integers(len(photographs))))
    high, wide = picture.shape[:2]
    side = int(min(high, wide) * rng.uniform(0.35, 1.0))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in (high, wide))
    part = picture[top : top + side, left : left + side]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    shrink = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    part = cv2.resize(part, (size, size), interpolation=shrink)
    if rng.random() < 0.7:
        part = cv2.GaussianBlur(part, (0, 0), rng.uniform(0.3, 5) * size / 128)
    return part.astype(np.float32) / 255


def _coloured(level: Floats, colour: Sequence[float] | Floats) -> Floats:
    """(H, W) times a colour → (H, W, 3) float32; numpy is slow if the last axis is short."""
    return np.asarray(cv2.merge([np.float32(share) * level for share in colour]), np.float32)


def _plain(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint a wall."""
    canvas += 0.02 * rng.standard_normal()


def _gradient(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint a wall that is lit from one side."""
    ramp = np.linspace(0, 1, len(canvas), dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    t = np.float32(np.cos(angle)) * ramp[None] + np.float32(np.sin(angle)) * ramp[:, None]
    other = _colour(rng) if rng.random() < 0.5 else canvas[0, 0] * rng.uniform(0.3, 1.6)
    canvas += _coloured(t.clip(0, 1), other - canvas[0, 0])


def _blobs(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint an unrecognizable blur."""
    cells = int(rng.integers(3, 10))
    shape = canvas.shape[:2]
    hue, level = (noise(rng, shape, (cells, cells)) for _ in range(2))
    canvas += _coloured(hue, 0.5 * (_colour(rng) - canvas[0, 0] + 0.2))
    canvas += _coloured(level, [0.25, 0.25, 0.25])


def _room(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint a wall with windows, bookshelves, pictures or a door."""
    size = len(canvas)
    _gradient(rng, canvas)
    for _ in range(int(rng.integers(1, 4))):
        left, top = (int(v) for v in rng.integers(-size // 3, size * 3 // 4, 2))
        wide, high = (int(v) for v in rng.integers(size // 5, size * 3 // 4, 2))
        what = rng.random()
        if what < 0.35:  # a window: bright, with bars
            _box(canvas, (left, top, wide, high), rng.uniform(0.75, 1.0, 3))
            for share in (0.33, 0.5, 0.66)[: int(rng.integers(1, 4))]:
                bar = _colour(rng)
                _box(canvas, (left + int(wide * share), top, 2, high), bar)
                _box(canvas, (left, top + int(high * share), wide, 2), bar)
        elif what < 0.7:  # shelves with books
            wood = 0.6 * _colour(rng)
            rows = int(rng.integers(2, 5))
            for row in range(rows):
                shelf = top + high * (row + 1) // rows
                edge = left
                while edge < left + wide:
                    book = int(rng.integers(2, 7))
                    tall = int(high / rows * rng.uniform(0.5, 0.9))
                    _box(canvas, (edge, shelf - tall, book, tall), _colour(rng, 0.15))
                    edge += book
                _box(canvas, (left, shelf, wide, 2), wood)
        else:  # a picture, a cupboard, a door
            _box(canvas, (left, top, wide, high), _colour(rng))
            inner = (left + 3, top + 3, max(wide - 6, 1), max(high - 6, 1))
            _box(canvas, inner, _colour(rng, 0.1))


def _street(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint sky over houses with rows of windows, and the ground in front."""
    size = len(canvas)
    sky = np.array([0.55, 0.7, 0.9]) * rng.uniform(0.5, 1.15) + rng.uniform(0, 0.2)
    _box(canvas, (0, 0, size, size), sky)
    ground = int(size * rng.uniform(0.6, 1.1))
    edge = -int(rng.integers(0, 20))
    while edge < size:
        wide, top = int(rng.integers(14, 50)), int(size * rng.uniform(-0.2, 0.6))
        wall = _colour(rng, 0.08)
        _box(canvas, (edge, top, wide, size), wall)
        pane = wall * rng.uniform(0.3, 0.7) if rng.random() < 0.7 else wall + 0.3
        step = int(rng.integers(5, 12))
        for y in range(top + 3, ground, step):
            for x in range(edge + 3, edge + wide - 3, step):
                _box(canvas, (x, y, step // 2, step * 2 // 3), pane)
        edge += wide
    _box(canvas, (0, ground, size, size), np.full(3, rng.uniform(0.15, 0.6)))


def _foliage(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint leaves at several sizes with sky between them."""
    shape = canvas.shape[:2]
    leaves = noise(rng, shape, (5, 6)) + 0.7 * noise(rng, shape, (14, 16))
    leaves += 0.6 * noise(rng, shape, (40, 40))
    green = np.array([rng.uniform(0.15, 0.4), rng.uniform(0.3, 0.5), rng.uniform(0.05, 0.25)])
    canvas[:] = _coloured((0.55 + 0.5 * leaves).clip(0.05, 1.6), green)
    gaps = ((leaves - rng.uniform(0.5, 1.6)) * 3).clip(0, 1)
    canvas *= _coloured(1 - gaps, [1, 1, 1])
    canvas += _coloured(gaps, rng.uniform(0.6, 1.0, 3))


def _crowd(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint heads and shoulders of other people, far away."""
    size = len(canvas)
    _gradient(rng, canvas)
    scale = rng.uniform(0.5, 1.4)
    for row in sorted(rng.uniform(0.25, 1.0, int(rng.integers(6, 16)))):
        radius = max(2, int(scale * (4 + 9 * row)))
        x, y = int(rng.integers(0, size)), int(row * size)
        skin = rng.uniform(0.25, 0.85) * np.array([1.0, 0.78, 0.66])
        clothes, hair = _colour(rng, 0.12), 0.5 * _colour(rng)
        cv2.ellipse(
            canvas, (x, y + 3 * radius), (2 * radius, 2 * radius), 0, 0, 360, clothes.tolist(), -1
        )
        cv2.ellipse(canvas, (x, y), (radius, int(radius * 1.3)), 0, 0, 360, skin.tolist(), -1)
        cv2.ellipse(canvas, (x, y - radius // 2), (radius, radius), 0, 180, 360, hair.tolist(), -1)


def _stage(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint darkness with lamps out of focus and their beams."""
    size = len(canvas)
    canvas *= rng.uniform(0.02, 0.3)
    for _ in range(int(rng.integers(2, 14))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        lamp = np.clip(_colour(rng, 0.3) + 0.4, 0, 1)
        if rng.random() < 0.25:
            foot = x + int(rng.normal(0, 30))
            cone = np.array([[x, 0], [foot - 12, size], [foot + 12, size]], np.int32)
            beam = np.zeros_like(canvas)
            cv2.fillConvexPoly(beam, cone, (0.3 * lamp).tolist())
            canvas += cv2.GaussianBlur(beam, (0, 0), 3)
        else:
            cv2.circle(canvas, (x, y), int(rng.integers(1, 9)), lamp.tolist(), -1)


def _boxes(rng: np.random.Generator, canvas: Floats) -> None:
    """Paint rectangles and ellipses: furniture, signs and the like."""
    size = len(canvas)
    for _ in range(int(rng.integers(3, 14))):
        colour = _colour(rng)
        x, y = (int(v) for v in rng.integers(-size // 4, size, 2))
        wide, high = (int(v) for v in rng.integers(size // 16, size * 3 // 4, 2))
        if rng.random() < 0.6:
            _box(canvas, (x, y, wide, high), colour)
        else:
            axes = (max(wide // 2, 1), max(high // 2, 1))
            turn = float(rng.uniform(0, 180))
            cv2.ellipse(canvas, (x, y), axes, turn, 0, 360, colour.tolist(), -1)


def _box(canvas: Floats, box: tuple[int, int, int, int], colour: NDArray[np.floating]) -> None:
    left, top, wide, high = box
    if wide > 0 and high > 0:
        cv2.rectangle(canvas, (left, top, wide, high), colour.clip(0, 1).tolist(), -1)


def _colour(rng: np.random.Generator, tint: float = 0.0) -> Floats:
    """Return a random, mostly muted colour; ``tint`` adds saturation."""
    level = rng.beta(1.1, 1.2)
    strength = rng.random()
    spread = tint + (0.02 if strength < 0.5 else 0.06 if strength < 0.9 else 0.2)
    return np.asarray(level + spread * rng.standard_normal(3), np.float32).clip(0, 1)


#: Backgrounds by name; each is painted on a canvas (96, 96, 3) of one colour, in place.
BACKGROUNDS: dict[str, Callable[[np.random.Generator, Floats], None]] = {
    "plain": _plain,
    "gradient": _gradient,
    "blobs": _blobs,
    "boxes": _boxes,
    "room": _room,
    "street": _street,
    "foliage": _foliage,
    "crowd": _crowd,
    "stage": _stage,
}
#: Probability of each background.
BACKGROUND_SHARES = {
    "plain": 0.1, "gradient": 0.2, "blobs": 0.14, "boxes": 0.08, "room": 0.18, "street": 0.08,
    "foliage": 0.08, "crowd": 0.08, "stage": 0.06,
}  # fmt: skip
