"""normpipe: turn any face dataset into an identity-normalized one.

The public API. Names are imported on first use, so that ``import normpipe`` stays fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.api import NormpipeError, ShardDataset, collate, open_dataset

__version__ = "0.1.0"

__all__ = ["NormpipeError", "ShardDataset", "__version__", "collate", "open_dataset"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in __all__:
        from .pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
