"""Pictures as numbers in a column of a CSV file (FER2013): read once, given out as PGM files."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ....manifests.vocabularies import SampleError
from ....pipeline.errors import InputError
from ..files import FileFacts
from ..files_inside import refuse_changed

#: Endings of files that may hold pixels.
PIXEL_SUFFIXES = (".csv", ".tsv")
_PIXELS = re.compile(r"\s*\d{1,3}(?:\s+\d{1,3})*\s*")
#: A cell with fewer numbers is no picture; a bigger picture belongs into a file of its own.
_FEWEST, _MOST = 16, 2**22
_BLOCK = 2**24


class PixelTable:
    """The pictures of a CSV file: grey, square, a row each. Safe to use from several threads.

    Members are named by any text that ends in ``/`` and the row's number from 0: ``train/00017``.
    """

    def __init__(self, path: Path) -> None:
        """Read all pictures. Raises InputError if the file cannot be read, or has none."""
        self.path = path
        try:
            self._modified_ns = path.stat().st_mtime_ns
            name = pixel_column(path)
            if name is None:
                raise InputError(
                    f"{path} holds no pictures: no column has rows of numbers, such as 'pixels'"
                )
            table = pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK),
                parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(path)),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[name], column_types={name: pa.string()}
                ),
            )
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except pa.ArrowException as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"cannot read {path}: {line}") from None
        self._pictures = [
            _picture(cell.as_py() or "") for chunk in table[name].chunks for cell in chunk
        ]

    def inspect(self, member: str) -> FileFacts:
        """Return what is known of a member's picture."""
        try:
            picture = self._find(member)
        except SampleError as error:
            return FileFacts(reason=error.reason)
        return FileFacts(len(picture), self._modified_ns)

    def read(
        self,
        path: str,
        max_bytes: int,
        *,
        size_bytes: int | None = None,
        modified_ns: int | None = None,
    ) -> bytes:
        """Return a member's picture as a PGM file; arguments as for ``read_source``.

        Raises:
            SampleError: ``missing_file``, ``empty_file``, ``not_an_image`` (numbers that are no
                square of values from 0 to 255), ``too_many_bytes``, ``changed_since_ingest``.
        """
        picture = self._find(path)
        if len(picture) > max_bytes:
            raise SampleError("too_many_bytes", f"{path}: {len(picture)} > {max_bytes}")
        refuse_changed(path, (size_bytes, modified_ns), (len(picture), self._modified_ns))
        return picture

    def close(self) -> None:
        """Forget the pictures."""
        self._pictures = []

    def _find(self, member: str) -> bytes:
        number = member.rpartition("/")[2]
        if not (number.isascii() and number.isdecimal()) or int(number) >= len(self._pictures):
            raise SampleError("missing_file", member)
        picture = self._pictures[int(number)]
        if picture is None:
            raise SampleError("not_an_image", f"row {number} of {self.path.name}")
        if not picture:
            raise SampleError("empty_file", f"row {number} of {self.path.name}")
        return picture


def pixel_column(path: Path) -> str | None:
    """Return the column of a CSV file that holds pictures, by its first row; None if none does.

    ``pixels`` if it is among several.
    """
    before = csv.field_size_limit(8 * _MOST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=_delimiter(path))
            header, first = next(reader, []), next(reader, [])
    except (UnicodeError, csv.Error):
        return None
    finally:
        csv.field_size_limit(before)
    found = [
        name
        for name, cell in zip(header, first, strict=False)
        if cell.count(" ") >= _FEWEST and _PIXELS.fullmatch(cell)
    ]
    return next((name for name in found if name.strip().lower() == "pixels"), [*found, None][0])


def _delimiter(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline(2**16)
    return max(",;\t", key=header.count)


def _picture(cell: str) -> bytes | None:
    """Return the picture of a cell as a PGM file; None if its numbers are none."""
    if not cell.strip():
        return b""
    if not _PIXELS.fullmatch(cell):
        return None
    values = np.fromstring(cell, np.int16, sep=" ")  # checked above: only numbers
    side = math.isqrt(len(values))
    if side * side != len(values) or values.max() > 255 or len(values) > _MOST:
        return None
    return b"P5\n%d %d\n255\n" % (side, side) + values.astype(np.uint8).tobytes()
