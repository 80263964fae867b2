"""Find a dataset, and locate its rows, images and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...manifests.arrays import Int32s, Mask
from ...manifests.keys import pair_key
from ...manifests.schema import (
    COMMON,
    IMAGE,
    OPENED_ELSE,
    OPENED_FIRST,
    PAIRS_ALONE,
    REFERENCES,
    Reference,
)
from ..errors import InputError, nearest
from ..store.damage import damaged
from ..store.labels import find_labels, job_folder, label_rows, own_label_columns, read_labels
from ..store.layout import METADATA_PREFIX
from ..store.shards import ShardFolder
from ..store.storage import location, parquet_file
from ..store.tombstones import refuse_unfinished
from .exclusions import EXCLUDED, exclusions_of, mark_excluded
from .reading import RowReader, damage_errors, open_parquet

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

_COMMON = [name for name, _ in COMMON]
_PLACE = ["shard", "row_group", "row"]
_DECISION = ["status", "reason", "decided_by"]
STATUSES = ("ok", "rejected", "failed", EXCLUDED, "all")


@dataclass
class ColumnReader:
    """Reads columns of items from a dataset.

    Attributes:
        readers: one for each variant; under "" if all rows are in one dataset.
        names: name in the item → column.
        places: (N, 3) int32, shard, row group, row of each item's row; -1 if it has none.
    """

    readers: dict[str, RowReader]
    names: dict[str, str]
    places: Int32s


@dataclass
class ColumnSource:
    """A dataset that columns can be read from.

    Attributes:
        folders: its folder for each variant; under "" if all rows are in one.
        columns: name in the item → column.
        types: name in the item → Arrow type.
        places: as in ``ColumnReader``.
    """

    folders: dict[str, Path]
    columns: dict[str, str]
    types: dict[str, pa.DataType]
    places: Int32s


@dataclass
class ChosenColumns:
    """The columns chosen for items.

    Attributes:
        table: one row per item: ``key``, ``_source`` (the key in the datasets that are read),
            ``_variant``, and the chosen columns that need no shard to be read.
        readers: of the other columns.
    """

    table: pa.Table
    readers: list[ColumnReader]


@dataclass
class OpenedDataset:
    """An open dataset: its rows are known, and its columns can be chosen without opening it again.

    Attributes:
        path: as given by the caller.
        folder: of the shards.
        status: of the rows.
        rows: common columns, ``_source`` and ``_variant`` of each row.
        joined_labels: labels from a label table, in the order of the rows.
        shard_labels: names of label columns that the shards contain.
        sources: where all other columns are.
        pictures: names of the image columns.
    """

    path: Path
    folder: Path
    status: str
    rows: pa.Table
    joined_labels: dict[str, pa.ChunkedArray]
    shard_labels: list[str]
    sources: list[ColumnSource]
    pictures: list[str]

    @property
    def offered(self) -> list[str]:
        """Return the names of all columns that an item may have."""
        available = [name for source in self.sources for name in source.columns]
        variant = ["variant"] if "variant" in self.rows.column_names else []
        return [*_COMMON, *available, *self.joined_labels, *variant]

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Return the Arrow type of every column in ``offered``."""
        found = {name: self.rows.schema.field(name).type for name in _COMMON}
        for source in self.sources:
            found |= source.types
        found |= {name: column.type for name, column in self.joined_labels.items()}
        return found | ({"variant": pa.string()} if "variant" in self.rows.column_names else {})

    def keep(self, mask: Mask) -> "OpenedDataset":
        """Return the dataset with those rows of which a mask (N,) is true."""
        chosen = pa.array(mask)
        return replace(
            self,
            rows=self.rows.filter(chosen).combine_chunks(),
            joined_labels={n: one.filter(chosen) for n, one in self.joined_labels.items()},
            sources=[replace(one, places=one.places[mask]) for one in self.sources],
        )

    def choose(self, columns: Sequence[str] | None = None) -> ChosenColumns:
        """Choose columns; None for the default ones. Raises InputError for an unknown one."""
        wanted = self._usual() if columns is None else list(columns)
        offered = self.offered
        unknown = next((name for name in wanted if name not in offered), None)
        if unknown:
            raise InputError(f"{self.folder} has no column '{unknown}'{nearest(unknown, offered)}")
        table = {name: self.rows[name] for name in ("key", "_source", "_variant")}
        for name in wanted:
            if name in self.joined_labels:
                table[name] = self.joined_labels[name]
            elif name in self.rows.column_names:
                table[name] = self.rows[name]
        readers = [_column_reader(source, wanted, table) for source in self.sources]
        return ChosenColumns(pa.table(table), [one for one in readers if one.names])

    def _usual(self) -> list[str]:
        found = [*self.pictures, *self.shard_labels]
        if not self.pictures:
            found = [name for source in self.sources for name in source.columns]
        found += [*self.joined_labels, *(n for n in ("variant",) if n in self.offered)]
        return found + (_DECISION if self.status != "ok" else [])


def open_rows(
    path: Path, labels: str | Path | pa.Table | None, status: str | None
) -> OpenedDataset:
    """Open a dataset; arguments and errors as for ``open_dataset``."""
    status = status or "all"
    if status not in STATUSES:
        raise InputError(f"unknown status '{status}'{nearest(status, list(STATUSES))}")
    shards = ShardFolder(dataset_folder(path))
    refuse_unfinished(job_folder(shards.path))
    numbers = _numbers(shards)
    schema = _schema(shards.path, numbers)
    rows = mark_excluded(_rows(shards, numbers, schema), exclusions_of(shards.path))
    if status != "all":
        rows = rows.filter(pc.equal(rows["status"], status))
    sources, pictures = _sources(shards.path, schema, rows)
    own = own_label_columns(schema)
    known = _labels(shards.path, labels, own, rows)
    taken = next((n for n in known if n in (*_COMMON, "variant", *pictures)), None)
    if taken:
        raise InputError(f"a label is named '{taken}', like a column of the dataset: rename it")
    names = [*_COMMON, "_source", "_variant", *(["variant"] if _references(schema) else [])]
    rows = rows.select(names).combine_chunks()
    return OpenedDataset(path, shards.path, status, rows, known, own, sources, pictures)


def dataset_folder(path: Path) -> Path:
    """Return the folder of shards that a path stands for; see ``open_dataset``."""
    if path.is_file():
        raise InputError(f"{path} is a file: give the folder that the shards are in")
    if not path.is_dir():
        raise InputError(f"no folder {path}: give a dataset's folder, or the --output of a run")
    if _has_shards(path):
        return path
    if _has_shards(path / OPENED_FIRST):
        return path / OPENED_FIRST
    variants = _datasets(path / OPENED_ELSE)
    if len(variants) == 1:
        return variants[0]
    others = [*variants, *_datasets(path)]
    if not others:
        plain = path.name.removeprefix(METADATA_PREFIX)
        if plain not in ("", path.name) and _has_shards(path.with_name(plain)):
            other = path.with_name(plain)
            raise InputError(f"{path} contains only the metadata of {other}: open {other}")
        raise InputError(f"{path} holds no dataset (no shard-*.parquet): run 'normpipe run' first")
    choices = ", ".join(str(other) for other in others)
    raise InputError(
        f"{path} holds neither {OPENED_FIRST} nor one {OPENED_ELSE} variant: open {choices}"
    )


def _datasets(folder: Path) -> list[Path]:
    """Return the datasets directly in a folder; folders of metadata are not datasets."""
    found = (path for path in sorted(folder.glob("*")) if not path.name.startswith(METADATA_PREFIX))
    return [path for path in found if path.is_dir() and _has_shards(path)]


def _has_shards(folder: Path) -> bool:
    return bool(ShardFolder(folder).shard_sizes())


def _numbers(shards: ShardFolder) -> list[int]:
    """Return the numbers of the shards to read: those committed, or all if there are no records."""
    if shards.records_path.is_dir():
        records = shards.records()
        for number, wrong in damaged(shards, records).items():
            open_parquet(shards.shard(number)).close()  # a newer one is refused as such
            raise InputError(f"{wrong}: the next normpipe run makes it again; see normpipe verify")
        numbers = list(records)
    else:
        numbers = list(shards.shard_sizes())
    if not numbers:
        raise InputError(f"{shards.path} has no finished shard: run the same command again")
    return numbers


def _schema(folder: Path, numbers: list[int]) -> pa.Schema:
    path = ShardFolder(folder).shard(numbers[0])
    with open_parquet(path) as file:
        schema = file.schema_arrow
    missing = [name for name in ("key", "status") if name not in schema.names]
    if missing:
        raise InputError(f"{path} is not a shard of normpipe: it has no column '{missing[0]}'")
    return schema


def _references(schema: pa.Schema) -> list[Reference]:
    """Return a dataset's references to others; empty if all its columns are its own."""
    return [one for one in REFERENCES if f"{one.prefix}{_PLACE[0]}" in schema.names]


def _rows(shards: ShardFolder, numbers: list[int], schema: pa.Schema) -> pa.Table:
    """Return all rows without their images, and their positions."""
    refers = bool(_references(schema))
    rows = _from_index(shards, numbers)
    if rows is None:
        names = schema.names if refers else [n for n in _COMMON if n in schema.names]
        tables: list[pa.Table] = []
        for number in numbers:
            open_parquet(shards.shard(number)).close()  # a newer one is refused as such
            with damage_errors(shards.shard(number)):
                tables.append(shards.read(number, names))
        rows = pa.concat_tables(tables)
    unknown = pa.nulls(rows.num_rows, pa.string())
    for name in _COMMON:
        if name not in rows.column_names:
            rows = rows.append_column(name, unknown)
    rows = rows.append_column("_source", _source_keys(rows) if refers else rows["key"])
    return rows.append_column("_variant", rows["variant"] if refers else unknown)


def _from_index(shards: ShardFolder, numbers: list[int]) -> pa.Table | None:
    """Return the derived index, or None if there is none or it covers other shards."""
    if not shards.index_path.is_file():
        return None
    with open_parquet(shards.index_path) as file, damage_errors(shards.index_path):
        index = file.read()
    records = shards.records()
    if records:
        rows = sum(record.rows for record in records.values())
    else:
        rows = 0
        for number in numbers:
            with parquet_file(shards.shard(number)) as file:
                rows += file.metadata.num_rows
    return index if index.num_rows == rows else None


def _source_keys(rows: pa.Table) -> pa.ChunkedArray:
    """Return the keys of rows in the datasets that contain their images."""
    if len(rows["variant"].unique()) < 2:
        return rows["key"]
    # With several variants, each key ends with its variant (``pair_key``).
    lengths = pc.add(pc.utf8_length(rows["variant"]), len(pair_key("", "")))
    pairs = zip(rows["key"].to_pylist(), lengths.to_pylist(), strict=True)
    return pa.chunked_array([pa.array([key[:-length] for key, length in pairs], pa.string())])


def _sources(
    folder: Path, schema: pa.Schema, rows: pa.Table
) -> tuple[list[ColumnSource], list[str]]:
    """Return where columns can be read, and the names of the image columns."""
    references = _references(schema)
    if not references:
        types = {field.name: field.type for field in schema if field.name not in _COMMON}
        pictures = [name for name, kind in types.items() if kind == IMAGE]
        own = {name: name for name in types}
        return [ColumnSource({"": folder}, own, types, _places(rows, ""))], pictures
    job = folder.resolve().parent
    variants = sorted(rows["variant"].unique().to_pylist())
    return [_referenced_source(job, one, variants, rows) for one in references], [
        one.item_name("image") for one in references
    ]


def _referenced_source(
    job: Path, reference: Reference, variants: list[str], rows: pa.Table
) -> ColumnSource:
    """Return where the columns of another dataset, or of its variants, can be read."""
    folders = {"": job / reference.dataset}
    if "{variant}" in reference.dataset:
        folders = {one: job / reference.dataset.format(variant=one) for one in variants}
    types = _columns(next(iter(folders.values()))) if folders else {"image": IMAGE}
    names = {reference.item_name(name): name for name in types}
    typed = {reference.item_name(name): kind for name, kind in types.items()}
    return ColumnSource(folders, names, typed, _places(rows, reference.prefix))


def _places(rows: pa.Table, prefix: str) -> Int32s:
    """Return (N, 3) int32, as in ``ColumnReader``."""
    places = [pc.fill_null(rows[prefix + name], -1).to_numpy() for name in _PLACE]
    return np.stack(places, axis=1).astype(np.int32)


def _columns(folder: Path) -> dict[str, pa.DataType]:
    if not folder.is_dir():
        raise InputError(
            f"the pairs refer to {folder}, which is missing: put it back, or {PAIRS_ALONE}"
        )
    schema = _schema(folder, _numbers(ShardFolder(folder)))
    return {field.name: field.type for field in schema if field.name not in _COMMON}


def _labels(
    folder: Path, given: str | Path | pa.Table | None, own: list[str], rows: pa.Table
) -> dict[str, pa.ChunkedArray]:
    """Return label columns in the order of the rows; none if the shards contain their labels."""
    if given is None:
        file = None if own else find_labels(folder)
        if file is None:
            return {}
        given = read_labels(file)  # in a store, the file is not a Path
    labels: pa.Table = read_labels(location(given)) if isinstance(given, str | Path) else given
    if "key" not in labels.column_names:
        raise InputError("the labels have no column 'key'")
    keys, parents = (rows[name].combine_chunks() for name in ("_source", "parent_key"))
    places = label_rows(keys, parents, labels)
    found = labels.drop_columns("key").take(places).combine_chunks()
    return {name: found[name] for name in found.column_names}


def _column_reader(
    source: ColumnSource, wanted: Sequence[str], known: Mapping[str, Any]
) -> ColumnReader:
    """Return a reader of the wanted columns that are not in the table already."""
    names = {n: c for n, c in source.columns.items() if n in wanted and n not in known}
    columns = list(names.values())
    readers = {variant: RowReader(folder, columns) for variant, folder in source.folders.items()}
    return ColumnReader(readers, names, source.places)
