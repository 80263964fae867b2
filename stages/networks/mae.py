"""A masked autoencoder: pretrains an encoder by reconstructing hidden patches.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377): the encoder
sees a quarter of the patches; a small decoder reconstructs the others from its tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .vit import (
    PATCH_SIZE,
    Shape,
    Stem,
    TransformerBlock,
    Vit,
    init_transformer,
    layer_norm,
    run_blocks,
    sincos_positions,
)

#: The decoder for each encoder size; that of B is the paper's, those of S and T are narrower.
DECODERS = {"T": Shape(96, 2, 3), "S": Shape(256, 8, 8), "B": Shape(512, 8, 16)}
_SMALLEST_VARIANCE = 1e-6


class Reconstruction(NamedTuple):
    """The autoencoder's output.

    Attributes:
        patches: (B, N, 768) pixels of all patches, each with mean 0 and deviation 1.
        hidden: (B, N) bool, the patches that the encoder did not see.
    """

    patches: Tensor
    hidden: Tensor


class MaskedAutoencoder(nn.Module):
    """Pictures with most patches hidden → all their patches.

    Args:
        size: of the encoder: a name in ``vit.SIZES``.
        image_size: side of the pictures, in pixels.
        masked: share of hidden patches.
        stem: of the encoder.
    """

    decoder_positions: Tensor

    def __init__(
        self,
        size: str = "B",
        image_size: int = 224,
        masked: float = 0.75,
        stem: Stem = "patch",
    ) -> None:
        super().__init__()
        self.encoder = Vit(size, image_size, stem)
        self.visible = max(1, round(self.encoder.grid**2 * (1 - masked)))
        width, depth, heads = DECODERS[size]
        self.decoder_embed = nn.Linear(self.encoder.shape.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = sincos_positions(width, self.encoder.grid)
        self.register_buffer("decoder_positions", positions, persistent=False)
        self.decoder_blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.decoder_norm = layer_norm(width)
        self.decoder_pred = nn.Linear(width, 3 * PATCH_SIZE**2)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(init_transformer)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """Reconstruct all patches from the visible ones.

        Args:
            images: (B, 3, S, S) RGB in [0, 1].
            noise: (B, N) random numbers; the patches with the smallest are visible.
        """
        order = noise.argsort(1)
        place = order.argsort(1)  # (B, N) position of each patch in that order
        if self.encoder.stem == "conv":  # a token would else see some of its hidden neighbours
            images = self._without_hidden(images, place)
        patches = self.encoder.embed(images)  # (B, N, D)
        visible = order[:, : self.visible, None].expand(-1, -1, patches.shape[-1])
        x = self.decoder_embed(self.encoder.encode(patches.gather(1, visible)))  # (B, 1 + K, d)
        count = noise.shape[1]
        blank = self.mask_token.to(x.dtype).expand(x.shape[0], count - self.visible, -1)
        whole = torch.cat([x[:, 1:], blank], 1)
        whole = whole.gather(1, place[..., None].expand(-1, -1, whole.shape[-1]))  # (B, N, d)
        x = torch.cat([x[:, :1], whole], 1) + self.decoder_positions
        recompute = self.encoder.recompute and self.training
        x = self.decoder_norm(run_blocks(self.decoder_blocks, x, recompute=recompute))
        return Reconstruction(self.decoder_pred(x[:, 1:]), place >= self.visible)

    def _without_hidden(self, images: Tensor, place: Tensor) -> Tensor:
        """Paint hidden patches in the mean colour, which the encoder normalizes to 0."""
        grid = self.encoder.grid
        hidden = (place >= self.visible).unflatten(1, (1, grid, grid)).to(images.dtype)
        hidden = functional.interpolate(hidden, scale_factor=float(PATCH_SIZE))  # (B, 1, S, S)
        return images + hidden * (self.encoder.mean - images)


def masked_loss(reconstruction: Reconstruction, images: Tensor) -> Tensor:
    """Return the mean squared error (), over hidden patches normalized to mean 0 and deviation 1.

    ``images``: (B, 3, S, S) RGB in [0, 1], complete.
    """
    truth, _, _ = normalized_patches(images)
    error = (reconstruction.patches.float() - truth).square().mean(-1)  # (B, N)
    return (error * reconstruction.hidden).sum() / reconstruction.hidden.sum()


def patches_of(images: Tensor) -> Tensor:
    """(B, 3, S, S) → (B, (S / 16)², 768): patches row by row; within one: row, column, colour."""
    cut = images.unflatten(3, (-1, PATCH_SIZE)).unflatten(2, (-1, PATCH_SIZE))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def picture_of(patches: Tensor) -> Tensor:
    """(B, n², 768) → (B, 3, 16 n, 16 n): the inverse of ``patches_of``."""
    grid = round(patches.shape[1] ** 0.5)
    cut = patches.unflatten(2, (PATCH_SIZE, PATCH_SIZE, 3)).unflatten(1, (grid, grid))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def normalized_patches(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, S, S) → patches (B, N, 768) of mean 0 and deviation 1, and those two (B, N, 1)."""
    patches = patches_of(images)
    mean = patches.mean(-1, keepdim=True)
    deviation = (patches.var(-1, keepdim=True) + _SMALLEST_VARIANCE).sqrt()
    return (patches - mean) / deviation, mean, deviation


def reconstructed_picture(reconstruction: Reconstruction, images: Tensor) -> Tensor:
    """Return (B, 3, S, S) RGB: the visible patches of ``images``, and the reconstructed others.

    Reconstructed patches get the true mean and deviation, which were not to be predicted.
    """
    _, mean, deviation = normalized_patches(images)
    painted = reconstruction.patches.float() * deviation + mean
    return picture_of(torch.where(reconstruction.hidden[..., None], painted, patches_of(images)))
