"""Batches by number: batch n is a function of (seed, n) alone, so a resumed run sees the same."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ...manifests.arrays import Rows

#: What a network is shown, by name.
Batch = dict[str, Tensor]
#: What it made of a batch, by name.
Seen = dict[str, Tensor]

#: The length of a data set of batches: there is always one more.
ENDLESS = 1 << 40


@lru_cache(maxsize=8)
def _order(seed: int, tag: int, epoch: int, count: int) -> Rows:
    return np.random.default_rng([seed, tag, epoch]).permutation(count)


def chosen(count: int, batch_size: int, step: int, seed: int, tag: int) -> Rows:
    """(B,) of ``count`` for batch ``step``: every one once before any comes again."""
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    rows = np.empty(len(wanted), np.int64)
    for epoch in np.unique(wanted // count):
        here = wanted // count == epoch
        rows[here] = _order(seed, tag, int(epoch), count)[wanted[here] % count]
    return rows
