"""``open_dataset``: shards as a torch dataset, by index or key or as a stream, labels joined."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from ...manifests.arrays import Mask
from ...manifests.schema import is_text
from ...manifests.vocabularies import EMOTIONS, sorted_emotions
from ..errors import InputError, first_few, nearest
from ..store.storage import location
from .columns import places_where, read_columns
from .opening import ColumnReader, OpenedDataset, open_rows
from .reading import Place
from .stream import ShardStream

Item = dict[str, Any]
#: Items that are read at once in a loop over a dataset.
_BATCH = 64


class ShardDataset(Dataset[Any]):
    """Rows of a dataset as items, in the order of the shards. Created by :func:`open_dataset`.

    ``ds[3]``, ``ds[-1]`` and ``ds["faces/anna.jpg"]`` return an item; ``ds.keys`` lists the keys. A
    lookup reads one row group of 64 rows; a batch (``__getitems__``, which DataLoader calls) reads
    each row group once. Works in DataLoader workers, forked or spawned. :meth:`stream` reads the
    rows in order, for training on several machines.

    Attributes:
        classes: names of the emotions that items have numbers of, in that order; empty without
            ``as_classes``.
    """

    def __init__(
        self,
        found: OpenedDataset,
        columns: Sequence[str] | None = None,
        decode: bool = True,
        transform: Callable[[Item], Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        chosen = found.choose(columns)
        self.classes = tuple(classes or ())
        self._opened = found
        self._table = chosen.table
        self._readers = chosen.readers
        self._decode = decode
        self._transform = transform
        self._typed: _TypedLabels | None = None
        if classes is not None:
            named = [*chosen.table.column_names, *(n for one in chosen.readers for n in one.names)]
            types = {name: kind for name, kind in found.types.items() if name in named}
            self._typed = _TypedLabels(types, self.classes)
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

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return columns of all items as one table, without reading them item by item.

        Raises InputError for a picture, or for a column that is not in ``opened.offered``.
        """
        return read_columns(self._opened, columns)

    def select(self, columns: Sequence[str]) -> ShardDataset:
        """Return the same rows with other columns, without opening the dataset again.

        Raises InputError for a column that is not in ``opened.offered``.
        """
        classes = None if self._typed is None else self.classes
        return ShardDataset(self._opened, columns, self._decode, self._transform, classes)

    def stream(
        self,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        even: bool = False,
    ) -> ShardStream:
        """Return the items as an ``IterableDataset``, each once per epoch, read in order.

        Faster than lookups in random order where the shards are on a slow disk or in a store. The
        items are divided among the processes of a training, and among DataLoader's workers.

        Args:
            shuffle: row groups (64 rows) in a random order, their rows mixed within eight of them.
                Call ``stream.set_epoch(n)`` for another order in each epoch.
            seed: of the order.
            rank, world_size: this process and how many there are; by default as torch.distributed
                says, or the environment variables ``RANK`` and ``WORLD_SIZE``.
            even: leave out up to ``world_size - 1`` items, so that all processes get equally many,
                as distributed training needs.
        """
        return ShardStream(self, shuffle, seed, rank, world_size, even)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items in order; each row group is read once."""
        for start in range(0, len(self), _BATCH):
            yield from self.__getitems__(range(start, min(start + _BATCH, len(self))))

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
        if self._typed is not None:
            items = [self._typed.of(item) for item in items]
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


class _TypedLabels:
    """Turns the values of items into numbers whose type does not depend on the rows."""

    def __init__(self, types: dict[str, pa.DataType], classes: Sequence[str]) -> None:
        self._numbers: dict[str, Any] = {}
        self._texts = [name for name, kind in types.items() if is_text(kind)]
        self._class_of = {name: number for number, name in enumerate(classes)}
        for name, kind in types.items():
            if pa.types.is_boolean(kind):
                self._numbers[name] = bool
            elif pa.types.is_integer(kind):
                self._numbers[name] = int
            elif pa.types.is_floating(kind):
                self._numbers[name] = np.float32  # a tensor of float32 when collated

    def of(self, item: Item) -> Item:
        for name, number in self._numbers.items():
            value = item[name]
            item[name] = number(0 if value is None else value)
            item[f"{name}_known"] = value is not None
        for name in self._texts:
            item[name] = item[name] or ""
        if "emotion" in item:
            item["emotion"] = self._class_of.get(item["emotion"], -1)
        return item


def open_dataset(  # noqa: PLR0913 - each is a question of its own
    path: str | Path,
    *,
    labels: str | Path | pa.Table | None = None,
    split: str | Sequence[str] | None = None,
    where: str | pyarrow.compute.Expression | None = None,
    columns: Sequence[str] | None = None,
    status: Literal["ok", "rejected", "failed", "excluded", "all"] | None = "ok",
    as_classes: bool | Sequence[str] = False,
    decode: bool = True,
    transform: Callable[[Item], Any] | None = None,
) -> ShardDataset:
    """Open a dataset of normpipe for reading, as a map-style ``torch.utils.data.Dataset``.

    An item is a dict: ``key``, the images, and the labels (None if unknown). A dataset of pairs has
    the images ``image`` and ``normalized``, and ``variant``; any other has ``image``. To batch
    items use :func:`collate`, or ``as_classes``.

    ``open_dataset("OUT", split="train", where="sharpness > 20 and emotion != 'contempt'")``

    Args:
        path: a folder of shards (``OUT/pairs``, ``OUT/normalized/compact``, ``OUT/aligned``), or
            the job's folder ``OUT``: then its pairs, else its only normalized variant.
        labels: a label table or its file; by default ``labels.parquet`` in the dataset's folder or
            above it, up to the job's. Joined by ``key``, else by the input image's key, so that
            several faces of an image share its labels.
        split: only rows with this value, or one of these, of the label ``split``.
        where: only rows that meet a condition on any label or column (``opened.offered`` names
            them): a text such as ``"detection_score > 0.8 and subject in ['S1', 'S2']"``, or an
            expression of pyarrow. A row whose value is unknown does not meet it.
        columns: what an item contains besides ``key``: names of label or shard columns. For pairs
            also the aligned dataset's columns, and the normalized one's as ``normalized_<name>``.
        status: which rows; None is ``all``. Rows other than ``ok`` may lack images (None), and
            their items contain ``status``, ``reason`` and ``decided_by``. Rows that ``normpipe
            exclude`` leaves out are not ``ok`` but ``excluded``, with the reason given for it.
        as_classes: return values of stable type, which ``default_collate`` takes: ``emotion`` as
            its number in ``dataset.classes`` (-1: unknown), other numbers as they are, with 0 where
            they are unknown, and ``<name>_known`` beside each: True where it is known; text as "".
            True: all emotions that occur in the dataset, in the order of AffectNet's release; a
            sequence of names: these, and -1 for all others.
        decode: return images as uint8 tensors (3, H, W) RGB; False returns the encoded bytes.
        transform: called with each item; its return value replaces the item.

    Raises:
        InputError: there is no dataset, or several could be meant, a column or split is unknown,
            the condition is none, or a newer normpipe wrote the dataset.
    """
    found = open_rows(location(path), labels, status)
    classes = None if as_classes is False else _classes(found, as_classes)
    if split is not None:
        found = found.keep(_of_split(found, [split] if isinstance(split, str) else list(split)))
    if where is not None:
        mask = np.zeros(found.rows.num_rows, np.bool_)
        mask[places_where(found, where)] = True
        found = found.keep(mask)
    return ShardDataset(found, columns, decode, transform, classes)


def _of_split(found: OpenedDataset, wanted: Sequence[str]) -> Mask:
    """Return (N,) which rows are of some splits."""
    if "split" not in found.offered:
        raise InputError(f"{found.folder} has no label 'split': give a list with that column")
    column = read_columns(found, ["split"])["split"].to_pylist()
    known = sorted({name for name in column if name})
    for name in wanted:
        if name not in known:
            raise InputError(f"no row has the split '{name}'{nearest(name, known)}")
    return np.asarray([name in wanted for name in column], np.bool_)


def _classes(found: OpenedDataset, wanted: bool | Sequence[str]) -> list[str]:
    """Return the names of the classes that ``as_classes`` asks for."""
    if "emotion" not in found.offered:
        if wanted is True:
            return []
        raise InputError(f"{found.folder} has no label 'emotion' to make classes of")
    labels = found.joined_labels.get("emotion")
    column = read_columns(found, ["emotion"])["emotion"] if labels is None else labels
    there = {name for name in column.to_pylist() if name}
    if wanted is True:
        return sorted_emotions(there)
    names = [str(one) for one in wanted]  # type: ignore[union-attr]
    if unknown := [name for name in names if name not in {*there, *EMOTIONS}]:
        raise InputError(
            f"as_classes: no row shows {first_few(unknown)}{nearest(unknown[0], sorted(there))}"
        )
    return names


def collate(items: list[Item]) -> dict[str, Any]:
    """Collate items for DataLoader, where labels may be None.

    Images of one size become a tensor (N, 3, H, W), numbers without None a tensor (N,); everything
    else stays a list. With ``as_classes`` nothing is None, so no type depends on the rows.
    """
    batch: dict[str, Any] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        shapes = {value.shape if isinstance(value, torch.Tensor) else None for value in values}
        numbers = all(isinstance(value, int | float | np.number) for value in values)
        same = None not in shapes and len(shapes) == 1
        batch[name] = default_collate(values) if numbers or same else values
    return batch
