"""Torch modules, without file access except in ``files/``."""

from collections.abc import Callable
from typing import Any

from .base import NormalizerNetwork
from .compact import CompactNormalizer
from .norface import NorfaceNormalizer

#: Name on the command line → network; without arguments, it has its default shape.
NETWORKS: dict[str, Callable[..., NormalizerNetwork]] = {
    "compact": CompactNormalizer,
    "norface": NorfaceNormalizer,
}

#: Name → settings that hold for weights that do not name them: those of files of 0.1.0.
UNSAID: dict[str, dict[str, Any]] = {
    "compact": {"decoder": "fine"},
    "norface": {"paint": "whole"},
}
