"""Predicts expressions from pictures of the target face, to judge normalizers; never a loss.

Small on purpose: face, pose and light are always the same, only the expression differs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .layers import DownBlock, resize

INPUT_SIZE = 112
_LUMA = (0.299, 0.587, 0.114)  # BT.601, as in JPEG
_LEAST_SPREAD = 0.05  # or rare shapes would outweigh all others
_LEAST_MOTION = 0.004  # half pictures; for points that hardly move


class ReaderOutput(NamedTuple):
    """The reader's predictions.

    Attributes:
        coefficients: (B, E), not clamped.
        points: (B, 136) x, y of 68 landmarks, 0 the picture's centre, 1 its edge.
    """

    coefficients: Tensor
    points: Tensor


class ExpressionReader(nn.Module):
    """A picture of the target face → its expression coefficients and landmarks.

    Positions are kept up to the last layer: features of this face are known by position.
    """

    code_mean: Tensor
    code_spread: Tensor
    point_mean: Tensor
    point_spread: Tensor

    def __init__(self, expressions: int, width: int = 32) -> None:
        super().__init__()
        self.expressions = expressions
        self.width = width
        # Patches of 4 x 4 pixels: wide layers on small maps are fast.
        self.patches = nn.PixelUnshuffle(4)
        self.blocks = nn.Sequential(  # at 28, 14 and 7 pixels
            DownBlock(16, 2 * width, 1),
            DownBlock(2 * width, 3 * width, 2),
            DownBlock(3 * width, 4 * width, 2),
        )
        self.squeeze = nn.Conv2d(4 * width, 24, 1)
        side = INPUT_SIZE // 16
        self.head = nn.Linear(24 * side * side, expressions + 136)
        nn.init.normal_(self.head.weight, std=0.01)
        self.register_buffer("code_mean", torch.zeros(expressions))
        self.register_buffer("code_spread", torch.ones(expressions))
        self.register_buffer("point_mean", torch.zeros(136))
        self.register_buffer("point_spread", torch.ones(136))

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same network again, as JSON values."""
        return {"expressions": self.expressions, "width": self.width}

    def set_scale(self, coefficients: Tensor, points: Tensor) -> None:
        """Set mean and spread from (N, E) coefficients and (N, 136) points."""
        self.code_mean.copy_(coefficients.mean(0))
        self.code_spread.copy_(coefficients.std(0).clamp_min(_LEAST_SPREAD))
        self.point_mean.copy_(points.mean(0))
        self.point_spread.copy_(points.std(0).clamp_min(_LEAST_MOTION))

    @staticmethod
    def to_grey(images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, 1, 112, 112) grey in [0, 1]."""
        weights = torch.tensor(_LUMA, device=images.device, dtype=images.dtype)
        return resize((images * weights[None, :, None, None]).sum(1, keepdim=True), INPUT_SIZE)

    def read(self, grey: Tensor) -> ReaderOutput:
        """(B, 1, 112, 112) grey in [0, 1] → predictions."""
        mean = grey.mean((2, 3), keepdim=True)
        spread = grey.std((2, 3), keepdim=True).clamp_min(0.02)
        features = torch.relu(self.squeeze(self.blocks(self.patches((grey - mean) / spread))))
        out = self.head(features.flatten(1)).float()
        code, points = out.split([self.expressions, 136], 1)
        return ReaderOutput(
            code * self.code_spread + self.code_mean, points * self.point_spread + self.point_mean
        )

    def forward(self, images: Tensor) -> ReaderOutput:
        """(B, 3, H, W) RGB in [0, 1], the target face, any size → predictions."""
        return self.read(self.to_grey(images))


def as_images(pictures: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 RGB or (N, H, W) grey → (N, 3, H, W) float32 RGB in [0, 1]."""
    if pictures.ndim == 3:
        pictures = np.repeat(pictures[..., None], 3, -1)
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
