"""Target pictures as training batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .pictures import PairCache


class TargetBatches(Dataset[dict[str, Tensor]]):
    """Batch number n of coefficients and target pictures, a function of (seed, n) alone.

    No mirroring: the target's light comes from one side.
    """

    def __init__(self, cache: PairCache, batch_size: int, seed: int) -> None:
        self.cache = cache
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 21, step])
        rows = rng.integers(0, len(self.cache.target_of), self.batch_size)
        return {
            "expression": torch.from_numpy(self.cache.expression[self.cache.target_of[rows]]),
            "target": torch.from_numpy(self.cache.target[rows]),
        }
