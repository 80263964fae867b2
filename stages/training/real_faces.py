"""Real faces, held in memory for training, with their labels if they have any."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ...manifests.arrays import Rows
from ...pipeline.errors import InputError
from ...pipeline.read.exclusions import exclusions_of, is_excluded
from ...pipeline.store.labels import find_labels, label_rows, read_labels
from .face_labels import FaceLabels, by_path, joined, label_tables, labels_of, merged
from .pictures import Form, Pictures

pc: Any = pyarrow.compute  # made at run time; type checkers cannot see its functions
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceCache:
    """Aligned faces of one or more datasets.

    Attributes:
        keys: N names.
        pictures: N pictures, (S, S) or (S, S, 3) uint8.
        starts: first row of each dataset, and N.
        labels: of the N faces; None if nobody asked for them.
    """

    keys: tuple[str, ...]
    pictures: Pictures
    starts: tuple[int, ...] = ()
    labels: FaceLabels | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def datasets(self) -> list[Rows]:
        """Return the rows of each dataset, (N_i,) each."""
        starts = self.starts or (0, len(self))
        return [np.arange(a, b) for a, b in pairwise(starts)]

    def digest(self) -> str:
        """Return the sha256 of keys and labels, which identifies the set."""
        found = hashlib.sha256("\n".join(self.keys).encode())
        if len(self.starts) > 2:
            found.update(repr(self.starts).encode())
        if self.labels is not None:
            for values in self.labels.by_kind().values():
                found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class WantedLabels:
    """Which labels to read with the faces.

    Attributes:
        shapes: names of the coefficients, for scores by name.
        files: lists with labels, joined by path; or ``labels.parquet`` of a job, joined by key. A
            later one counts where it knows something.
        smoothing: of emotions without votes, see ``labels_of``.
    """

    shapes: Sequence[str]
    files: Sequence[Path]
    smoothing: float = 0.0


def load_faces(
    folders: Sequence[Path],
    split: str,
    form: Form,
    memory_gb: float,
    wanted: WantedLabels | None = None,
) -> FaceCache:
    """Read aligned faces.

    Of a split, faces whose picture also occurs outside it are left out: what is measured there
    must not have been trained on.

    Args:
        folders: outputs of ``normpipe run``, or their ``aligned`` folders; each is a dataset.
        split: only faces of this split, from the shards' own column or labels.parquet; empty for
            all.
        form: how to hold them.
        memory_gb: beyond this they stay encoded.
        wanted: labels to read with them; None: no labels.

    Raises:
        InputError: a folder holds no aligned faces, or none of that split; a list of labels that
            cannot be read, or names none of the faces.
    """
    keys: list[str] = []
    encoded: list[bytes] = []
    starts = [0]
    labels: list[FaceLabels] = []
    tables = label_tables(wanted.files) if wanted else {}
    used: set[Path] = set()
    for given in folders:
        table = _dataset(given, split)
        own = table["key"].to_pylist()
        keys += own
        encoded += [picture["bytes"] for picture in table["image"].to_pylist()]
        starts.append(len(keys))
        if wanted is None:
            continue
        found = labels_of(table.select(["key"]), wanted.shapes)
        for file, listed in tables.items():
            rows = _rows(table, listed) if "key" in listed.column_names else by_path(own, listed)
            if rows.null_count < len(rows):
                used.add(file)
                found = merged(found, labels_of(listed.take(rows), wanted.shapes, wanted.smoothing))
        labels.append(found)
    if not encoded:
        which = f" of the split '{split}'" if split else ""
        raise InputError(f"no aligned faces{which} in {', '.join(map(str, folders))}")
    for file in {*tables} - used:
        raise InputError(
            f"--labels {file} names none of the faces: its paths must be those of the list that "
            "they were made from"
        )
    pictures = Pictures(encoded, form, memory_gb * 1e9)
    return FaceCache(
        tuple(keys), pictures, tuple(starts), joined(labels) if wanted is not None else None
    )


def _dataset(given: Path, split: str) -> pa.Table:
    """Return key, parent_key and image of a dataset's usable faces of a split."""
    folder = _aligned(given)
    shards = sorted(folder.glob("shard-*.parquet"))
    if not shards:
        raise InputError(
            f"no aligned faces in {given}: give the output of "
            "normpipe run --until align, or the folder 'aligned' in it"
        )
    table = pa.concat_tables([_usable(shard) for shard in shards], promote_options="default")
    table = table.filter(pa.array(~is_excluded(exclusions_of(folder), table)))
    if not split:
        return table
    inside = _splits(table, folder) == split
    hashes = np.array(table["image_sha256"].to_pylist(), object)
    twice = inside & np.isin(hashes, hashes[~inside & (hashes != None)])  # noqa: E711
    if twice.any():
        log.warning(
            "%s: leaving out %d faces of the split '%s' whose pictures also occur outside it",
            *(given, int(twice.sum()), split),
        )
    return table.filter(pa.array(inside & ~twice))


def _aligned(given: Path) -> Path:
    return given / "aligned" if (given / "aligned").is_dir() else given


def _usable(shard: Path) -> pa.Table:
    """Return the rows of a shard with a picture, in the columns that are read."""
    columns = pq.read_schema(shard).names
    if not {"key", "status", "image"} <= {*columns}:
        raise InputError(f"{shard} holds no pictures: give shards of aligned faces")
    wanted = ("key", "parent_key", "image", "image_sha256", "split")
    found = pq.read_table(
        shard, columns=[name for name in wanted if name in columns], filters=[("status", "=", "ok")]
    )
    if "image_sha256" not in columns:
        found = found.append_column("image_sha256", pa.nulls(len(found), pa.string()))
    return found


def _splits(table: pa.Table, folder: Path) -> np.ndarray[Any, Any]:
    """Return the split of each face, (N,) text or None."""
    if "split" not in table.column_names:
        path = find_labels(folder)
        labels = read_labels(path) if path else None
        if labels is None or "split" not in labels.column_names:
            raise InputError(
                "faces_split is set, but there is no labels.parquet with a column 'split' for "
                f"{folder}: set faces_split = '' to use all its faces"
            )
        table = labels.take(_rows(table, labels))
    return np.array(table["split"].to_pylist(), object)


def _rows(table: pa.Table, labels: pa.Table) -> pa.Array:
    keys, parents = (table[name].combine_chunks() for name in ("key", "parent_key"))
    return label_rows(keys, parents, labels)
