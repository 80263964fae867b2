"""Finds the five points of a face in a grey crop, and says whether it is a face at all.

Small, since it runs on every picture of the default detector, one at a time, on one core.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .layers import DownBlock

INPUT_SIZE = 80
_POINTS = 68  # iBUG's

# Means of 68 points, as detectors learnt five from people who clicked on them: an eye is the middle
# of lid corners and upper lid, where an iris sits that the upper lid partly covers; the tip of the
# nose is a little below point 30, a mouth corner a little up the upper lip. Chosen on renders, by
# where SCRFD marks exact ones: docs/models/landmarks.md.
_RULES: tuple[dict[int, float], ...] = (
    dict.fromkeys((36, 37, 38, 39), 0.25),
    dict.fromkeys((42, 43, 44, 45), 0.25),
    {30: 0.9, 33: 0.1},
    {48: 0.83, 49: 0.17},
    {54: 0.83, 53: 0.17},
)
FIVE_OF_68: NDArray[np.float32] = np.zeros((5, _POINTS), np.float32)
for _row, _rule in enumerate(_RULES):
    for _point, _share in _rule.items():
        FIVE_OF_68[_row, _point] = _share
FIVE_OF_68.setflags(write=False)
#: How far a detector's marks may lie from the means, in distances between the eyes.
_FARTHEST_MARK = 0.15


class Found(NamedTuple):
    """What the network sees in a crop.

    Attributes:
        points68: (B, 68, 2) x, y; 0 the crop's centre, 1 its right or lower edge.
        face: (B,) logit of "this is a face".
    """

    points68: Tensor
    face: Tensor

    @property
    def five(self) -> Tensor:
        """(B, 5, 2) in the order of ``LANDMARK_NAMES``, in the unit of ``points68``."""
        return five_of(self.points68)


def five_of(points68: Tensor) -> Tensor:
    """(B, 68, 2) → (B, 5, 2): the means of ``FIVE_OF_68``."""
    return torch.from_numpy(FIVE_OF_68.copy()).to(points68) @ points68


class UprightFace(NamedTuple):
    """A face seen with its eyes level and one unit apart, its origin between them.

    Attributes:
        points: (B, 68, 2) in that frame.
        axes: (B, 2, 2), its directions x and y as columns.
        apart: (B, 1, 1), the distance between the eyes in the unit before.
        five: (B, 5, 2) ``five_of``, in the unit before.
    """

    points: Tensor
    axes: Tensor
    apart: Tensor
    five: Tensor

    @classmethod
    def of(cls, points68: Tensor) -> UprightFace:
        """From (B, 68, 2) in any unit."""
        five = five_of(points68)
        across = five[:, 1] - five[:, 0]
        apart = across.norm(dim=-1).clamp_min(1e-3)[:, None, None]
        x = across / apart[:, :, 0]
        axes = torch.stack([x, torch.stack([-x[:, 1], x[:, 0]], -1)], -1)
        middle = five[:, :2].mean(1, keepdim=True)
        return cls((points68 - middle) @ axes / apart, axes, apart, five)


class LandmarkNet(nn.Module):
    """A grey crop about a face → 68 landmarks and whether it is one.

    It learns all 68 points, which costs nothing and teaches more than five; ``FIVE_OF_68`` says
    which five are meant, and ``marks`` where a detector that learnt from people's clicks puts them.
    """

    point_mean: Tensor
    mark_weight: Tensor
    mark_bias: Tensor

    def __init__(self, widths: tuple[int, int, int] = (48, 96, 112)) -> None:
        super().__init__()
        self.widths = widths
        first, second, third = widths
        # Patches of 4 x 4 pixels at once: wide layers on few places are what processors do fast.
        self.patches = nn.PixelUnshuffle(4)
        self.blocks = nn.Sequential(  # at 20, 10 and 5 pixels
            DownBlock(16, first, 1), DownBlock(first, second, 2), DownBlock(second, third, 2)
        )
        self.squeeze = nn.Conv2d(third, 24, 1)
        side = INPUT_SIZE // 16
        self.head = nn.Linear(24 * side * side, 2 * _POINTS + 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("point_mean", torch.zeros(_POINTS, 2))
        # From an upright face's 68 points to how far marks lie from their means; fitted on renders.
        self.register_buffer("mark_weight", torch.zeros(10, 2 * _POINTS))
        self.register_buffer("mark_bias", torch.zeros(10))

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that build the same network again, as JSON values."""
        return {"widths": list(self.widths)}

    def forward(self, grey: Tensor) -> Found:
        """(B, 1, 80, 80) float32 grey in [0, 1] → what is seen."""
        mean = grey.mean((2, 3), keepdim=True)
        spread = grey.std((2, 3), keepdim=True).clamp_min(0.02)
        features = torch.relu(self.squeeze(self.blocks(self.patches((grey - mean) / spread))))
        out = self.head(features.flatten(1)).float()
        points = out[:, :-1].reshape(-1, _POINTS, 2) + self.point_mean
        return Found(points, out[:, -1])

    def marks(self, points68: Tensor) -> Tensor:
        """(B, 68, 2) → (B, 5, 2), where a detector would mark the five; any unit.

        The means of ``FIVE_OF_68``, moved by a linear function of the upright face.
        """
        face = UprightFace.of(points68)
        moved = functional.linear(face.points.flatten(1), self.mark_weight, self.mark_bias)
        moved = moved.clamp(-_FARTHEST_MARK, _FARTHEST_MARK).unflatten(1, (5, 2))
        return face.five + face.apart * (moved @ face.axes.mT)
