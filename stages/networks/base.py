"""What every normalizer is: a face in, the target face with the same expression out."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class Reading(NamedTuple):
    """What an encoder sees in a picture.

    Attributes:
        coefficients: (B, E) expression coefficients, not yet clamped to [0, 1].
        landmarks: (B, 136) x, y of 68 points, 0 the centre, 1 the edge; an aid in training.
        pose: (B, 3) yaw, pitch, roll in units of 30 degrees; an aid in training.
    """

    coefficients: Tensor
    landmarks: Tensor
    pose: Tensor


class Outputs(NamedTuple):
    """What a normalizer makes of a batch in training.

    Attributes:
        picture: (B, 3, S, S) RGB, about [0, 1], not clamped.
        reading: of the same faces.
    """

    picture: Tensor
    reading: Reading


class Normalizer(nn.Module):
    """An aligned face → the target face with the same expression.

    Attributes:
        input_size: pixels the network looks at; ``forward`` takes any size.
        output_size: pixels of the picture it makes.
        expressions: coefficients it reads.
    """

    input_size: int
    output_size: int
    expressions: int

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that build the same network again, as JSON values."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], aligned, any size → (B, 3, S, S) RGB in [0, 1]."""
        raise NotImplementedError

    def read(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) coefficients in [0, 1], calibrated."""
        raise NotImplementedError

    def learn(self, images: Tensor) -> Outputs:
        """(B, 3, H, W) RGB in [0, 1] → what the losses of training look at."""
        raise NotImplementedError
