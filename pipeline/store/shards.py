"""A dataset: numbered Parquet shards, a record for each, and the files derived from them.

::

    normalized/compact/
      shard-00000.parquet …   the rows, and nothing else
    normalized/_compact/      the metadata
      records/shard-00000.json …   written last: a shard without its record does not exist
      stage.json              what made it: stage, version, settings, digests, library versions
      index.parquet, manifest.json, README.md   derived when the stage is done
      cleaned.json            while the shards are cleaned

In release 0.1.0 everything was in the first folder; ``layout`` knows which layout it is, and why.
"""

import builtins  # "bytes" is a field of the record
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from ...manifests.schema import IMAGE, SCHEMA_VERSION
from ..errors import InputError, OutputError
from .commit import (
    PendingFile,
    fsync_folder,
    json_bytes,
    make_folder,
    move,
    remove_file,
    storage_errors,
    temporary,
    write_bytes,
    write_if_changed,
)
from .layout import DatasetFiles, dataset_names
from .storage import parquet_file, read_files, sizes

#: Columns that ``ShardFolder.read`` adds: the position of a row.
PLACE = ("shard", "row_group", "row")

#: Rows of a row group in a shard with images: few, for random access to single rows.
ROW_GROUP_ROWS = 64


class ShardRecord(BaseModel):
    """The contents of a committed shard. No times: the same data gives the same record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    shard: int
    file: str
    #: Number of rows, and of distinct input keys (``parent_key``).
    rows: int
    inputs: int
    #: Rows by status, and rows that are not ok by ``stage:reason``.
    statuses: dict[str, int]
    reasons: dict[str, int]
    bytes: int
    sha256: str
    fingerprint: str
    quarantined: bool = False
    #: Why it was quarantined.
    why: str = ""

    def to_json(self) -> builtins.bytes:
        """Return the record as JSON, as it is written."""
        excluded = None if self.why else {"why"}
        return json_bytes(self.model_dump(mode="json", exclude=excluded))


def parse_record(data: bytes) -> ShardRecord | None:
    """Parse a record; return None if the bytes are not one."""
    try:
        return ShardRecord.model_validate_json(data)
    except ValueError:
        return None


def shard_name(number: int) -> str:
    """Return the name of a shard, without suffix."""
    return f"shard-{number:05d}"


class ShardFolder(DatasetFiles):
    """The files of one dataset: paths and reading. Caches nothing but the layout."""

    def shard(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.path / f"{shard_name(number)}.parquet"

    def record_path(self, number: int) -> Path:
        """Return the path of a shard's record."""
        return self.records_path / f"{shard_name(number)}.json"

    def record(self, number: int) -> ShardRecord | None:
        """Return a shard's record, or None if it is not committed (or its record is torn)."""
        record = self.stored_record(number)
        return record if record is not None and self.shard(number).is_file() else None

    def stored_record(self, number: int) -> ShardRecord | None:
        """Return a shard's record, whether or not the shard exists; None if missing or torn."""
        (data,) = read_files([self.record_path(number)])
        return self._parse(number, data)

    def _parse(self, number: int, data: bytes | None) -> ShardRecord | None:
        if data is None:
            return None
        record = parse_record(data)
        if record is None and is_newer(data):
            raise InputError(
                f"{self.record_path(number)} was written by a newer normpipe: upgrade normpipe "
                "to read it"
            )
        if record is None or (record.shard, record.file) != (number, self.shard(number).name):
            return None
        return record

    def recorded_numbers(self) -> list[int]:
        """Return the numbers that have a record, torn or not, in order."""
        return sorted(_numbered(sizes(self.records_path), ".json"))

    def shard_sizes(self) -> dict[int, int]:
        """Return number → bytes of all shards that exist, with a record or without."""
        return dict(sorted(_numbered(sizes(self.path), ".parquet").items()))

    def stored_records(self) -> dict[int, ShardRecord]:
        """Return all records that are not torn, whether or not their shards exist, in order."""
        numbers = self.recorded_numbers()
        read = read_files([self.record_path(number) for number in numbers])
        records = (self._parse(number, data) for number, data in zip(numbers, read, strict=True))
        return {record.shard: record for record in records if record is not None}

    def records(self) -> dict[int, ShardRecord]:
        """Return the records of all committed shards, in order."""
        stored = self.stored_records()
        existing = self.shard_sizes() if stored else {}  # listed second: records are written last
        return {number: record for number, record in stored.items() if number in existing}

    def content_digest(self) -> str:
        """Return the sha256 of all records; of names and sizes if there are no records."""
        marks = [(record.fingerprint, record.sha256) for record in self.records().values()]
        if not marks:
            files = sorted(self.path.glob("shard-*.parquet"))
            marks = [(file.name, str(file.stat().st_size)) for file in files]
        return hashlib.sha256(repr(marks).encode()).hexdigest()

    def read(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """Return a shard's rows and their positions: columns shard, row_group, row (within it)."""
        with parquet_file(self.shard(number)) as file:
            groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            table = file.read(columns=columns)
        group = np.repeat(np.arange(len(groups)), groups)
        row = np.concatenate([np.arange(rows) for rows in groups] or [group])
        place = {"shard": np.full(len(row), number), "row_group": group, "row": row}
        for name, values in place.items():
            table = table.append_column(name, pa.array(values, pa.int32()))
        return table

    def schema_names(self, number: int) -> list[str]:
        """Return the column names of a shard."""
        return list(self.schema(number).names)

    def schema(self, number: int) -> pa.Schema:
        """Return the schema of a shard."""
        with parquet_file(self.shard(number)) as file:
            return file.schema_arrow

    def put_in_place(self, record: ShardRecord, written: Path) -> None:
        """Commit a shard that is complete and durable elsewhere: first its name, then its record.

        This is the only way to commit a shard. For the process that holds the job's lock.
        """
        shard, old = self.shard(record.shard), self.record_path(record.shard)
        with storage_errors(shard):
            for folder in (shard.parent, old.parent):
                make_folder(folder)
            if old.exists():
                # The old record must never stand beside the new bytes, not even after a power cut.
                remove_file(old)
                fsync_folder(old.parent)
            move(written, shard)
        write_bytes(old, record.to_json())

    def description(self) -> dict[str, Any] | None:
        """Return the description of what made the dataset, or None if it is missing or damaged."""
        try:
            return json.loads(self.stage_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def remove(self, number: int) -> None:
        """Remove a shard; first its record, so that no record describes a missing shard."""
        remove_file(self.record_path(number))
        remove_file(self.shard(number))


def datasets_in(root: Path) -> dict[str, ShardFolder]:
    """Return path below ``root`` → dataset, in order, of all datasets that were started."""
    return {name: ShardFolder(root / name) for name in dataset_names(root)}


_NAME = re.compile(r"shard-(\d+)")


def _numbered(names: Mapping[str, int], suffix: str) -> dict[int, int]:
    """Return number → bytes of the files that have a shard's name."""
    found: dict[int, int] = {}
    for name, size in names.items():
        named = _NAME.fullmatch(name.removesuffix(suffix))
        if named is not None and name.endswith(suffix):
            found[int(named[1])] = size
    return found


def is_newer(data: bytes) -> bool:
    """Return whether JSON has a schema version that is too new for this release."""
    try:
        return int(json.loads(data)["schema_version"]) > SCHEMA_VERSION
    except (ValueError, KeyError, TypeError):
        return False


class ShardWriter:
    """Writes one shard; until ``commit`` the dataset is unchanged.

    As a context manager it drops an unfinished shard.
    """

    def __init__(
        self, folder: ShardFolder, number: int, schema: pa.Schema, written: Path | None = None
    ) -> None:
        """``written``: where to write the shard before it is put in place; None: next to it."""
        self._folder = folder
        self._number = number
        self._schema = schema
        self._path = folder.shard(number)
        self._pending: list[dict[str, Any]] = []
        self._rows = 0
        self._keys: set[str] = set()
        self._parents: set[str] = set()
        self._statuses: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._written = written or temporary(self._path)
        self._finished = False
        with storage_errors(self._path):
            if written is None:
                make_folder(self._written.parent)
            self._file = PendingFile(self._written)
            try:
                self._parquet = pq.ParquetWriter(
                    pa.PythonFile(self._file, mode="w"), schema, **_layout(schema)
                )
            except BaseException:  # no space even for the first bytes
                self._file.drop()
                raise

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows; full row groups are written at once, so memory use stays constant."""
        self._pending.extend(rows)
        while len(self._pending) >= ROW_GROUP_ROWS:
            head, self._pending = (
                self._pending[:ROW_GROUP_ROWS],
                self._pending[ROW_GROUP_ROWS:],
            )
            self.add_table(pa.Table.from_pylist(head, self._schema))

    def add_table(self, table: pa.Table) -> None:
        """Append a table as one row group."""
        self._count(table)
        with storage_errors(self._path):
            self._parquet.write_table(table, row_group_size=max(1, table.num_rows))

    def _count(self, table: pa.Table) -> None:
        columns = ("key", "parent_key", "status", "reason", "decided_by")
        values = zip(*(table[name].to_pylist() for name in columns), strict=True)
        for key, parent, status, reason, stage in values:
            if key in self._keys:
                raise AssertionError(f"two rows with the key {key}")
            self._keys.add(key)
            self._parents.add(parent)
            self._statuses[status] += 1
            if status != "ok":
                self._reasons[f"{stage}:{reason}"] += 1
        self._rows += table.num_rows

    def commit(
        self, fingerprint: str, expected: set[str] | None, quarantined: str | None = None
    ) -> ShardRecord:
        """Finish the shard and put it in place: for the process that holds the job's lock."""
        record = self.finish(fingerprint, expected, quarantined)
        self._folder.put_in_place(record, self._written)
        return record

    def finish(
        self, fingerprint: str, expected: set[str] | None, quarantined: str | None = None
    ) -> ShardRecord:
        """Make the shard complete and durable; return its record.

        ``expected``: the input keys that it must cover; ``quarantined``: why, if it is.
        """
        if self._pending:
            self.add_table(pa.Table.from_pylist(self._pending, self._schema))
            self._pending = []
        if expected is not None and self._parents != expected:
            lost = sorted(expected - self._parents)[:3]
            self.drop()
            raise AssertionError(f"rows lost or invented in {self._path.name}: {lost}")
        with storage_errors(self._path):
            self._parquet.close()
            digest = self._file.finish()
        record = ShardRecord(
            shard=self._number,
            file=self._path.name,
            rows=self._rows,
            inputs=len(self._parents),
            statuses=dict(sorted(self._statuses.items())),
            reasons=dict(sorted(self._reasons.items())),
            bytes=self._file.size,
            sha256=digest,
            fingerprint=fingerprint,
            quarantined=quarantined is not None,
            why=quarantined or "",
        )
        self._finished = True
        return record

    def drop(self) -> None:
        """Remove what was written of the shard; once it is finished, do nothing."""
        if self._finished:
            return
        # pyarrow would write the footer when it collects the writer; the file is closed by then.
        self._parquet.is_open = False
        self._file.drop()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()


def _layout(schema: pa.Schema) -> dict[str, Any]:
    """Return the Parquet settings: images plain and uncompressed, the rest small and indexed."""
    images = [field.name for field in schema if field.type == IMAGE]
    paths = [f"{name}.{part}" for name in images for part in ("bytes", "path")]
    others = [field.name for field in schema if field.name not in images]
    return {
        "compression": {
            **dict.fromkeys(paths, "NONE"),
            **dict.fromkeys(_leaves(schema, others), "ZSTD"),
        },
        "use_dictionary": _leaves(schema, others),
        "write_statistics": others,
        "write_page_index": True,
        "data_page_version": "1.0",
    }


def _leaves(schema: pa.Schema, names: list[str]) -> list[str]:
    """Return the Parquet column paths of the leaves of some top-level fields."""
    paths: list[str] = []
    for name in names:
        path, kind = name, schema.field(name).type
        while pa.types.is_list(kind):
            path, kind = path + ".list.element", kind.value_type
        if pa.types.is_struct(kind):
            paths += [f"{path}.{kind.field(i).name}" for i in range(kind.num_fields)]
        else:
            paths.append(path)
    return paths


def write_table(path: Path, table: pa.Table) -> None:
    """Write a small derived or label table, complete or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="ZSTD", write_page_index=True)
    write_if_changed(path, sink.getvalue().to_pybytes())


def require_dataset(folder: ShardFolder, needed_by: str) -> None:
    """Raise OutputError if a dataset that a stage reads has no committed shard."""
    if not folder.records():
        raise OutputError(
            f"{needed_by} reads {folder.path}, which has no finished shard: run the earlier "
            f"stages first (normpipe run --until …, or without --stage)"
        )
