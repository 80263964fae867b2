"""Torch modules: no file access but in ``checkpoint``."""

from collections.abc import Callable

from torch import nn

from .compact import CompactNormalizer

#: Name on the command line → network with its default shape.
NETWORKS: dict[str, Callable[[], nn.Module]] = {"compact": CompactNormalizer}
