"""Unlabelled real faces, held in memory for training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ...pipeline.errors import InputError
from ...pipeline.store.labels import find_labels, label_rows, read_labels
from .pictures import Form, Pictures

pc: Any = pyarrow.compute  # made at run time; type checkers cannot see its functions


@dataclass(frozen=True)
class FaceCache:
    """Aligned faces without labels.

    Attributes:
        keys: N names.
        pictures: N pictures, (S, S) or (S, S, 3) uint8.
    """

    keys: tuple[str, ...]
    pictures: Pictures

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """Return the sha256 of the keys, which identifies the set."""
        return hashlib.sha256("\n".join(self.keys).encode()).hexdigest()


def load_faces(folders: Sequence[Path], split: str, form: Form, memory_gb: float) -> FaceCache:
    """Read aligned faces.

    Args:
        folders: outputs of ``normpipe run``, or their ``aligned`` folders.
        split: only faces of this split, from the shards' own column or labels.parquet; empty for
            all.
        form: how to hold them.
        memory_gb: beyond this they stay encoded.

    Raises:
        InputError: a folder holds no aligned faces, or none of that split.
    """
    keys: list[str] = []
    encoded: list[bytes] = []
    for given in folders:
        folder = given / "aligned" if (given / "aligned").is_dir() else given
        shards = sorted(folder.glob("shard-*.parquet"))
        if not shards:
            raise InputError(
                f"no aligned faces in {given}: give the output of "
                "normpipe run --until align, or the folder 'aligned' in it"
            )
        for shard in shards:
            table = _usable(shard, folder, split)
            keys += table["key"].to_pylist()
            encoded += [picture["bytes"] for picture in table["image"].to_pylist()]
    if not encoded:
        which = f" of the split '{split}'" if split else ""
        raise InputError(f"no aligned faces{which} in {', '.join(map(str, folders))}")
    return FaceCache(tuple(keys), Pictures(encoded, form, memory_gb * 1e9))


def _usable(shard: Path, folder: Path, split: str) -> pa.Table:
    """Return the rows of a shard with a picture and of the split: key and image."""
    columns = pq.read_schema(shard).names
    if not {"key", "status", "image"} <= {*columns}:
        raise InputError(f"{shard} holds no pictures: give shards of aligned faces")
    wanted = [name for name in ("key", "parent_key", "image", "split") if name in columns]
    table = pq.read_table(shard, columns=wanted, filters=[("status", "=", "ok")])
    if not split:
        return table
    if "split" in columns:
        return table.filter(pc.equal(table["split"], split))
    path = find_labels(folder)
    labels = read_labels(path) if path else None
    if labels is None or "split" not in labels.column_names:
        raise InputError(
            f"faces_split = '{split}', but there is no labels.parquet with a column 'split' for "
            f"{folder}: set faces_split = '' to use all its faces"
        )
    rows = label_rows(table["key"].combine_chunks(), table["parent_key"].combine_chunks(), labels)
    return table.filter(pc.equal(pc.take(labels["split"].combine_chunks(), rows), split))
