"""Which rows of a job an export has, in which files and columns; and reading them in order."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...manifests.arrays import Rows
from ...manifests.datasets import Description
from ...manifests.schema import is_text
from ...manifests.vocabularies import REASONS
from ...pipeline.errors import InputError, first_few, nearest
from ...pipeline.store.labels import labels_digest
from ...pipeline.store.shards import ShardFolder
from ...pipeline.store.storage import folders
from ..faces.picture_bytes import picture_ending, without_texts
from .export_columns import (
    HASHED_COLUMNS,
    NEVER_EXPORTED,
    ExportColumn,
    class_counts,
    column_names,
    describe_column,
    refuse_paths,
)
from .hashed_keys import hash_text

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

#: Rows that are read, and held, at once.
READ_ROWS = 64
#: Usual splits first, in this order.
SPLITS_FIRST = ("train", "validation", "test")
#: Split of rows whose labels name none, if others do.
UNASSIGNED = "unassigned"


@dataclass(frozen=True)
class ExportRequest:
    """What is asked for.

    Attributes:
        root: the job's folder.
        variant: of the normalized faces.
        name: of the export; begins the names of its archives.
        columns: besides ``key``; None: split, emotions and action units.
        with_originals: whether the aligned faces are exported, too.
        salt: keys and names are hashed with it; None: they stay.
        file_rows: rows of a file.
    """

    root: Path
    variant: str
    name: str
    columns: tuple[str, ...] | None = None
    with_originals: bool = False
    salt: bytes | None = None
    file_rows: int = 10_000


@dataclass(frozen=True)
class ExportPart:
    """The rows of one file, or of several pictures: ``rows`` are their places in the dataset."""

    split: str
    number: int
    count: int
    rows: Rows

    @property
    def name(self) -> str:
        """Return a name that no other part has: ``train-00000``."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class ExportRow:
    """A row as it leaves.

    Attributes:
        stem: the key as a file name without ending, different for each key.
        values: by column, ``key`` first.
        image, original: bytes of JPEG or PNG files; no original: None.
        image_ending, original_ending: ``jpg`` or ``png``.
    """

    stem: str
    values: dict[str, Any]
    image: bytes
    image_ending: str
    original: bytes | None
    original_ending: str


@dataclass
class ExportPlan:
    """What an export has.

    Attributes:
        request: what was asked for.
        columns: of the values, ``key`` first.
        parts: all files in order.
        splits: split → rows.
        split_names: split in the labels → its name here, where they differ.
        classes: emotion → rows, in the order of the classes; empty without emotions.
        left_out: ``status: reason`` → rows that are not exported.
        rows: of the dataset, exported and left out.
        content: hex sha256 of all that is read, for the fingerprint.
    """

    request: ExportRequest
    columns: list[ExportColumn]
    parts: list[ExportPart]
    splits: dict[str, int]
    split_names: dict[str, str]
    classes: dict[str, int]
    left_out: dict[str, int]
    rows: int
    content: str
    _faces: ShardDataset = field(repr=False)
    _originals: ShardDataset | None = field(repr=False)
    _places: Rows | None = field(repr=False)

    @property
    def exported(self) -> int:
        """Return how many rows are exported."""
        return sum(self.splits.values())

    @property
    def labelled(self) -> bool:
        """Return whether there are labels among the columns, besides the split."""
        return any(one.name not in ("key", "split") for one in self.columns)

    def read(self, part: ExportPart) -> Iterator[ExportRow]:
        """Yield the rows of a part, reading ``READ_ROWS`` at once."""
        for start in range(0, len(part.rows), READ_ROWS):
            numbers = part.rows[start : start + READ_ROWS]
            faces: list[dict[str, Any]] = self._faces.__getitems__(numbers.tolist())
            originals: list[bytes | None] = [None] * len(faces)
            if self._originals is not None and self._places is not None:
                found = self._originals.__getitems__(self._places[numbers].tolist())
                originals = [one["image"] for one in found]
            for face, original in zip(faces, originals, strict=True):
                yield self._row(face, original)

    def values(self, part: ExportPart) -> Iterator[dict[str, Any]]:
        """Yield the values of a part's rows, without reading pictures."""
        rows = self._faces.select([one.name for one in self.columns])
        for start in range(0, len(part.rows), READ_ROWS):
            for one in rows.__getitems__(part.rows[start : start + READ_ROWS].tolist()):
                yield self._values(one)

    def _values(self, face: Mapping[str, Any]) -> dict[str, Any]:
        values = {one.name: face[one.name] for one in self.columns}
        if self.request.salt is not None:
            for name in HASHED_COLUMNS:
                if values.get(name) is not None:
                    values[name] = hash_text(self.request.salt, values[name])
        return values

    def _row(self, face: Mapping[str, Any], original: bytes | None) -> ExportRow:
        key, values = face["key"], self._values(face)
        return ExportRow(
            stem=values["key"] if self.request.salt is not None else file_stem(key),
            values=values,
            image=without_texts(face["image"], key),
            image_ending=picture_ending(face["image"], key),
            original=None if original is None else without_texts(original, key),
            original_ending="" if original is None else picture_ending(original, key),
        )

    @property
    def keys(self) -> list[str]:
        """Return the keys of the rows that are exported, as they are at home."""
        rows = np.concatenate([part.rows for part in self.parts])
        return self._faces.table["key"].take(pa.array(rows)).to_pylist()


def choose_variant(root: Path, variant: str) -> str:
    """Return the normalized variant to export: the named one, else the only one.

    Raises InputError if there is none of this name, or several and none is named.
    """
    place = root / "normalized"
    found = sorted(name for name in folders(place) if not name.startswith("_"))
    names = [name for name in found if ShardFolder(place / name).shard_sizes()]
    if variant and variant not in names:
        raise InputError(f"{root} has no normalized variant '{variant}'{nearest(variant, names)}")
    if not names:
        raise InputError(f"{root} has no normalized faces: run 'normpipe run {root}' first")
    if not variant and len(names) > 1:
        raise InputError(f"choose a normalized variant with --variant ({', '.join(names)})")
    return variant or names[0]


def source_digests(aligned: ShardDataset) -> Iterator[str | None]:
    """Yield the sha256 of the file of each usable aligned face."""
    found = aligned.read(["status", "source_sha256"])
    yield from found.filter(pc.equal(found["status"], "ok"))["source_sha256"].to_pylist()


def plan_export(
    request: ExportRequest,
    opened: ShardDataset,
    aligned: ShardDataset | None,
    description: Description | None,
) -> ExportPlan:
    """Return what an export has, without reading pictures.

    Args:
        request: what is asked for.
        opened: all rows of the variant, with encoded pictures.
        aligned: the same of the aligned faces; None if they are not to be exported.
        description: of the release that the job read, if it is known: the order of its classes.

    Raises:
        InputError: unknown columns, columns that would give away paths, nothing to export, or
            missing datasets.
    """
    folder = opened.opened.folder
    offered = [n for n in opened.opened.offered if n not in NEVER_EXPORTED and n != "key"]
    types = opened.opened.types
    names = column_names(request.columns, offered, types)
    always = ["split"] if "split" in offered else []
    faces = opened.select(
        [*dict.fromkeys([*names, *always, "image", "status", "reason", "decided_by"])]
    )
    table = faces.table
    ok = pc.equal(table["status"], "ok").combine_chunks()
    used = table.filter(ok)
    if not used.num_rows:
        raise InputError(f"{folder} has no ok rows: see normpipe status {request.root}")
    texts = [n for n in ("key", *names) if is_text(types.get(n))]
    refuse_paths(used, texts, request.salt is not None)
    classes = class_counts(used, description) if "emotion" in names else {}
    whole = {n for n in used.column_names if not used[n].null_count}
    columns = [
        ExportColumn(
            name,
            types[name],
            describe_column(name),
            (*classes,) * (name == "emotion"),
            name in whole,
        )
        for name in ("key", *names)
    ]
    splits, split_names, parts = _parts(table, ok, request.file_rows)
    originals, places = (None, None) if aligned is None else _originals(request, faces, aligned)
    sources = [folder, *([] if aligned is None else [aligned.opened.folder])]
    digest = [labels_digest(table), *(ShardFolder(one).content_digest() for one in sources)]
    return ExportPlan(
        request=request,
        columns=columns,
        parts=parts,
        splits=splits,
        split_names=split_names,
        classes=classes,
        left_out=_left_out(table.filter(pc.invert(ok))),
        rows=table.num_rows,
        content=hashlib.sha256(json.dumps(digest).encode()).hexdigest(),
        _faces=faces,
        _originals=originals,
        _places=places,
    )


def file_stem(key: str) -> str:
    """Return a key as a file name without dots and folders; different keys give different names.

    The dataset's name and an ending ``.jpg`` are left out. Characters other than letters, digits,
    ``-`` and ``_`` become ``=2E`` and so on; names that are too long end in a hash.
    """
    sample = key.partition("/")[2] or key
    plain = sample.removesuffix(".jpg")
    name = "".join(c if c.isalnum() or c in "-_" else _escaped(c) for c in plain)
    if plain == sample:
        name += "="  # so that "a" and "a.jpg" differ
    if len(name.encode()) > 150:
        name = f"{name[:30]}={hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return name


def _escaped(char: str) -> str:
    return "".join(f"={byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _parts(
    table: pa.Table, ok: pa.Array, file_rows: int
) -> tuple[dict[str, int], dict[str, str], list[ExportPart]]:
    """Return split → rows, split in the labels → its name here, and the files."""
    exported = np.flatnonzero(ok.to_numpy(zero_copy_only=False)).astype(np.int64)
    if "split" not in table.column_names or table["split"].null_count == table.num_rows:
        found = {"train": exported}
        names: dict[str, str] = {}
    else:
        words = table["split"].combine_chunks().take(pa.array(exported))
        coded = words.dictionary_encode()
        codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
        given: list[str] = coded.dictionary.to_pylist()
        names = {word: re.sub(r"\W", "_", word) or "_" for word in given}
        if len({*names.values()}) < len(names) or UNASSIGNED in names.values():
            raise InputError(
                f"splits {first_few(given)} have one name as names of files: rename them"
            )
        found = {names[word]: exported[codes == code] for code, word in enumerate(given)}
        if (codes < 0).any():
            found[UNASSIGNED] = exported[codes < 0]
    order = sorted(found, key=lambda name: (_rank(name), name))
    parts: list[ExportPart] = []
    for split in order:
        rows = found[split]
        count = -(-len(rows) // file_rows)
        parts += [
            ExportPart(split, n, count, rows[n * file_rows : (n + 1) * file_rows])
            for n in range(count)
        ]
    changed = {word: name for word, name in names.items() if word != name}
    return {name: len(found[name]) for name in order}, changed, parts


def _rank(split: str) -> int:
    if split in SPLITS_FIRST:
        return SPLITS_FIRST.index(split)
    return len(SPLITS_FIRST) + (split == UNASSIGNED)


def _originals(
    request: ExportRequest, faces: ShardDataset, aligned: ShardDataset
) -> tuple[ShardDataset, Rows]:
    """Return the aligned faces, and (N,) int64 the place of each normalized row's among them."""
    places = pc.index_in(faces.table["key"].combine_chunks(), aligned.table["key"].combine_chunks())
    if places.null_count:
        raise InputError(
            f"{aligned.opened.folder} lacks {places.null_count} of the faces that were "
            f"normalized: run 'normpipe run {request.root}', or leave --with-originals out"
        )
    return aligned.select(["image"]), places.to_numpy(zero_copy_only=False).astype(np.int64)


def _left_out(table: pa.Table) -> dict[str, int]:
    """Return ``status: reason`` → rows."""
    counts: Counter[str] = Counter()
    for status, reason in zip(
        table["status"].to_pylist(), table["reason"].to_pylist(), strict=True
    ):
        counts[f"{status}: {reason}" if reason else status] += 1
    return dict(sorted(counts.items()))


def reason_meaning(left_out: str) -> str:
    """Return what a reason of ``left_out`` means, for people; "" if it is not known."""
    reason = left_out.partition(": ")[2]
    return REASONS[reason][1] if reason in REASONS else ""
