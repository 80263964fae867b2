"""Predicts the landmarks of a face in a grey crop, and whether it is a face.

Small, because the default detector runs it on every picture, one at a time, on one core.
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

# Five points as weighted means of 68, to match detectors trained on hand-clicked points: an eye is
# the mean of lid corners and upper lid (the iris, which the upper lid partly covers); the tip of
# the nose is a little below point 30, a mouth corner a little up the upper lip. Chosen on renders,
# by where SCRFD marks exact points: docs/models/landmarks.md.
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
#: Maximum distance of a detector's marks from the means, in inter-ocular distances.
_FARTHEST_MARK = 0.15


class LandmarkOutput(NamedTuple):
    """The network's predictions for a crop.

    Attributes:
        points68: (B, 68, 2) x, y; 0 the crop's centre, 1 its right or lower edge.
        face: (B,) logit that it is a face.
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
    """A face in a frame with level eyes, one unit apart, and the origin between them.

    Attributes:
        points: (B, 68, 2) in that frame.
        axes: (B, 2, 2), its x and y directions as columns.
        apart: (B, 1, 1), the distance between the eyes in the original unit.
        five: (B, 5, 2) ``five_of``, in the original unit.
    """

    points: Tensor
    axes: Tensor
    apart: Tensor
    five: Tensor

    @classmethod
    def of(cls, points68: Tensor) -> UprightFace:
        """Transform points (B, 68, 2), in any unit."""
        five = five_of(points68)
        across = five[:, 1] - five[:, 0]
        apart = across.norm(dim=-1).clamp_min(1e-3)[:, None, None]
        x = across / apart[:, :, 0]
        axes = torch.stack([x, torch.stack([-x[:, 1], x[:, 0]], -1)], -1)
        middle = five[:, :2].mean(1, keepdim=True)
        return cls((points68 - middle) @ axes / apart, axes, apart, five)


class LandmarkNet(nn.Module):
    """A grey crop around a face → 68 landmarks and whether it is a face.

    It learns all 68 points, which costs nothing and trains better than five. ``FIVE_OF_68`` gives
    the five from them; ``marks`` gives them as a detector trained on hand-clicked points would.
    """

    point_mean: Tensor
    mark_weight: Tensor
    mark_bias: Tensor

    def __init__(self, widths: tuple[int, int, int] = (48, 96, 112)) -> None:
        super().__init__()
        self.widths = widths
        first, second, third = widths
        # Patches of 4 x 4 pixels: wide layers on small maps are fast.
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
        # From an upright face's 68 points to the offsets of marks from means; fitted on renders.
        self.register_buffer("mark_weight", torch.zeros(10, 2 * _POINTS))
        self.register_buffer("mark_bias", torch.zeros(10))

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same network again, as JSON values."""
        return {"widths": list(self.widths)}

    def forward(self, grey: Tensor) -> LandmarkOutput:
        """(B, 1, 80, 80) float32 grey in [0, 1] → predictions."""
        mean = grey.mean((2, 3), keepdim=True)
        spread = grey.std((2, 3), keepdim=True).clamp_min(0.02)
        features = torch.relu(self.squeeze(self.blocks(self.patches((grey - mean) / spread))))
        out = self.head(features.flatten(1)).float()
        points = out[:, :-1].reshape(-1, _POINTS, 2) + self.point_mean
        return LandmarkOutput(points, out[:, -1])

    def marks(self, points68: Tensor) -> Tensor:
        """(B, 68, 2) → (B, 5, 2), where a detector would mark the five; any unit.

        The means of ``FIVE_OF_68``, moved by a linear function of the upright face.
        """
        face = UprightFace.of(points68)
        moved = functional.linear(face.points.flatten(1), self.mark_weight, self.mark_bias)
        moved = moved.clamp(-_FARTHEST_MARK, _FARTHEST_MARK).unflatten(1, (5, 2))
        return face.five + face.apart * (moved @ face.axes.mT)
