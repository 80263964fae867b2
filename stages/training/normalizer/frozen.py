"""Frozen networks that the user supplies, for the losses ``identity`` and ``expression``.

Shipped weights use none. A network is a .safetensors file: weights of a normalizer, which record
their architecture, or of one of ``ARCHITECTURES``, named in the file's notes or the job file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ....pipeline.errors import InputError, nearest
from ...networks import NETWORKS
from ...networks.base import NormalizerNetwork
from ...networks.files.checkpoint import load_weights, read_notes
from ...networks.files.normalizer_file import open_normalizer
from ...networks.iresnet import IResNet

#: Name → network that turns (B, 3, H, W) RGB in [0, 1] into (B, F) features.
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "iresnet18": lambda: IResNet((2, 2, 2, 2)),
    "iresnet34": lambda: IResNet((3, 4, 6, 3)),
    "iresnet50": lambda: IResNet((3, 4, 14, 3)),
    "iresnet100": lambda: IResNet((3, 13, 30, 3)),
}


class Coefficients(nn.Module):
    """A normalizer's coefficients, as features."""

    def __init__(self, network: NormalizerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E), not clamped, so that gradients reach everything."""
        return self.network.encode(images).coefficients.float()


def open_frozen(path: Path, architecture: str = "") -> nn.Module:
    """Open a network that is not trained.

    Args:
        path: a .safetensors file.
        architecture: one of ``ARCHITECTURES``; empty if the file's notes name it.

    Raises:
        InputError: no such file, an unknown architecture, or weights that do not match it.
    """
    notes = read_notes(path) if path.suffix == ".safetensors" else {}
    if not architecture and (notes.get("network") in NETWORKS or not notes):
        network: nn.Module = Coefficients(open_normalizer(path).module)
    else:
        name = architecture or notes.get("architecture", "")
        if name not in ARCHITECTURES:
            raise InputError(
                f"{path} has the unknown architecture '{name}'"
                f"{nearest(name, list(ARCHITECTURES))}: known are {', '.join(ARCHITECTURES)}"
            )
        network = ARCHITECTURES[name]()
        load_weights(network, path)
    return _AlwaysEval(network.requires_grad_(False).eval())


class _AlwaysEval(nn.Module):
    """Stays in evaluation mode, even after ``train()``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> _AlwaysEval:
        self.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.network(images.float())
