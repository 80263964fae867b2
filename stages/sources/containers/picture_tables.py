"""Parquet files with pictures in them, as Hugging Face and normpipe write them, read in place."""

from __future__ import annotations

import json
import logging
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from ....manifests.schema import ALIGNED, COMMON, NORMALIZED, ORIGINS, PAIRS
from ....manifests.vocabularies import SampleError
from ....pipeline.errors import InputError
from ..files import FileFacts
from ..files_inside import refuse_changed

log = logging.getLogger("normpipe")

#: File name endings of tables that may hold pictures.
TABLE_SUFFIXES = (".parquet", ".pq")
#: Pictures that were read on the way to another one; threads ask for rows out of order.
_KEPT_BYTES = 64 * 2**20
#: Of a column, read at once. Without a buffer, a whole row group would be.
_BUFFER_BYTES = 2**20
#: Columns of lists that lists of faces know.
_COORDINATES = ("bbox_xyxy", "landmarks")
#: What describes the pictures of our own shards, and not the pictures' originals' labels.
_OF_PICTURES = {
    *("normalized", *dict(ORIGINS)),
    *(name for one in (ALIGNED, NORMALIZED, PAIRS) for name in one.names),
} - {*dict(COMMON), "variant"}


def picture_columns(schema: pa.Schema) -> list[str]:
    """Return the columns with pictures: structs with ``bytes``, or named so by ``datasets``.

    Sounds and videos are such structs, too, if ``datasets`` says so.
    """
    features = _features(schema)
    kinds = {field.name: features.get(field.name, {}).get("_type") for field in schema}
    return [
        field.name
        for field in schema
        if (_is_struct(field.type) and kinds[field.name] in (None, "Image"))
        or (_is_bytes(field.type) and kinds[field.name] == "Image")
    ]


def chosen_column(path: Path, schema: pa.Schema, path_column: str) -> str | None:
    """Return the column of a Parquet file to take pictures from, None if it has none.

    ``path_column`` may name it. Raises InputError if there are several and none is chosen.
    """
    found = picture_columns(schema)
    if path_column in found:
        return path_column
    if len(found) < 2 or "image" in found:
        return "image" if "image" in found else next(iter(found), None)
    raise InputError(
        f"{path} has several columns with pictures ({', '.join(found)}): set ingest.path_column to "
        "one of them"
    )


class PictureTable:
    """A Parquet file, each row a picture. Safe to use from several threads.

    Rows are read one after the other. What is asked for out of order is kept for a while.
    """

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        """Read the file's metadata; ``file``: the file itself, if it is open already.

        Raises InputError if it is no Parquet file, or cannot be read.
        """
        self.path = path
        with _in_one_line(path):
            self.stream = file or path.open("rb")
            self._file = pq.ParquetFile(self.stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            self.schema: pa.Schema = self._file.schema_arrow
        self._pictures = picture_columns(self.schema)
        self._default = "image" if "image" in self._pictures else "".join(self._pictures[:1])
        status = os.fstat(self.stream.fileno())
        self._facts = FileFacts(status.st_size, status.st_mtime_ns)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self.rows = self._ends[-1] if sizes else 0
        self._lock = threading.Lock()
        self._columns: dict[str, _Column] = {}

    def place(self, row: int, column: str) -> str:
        """Return the path of a picture within the file."""
        return f"{row}" if column == self._default else f"{column}/{row}"

    def inspect(self, path: str) -> FileFacts:
        """Return size and time of the file, as all its pictures have them."""
        return self._facts if self._find(path) else FileFacts(reason="missing_file")

    def read(
        self,
        path: str,
        max_bytes: int,
        *,
        size_bytes: int | None = None,
        modified_ns: int | None = None,
    ) -> bytes:
        """Return a picture's bytes; see ``read_source``. Size and time are those of the file.

        Raises:
            SampleError: ``missing_file``, ``no_picture``, ``empty_file``, ``too_many_bytes``,
                ``changed_since_ingest``, ``truncated``.
        """
        found = self._find(path)
        if found is None:
            raise SampleError("missing_file", path)
        status = os.fstat(self.stream.fileno())
        refuse_changed(path, (size_bytes, modified_ns), (status.st_size, status.st_mtime_ns))
        column, row = found
        group = bisect_right(self._ends, row)
        with self._lock:
            if column not in self._columns:
                self._columns[column] = _Column(self._file, column)
            data = self._columns[column].read(group, row - ([0, *self._ends][group]))
        if data is None:
            raise SampleError("no_picture", path)
        if not data:
            raise SampleError("empty_file", path)
        if len(data) > max_bytes:
            raise SampleError("too_many_bytes", f"{path}: {len(data)} > {max_bytes}")
        return data

    def close(self) -> None:
        """Close the file."""
        self.stream.close()

    def labels(self, columns: Collection[str] = ()) -> pa.Table:
        """Return the columns without pictures; classes have their names, as ``datasets`` has them.

        Lists are left out, as they may be long, unless they are boxes or points, or among
        ``columns``. Of normpipe's own shards, what describes pictures is left out, and the first
        columns get the names that they have as labels. Raises InputError if the file is damaged.
        """
        ours = is_ours(self.schema)
        wanted = [
            field.name
            for field in self.schema
            if _is_label(field, {*map(str.lower, columns), *_COORDINATES})
            and not (ours and field.name in _OF_PICTURES)
        ]
        if len({*self.schema.names}) < len(self.schema.names):
            raise InputError(f"{self.path} has two columns of one name: rename one of them")
        with _in_one_line(self.path):
            table = self._file.read(columns=wanted, use_threads=False).select(wanted)
            table.validate(full=True)
        for name, feature in _features(self.schema).items():
            names = feature.get("names")
            if feature.get("_type") == "ClassLabel" and isinstance(names, list) and name in wanted:
                place = table.column_names.index(name)
                table = table.set_column(place, name, _named(table[name], [*map(str, names)]))
        if ours:
            own = dict(COMMON)
            table = table.rename_columns([f"list_{n}" if n in own else n for n in wanted])
        return table.replace_schema_metadata(None)

    def _find(self, path: str) -> tuple[str, int] | None:
        """Return the column and row that ``place`` made a path of."""
        column, _, number = path.rpartition("/")
        column = column or self._default
        if column not in self._pictures or not (number.isascii() and number.isdigit()):
            return None
        row = int(number[:18])
        return (column, row) if row < self.rows and str(row) == number else None


class _Column:
    """Reads a column of pictures row by row. One caller at a time."""

    def __init__(self, file: pq.ParquetFile, name: str) -> None:
        self._file, self._name = file, name
        kind = file.schema_arrow.field(name).type
        self._leaf = f"{name}.bytes" if pa.types.is_struct(kind) else name
        self._group = -1
        self._next = 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()
        self._kept_bytes = 0
        #: Row group → its first row that cannot be read. What follows it cannot be, either.
        self._damaged: dict[int, int] = {}

    def read(self, group: int, row: int) -> bytes | None:
        """Return the bytes in a row of a row group."""
        if (group, row) in self._kept:
            return self._kept[group, row]
        if row >= self._damaged.get(group, row + 1):
            self._refuse(group)
        if group != self._group or row < self._next:
            self._group, self._next = group, 0
            # One row at a time: repeated values are stored once, but not held once.
            self._batches = self._file.iter_batches(
                1, row_groups=[group], columns=[self._leaf], use_threads=False
            )
        while True:
            data = self._step(group)
            self._keep((group, self._next - 1), data)
            if self._next > row:
                return data

    def _step(self, group: int) -> bytes | None:
        try:
            value = next(self._batches).column(0)[0].as_py()
        except (pa.ArrowException, OSError, StopIteration, UnicodeError) as error:
            if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                raise  # of the machine
            self._damaged[group], self._group = self._next, -1
            self._refuse(group)
        self._next += 1
        return value.get("bytes") if isinstance(value, dict) else value

    def _refuse(self, group: int) -> NoReturn:
        row = self._damaged[group]
        raise SampleError("truncated", f"row group {group} is damaged from its row {row} on")

    def _keep(self, place: tuple[int, int], data: bytes | None) -> None:
        self._kept[place] = data
        self._kept_bytes += len(data or b"")
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest or b"")


def is_ours(schema: pa.Schema) -> bool:
    """Return whether a Parquet file is a shard of normpipe's."""
    return b"normpipe_schema_version" in (schema.metadata or {})


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what ``datasets`` stored about the columns, whatever of it makes sense."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: one for name, one in found.items() if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _named(column: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    """Return the names of class numbers, null for those outside; other values are kept."""
    if not pa.types.is_integer(column.type):
        return column
    numbers = column.to_pylist()
    known = [None if n is None or not 0 <= n < len(names) else names[n] for n in numbers]
    return pa.chunked_array([pa.array(known, pa.string())])


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(field: pa.Field, lists: Collection[str]) -> bool:
    if _is_bytes(field.type) or pa.types.is_struct(field.type):
        return False
    return not pa.types.is_nested(field.type) or field.name.strip().lower() in {
        one.lower() for one in lists
    }


def _is_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    place = kind.get_field_index("bytes")
    return place >= 0 and _is_bytes(kind.field(place).type)


@contextmanager
def _in_one_line(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot read {path} as Parquet ({line}): download or write it anew"
        ) from None
