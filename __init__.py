"""normpipe: turn any face dataset into an identity-normalized one.

The public API. Names are imported on first use, so that ``import normpipe`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.errors import NormpipeError
    from .pipeline.read.dataset import ShardDataset, collate, open_dataset

__version__ = "0.1.0"

_HOMES = {
    "open_dataset": ".pipeline.dataset",
    "ShardDataset": ".pipeline.dataset",
    "collate": ".pipeline.dataset",
    "NormpipeError": ".pipeline.errors",
}

__all__ = ["NormpipeError", "ShardDataset", "__version__", "collate", "open_dataset"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
