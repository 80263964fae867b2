"""normpipe: turn any face dataset into an identity-normalized one.

The public API. Names are imported on first use, so that ``import normpipe`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.commands.running.from_python import JobResult, run
    from .pipeline.errors import FaceError, InputError, Interrupted, NormpipeError, OutputError
    from .pipeline.read.dataset import ShardDataset, collate, open_dataset
    from .stages.memory.classifying import Classifier
    from .stages.memory.tools import Aligner, ExpressionEncoder, Normalizer

__version__ = "0.1.0"

#: Name → the module that it is in.
_HOMES = {
    "Aligner": "stages.memory.tools",
    "Classifier": "stages.memory.classifying",
    "ExpressionEncoder": "stages.memory.tools",
    "FaceError": "pipeline.errors",
    "InputError": "pipeline.errors",
    "Interrupted": "pipeline.errors",
    "JobResult": "pipeline.commands.running.from_python",
    "Normalizer": "stages.memory.tools",
    "NormpipeError": "pipeline.errors",
    "OutputError": "pipeline.errors",
    "ShardDataset": "pipeline.read.dataset",
    "collate": "pipeline.read.dataset",
    "open_dataset": "pipeline.read.dataset",
    "run": "pipeline.commands.running.from_python",
}

__all__ = [
    "Aligner",
    "Classifier",
    "ExpressionEncoder",
    "FaceError",
    "InputError",
    "Interrupted",
    "JobResult",
    "Normalizer",
    "NormpipeError",
    "OutputError",
    "ShardDataset",
    "__version__",
    "collate",
    "open_dataset",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
