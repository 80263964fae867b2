"""``open_dataset``: shards as a map-style torch dataset, by index or key, with labels joined."""

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
from .opening import ColumnReader, OpenedDataset, open_rows
from .reading import Place

Item = dict[str, Any]


class ShardDataset(Dataset[Any]):
    """Rows of a dataset as items, in the order of the shards. Created by :func:`open_dataset`.

    ``ds[3]``, ``ds[-1]`` and ``ds["faces/anna.jpg"]`` return an item; ``ds.keys`` lists the keys. A
    lookup reads one row group of 64 rows; a batch (``__getitems__``, which DataLoader calls) reads
    each row group once. Works in DataLoader workers, forked or spawned.
    """

    def __init__(
        self,
        found: OpenedDataset,
        columns: Sequence[str] | None = None,
        decode: bool = True,
        transform: Callable[[Item], Any] | None = None,
    ) -> None:
        chosen = found.choose(columns)
        self._opened = found
        self._table = chosen.table
        self._readers = chosen.readers
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
        """All data of the items that needs no shard to be read: keys, statuses, labels."""
        return self._table.select([n for n in self._table.column_names if not n.startswith("_")])

    @property
    def opened(self) -> OpenedDataset:
        """Where the dataset is, and which columns it offers."""
        return self._opened

    def select(self, columns: Sequence[str]) -> ShardDataset:
        """Return the same rows with other columns, without opening the dataset again.

        Raises InputError for a column that is not in ``opened.offered``.
        """
        return ShardDataset(self._opened, columns, self._decode, self._transform)

    def __getitem__(self, index: int | str) -> Any:
        """Return one item. Raises KeyError or IndexError if there is none."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | str]) -> list[Any]:
        """Return several items in the given order; each row group is read once."""
        numbers = [self._number(index) for index in indices]
        if len(numbers) == 1:
            found = self._table.slice(numbers[0], 1)  # twice as fast as take
        else:
            found = self._table.take(pa.array(numbers, pa.int64()))
        items: list[Item] = found.to_pylist()
        for source in self._readers:
            self._read(source, numbers, items)
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
                raise KeyError(f"no row {index!r} (with the requested status) in the dataset")
            return self._by_key[index]
        number = operator.index(index)
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return number

    def _read(self, source: ColumnReader, numbers: list[int], items: list[Item]) -> None:
        for variant, reader in source.readers.items():
            wanted = [
                i
                for i, number in enumerate(numbers)
                if source.places[number, 0] >= 0 and variant in ("", items[i]["_variant"])
            ]
            places = [Place(*map(int, source.places[numbers[i]])) for i in wanted]
            keys = [items[i]["_source"] for i in wanted]
            for i, row in zip(wanted, reader.rows(places, keys), strict=True):
                items[i].update({name: row[column] for name, column in source.names.items()})
        for item in items:
            for name in source.names:
                item.setdefault(name, None)

    def _picture(self, data: pa.Buffer, key: str) -> Any:
        if not self._decode:
            return data.to_pybytes()
        try:
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB"))  # (H, W, 3) uint8
        except OSError as error:
            raise InputError(
                f"the image of {key} is damaged ({error}): see 'normpipe verify'"
            ) from error
        # Transposed by numpy: torch would wake its threads, which costs milliseconds on a busy
        # machine.
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))  # (3, H, W)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_by_key": None}


def open_dataset(
    path: str | Path,
    *,
    labels: str | Path | pa.Table | None = None,
    columns: Sequence[str] | None = None,
    status: Literal["ok", "rejected", "failed", "excluded", "all"] | None = "ok",
    decode: bool = True,
    transform: Callable[[Item], Any] | None = None,
) -> ShardDataset:
    """Open a dataset of normpipe for reading, as a map-style ``torch.utils.data.Dataset``.

    An item is a dict: ``key``, the images, and the labels (None if unknown). A dataset of pairs has
    the images ``image`` and ``normalized``, and ``variant``; any other has ``image``. To batch
    items use :func:`collate`.

    Args:
        path: a folder of shards (``OUT/pairs``, ``OUT/normalized/compact``, ``OUT/aligned``), or
            the job's folder ``OUT``: then its pairs, else its only normalized variant.
        labels: a label table or its file; by default ``labels.parquet`` in the dataset's folder or
            above it, up to the job's. Joined by ``key``, else by the input image's key, so that
            several faces of an image share its labels.
        columns: what an item contains besides ``key``: names of label or shard columns. For pairs
            also the aligned dataset's columns, and the normalized one's as ``normalized_<name>``.
        status: which rows; None is ``all``. Rows other than ``ok`` may lack images (None), and
            their items contain ``status``, ``reason`` and ``decided_by``. Rows that ``normpipe
            exclude`` leaves out are not ``ok`` but ``excluded``, with the reason given for it.
        decode: return images as uint8 tensors (3, H, W) RGB; False returns the encoded bytes.
        transform: called with each item; its return value replaces the item.

    Raises:
        InputError: there is no dataset, or several could be meant, a column is unknown, or a newer
            normpipe wrote the dataset.
    """
    return ShardDataset(open_rows(location(path), labels, status), columns, decode, transform)


def collate(items: list[Item]) -> dict[str, Any]:
    """Collate items for DataLoader, where labels may be None.

    Images of one size become a tensor (N, 3, H, W), numbers without None a tensor (N,); everything
    else stays a list.
    """
    batch: dict[str, Any] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        shapes = {value.shape if isinstance(value, torch.Tensor) else None for value in values}
        numbers = all(isinstance(value, int | float) for value in values)
        same = None not in shapes and len(shapes) == 1
        batch[name] = default_collate(values) if numbers or same else values
    return batch
