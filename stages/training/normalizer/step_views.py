"""What a network is shown in a training step, in one forward pass, so that DDP can follow it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...networks.base import CodeNormalizer, Normalizer, Outputs, Reading, leaky_clamp
from ..batching import Batch, Seen
from .batches import unit_rgb


class Views(nn.Module):
    """Shows a network a batch and returns all that the losses look at.

    ``coefficients``, ``landmarks`` and ``pose`` of all images (pairs, then real faces); where
    needed ``picture`` of the images in ``drawn``, ``weak`` and ``weak_picture`` of undegraded real
    faces (without gradient), ``again`` and ``again_picture`` of the network's own pictures.
    """

    def __init__(self, network: Normalizer, needs: frozenset[str]) -> None:
        super().__init__()
        self.network = network
        self.needs = needs

    def forward(self, batch: Batch) -> Seen:
        """Return what was seen, by name.

        ``images``, (P + R, C, S, S) uint8, are the pairs' sources, then real faces; seen are
        ``coefficients`` (P + R, E), ``landmarks`` (P + R, 136) and ``pose`` (P + R, 3), and where
        pictures are drawn, ``picture`` (D, 3, T, T) and which those are, ``drawn`` (D,).
        """
        images = unit_rgb(batch["images"])  # (P + R, 3, S, S)
        drawn = self._drawn(batch, len(images), images.device)
        reading, picture = self._look(images, drawn)
        seen: Seen = dict(reading._asdict())
        if picture is not None and drawn is not None:
            seen |= {"picture": picture, "drawn": drawn}
        if "weak" in self.needs and "weak" in batch:
            seen |= self._weak(unit_rgb(batch["weak"]))
        if "again" in self.needs and picture is not None:
            seen |= self._again(picture.float().detach().clamp(0, 1))
        return seen

    def _drawn(self, batch: Batch, count: int, device: torch.device) -> Tensor | None:
        """Which images are drawn: pairs with a target first, then real faces where a loss asks."""
        if not self.needs & {"target", "drawn"}:
            return None
        rows = torch.arange(count, device=device)
        pairs = rows[: len(batch["target"])]
        faces = rows[len(batch["expression"]) :]
        return torch.cat([pairs, faces]) if "drawn" in self.needs else pairs

    def _look(self, images: Tensor, drawn: Tensor | None) -> tuple[Reading, Tensor | None]:
        network = self.network
        if drawn is None:
            return network.see(images), None
        if isinstance(network, CodeNormalizer):
            reading = network.see(images)
            return reading, network.draw(leaky_clamp(reading.coefficients[drawn]))
        made: Outputs = network.learn(images)
        return made.reading, made.picture[drawn]

    def _weak(self, images: Tensor) -> Seen:
        """As the network will be used: with running statistics and without dropout."""
        with torch.no_grad(), _evaluating(self.network):
            everyone = torch.arange(len(images), device=images.device)
            wanted = everyone if "weak_picture" in self.needs else None
            reading, picture = self._look(images, wanted)
        seen = {"weak": reading.coefficients}
        return seen if picture is None else {**seen, "weak_picture": picture}

    def _again(self, pictures: Tensor) -> Seen:
        """With running statistics: one face over and over would spoil them."""
        with _evaluating(self.network):
            everyone = torch.arange(len(pictures), device=pictures.device)
            wanted = everyone if "again_picture" in self.needs else None
            reading, picture = self._look(pictures, wanted)
        seen = {"again": reading.coefficients}
        return seen if picture is None else {**seen, "again_picture": picture}


class DecoderView(nn.Module):
    """Shows a decoder exact coefficients."""

    def __init__(self, network: CodeNormalizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Seen:
        """Return ``picture`` (B, 3, T, T) of the batch's ``expression`` (B, E)."""
        return {"picture": self.network.draw(batch["expression"])}


class _evaluating:
    """Evaluation mode for a while."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.was = module.training

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.train(self.was)
