"""Looks again where one look is not enough: at turned pictures, listed faces, parts of large ones.

It wraps a detector. The first look is that detector's own, and what it finds there is never
changed; most pictures need no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np

from ....manifests.arrays import Matrix, Pixels, Points
from ..geometry import (
    TIGHT_BOX,
    apply,
    inverse,
    quarter_turn,
    scale_of,
    transform_from_landmarks,
)
from .detector import (
    Detection,
    Detector,
    PreparedPicture,
    choose_listed,
    non_maximum_suppression,
)
from .opencv import FivePoints
from .second_look import SecondLook
from .supplied import listed_face

#: Side of the smallest tiles. A detector sees them at 640 px, so that it finds faces from about 30
#: px on. Pictures of more than four times this have tiles of twice the side, too, and so on.
TILE_PX: Final = 960
# Tiles overlap by this share, so that a face as large as that is whole in one of them; a larger one
# is in the next larger tiles.
_OVERLAP: Final = 0.25
# How much larger than the listed box the part is that is looked at for it.
_AROUND: Final = 2.0
_TURNS: Final = (90, 180, 270)


@dataclass(frozen=True)
class Look:
    """Which further looks there are.

    Attributes:
        upright: what is found must make sense as a face, else the picture is turned.
        listed: the face that the row's box or landmarks name is wanted.
        close: look at parts of large pictures in which no face is found.
        always_close: look at them in any case.
    """

    upright: bool = False
    listed: bool = False
    close: bool = False
    always_close: bool = False


class PartView(NamedTuple):
    """A picture, a part of it, or it turned.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        place: (2, 3) transform from the picture's coordinates to the view's.
        turned_degrees: clockwise.
        inner: left, top, right, bottom: which sides cut the picture; only in tiles.
    """

    pixels: Pixels
    place: Matrix
    turned_degrees: int = 0
    inner: tuple[bool, bool, bool, bool] | None = None


class Wanted(NamedTuple):
    """What a picture carries: the inner detector's preparation, and the listed face."""

    prepared: PreparedPicture
    listed: Detection | None


class Looking(Detector):
    """A detector that looks as often as needed."""

    name: ClassVar[str] = "looking"

    def __init__(self, inner: Detector, look: Look) -> None:
        super().__init__(inner.settings)
        self._inner = inner
        self._look = look
        self._second: SecondLook | None = None
        if look.upright:
            network = FivePoints(inner.box_frame)
            self._second = SecondLook(network, inner.box_frame, inner.scores_upright)
        self._pool: ThreadPoolExecutor | None = None
        self.box_frame = inner.box_frame

    @property
    def device_class(self) -> Literal["cpu", "cuda"]:
        """Return the inner detector's; the second look is always on the CPU."""
        return self._inner.device_class

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the inner detector's files, and of the network that looks again."""
        own = {} if self._second is None else {"landmarks": self._second.network.digest()}
        return {**self._inner.digests(), **own}

    def open(self) -> None:
        """Load the networks and start the threads. Raises InputError as the inner detector does."""
        self._inner.open()
        if self._second is None:
            self._pool = ThreadPoolExecutor(self.settings.threads, "look")
            return
        import torch

        self._second.network.open()
        # As many pictures at once as there are threads; torch's own would compete with them.
        self._pool = ThreadPoolExecutor(self.settings.threads, "look", torch.set_num_threads, (1,))

    def close(self) -> None:
        """Release threads and networks."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None
        self._inner.close()

    def prepare(self, pixels: Pixels, row: Mapping[str, Any]) -> PreparedPicture:
        """Prepare a picture, (H, W, 3) uint8 RGB, for the first look.

        Raises:
            SampleError: ``bad_supplied_box`` for a listed face outside the picture.
        """
        listed = listed_face(pixels, row) if self._look.listed else None
        return PreparedPicture(pixels, Wanted(self._inner.prepare(pixels, row), listed))

    def detect(self, pictures: Sequence[PreparedPicture]) -> list[list[Detection]]:
        """Return each picture's faces; pictures are looked at alone, in parallel."""
        assert self._pool is not None, "open() comes first"
        first = self._inner.detect([picture.payload.prepared for picture in pictures])
        return list(self._pool.map(self._faces, pictures, first))

    def _faces(self, picture: PreparedPicture, first: list[Detection]) -> list[Detection]:
        pixels, listed = picture.pixels, picture.payload.listed
        found = self._judged(pixels, first)
        if self._look.always_close:
            closer = [face for view in tiles(pixels) for face in self._seen(view)]
            found = non_maximum_suppression([*_sensible(found), *closer]) or found
        if self._is_found(found, listed):
            return found
        for views in self._further(pixels, listed):
            seen = [face for view in views for face in self._seen(view)]
            if self._is_found(seen, listed):
                others = _sensible(found) if listed is not None else []
                return non_maximum_suppression([*others, *seen])
        return found

    def _further(self, pixels: Pixels, listed: Detection | None) -> Iterator[Iterator[PartView]]:
        """Yield further looks, each a series of views, until one of them finds the face."""
        part = None
        if listed is not None:
            part = part_around(pixels, listed)
            if part.pixels.size < pixels.size:
                yield iter([part])
        elif self._look.close and not self._look.always_close:
            yield tiles(pixels)
        if self._look.upright:
            yield turned_views(pixels, part)

    def _seen(self, view: PartView) -> list[Detection]:
        """Return the faces of a view that are sure, in the picture's coordinates."""
        if view.inner is None:
            prepared = self._inner.prepare(view.pixels, {})
        else:
            prepared = self._inner.prepare_tile(view.pixels)
        (faces,) = self._inner.detect([prepared])
        whole = [face for face in faces if not is_cut(face, view)]
        sure = [face for face in self._judged(view.pixels, whole) if self._is_sure(face)]
        back = inverse(view.place)
        return [_moved(face, back, view.turned_degrees) for face in sure]

    def _judged(self, pixels: Pixels, faces: Sequence[Detection]) -> list[Detection]:
        """Return the faces with the second look's trust in those above the threshold."""
        if self._second is None:
            return list(faces)
        return [
            replace(face, trust=self._second.trust(pixels, face)) if self._is_good(face) else face
            for face in faces
        ]

    def _is_good(self, face: Detection) -> bool:
        return (face.score or 0.0) >= self.settings.threshold

    def _is_sure(self, face: Detection) -> bool:
        return self._is_good(face) and face.trust == "sure"

    def _is_found(self, faces: Sequence[Detection], listed: Detection | None) -> bool:
        sure = [face for face in faces if self._is_sure(face)]
        return bool(sure) if listed is None else choose_listed(sure, listed) is not None


def turned_views(pixels: Pixels, part: PartView | None = None) -> Iterator[PartView]:
    """Yield a picture, (H, W, 3), or a part of it, turned clockwise by 90, 180 and 270 degrees."""
    shown, place = (pixels, _AS_IT_IS) if part is None else (part.pixels, part.place)
    height, width = shown.shape[:2]
    for degrees in _TURNS:
        turned = np.ascontiguousarray(np.rot90(shown, -degrees // 90))
        turn = quarter_turn(width, height, degrees)
        yield PartView(turned, _after(turn, place), degrees)


def part_around(pixels: Pixels, listed: Detection) -> PartView:
    """Return the part of a picture, (H, W, 3), around a listed face."""
    middle, side = _middle_and_side(listed)
    height, width = pixels.shape[:2]
    half = max(side * _AROUND / 2, 1.0)
    left, top = (max(0, math.floor(value - half)) for value in middle)
    right, bottom = (
        min(end, math.ceil(value + half))
        for value, end in zip(middle, (width, height), strict=True)
    )
    if right <= left or bottom <= top:  # landmarks mostly outside the picture
        return PartView(pixels, _AS_IT_IS)
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    return PartView(part, np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]]))


def tiles(pixels: Pixels) -> Iterator[PartView]:
    """Yield the overlapping parts of a picture, (H, W, 3)."""
    height, width = pixels.shape[:2]
    for left, top, right, bottom in tile_boxes(width, height):
        part = np.ascontiguousarray(pixels[top:bottom, left:right])
        inner = (left > 0, top > 0, right < width, bottom < height)
        yield PartView(part, np.array([[1.0, 0, -left], [0, 1.0, -top]]), 0, inner)


def tile_boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield left, top, right and bottom of tiles: small ones, then larger ones.

    None for a picture that is no larger than the smallest tile.
    """
    side, longest = TILE_PX, max(height, width)
    while side < longest:
        for top in _starts(height, side):
            for left in _starts(width, side):
                yield left, top, min(left + side, width), min(top + side, height)
        if side >= longest * _OVERLAP:  # a larger face is found in the whole picture
            return
        side *= 2


def is_cut(face: Detection, view: PartView) -> bool:
    """Return whether a side of a tile cuts a face; another tile has the whole one."""
    if view.inner is None or face.bbox_xyxy is None:
        return False
    height, width = view.pixels.shape[:2]
    left, top, right, bottom = face.bbox_xyxy
    over = (left <= 0, top <= 0, right >= width, bottom >= height)
    return any(cut and beyond for cut, beyond in zip(view.inner, over, strict=True))


_AS_IT_IS: Final[Matrix] = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _after(second: Matrix, first: Matrix) -> Matrix:
    return np.column_stack([second[:, :2] @ first[:, :2], apply(second, first[None, :, 2])[0]])


def _sensible(faces: Sequence[Detection]) -> list[Detection]:
    return [face for face in faces if face.trust != "no"]


def _starts(length: int, side: int) -> list[int]:
    """Return where tiles start, evenly, so that neighbours overlap enough."""
    count = max(1, math.ceil((length - side) / (side * (1 - _OVERLAP))) + 1)
    return [round(i * (length - side) / (count - 1)) for i in range(count)] if count > 1 else [0]


def _middle_and_side(listed: Detection) -> tuple[Points, float]:
    """Return the centre (2,) of a listed face and the longer side of its box, in pixels."""
    box = listed.bbox_xyxy
    if box is not None:
        return (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    assert listed.landmarks is not None
    frame = transform_from_landmarks(listed.landmarks, 1)
    middle = apply(inverse(frame), np.array([TIGHT_BOX.centre]))[0]
    return middle, TIGHT_BOX.size / scale_of(frame)


def _moved(face: Detection, back: Matrix, turned_degrees: int) -> Detection:
    """Return a face of a view in the picture's coordinates; ``back`` is the way there."""
    box, points = face.bbox_xyxy, face.landmarks
    if box is not None:
        corners = apply(back, box.reshape(2, 2))
        box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return replace(
        face,
        bbox_xyxy=box,
        landmarks=None if points is None else apply(back, points),
        turned_degrees=turned_degrees,
    )
