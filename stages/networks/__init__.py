"""Torch modules, without file access except in ``files/``."""

from collections.abc import Callable

from .base import Normalizer
from .compact import CompactNormalizer
from .norface import NorfaceNormalizer

#: Name on the command line → network; without arguments, it has its default shape.
NETWORKS: dict[str, Callable[..., Normalizer]] = {
    "compact": CompactNormalizer,
    "norface": NorfaceNormalizer,
}
