"""Labelled real faces for the judge: aligned photographs and a reader's coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...manifests.arrays import Floats, Pixels, Words
from ...pipeline.errors import InputError
from ...pipeline.read.reading import open_parquet
from ...pipeline.store.labels import find_labels, label_rows, read_labels
from ...pipeline.store.shards import ShardFolder
from ..faces.geometry import apply
from ..faces.pixels import Limits, decode
from ..networks.reader import as_images

# pyarrow makes these functions at run time; type checkers cannot see them.
pc: Any = pyarrow.compute

#: (B, 3, H, W) RGB in [0, 1] → (B, E) coefficients.
Network = Callable[[Tensor], Tensor]

_COLUMNS = ["key", "parent_key", "status", "image", "landmarks", "transform"]


@dataclass(frozen=True)
class RealFaces:
    """N aligned photographs with their labels.

    Attributes:
        images: (N, H, W, 3) uint8 RGB, aligned.
        landmarks: (N, 5, 2) float64, x and y in pixels of the aligned square; NaN if the
            detector gives none.
        emotions: (N,) one of ``manifests.vocabularies.EMOTIONS``, empty where unknown.
        people: (N,) who is in the picture.
        sources: (N,) where the picture comes from; ``all`` if the labels do not say.
        parts: (N,) ``train``, ``test`` or another split; empty where unknown.
    """

    images: Pixels
    landmarks: Floats
    emotions: Words
    people: Words
    sources: Words
    parts: Words

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[Any]) -> RealFaces:
        """Return some of the faces; ``rows`` are numbers (M,) or a mask (N,)."""
        return RealFaces(
            self.images[rows], self.landmarks[rows], self.emotions[rows],
            self.people[rows], self.sources[rows], self.parts[rows],
        )  # fmt: skip


def load_real(folder: Path) -> RealFaces:
    """Read the usable aligned faces of a job's folder, or of its ``aligned`` folder.

    People are the label ``subject``, parts ``split``, sources ``source``. A face without
    ``subject`` is skipped, since every measure here is by person.

    Raises:
        InputError: no aligned faces, or labels missing or without subjects.
    """
    aligned = folder / "aligned" if (folder / "aligned").is_dir() else folder
    shards = ShardFolder(aligned)
    numbers = sorted(int(path.stem[6:]) for path in aligned.glob("shard-*.parquet"))
    if not numbers:
        raise InputError(
            f"{folder} holds no aligned faces: give the --output of normpipe run --until align"
        )
    with open_parquet(shards.shard(numbers[0])) as file:
        missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise InputError(f"{aligned} is not output of the align stage: no column '{missing[0]}'")
    file = find_labels(aligned)
    if file is None:
        raise InputError(f"{folder} has no labels.parquet: align a list with labels")
    rows = pa.concat_tables([shards.read(number, _COLUMNS) for number in numbers])
    rows = rows.filter(pc.equal(rows["status"], "ok")).combine_chunks()
    labels = read_labels(file)
    keys, parents = (rows[name].combine_chunks() for name in ("key", "parent_key"))
    labels = labels.take(label_rows(keys, parents, labels))
    return _faces(rows, labels, file)


def _faces(rows: pa.Table, labels: pa.Table, file: Path) -> RealFaces:
    for name in ("subject", "emotion"):
        if name not in labels.column_names:
            raise InputError(f"the labels {file} have no column '{name}'")
    people = _words(labels, "subject")
    known = people != ""
    if not known.any():
        raise InputError(f"the labels {file} name no subject: fill the column 'subject'")
    sources = _words(labels, "source")
    limits = Limits()
    images: list[Pixels] = []
    points: list[Floats] = []
    wanted = rows.filter(pa.array(known)).select(["image", "landmarks", "transform"])
    for row in wanted.to_pylist():
        images.append(decode(row["image"]["bytes"], limits))
        points.append(_points(row["landmarks"], row["transform"]))
    return RealFaces(
        np.stack(images),
        np.stack(points),
        _words(labels, "emotion")[known],
        people[known],
        np.where(sources == "", "all", sources)[known],
        _words(labels, "split")[known],
    )


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
