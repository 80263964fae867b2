"""The Python API: every name that ``import normpipe`` offers."""

from .errors import NormpipeError
from .read.dataset import ShardDataset, collate, open_dataset

__all__ = ["NormpipeError", "ShardDataset", "collate", "open_dataset"]
