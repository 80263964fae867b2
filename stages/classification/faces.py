"""Labelled faces of a dataset: one row a labelled input, with its views ready to be read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...pipeline.dataset import ShardDataset, open_dataset
from ...pipeline.errors import InputError, nearest
from ...pipeline.labels import own_label_columns
from ...pipeline.opening import dataset_folder
from ...pipeline.reading import open_parquet
from ...pipeline.shards import ShardFolder
from ..training.pictures import Form, decode_picture
from .tasks import Task

Floats = NDArray[np.floating]
ByteArray = NDArray[np.uint8]
Rows = NDArray[np.int64]

log = logging.getLogger(__name__)

#: View → the column of a dataset of pairs that it is read from.
COLUMNS = {"original": "image", "normalized": "normalized"}
_CHUNK = 256
_NO_LABELS = ("key", "parent_key", "status", "reason", "decided_by", "variant")


@dataclass(frozen=True)
class Listing:
    """The labelled inputs of a dataset, each once, without pictures.

    Attributes:
        path: as it was given.
        dataset: its rows, pictures encoded.
        labels: one row an input: ``key`` (of the face that stands for it), ``parent_key``,
            ``status``, ``reason`` and all labels.
        items: (N,) the input's row in ``dataset``; of several faces the largest.
        variants: normalized variants that the dataset holds.
    """

    path: Path
    dataset: ShardDataset
    labels: pa.Table
    items: Rows
    variants: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) whether an input has its pictures."""
        return np.asarray([status == "ok" for status in self.labels["status"].to_pylist()])

    @property
    def name(self) -> str:
        """What score files call the dataset: the first part of its keys."""
        key = str(self.labels["key"][0]) if len(self) else ""
        return key.partition("/")[0] or self.path.name

    def column(self, name: str) -> list[Any]:
        """A label of all inputs; None where unknown or absent."""
        if name not in self.labels.column_names:
            return [None] * len(self)
        return self.labels[name].to_pylist()

    def subjects(self) -> list[str | None]:
        """Who is in each input; None where the labels do not say."""
        return [None if name is None else str(name) for name in self.column("subject")]

    def take(self, rows: Sequence[int] | Rows) -> Listing:
        """Some of the inputs."""
        places = np.asarray(rows, np.int64)
        labels = self.labels.take(pa.array(places))
        return Listing(self.path, self.dataset, labels, self.items[places], self.variants)

    def digest(self, task: Task) -> str:
        """Sha256 of keys, pictures and truth: what training on them depends on."""
        hashed = hashlib.sha256(_shards_digest(self.path).encode())
        for name in ("key", "status", *task.columns):
            hashed.update(repr((name, self.column(name))).encode())
        return hashed.hexdigest()


def list_faces(path: Path, views: Sequence[str], variant: str = "") -> Listing:
    """List the inputs of a dataset.

    Args:
        path: output of ``normpipe run``, or a dataset within it.
        views: ``original``, ``normalized``: what has to be there.
        variant: which normalized faces; empty: the only ones.

    Raises:
        InputError: no dataset, no labels, a view that it does not have, or several variants.
    """
    table = _without_pictures(path)
    if not {*table.column_names} - {*_NO_LABELS}:
        raise InputError(
            f"{path} has no labels: list them when it is made (--input faces.csv, or "
            "ingest.class_per_folder), or put a labels.parquet with a column 'key' beside it"
        )
    columns = sorted({COLUMNS[view] for view in views})
    try:
        pictures = open_dataset(path, status="all", columns=columns, decode=False)
    except InputError as error:
        if "has no column" not in str(error):
            raise
        raise InputError(
            f"{path} has no {' and no '.join(views)} faces side by side: give the output of "
            "normpipe run, with its stage pair done"
        ) from None
    rows, variants = _of_variant(table, variant, path)
    rows = _one_an_input(path, table, rows)
    return Listing(path, pictures, table.take(pa.array(rows)), rows, variants)


def _without_pictures(path: Path) -> pa.Table:
    """All rows: keys, decisions, variants and labels, wherever these stand."""
    names = open_dataset(path, status="all", decode=False).table.column_names
    folder = ShardFolder(dataset_folder(path))
    with open_parquet(min(folder.path.glob("shard-*.parquet"))) as file:
        schema = file.schema_arrow
    wanted = [*names, *own_label_columns(schema), *(n for n in ("variant",) if n in schema.names)]
    wanted = list(dict.fromkeys(["key", "parent_key", "status", "reason", *wanted]))
    dataset = open_dataset(path, status="all", columns=wanted)
    table = dataset.table
    inside = [name for name in wanted if name not in table.column_names]
    if inside:  # shards that hold their labels themselves
        items = dataset.__getitems__(range(len(dataset)))
        for name in inside:
            column = pa.array([item[name] for item in items], schema.field(name).type)
            table = table.append_column(name, column)
    return table


def _of_variant(table: pa.Table, variant: str, path: Path) -> tuple[Rows, tuple[str, ...]]:
    if "variant" not in table.column_names:
        return np.arange(table.num_rows), ()
    names = np.asarray(table["variant"].to_pylist(), object)
    found = sorted({name for name in names if name})
    if not variant and len(found) > 1:
        raise InputError(f"{path} has several variants: choose one of {', '.join(found)}")
    if variant and variant not in found:
        raise InputError(f"{path} has no variant '{variant}'{nearest(variant, found)}")
    rows = np.flatnonzero(names == variant) if variant else np.arange(table.num_rows)
    return rows, tuple(found)


def _one_an_input(path: Path, table: pa.Table, rows: Rows) -> Rows:
    """Of each input its usable face; of several the largest: a label speaks of an image."""
    keys, statuses = table["key"].to_pylist(), table["status"].to_pylist()
    parents = table["parent_key"].to_pylist()
    groups: dict[str, list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(parents[row] or keys[row], []).append(row)
    sizes: ShardDataset | None = None
    chosen: list[int] = []
    for group in groups.values():
        usable = [row for row in group if statuses[row] == "ok"] or group
        if len(usable) > 1 and statuses[usable[0]] == "ok":
            sizes = sizes or _sizes(path)
            found = [item.get("face_size_px") or 0 for item in sizes.__getitems__(usable)]
            usable = [usable[int(np.argmax(found))]]
        chosen.append(usable[0])
    return np.asarray(chosen, np.int64)


def _sizes(path: Path) -> ShardDataset:
    try:
        return open_dataset(path, status="all", columns=["face_size_px"])
    except InputError:  # pairs with their pictures inside do not say: the first face is taken
        return open_dataset(path, status="all", columns=[])


def _shards_digest(path: Path) -> str:
    """Sha256 of what the shards' records say of their input; of names and sizes without records."""
    folder = ShardFolder(dataset_folder(path))
    records = folder.records()
    marks = [(record.fingerprint, record.sha256) for record in records.values()]
    if not marks:
        files = sorted(folder.path.glob("shard-*.parquet"))
        marks = [(file.name, str(file.stat().st_size)) for file in files]
    return hashlib.sha256(repr(marks).encode()).hexdigest()


class ViewStore:
    """Pictures of one view of a listing, decoded beforehand where they fit, else when asked for."""

    def __init__(
        self, listing: Listing, view: str, form: Form, memory_bytes: float, threads: int = 1
    ) -> None:
        """``form``: exact size, grey or colour; all inputs of the listing must be usable."""
        self._dataset = listing.dataset
        self._items = listing.items
        self._name = COLUMNS[view]
        self._form = form
        size = form.size_px or 0
        shape = (len(listing), size, size, 3) if form.colour else (len(listing), size, size)
        self._held: ByteArray | None = None
        if float(np.prod(shape)) <= memory_bytes:
            self._held = np.empty(shape, np.uint8)
            with ThreadPoolExecutor(max(1, threads)) as pool:
                starts = range(0, len(listing), _CHUNK)
                for start, found in zip(starts, pool.map(self._chunk, starts), strict=True):
                    self._held[start : start + len(found)] = found

    def take(self, rows: Rows) -> ByteArray:
        """(N, C, S, S) uint8."""
        found = self._held[rows] if self._held is not None else self._read(rows)
        return found[:, None] if found.ndim == 3 else found.transpose(0, 3, 1, 2).copy()

    def _chunk(self, start: int) -> ByteArray:
        return self._read(np.arange(start, min(start + _CHUNK, len(self._items))))

    def _read(self, rows: Rows) -> ByteArray:
        items = self._dataset.__getitems__(self._items[rows].tolist())
        return np.stack([decode_picture(item[self._name], self._form) for item in items])
