"""Which faces a list names, and the coordinates it gives for them."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa

from ....pipeline.errors import InputError
from .table import AFFECTNET_BOX, CORNERS, POINT_COLUMNS, Columns
from .values import Cells, box, corners, points

#: Numbers (a box) or lists of numbers (landmarks); None where the list gives none.
Coordinates = list[Any] | None


@dataclass
class ListedFace:
    """A face named by a list.

    Attributes:
        path: of its image, as in the manifest.
        row: the first row that names it, from 0.
        face: its number, if the list names several faces in this image.
        frame: its number, from 0, if it is a frame of a video.
    """

    path: str
    row: int
    face: int | None = None
    frame: int | None = None


def supplied_coordinates(
    cells: Cells, columns: Columns
) -> tuple[list[Coordinates], list[Coordinates]]:
    """Return the boxes (left, top, right, bottom) and landmarks (5×2) that a list supplies."""
    known = columns.known
    kinds = [name for name in ("bbox_xyxy", "x1", "face_x") if name in known]
    if len(kinds) > 1:
        cells.refuse(known[kinds[1]], f"and '{known[kinds[0]]}' both give boxes: leave one out")
    if "landmarks" in known and "lm0_x" in known:
        cells.refuse(known["lm0_x"], "and 'landmarks' both give landmarks: leave one out")
    boxes: list[Coordinates] = [None] * cells.found.table.num_rows
    landmarks: list[Coordinates] = [None] * cells.found.table.num_rows
    if kinds == ["bbox_xyxy"]:
        boxes = cells.lists(known["bbox_xyxy"], "four numbers, left top right bottom", box)
    elif kinds == ["x1"]:
        boxes = cells.numbers_by_row(tuple(known[name] for name in CORNERS))
    elif kinds == ["face_x"]:
        places = cells.numbers_by_row(tuple(known[name] for name in AFFECTNET_BOX))
        boxes = [corners(place) for place in places]
    if "landmarks" in known:
        landmarks = cells.lists(known["landmarks"], "five points, ten numbers", points)
    elif "lm0_x" in known:
        rows = cells.numbers_by_row(tuple(known[name] for name in POINT_COLUMNS))
        landmarks = [None if row is None else points(row) for row in rows]
    return boxes, landmarks


def unique_faces(
    cells: Cells,
    places: list[tuple[str, int | None]],
    coordinates: tuple[list[Coordinates], list[Coordinates]],
    labels: pa.Table | None,
) -> list[ListedFace]:
    """Return one entry for each face that a list names; ``places``: path and frame of each row.

    A path in several rows with different boxes or landmarks has several faces: they are numbered
    in the order of the list. Identical rows count once. Rows that contradict each other raise an
    InputError that names both lines.
    """
    rows_of: defaultdict[tuple[str, int | None], list[int]] = defaultdict(list)
    for row, place in enumerate(places):
        rows_of[place].append(row)
    entries: list[ListedFace] = []
    for (path, frame), rows in rows_of.items():
        if len(rows) == 1:
            entries.append(ListedFace(path, rows[0], frame=frame))
            continue
        first: dict[str, int] = {}
        for row in rows:
            face = repr(tuple(values[row] for values in coordinates))
            same = first.setdefault(face, row)
            if labels is not None and labels.slice(same, 1) != labels.slice(row, 1):
                _contradiction(cells, path, same, row, "with different labels for the same face")
        unplaced = first.get(repr((None, None)))
        if unplaced is not None and len(first) > 1:
            other = next(row for row in first.values() if row != unplaced)
            _contradiction(cells, path, other, unplaced, "once with coordinates and once without")
        several = len(first) > 1
        for face, row in enumerate(first.values()):
            entries.append(ListedFace(path, row, face if several else None, frame))
    return entries


def _contradiction(cells: Cells, path: str, one: int, other: int, how: str) -> NoReturn:
    where = cells.found.where
    raise InputError(
        f"{cells.found.path}: '{path}' is in {where(one)} and {where(other)}, {how}: keep one "
        "row for each face"
    )
