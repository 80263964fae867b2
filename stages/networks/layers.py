"""Layers shared by several networks."""

from __future__ import annotations

import copy
import math
from itertools import pairwise, product
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

_M = TypeVar("_M", bound=nn.Module)

_ABOVE = 0.84  # share of the cropped rows that are above a face


class UpBlock(nn.Module):
    """Upsampling by 2, then two 3 x 3 convolutions."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', 2H, 2W)."""
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = silu_in_place(self.first(x))
        return silu_in_place(self.second(x))


class TransposedUpBlock(nn.Module):
    """The same as ``UpBlock``, with a transposed convolution instead of upsampling and its first.

    A nearest neighbour fills 2 x 2 pixels, so of 3 x 3 weights only the sums over 2 x 2 count:
    every ``UpBlock`` has such weights, and they need 4 of its 9 multiplications.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(before, width, 4, stride=2, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', 2H, 2W)."""
        x = silu_in_place(self.first(x.contiguous(memory_format=torch.channels_last)))
        return silu_in_place(self.second(x))

    @torch.no_grad()
    def begin_like(self, other: UpBlock) -> None:
        """Take the weights under which it computes the same as ``other``."""
        weight = torch.zeros_like(self.first.weight)  # (before, width, 4, 4)
        for to_row, to_column, row, column in product(range(4), range(4), range(3), range(3)):
            # Kernel place t reaches the pixel t - 1 of the doubled grid, from cell 0.
            if (to_row + row) // 2 == 1 and (to_column + column) // 2 == 1:
                weight[:, :, to_row, to_column] += other.first.weight[:, :, row, column].T
        self.first.weight.copy_(weight)
        if self.first.bias is not None and other.first.bias is not None:
            self.first.bias.copy_(other.first.bias)
        self.second.load_state_dict(other.second.state_dict())


def silu_in_place(x: Tensor) -> Tensor:
    """Return SiLU of (...), in the memory of ``x`` unless its gradient needs it: new is slow."""
    return functional.silu(x, inplace=not torch.is_grad_enabled())


def shuffle_pixels(x: Tensor, side: int) -> Tensor:
    """(B, C * side * side, H, W) → (B, C, H * side, W * side), as ``pixel_shuffle`` does.

    In whatever memory format, it copies once and writes the usual one.
    """
    cells = x.unflatten(1, (-1, side, side))  # (B, C, side, side, H, W)
    return cells.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def warp_by_flow(template: Tensor, flow: Tensor) -> Tensor:
    """Warp a picture by a flow field.

    Args:
        template: (1, 3, S, S) float32.
        flow: (B, 2, s, s) float32: offset, x then y, of the sampled position, in half pictures;
            resized to the template's size.

    Returns:
        (B, 3, S, S) float32; beyond the border, border pixels are repeated.
    """
    size = template.shape[-1]
    flow = functional.interpolate(flow, size=(size, size), mode="bilinear", align_corners=False)
    line = (torch.arange(size, device=flow.device, dtype=torch.float32) + 0.5) * 2 / size - 1
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([columns, rows], -1) + flow.permute(0, 2, 3, 1)  # (B, S, S, 2)
    pictures = template.expand(flow.shape[0], -1, -1, -1)
    return functional.grid_sample(pictures, places, padding_mode="border", align_corners=False)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize (B, C, H, W) to (B, C, size, size), bilinear with anti-aliasing."""
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def around_face(images: Tensor, size: int) -> Tensor:
    """Crop aligned pictures (B, C, S, S) to (B, C, size, size); faces are low in their pictures."""
    margin = images.shape[-1] - size
    top, left = round(_ABOVE * margin), margin // 2
    return images[..., top : top + size, left : left + size]


def init_kaiming(module: nn.Module) -> None:
    """Initialize with Kaiming weights; with torch's default, signals vanish in deep decoders."""
    if isinstance(module, nn.ConvTranspose2d):
        # Each output is a sum over the weights of some of the kernel's places only.
        places = math.prod(module.kernel_size) / math.prod(module.stride)
        nn.init.normal_(module.weight, std=(2 / (module.in_channels * places)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_zeros(module: nn.Module) -> None:
    """Initialize with zeros, for layers that predict a change."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.zeros_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DownBlock(nn.Module):
    """Two 3 x 3 convolutions, the second with a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.keep = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, width, H / stride, W / stride)."""
        x = torch.relu(self.first_norm(self.down(x)))
        return torch.relu(x + self.second_norm(self.keep(x)))


def folded(module: _M) -> _M:
    """Return a copy for inference, its batch normalizations part of the convolutions before them.

    It computes the same up to rounding, in channels-last, which is faster on a CPU.
    """
    made = copy.deepcopy(module).eval().requires_grad_(False)
    for part in made.modules():
        layers = list(part.named_children())
        for (name, layer), (after, norm) in pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(layer, norm))
                setattr(part, after, nn.Identity())
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
