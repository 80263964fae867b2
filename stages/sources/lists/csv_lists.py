"""Reads a list in CSV, as people and their programs write it: all cells are text."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from ....pipeline.errors import InputError

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

#: Excel's note of the separator, in a line before the header.
_NOTE = re.compile(r"sep=(?P<mark>[,;\t|])\s*", re.IGNORECASE)
#: Bytes that are looked at to tell text from other files.
_LOOKED_AT = 4096
_SHOWN = 40


def read_csv(path: Path) -> tuple[pa.Table, Callable[[int], str]]:
    """Return the rows of a list as text, and what names a row's line.

    Rows without any cell are left out and counted.

    Raises:
        InputError: it is empty, or no text.
        ValueError: a row has more or fewer cells than the header.
        UnicodeError: it is not UTF-8.
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(_LOOKED_AT)
    if b"\0" in start or start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is UTF-16 text, or no text: save it as 'CSV UTF-8'")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        note = _NOTE.fullmatch(first)
        header = "" if note else first
        while not header.strip() and (line := stream.readline()):
            header = line
    if not header.strip():
        raise InputError(f"the list {path} is empty")
    delimiter = note["mark"] if note else _delimiter(header)
    names = next(csv.reader([header], delimiter=delimiter))
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(skip_rows=1 if note else 0),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            # All text: a column's meaning decides its type, not its first values.
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(_uneven(path, delimiter, len(names)) or str(error)) from error
    kept = _filled(table)
    if kept.num_rows < table.num_rows:
        empty = table.num_rows - kept.num_rows
        log.warning("%s: %d rows without any cell are left out", path.name, empty)

    def where(row: int) -> str:
        rows = (line for line, cells in _rows(path, delimiter) if any(c.strip() for c in cells))
        for place, line in enumerate(rows, -1):
            if place == row:
                return f"line {line}"
        return f"row {row + 1}"

    return kept, where


def _delimiter(header: str) -> str:
    """Detect the delimiter from the header alone: cells may hold lists with other separators."""
    try:
        return csv.Sniffer().sniff(header, delimiters=",;\t").delimiter
    except csv.Error:  # a single column
        return ","


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line and the cells of the header and of each row: a cell may have lines."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        noted = bool(_NOTE.fullmatch(stream.readline()))
        if not noted:
            stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter)
        yield from ((reader.line_num + noted, cells) for cells in reader if cells)


def _uneven(path: Path, delimiter: str, columns: int) -> str:
    """Say which row has another number of cells than the header; "" if none has."""
    try:
        for line, cells in _rows(path, delimiter):
            if len(cells) != columns:
                shown = delimiter.join(cells)
                shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
                return (
                    f"line {line} has {len(cells)} cells, the header {columns} ({shown}): put a "
                    "cell with a separator in double quotes"
                )
    except csv.Error:
        pass
    return ""


def _filled(table: pa.Table) -> pa.Table:
    """Return a table without the rows that have no text in any cell."""
    empty: Any = None
    for column in table.columns:
        if not pa.types.is_string(column.type):
            return table
        blank = pc.fill_null(pc.match_substring_regex(column, r"^\s*$"), True)
        empty = blank if empty is None else pc.and_(empty, blank)
        if not pc.any(empty).as_py():
            return table
    return table if empty is None else table.filter(pc.invert(empty))
