"""Batches by number: batch n depends on (seed, n) alone, so a resumed run gets the same ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ...manifests.arrays import Rows

#: Inputs of a network, by name.
Batch = dict[str, Tensor]
#: Its outputs for a batch, by name.
NetworkOutputs = dict[str, Tensor]

#: The length of an endless dataset of batches.
ENDLESS = 1 << 40


@lru_cache(maxsize=8)
def _order(seed: int, tag: int, epoch: int, count: int) -> Rows:
    return np.random.default_rng([seed, tag, epoch]).permutation(count)


def batch_rows(count: int, batch_size: int, step: int, seed: int, tag: int) -> Rows:
    """Return (B,) rows out of ``count`` for batch ``step``, drawn without replacement per epoch."""
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    rows = np.empty(len(wanted), np.int64)
    for epoch in np.unique(wanted // count):
        here = wanted // count == epoch
        rows[here] = _order(seed, tag, int(epoch), count)[wanted[here] % count]
    return rows
