"""IResNet, the residual network that is common for face-recognition weights.

After Duta et al., "Improved Residual Networks for Image and Video Recognition" (arXiv 2004.04989).
Names are those of insightface's arcface_torch, so its state dicts load once saved as safetensors.
Used only as a frozen loss network with the user's weights; we ship none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_SIDE = 112
_WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Norm, 3 x 3, norm, PReLU, 3 x 3, norm, with an identity or 1 x 1 shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before, eps=1e-5)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=1e-5)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width, eps=1e-5)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(width, eps=1e-5),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H / stride, W / stride)."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """An aligned face → its embedding.

    Args:
        depths: blocks of the four stages, such as (3, 4, 14, 3) for IResNet-50.
        features: length of the embedding.
    """

    def __init__(self, depths: tuple[int, int, int, int], features: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64, eps=1e-5)
        self.prelu = nn.PReLU(64)
        before = 64
        for number, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True), 1):
            blocks = [
                ResidualBlock(before, width, 2),
                *(ResidualBlock(width, width, 1) for _ in range(depth - 1)),
            ]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width
        self.bn2 = nn.BatchNorm2d(before, eps=1e-5)
        self.dropout = nn.Identity()
        self.fc = nn.Linear(before * (_SIDE // 16) ** 2, features)
        self.features = nn.BatchNorm1d(features, eps=1e-5)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, F), not normalized."""
        size = (_SIDE, _SIDE)
        if images.shape[-2:] != size:
            images = functional.interpolate(
                images, size=size, mode="bilinear", antialias=True, align_corners=False
            )
        x = self.prelu(self.bn1(self.conv1(images * 2 - 1)))
        for number in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))
