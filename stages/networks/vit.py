"""A vision transformer: pictures as patch tokens (Dosovitskiy et al. 2021, arXiv 2010.11929).

Layers are named as in public masked-autoencoder checkpoints, so that those load directly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ...pipeline.errors import InputError, nearest

PATCH_SIZE = 16
#: Mean and deviation of ImageNet's RGB in [0, 1]: the input normalization of public encoders.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_DEVIATION = (0.229, 0.224, 0.225)
_EPSILON = 1e-6
_GROUPS = 8  # of channels that are normalized together

Stem = Literal["patch", "conv"]


class Shape(NamedTuple):
    """Width of a token, transformer blocks, attention heads."""

    width: int
    depth: int
    heads: int


#: ViT-S and ViT-B as published; ``T``, as wide as ViT-Ti and half as deep, learns on a CPU.
SIZES = {"T": Shape(192, 6, 3), "S": Shape(384, 12, 6), "B": Shape(768, 12, 12)}


def shape_of(size: str) -> Shape:
    """Return the shape of a named size. Raises InputError for an unknown name."""
    if size not in SIZES:
        raise InputError(
            f"unknown network size '{size}'{nearest(size, list(SIZES))}: use {', '.join(SIZES)}"
        )
    return SIZES[size]


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v))


class CrossAttention(nn.Module):
    """Multi-head cross-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        """(B, N, D), (B, M, D) → (B, N, D)."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(others).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, N, d) queries, (B, heads, M, d) keys and values → (B, N, heads * d)."""
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with a hidden layer four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return self.fc2(functional.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def layer_norm(width: int, bias: bool = True) -> nn.LayerNorm:
    """Return the layer norm of all our transformers."""
    return nn.LayerNorm(width, eps=_EPSILON, bias=bias)


def run_blocks(blocks: nn.ModuleList, x: Tensor, *others: Tensor, recompute: bool) -> Tensor:
    """Run blocks one after the other: (B, N, D) → (B, N, D).

    Args:
        blocks: modules that keep the shape.
        x: (B, N, D) tokens.
        others: further arguments of every block.
        recompute: use activation checkpointing in training, trading time for memory.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, *others, use_reentrant=False)
        else:
            x = block(x, *others)
    return x


class ConvEmbed(nn.Module):
    """Five convolutions → one token per patch, which has also seen what surrounds it.

    After Xiao et al. 2021, "Early Convolutions Help Transformers See Better" (arXiv 2106.14881).
    Here it learnt a little more per step than patches, at a third more time a step.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3, width // 8, width // 4, width // 2, width)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(_GROUPS, after))
            for before, after in pairwise(widths)
        )
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, (S / 16)², D), rows first."""
        for step in self.steps:
            x = torch.relu(step(x))
        return self.proj(x).flatten(2).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Cuts a picture into patches and projects each to a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_SIZE, PATCH_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, (S / 16)², D), rows first."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    """Picture → tokens.

    Args:
        size: a name in ``SIZES``.
        image_size: side of the pictures it takes, in pixels; a multiple of 16.
        stem: ``patch``, as in public checkpoints, or ``conv``, see ``ConvEmbed``.

    Attributes:
        shape: width, depth and heads.
        image_size: side of the pictures it takes, in pixels.
        grid: patches along a side.
        recompute: recompute each block's activations in the backward pass, to save memory.
        stem: as given.
    """

    pos_embed: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, size: str = "B", image_size: int = 224, stem: Stem = "patch") -> None:
        super().__init__()
        if stem not in ("patch", "conv"):
            raise InputError(f"unknown stem '{stem}': use patch or conv")
        if image_size < PATCH_SIZE or image_size % PATCH_SIZE:
            raise InputError(
                f"image_size = {image_size} is no multiple of the patch size {PATCH_SIZE}: "
                "choose one, such as 224"
            )
        self.shape = shape_of(size)
        self.image_size = image_size
        self.grid = image_size // PATCH_SIZE
        self.recompute = False
        width, depth, heads = self.shape
        self.stem = stem
        self.patch_embed = ConvEmbed(width) if stem == "conv" else PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sincos_positions(width, self.grid))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = layer_norm(width)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        deviation = torch.tensor(PIXEL_DEVIATION).view(1, 3, 1, 1)
        self.register_buffer("deviation", deviation, persistent=False)
        self.apply(init_transformer)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) RGB in [0, 1] → (B, 1 + (S / 16)², D), the class token first."""
        return self.encode(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) RGB in [0, 1] → (B, (S / 16)², D) patches with position embeddings."""
        return self.patch_embed((images - self.mean) / self.deviation) + self.pos_embed[:, 1:]

    def encode(self, patches: Tensor) -> Tensor:
        """(B, N, D), all patches or some → (B, 1 + N, D), the class token first."""
        first = (self.cls_token + self.pos_embed[:, :1]).expand(patches.shape[0], -1, -1)
        x = torch.cat([first.to(patches.dtype), patches], 1)
        return self.norm(run_blocks(self.blocks, x, recompute=self.recompute and self.training))


def init_transformer(module: nn.Module) -> None:
    """Initialize with Xavier-uniform weights, as in the MAE paper (arXiv 2111.06377)."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sincos_positions(width: int, grid: int) -> Tensor:
    """Return fixed position embeddings (1, 1 + grid², width): class token (0), then patches by row.

    Sine and cosine of the column at width / 4 wavelengths, then of the row (Vaswani et al. 2017,
    in two dimensions as in arXiv 2111.06377).
    """
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    line = torch.arange(grid, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    turns = [axis.reshape(-1, 1) * rates for axis in (columns, rows)]
    places = torch.cat([part for turn in turns for part in (turn.sin(), turn.cos())], 1)
    return torch.cat([torch.zeros(1, width), places.float()])[None]
