"""Rows of a dataset as a stream: divided among processes and workers, read in the shards' order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from ...manifests.arrays import Rows
from ..errors import InputError
from .reading import GROUPS_KEPT

if TYPE_CHECKING:
    from .dataset import ShardDataset

#: Rows that are read together.
_BLOCK = 64


class ShardStream(IterableDataset[Any]):
    """The items of a :class:`ShardDataset`, each once per epoch. Created by its ``stream``."""

    def __init__(
        self,
        dataset: ShardDataset,
        shuffle: bool,
        seed: int,
        rank: int | None,
        world_size: int | None,
        even: bool,
    ) -> None:
        self._dataset, self._shuffle, self._seed = dataset, shuffle, seed
        # Here, not in a worker of DataLoader, which knows of no process group.
        started = distributed.is_available() and distributed.is_initialized()
        if world_size is None:
            env = int(os.environ.get("WORLD_SIZE", "1"))
            world_size = distributed.get_world_size() if started else env
        if rank is None:
            env = int(os.environ.get("RANK", "0"))
            rank = distributed.get_rank() if started else env
        if not 0 <= rank < world_size:
            raise InputError(f"rank = {rank} of {world_size} processes: it counts from 0")
        self._part = rank, world_size, even
        # Shared with the workers, which DataLoader may keep for all epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; without ``shuffle`` all are alike."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of items that this process gets."""
        return len(self._places())

    def __iter__(self) -> Iterator[Any]:
        places, worker = self._places(), get_worker_info()
        if worker is not None:
            places = np.array_split(places, worker.num_workers)[worker.id]
        for start in range(0, len(places), _BLOCK):
            yield from self._dataset.__getitems__(places[start : start + _BLOCK].tolist())

    def _places(self) -> Rows:
        """Return the rows of this process (N,), in the order of the epoch."""
        rank, world_size, even = self._part
        places = np.arange(len(self._dataset))
        if self._shuffle:
            places = self._mixed(places)
        if even:
            places = places[: len(places) // world_size * world_size]
        return np.array_split(places, world_size)[rank]

    def _mixed(self, places: Rows) -> Rows:
        """Return rows in a random order in which a row group is read once."""
        draw = np.random.default_rng([self._seed, int(self._epoch)])
        groups = self._dataset.opened.sources[0].places[:, :2]  # shard and row group of each row
        groups = np.split(places, np.flatnonzero((groups[1:] != groups[:-1]).any(1)) + 1)
        order = draw.permutation(len(groups))
        parts = [order[start : start + GROUPS_KEPT] for start in range(0, len(order), GROUPS_KEPT)]
        mixed = [np.concatenate([groups[number] for number in part]) for part in parts]
        return np.concatenate([draw.permutation(one) for one in mixed])
