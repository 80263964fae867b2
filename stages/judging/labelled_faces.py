"""Loads labelled real faces for the judge: aligned photographs of a job, and reads their code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...manifests.arrays import Floats, Mask, Pixels, Rows, Words
from ...pipeline.errors import InputError
from ...pipeline.read.exclusions import exclusions_of, is_excluded
from ...pipeline.read.reading import open_parquet
from ...pipeline.store.labels import find_labels, label_rows, read_labels, vote_shares
from ...pipeline.store.shards import ShardFolder
from ..faces.geometry import apply
from ..faces.pixels import Limits, decode
from ..networks.reader import as_images
from .seen_faces import RealFaces

# pyarrow makes these functions at run time; type checkers cannot see them.
pc: Any = pyarrow.compute

#: (B, 3, H, W) RGB in [0, 1] → (B, E) coefficients.
Network = Callable[[Tensor], Tensor]

_NEEDED = ["key", "parent_key", "status", "landmarks", "transform"]
#: Names of the part that is tested, the first that the labels have.
_TESTED = ("test", "val", "valid", "validation")


def load_real(folder: Path, most: int | None = None, seed: int = 0) -> RealFaces:
    """Read the usable aligned faces of a job's folder, or of its ``aligned`` folder.

    People are the label ``subject``, parts ``split``, sources ``source``. If the labels name
    people, a face without ``subject`` is left out, else one without ``emotion``. Pictures of part
    train whose pixels are in the tested part, too, are dropped.

    Args:
        folder: output of a job.
        most: pictures of each part, drawn by the seed; None takes all.
        seed: of the draw.

    Raises:
        InputError: no aligned faces, no labels, or none with ``emotion``.
    """
    aligned = folder / "aligned" if (folder / "aligned").is_dir() else folder
    numbers = sorted(int(path.stem[6:]) for path in aligned.glob("shard-*.parquet"))
    if not numbers:
        raise InputError(
            f"{folder} holds no aligned faces: give the --output of normpipe run --until align"
        )
    shards = ShardFolder(aligned)
    with open_parquet(shards.shard(numbers[0])) as file:
        missing = [name for name in (*_NEEDED, "image") if name not in file.schema_arrow.names]
    if missing:
        raise InputError(f"{aligned} is not output of the align stage: no column '{missing[0]}'")
    file = find_labels(aligned)
    if file is None:
        raise InputError(f"{folder} has no labels.parquet: align a list with labels")
    rows = pa.concat_tables([_rows_of(shards, number) for number in numbers])
    rows = rows.filter(pc.equal(rows["status"], "ok")).combine_chunks()
    rows = rows.filter(pa.array(~is_excluded(exclusions_of(aligned), rows))).combine_chunks()
    labels = read_labels(file)
    if "emotion" not in labels.column_names:
        raise InputError(f"the labels {file} have no column 'emotion'")
    keys, parents = (rows[name].combine_chunks() for name in ("key", "parent_key"))
    labels = labels.take(label_rows(keys, parents, labels))
    known = _words(labels, "subject") != ""
    named = bool(known.any())
    if not named:
        known = _words(labels, "emotion") != ""
        if not known.any():
            raise InputError(f"the labels {file} name no emotion: fill the column 'emotion'")
    parts = _words(labels, "split")
    chosen = _drawn(known, parts, most, seed)
    faces = _faces(shards, rows.take(pa.array(chosen)), labels.take(pa.array(chosen)), named)
    if len(chosen) < int(known.sum()):
        faces = replace(faces, note=f"{faces.note}; drawn from {int(known.sum()):,}")
    if not known.all():
        without = "subject" if named else "emotion"
        skipped = f"{int((~known).sum()):,} without '{without}' left out"
        faces = replace(faces, note=f"{faces.note}; {skipped}")
    return faces


def _rows_of(shards: ShardFolder, number: int) -> pa.Table:
    table = shards.read(number, _NEEDED).drop_columns(["row_group", "row"])
    return table.append_column("place", pa.array(np.arange(table.num_rows)))


def _tested_part(parts: Words) -> str:
    return next((name for name in _TESTED if name in parts), "test")


def _drawn(known: Mask, parts: Words, most: int | None, seed: int) -> Rows:
    """Return the rows of known faces, at most so many of each part, in their order."""
    rng = np.random.default_rng([seed, 47])
    rows = [np.flatnonzero(known & (parts == part)) for part in np.unique(parts)]
    return np.sort(np.concatenate([rng.permutation(here)[:most] for here in rows]))


def _faces(shards: ShardFolder, rows: pa.Table, labels: pa.Table, named: bool) -> RealFaces:
    """Read the pictures of some rows; rows of part train that are also in the tested one go."""
    images, digests = _pictures(shards, rows["shard"].to_numpy(), rows["place"].to_numpy())
    parts, sources = _words(labels, "split"), _words(labels, "source")
    tested = _tested_part(parts)
    again = (parts == "train") & np.isin(digests, digests[parts == tested])
    counts = {str(part): int((parts[~again] == part).sum()) for part in np.unique(parts)}
    note = ", ".join(f"{count:,} of part '{part}'" for part, count in counts.items())
    if again.any():
        note += f"; {again.sum():,} of 'train' dropped: their pixels are also in '{tested}'"
    points = [_points(row["landmarks"], row["transform"]) for row in rows.to_pylist()]
    faces = RealFaces(
        images,
        np.stack(points),
        _words(labels, "emotion"),
        _words(labels, "subject") if named else digests,
        np.where(sources == "", "all", sources),
        np.where(parts == tested, "test", parts),
        vote_shares(labels),
        named,
        note,
    )
    return faces.take(~again) if again.any() else faces


def _pictures(shards: ShardFolder, numbers: Rows, places: Rows) -> tuple[Pixels, Words]:
    """Return (N, H, W, 3) pictures of rows sorted by shard, and (N,) what tells pixels apart."""
    limits = Limits()
    digests: list[str] = []
    whole: Pixels | None = None
    for number in np.unique(numbers):  # one shard's encoded pictures at a time
        encoded = shards.read(int(number), ["image"])["image"]
        for row in np.flatnonzero(numbers == number):
            image = decode(encoded[int(places[row])].as_py()["bytes"], limits)
            if whole is None:
                whole = np.empty((len(numbers), *image.shape), np.uint8)
            whole[row] = image
            digests.append(hashlib.sha256(image.tobytes()).hexdigest()[:24])
    assert whole is not None
    return whole, np.array(digests)


def _words(labels: pa.Table, name: str) -> Words:
    if name not in labels.column_names:
        return np.full(labels.num_rows, "", dtype=np.str_)
    return np.array([value or "" for value in labels[name].cast(pa.string()).to_pylist()], np.str_)


def _points(landmarks: Any, transform: Any) -> Floats:
    if landmarks is None or len(landmarks) != 5:
        return np.full((5, 2), np.nan)
    return apply(np.array(transform, dtype=np.float64), np.array(landmarks, dtype=np.float64))


def read_real(read: Network, images: Pixels, batch: int = 32) -> NDArray[np.float32]:
    """Read (N, H, W, 3) uint8 RGB → (N, E) coefficients, batch by batch."""
    with torch.inference_mode():
        found = [
            read(as_images(images[start : start + batch])).cpu()
            for start in range(0, len(images), batch)
        ]
    return torch.cat(found).float().numpy()
