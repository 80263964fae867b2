"""``open_dataset``: shards as a map-style torch dataset, by number or key, with labels joined."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from ..errors import InputError
from ..store.storage import location
from .opening import Opened, Part, open_rows
from .reading import Place

Item = dict[str, Any]


class ShardDataset(Dataset[Any]):
    """Rows of a dataset as items, in the order of the shards. Made by :func:`open_dataset`.

    ``ds[3]``, ``ds[-1]`` and ``ds["faces/anna.jpg"]`` return an item; ``ds.keys`` lists the keys. A
    read touches one row group of 64 rows; a batch (``__getitems__``, which DataLoader calls) reads
    each row group once. Works in DataLoader workers, forked or spawned.
    """

    def __init__(
        self,
        found: Opened,
        columns: Sequence[str] | None = None,
        decode: bool = True,
        transform: Callable[[Item], Any] | None = None,
    ) -> None:
        chosen = found.choose(columns)
        self._opened = found
        self._table = chosen.table
        self._parts = chosen.parts
        self._decode = decode
        self._transform = transform
        self._by_key: dict[str, int] | None = None

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def keys(self) -> list[str]:
        """The keys of all items, in order."""
        return self._table["key"].to_pylist()

    @property
    def table(self) -> pa.Table:
        """All that is known of the items without reading a shard: keys, statuses, labels."""
        return self._table.select([n for n in self._table.column_names if not n.startswith("_")])

    @property
    def opened(self) -> Opened:
        """Where the dataset is, and all columns that there are."""
        return self._opened

    def select(self, columns: Sequence[str]) -> ShardDataset:
        """Return the same rows with other columns; nothing is opened again.

        Raises InputError for a column that ``opened.offered`` does not name.
        """
        return ShardDataset(self._opened, columns, self._decode, self._transform)

    def __getitem__(self, index: int | str) -> Any:
        """Return one item. Raises KeyError or IndexError where there is none."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | str]) -> list[Any]:
        """Return several items in the order asked for; each row group is read once."""
        numbers = [self._number(index) for index in indices]
        if len(numbers) == 1:
            found = self._table.slice(numbers[0], 1)  # twice as fast as take
        else:
            found = self._table.take(pa.array(numbers, pa.int64()))
        items: list[Item] = found.to_pylist()
        for part in self._parts:
            self._read(part, numbers, items)
        for item in items:
            del item["_source"], item["_variant"]
            for name in self._opened.pictures:
                if item.get(name) is not None:
                    item[name] = self._picture(item[name], item["key"])
        return items if self._transform is None else [self._transform(item) for item in items]

    def _number(self, index: int | str) -> int:
        if isinstance(index, str):
            if self._by_key is None:
                self._by_key = {key: i for i, key in enumerate(self.keys)}
            if index not in self._by_key:
                raise KeyError(f"no row {index!r} (of the status asked for) in the dataset")
            return self._by_key[index]
        number = operator.index(index)
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return number

    def _read(self, part: Part, numbers: list[int], items: list[Item]) -> None:
        for variant, reader in part.readers.items():
            wanted = [
                i
                for i, number in enumerate(numbers)
                if part.places[number, 0] >= 0 and variant in ("", items[i]["_variant"])
            ]
            places = [Place(*map(int, part.places[numbers[i]])) for i in wanted]
            keys = [items[i]["_source"] for i in wanted]
            for i, row in zip(wanted, reader.rows(places, keys), strict=True):
                items[i].update({name: row[column] for name, column in part.names.items()})
        for item in items:
            for name in part.names:
                item.setdefault(name, None)

    def _picture(self, data: pa.Buffer, key: str) -> Any:
        if not self._decode:
            return data.to_pybytes()
        try:
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB"))  # (H, W, 3) uint8
        except OSError as error:
            raise InputError(
                f"the picture of {key} is damaged ({error}): see 'normpipe verify'"
            ) from error
        # Turned by numpy: torch would wake its threads, which costs milliseconds on a busy machine.
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))  # (3, H, W)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_by_key": None}


def open_dataset(
    path: str | Path,
    *,
    labels: str | Path | pa.Table | None = None,
    columns: Sequence[str] | None = None,
    status: Literal["ok", "rejected", "failed", "all"] = "ok",
    decode: bool = True,
    transform: Callable[[Item], Any] | None = None,
) -> ShardDataset:
    """Open a dataset of normpipe for reading, as a map-style ``torch.utils.data.Dataset``.

    An item is a dict: ``key``, the pictures, and the labels (None where unknown). A dataset of
    pairs has the pictures ``image`` and ``normalized``, and ``variant``; any other ``image``. For
    batches of them use :func:`collate`.

    Args:
        path: a folder of shards (``OUT/pairs``, ``OUT/normalized/compact``, ``OUT/aligned``), or
            the job's folder ``OUT``: then its pairs, else its only normalized variant.
        labels: a label table or its file; by default ``labels.parquet`` in the dataset's folder or
            above it in the job's. Joined by ``key``, else by the input image's key, so that several
            faces of an image share its labels.
        columns: what an item holds beside ``key``: names of label or shard columns. Of pairs also
            the aligned dataset's columns, and the normalized one's as ``normalized_<name>``.
        status: which rows; others than ``ok`` may lack pictures (None), and then ``status``,
            ``reason`` and ``decided_by`` are in the items.
        decode: pictures as uint8 tensors (3, H, W) RGB; False gives their encoded bytes.
        transform: called with each item; what it returns is the item.

    Raises:
        InputError: there is no dataset, several could be meant, a column is unknown, or a newer
            normpipe wrote it.
    """
    return ShardDataset(open_rows(location(path), labels, status), columns, decode, transform)


def collate(items: list[Item]) -> dict[str, Any]:
    """Collate items for DataLoader, where labels may be None.

    Pictures of one size become a tensor (N, 3, H, W), numbers that are all known a tensor (N,);
    all else stays a list.
    """
    batch: dict[str, Any] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        shapes = {value.shape if isinstance(value, torch.Tensor) else None for value in values}
        numbers = all(isinstance(value, int | float) for value in values)
        same = None not in shapes and len(shapes) == 1
        batch[name] = default_collate(values) if numbers or same else values
    return batch
