"""All that a network computes in a training step, in one forward pass, as DDP requires."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...networks.base import CodeNormalizer, NormalizerNetwork, Reading
from ..batching import Batch, NetworkOutputs
from ..trainer import keep_norms
from .batches import unit_rgb
from .label_heads import LabelHeads


class Views(nn.Module):
    """Runs a network on a batch and returns all that the losses need.

    ``coefficients``, ``landmarks`` and ``pose`` of all images (pairs, then real faces); if needed,
    ``picture`` of the images in ``drawn``, ``weak`` and ``weak_picture`` of undegraded real faces
    (without gradient), ``again`` and ``again_picture`` of the network's own pictures; what the
    label heads, if any, read off the real faces.

    Args:
        network: to run.
        needs: of the losses.
        heads: that read labels.
        norms_frozen: batch norms use their running statistics, and leave them as they are.
    """

    def __init__(
        self,
        network: NormalizerNetwork,
        needs: frozenset[str],
        heads: LabelHeads | None = None,
        norms_frozen: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.needs = needs
        self.heads = heads
        self.norms_frozen = norms_frozen

    def train(self, mode: bool = True) -> Views:
        """Set training mode, for all but frozen batch norms."""
        super().train(mode)
        if self.norms_frozen:
            keep_norms(self)
        return self

    def forward(self, batch: Batch) -> NetworkOutputs:
        """Return the outputs, by name.

        ``images``, (P + R, C, S, S) uint8, are the pairs' sources, then real faces. Outputs are
        ``coefficients`` (P + R, E), ``landmarks`` (P + R, 136), ``pose`` (P + R, 3) and, if
        pictures are drawn, ``picture`` (D, 3, T, T) and their rows ``drawn`` (D,).
        """
        images = unit_rgb(batch["images"])  # (P + R, 3, S, S)
        drawn = self._drawn(batch, len(images), images.device)
        reading, picture = self._run(images, drawn)
        outputs: NetworkOutputs = dict(reading._asdict())
        if picture is not None and drawn is not None:
            outputs |= {"picture": picture, "drawn": drawn}
        if self.heads is not None:
            outputs |= self.heads(reading.coefficients[len(batch["expression"]) :])
        if "weak" in self.needs and "weak" in batch:
            outputs |= self._weak(unit_rgb(batch["weak"]))
        if "again" in self.needs and picture is not None:
            outputs |= self._again(picture.float().detach().clamp(0, 1))
        return outputs

    def _drawn(self, batch: Batch, count: int, device: torch.device) -> Tensor | None:
        """Return which images are drawn: pairs with a target, then real faces if needed."""
        if not self.needs & {"target", "drawn"}:
            return None
        rows = torch.arange(count, device=device)
        pairs = rows[: len(batch["target"])]
        faces = rows[len(batch["expression"]) :]
        return torch.cat([pairs, faces]) if "drawn" in self.needs else pairs

    def _run(self, images: Tensor, drawn: Tensor | None) -> tuple[Reading, Tensor | None]:
        network = self.network
        if drawn is None:
            return network.encode(images), None
        made = network.forward_train(images, drawn)
        return made.reading, made.picture

    def _weak(self, images: Tensor) -> NetworkOutputs:
        """Run the network as in use: with running statistics and without dropout."""
        with torch.no_grad(), _eval_mode(self.network):
            rows = torch.arange(len(images), device=images.device)
            wanted = rows if "weak_picture" in self.needs else None
            reading, picture = self._run(images, wanted)
        outputs = {"weak": reading.coefficients}
        return outputs if picture is None else {**outputs, "weak_picture": picture}

    def _again(self, pictures: Tensor) -> NetworkOutputs:
        """Use running statistics: pictures of one face only would bias them."""
        with _eval_mode(self.network):
            rows = torch.arange(len(pictures), device=pictures.device)
            wanted = rows if "again_picture" in self.needs else None
            reading, picture = self._run(pictures, wanted)
        outputs = {"again": reading.coefficients}
        return outputs if picture is None else {**outputs, "again_picture": picture}


class DecoderView(nn.Module):
    """Runs a decoder on exact coefficients."""

    def __init__(self, network: CodeNormalizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> NetworkOutputs:
        """Return ``picture`` (B, 3, T, T) of the batch's ``expression`` (B, E)."""
        return {"picture": self.network.draw(batch["expression"])}


class _eval_mode:
    """Puts a module into evaluation mode within a ``with`` block."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.was = {module: module.training for module in self.module.modules()}
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.was.items():
            module.training = training
