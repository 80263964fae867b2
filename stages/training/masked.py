"""Batches for masked training, read from shards on disk on demand."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ...manifests.arrays import Pixels, Rows
from ...manifests.schema import IMAGE
from ...pipeline.errors import InputError
from ...pipeline.read.exclusions import exclusions_of, is_excluded
from ...pipeline.read.reading import Place, RowReader, open_parquet
from ...pipeline.store.labels import find_labels, label_rows, read_labels
from .batching import ENDLESS

log = logging.getLogger(__name__)
pc: Any = pyarrow.compute  # made at run time; type checkers cannot see its functions


# Row groups that are shuffled together: as many as a reader caches.
_GROUPS_TOGETHER = 8


@dataclass(frozen=True)
class Source:
    """The usable pictures of one dataset.

    Attributes:
        reader: of its rows.
        column: of the pictures.
        places: (N, 3) int64 shard, row group, row.
        keys: (N,) strings.
    """

    reader: RowReader
    column: str
    places: NDArray[np.int64]
    keys: pa.Array


class PictureRows:
    """Pictures of several datasets by number, none held in memory.

    Args:
        folders: datasets, or outputs of ``normpipe run`` (their aligned faces) and
            ``normpipe synthesize`` (their pairs).
        column: of the pictures.
        split: use only this split of datasets that have splits (a column, or labels.parquet);
            empty for all pictures.

    Raises:
        InputError: a folder without shards, without that column, or without any such picture.
    """

    def __init__(self, folders: Sequence[Path], column: str, split: str) -> None:
        self.sources = [_source(folder, column, split) for folder in folders]
        counts = [len(source.places) for source in self.sources]
        self._ends = np.cumsum(counts)
        if not sum(counts):
            raise InputError(
                f"no pictures in {', '.join(map(str, folders))}"
                + (f" of the split '{split}'" if split else "")
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def digest(self) -> str:
        """Return the sha256 of all keys, which identifies the data."""
        whole = hashlib.sha256()
        for source in self.sources:
            for key in source.keys:
                whole.update(f"{key}\n".encode())
        return whole.hexdigest()

    def groups(self) -> list[Rows]:
        """Return the numbers of the pictures, (M,), in each row group."""
        found: list[Rows] = []
        first = 0
        for source in self.sources:
            numbers = np.arange(first, first + len(source.places))
            change = np.any(np.diff(source.places[:, :2], axis=0), axis=1)
            if len(numbers):
                found += np.split(numbers, np.flatnonzero(change) + 1)
            first += len(numbers)
        return found

    def pictures(self, numbers: Rows) -> list[Pixels]:
        """Return decoded pictures, (H, W, 3) uint8 RGB, in the given order."""
        owner = np.searchsorted(self._ends, numbers, side="right")
        made: dict[int, Pixels] = {}
        for which in np.unique(owner):
            source = self.sources[which]
            asked = np.flatnonzero(owner == which)
            within = numbers[asked] - (self._ends[which] - len(source.places))
            places = [Place(*map(int, source.places[row])) for row in within]
            rows = source.reader.rows(places, [source.keys[int(row)].as_py() for row in within])
            for place, row in zip(asked, rows, strict=True):
                made[int(place)] = _decode(row[source.column], row["key"])
        return [made[place] for place in range(len(numbers))]


def _source(given: Path, column: str, split: str) -> Source:
    inner = (given, given / "aligned", given / "pairs")
    folder = next((path for path in inner if any(path.glob("shard-*.parquet"))), None)
    if folder is None:
        raise InputError(f"no shards in {given}: give a folder that normpipe wrote")
    places: list[NDArray[np.int64]] = []
    keys: list[pa.Array] = []
    exclusions = exclusions_of(folder)
    for shard in sorted(folder.glob("shard-*.parquet")):
        number, file = int(shard.stem.partition("-")[2]), open_parquet(shard)
        if column not in file.schema_arrow.names or file.schema_arrow.field(column).type != IMAGE:
            pictures = [field.name for field in file.schema_arrow if field.type == IMAGE]
            raise InputError(
                f"{folder} has no pictures in a column '{column}': choose one of "
                f"{', '.join(pictures) or 'none'} with --set pretrain_encoder.column=…"
            )
        kept = _usable(file, folder, split, exclusions)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        group = np.repeat(np.arange(len(sizes)), sizes)
        row = np.concatenate([np.arange(size) for size in sizes]) if sizes else group
        whole = np.stack([np.full(len(group), number), group, row], 1).astype(np.int64)
        places.append(whole[kept])
        keys.append(pc.filter(file.read(["key"])["key"].combine_chunks(), pa.array(kept)))
    table = pa.chunked_array(keys, pa.string()).combine_chunks()
    return Source(RowReader(folder, [column]), column, np.concatenate(places), table)


def _usable(
    file: pq.ParquetFile, folder: Path, split: str, exclusions: pa.Table
) -> NDArray[np.bool_]:
    """Return (N,) which rows have a picture and belong to the split."""
    wanted = ("key", "parent_key", "status", "split")
    table = file.read([name for name in wanted if name in file.schema_arrow.names])
    good = np.asarray(pc.equal(table["status"], "ok"), bool) & ~is_excluded(exclusions, table)
    if not split:
        return good
    if "split" in table.column_names:
        return good & np.asarray(pc.fill_null(pc.equal(table["split"], split), False), bool)
    path = find_labels(folder)
    labels = read_labels(path) if path else None
    if labels is None or "split" not in labels.column_names:
        log.info("%s has no splits: using all its pictures", folder)
        return good
    keys, parents = (table[name].combine_chunks() for name in ("key", "parent_key"))
    splits = pc.take(labels["split"].combine_chunks(), label_rows(keys, parents, labels))
    return good & np.asarray(pc.fill_null(pc.equal(splits, split), False), bool)


def _decode(encoded: Any, key: str) -> Pixels:
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(
            f"the picture of {key} cannot be decoded: run normpipe verify on its dataset"
        )
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


class MaskedBatches(Dataset[dict[str, Tensor]]):
    """Batches of pictures and of the noise that masks them; batch n depends on (seed, n) alone.

    Item n holds ``images`` (B, 3, S, S) uint8 RGB, cropped and mirrored at random, and ``noise``
    (B, patches) float32. Pictures are drawn without replacement per epoch. Rows are shuffled within
    a few row groups at a time, so that reading stays fast.

    Args:
        pictures: to draw from.
        held_out: numbers of pictures that are never drawn.
        batch_size: pictures per batch.
        size_px: side of the pictures in a batch.
        smallest_crop: the smallest share of a picture's side that is kept.
        seed: of order, crops and masks.
    """

    def __init__(
        self,
        pictures: PictureRows,
        held_out: Rows,
        batch_size: int,
        size_px: int,
        smallest_crop: float,
        seed: int,
    ) -> None:
        self.pictures = pictures
        self.batch_size = batch_size
        self.size_px = size_px
        self.smallest_crop = smallest_crop
        self.seed = seed
        left = [np.setdiff1d(group, held_out) for group in pictures.groups()]
        self._groups = [group for group in left if len(group)]
        self._count = sum(len(group) for group in self._groups)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return ENDLESS

    def _shuffled(self, epoch: int) -> Rows:
        rng = np.random.default_rng([self.seed, 31, epoch])
        groups = [self._groups[i] for i in rng.permutation(len(self._groups))]
        together = [
            rng.permutation(np.concatenate(groups[first : first + _GROUPS_TOGETHER]))
            for first in range(0, len(groups), _GROUPS_TOGETHER)
        ]
        return np.concatenate(together)

    def numbers(self, step: int) -> Rows:
        """Return (B,) the numbers of the pictures in batch ``step``."""
        wanted = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self._order(int(n) // self._count)[n % self._count] for n in wanted])

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 32, step])
        pictures = self.pictures.pictures(self.numbers(step))
        images = np.stack([self._crop(picture, rng) for picture in pictures])
        return as_batch(images, rng)

    def _crop(self, picture: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = picture.shape[:2]
        side = max(1, round(min(height, width) * rng.uniform(self.smallest_crop, 1)))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        mirrored = rng.random() < 0.5
        crop = resized(picture[top : top + side, left : left + side], self.size_px)
        return crop[:, ::-1] if mirrored else crop


def resized(picture: Pixels, size: int) -> Pixels:
    """Resize (H, W, 3) to (size, size, 3) uint8."""
    shrinks = picture.shape[0] > size
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (size, size), interpolation=way), np.uint8)


def as_batch(images: Pixels, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return ``images`` and ``noise`` for (B, S, S, 3) uint8 pictures; see ``MaskedBatches``."""
    patches = (images.shape[1] // 16) ** 2
    noise = rng.random((len(images), patches), np.float32)
    return {
        "images": torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        "noise": torch.from_numpy(noise),
    }
