"""Small pictures of a job's faces, in files of some rows each: what the pages of a report show."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from ...manifests.arrays import Pixels, Rows
from ...manifests.vocabularies import SampleError
from ...pipeline.errors import InputError, OutputError
from ...pipeline.read.reading import map_ahead
from ..faces.align_settings import AlignConfig
from ..faces.isolation import DecoderPool
from ..faces.pixels import Limits, decode, encode, to_pixels
from ..sources.fetching import SourceReader
from .near_duplicates import HASH_BYTES, picture_hash

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

log = logging.getLogger("normpipe")

#: Side of a picture, and rows of a file. A multiple of 16: JPEG then mixes no neighbours.
TILE_PX, SHEET_ROWS = 96, 20
#: Files of a folder.
FOLDER_FILES = 500
_QUALITY = 80
_BLANK, _BOX = 236, (255, 170, 0)


@dataclass(frozen=True)
class PictureColumn:
    """Pictures of the rows, from a dataset of the job.

    Attributes:
        title: what the page calls them.
        dataset: opened with all rows and ``decode=False``.
        column: of its pictures.
        rows: (N,) which of its rows each row's is; -1 where there is none.
        trusted: made by normpipe; others are decoded in a process that can be killed.
    """

    title: str
    dataset: ShardDataset
    column: str
    rows: Rows
    trusted: bool = True


@dataclass(frozen=True)
class Originals:
    """The photographs that rows come from.

    Attributes:
        root: that their paths are below.
        paths: (N,) the path of each row's input; null where unknown.
        boxes: (N,) left, top, right, bottom of the face, or None.
        config: settings of align, which has read them.
        frames: rows that are frames of videos, which are not shown.
    """

    root: Path
    paths: pa.Array
    boxes: list[list[float] | None]
    config: AlignConfig
    frames: int = 0


@dataclass
class DrawnPictures:
    """What was drawn.

    Attributes:
        titles: of the pictures in a row, from left to right.
        there: (N,) uint8, a bit for each picture that a row has.
        hashes: (N, 32) uint8, of the first picture that is not the original.
        bytes: of all files.
        lost: reason → originals that could not be shown for it.
    """

    titles: list[str]
    there: Rows
    hashes: NDArray[np.uint8]
    bytes: int = 0
    lost: Counter[str] = field(default_factory=lambda: Counter[str]())


class _Drawer:
    """Draws sheets; used by several threads."""

    def __init__(
        self, columns: list[PictureColumn], originals: Originals | None, found: DrawnPictures
    ) -> None:
        self._columns = [(one, one.dataset.select([one.column])) for one in columns]
        self._originals = originals
        self._found = found
        decoding = (originals.config if originals else AlignConfig.model_validate({})).decoding()
        self.pool = DecoderPool(decoding.limits, decoding.bounds)
        self._reader: SourceReader | None = None
        if originals is not None:
            limit = decoding.limits.max_bytes
            self._reader = SourceReader(originals.root, limit, 0.0, allow_urls=False)
            self._reader.open()

    def close(self) -> None:
        self.pool.close()
        if self._reader is not None:
            self._reader.close()

    def sheet(self, rows: range) -> bytes | None:
        """Return a JPEG of some rows, a row of pictures each; None if they have no pictures."""
        across = len(self._found.titles)
        shape = (len(rows) * TILE_PX, across * TILE_PX, 3)
        canvas = np.full(shape, _BLANK, np.uint8)
        first = across - len(self._columns)
        for place, (one, dataset) in enumerate(self._columns, first):
            wanted = [row for row in rows if one.rows[row] >= 0]
            items = dataset.__getitems__([int(one.rows[row]) for row in wanted])
            for row, item in zip(wanted, items, strict=True):
                pixels = self._pixels(item[one.column], one.trusted)
                if pixels is not None:
                    self._put(canvas, row - rows.start, place, fitted(pixels))
                    self._found.there[row] |= 1 << place
                    if place == first:
                        self._found.hashes[row] = picture_hash(pixels)
        if self._originals is not None:
            for row, picture in self._drawn_originals(rows):
                self._put(canvas, row - rows.start, 0, picture)
                self._found.there[row] |= 1
        if not self._found.there[rows.start : rows.stop].any():
            return None
        return encode(canvas, "jpeg", _QUALITY)

    def _put(self, canvas: Pixels, down: int, across: int, picture: Pixels) -> None:
        top, left = down * TILE_PX, across * TILE_PX
        canvas[top : top + TILE_PX, left : left + TILE_PX] = picture

    def _pixels(self, data: Any, trusted: bool) -> Pixels | None:
        if data is None:
            return None
        try:
            return decode(data, Limits()) if trusted else to_pixels(self.pool.decode(bytes(data)))
        except SampleError as error:
            log.warning("a picture of the job cannot be shown: %s", error)
            return None

    def _drawn_originals(self, rows: range) -> Iterator[tuple[int, Pixels]]:
        originals, reader = self._originals, self._reader
        assert originals is not None and reader is not None
        before: tuple[str, Pixels | None] = ("", None)  # faces of one photograph are neighbours
        for row in rows:
            path = originals.paths[row].as_py()
            if path is None:
                continue
            if path != before[0]:
                before = (path, self._original(reader, path))
            if before[1] is not None:
                yield row, fitted(before[1], originals.boxes[row])

    def _original(self, reader: SourceReader, path: str) -> Pixels | None:
        assert self._originals is not None
        try:
            white = self._originals.config.white
            return to_pixels(self.pool.decode(reader.read({"path": path})), white)
        except SampleError as error:
            self._found.lost[error.reason] += 1
        except OSError as error:
            self._found.lost[error.strerror or "unreadable"] += 1
        except OutputError:
            self._found.lost["unreadable"] += 1
        return None


def draw_pictures(
    columns: list[PictureColumn], originals: Originals | None, rows: int, folder: Path, threads: int
) -> DrawnPictures:
    """Write ``00/000.jpg`` … below a folder: ``SHEET_ROWS`` rows each, beside each other pictures.

    Memory holds a few files' pictures at a time.

    Args:
        columns: pictures of the rows, from left to right.
        originals: to draw before them; None: none.
        rows: how many there are.
        folder: new.
        threads: that decode.
    """
    titles = [*(["original"] if originals else []), *(one.title for one in columns)]
    found = DrawnPictures(titles, np.zeros(rows, np.int64), np.zeros((rows, HASH_BYTES), np.uint8))
    try:
        drawer = _Drawer(columns, originals, found)
    except (InputError, OutputError, OSError) as error:  # the source is gone: without originals
        log.warning("without the originals: %s", error)
        if originals is None:
            raise
        found = draw_pictures(columns, None, rows, folder, threads)
        found.lost["the input is not there"] = rows
        return found
    starts = [range(start, min(start + SHEET_ROWS, rows)) for start in range(0, rows, SHEET_ROWS)]
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # its own threads would compete with ours
    try:
        with (
            ThreadPoolExecutor(threads, "thumbnails") as pool,
            tqdm(total=rows, unit="faces", leave=False, disable=None) as bar,
        ):
            sheets = map_ahead(pool, drawer.sheet, starts, 2 * threads)
            for number, (sheet, drawn) in enumerate(zip(sheets, starts, strict=True)):
                if sheet is not None:
                    path = folder / sheet_path(number)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(sheet)
                    found.bytes += len(sheet)
                bar.update(len(drawn))
    finally:
        cv2.setNumThreads(before)
        drawer.close()
    if originals is not None and originals.frames:
        found.lost["frame of a video"] += originals.frames
    return found


def sheet_path(number: int) -> str:
    """Return the path of a file of pictures, below their folder."""
    return f"{number // FOLDER_FILES:02d}/{number % FOLDER_FILES:03d}.jpg"


def fitted(pixels_rgb_u8: Pixels, box: list[float] | None = None) -> Pixels:
    """Return a picture as (``TILE_PX``, ``TILE_PX``, 3) uint8, whole, with its face's box.

    Args:
        pixels_rgb_u8: (H, W, 3).
        box: left, top, right, bottom in its pixels; None: none is drawn.
    """
    height, width = pixels_rgb_u8.shape[:2]
    scale = TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(pixels_rgb_u8), size, interpolation=way)
    if box is not None:
        corners = [round(min(max(value * scale, -1), TILE_PX)) for value in box]
        cv2.rectangle(small, corners[:2], corners[2:], _BOX, 1)
    tile = np.full((TILE_PX, TILE_PX, 3), _BLANK, np.uint8)
    top, left = (TILE_PX - size[1]) // 2, (TILE_PX - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile
