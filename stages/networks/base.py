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
        sees_colour: False where it turns what it is given to grey at once; training then holds
            grey pictures, a third of the memory.
    """

    input_size: int
    output_size: int
    expressions: int
    sees_colour: bool = True

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

    def see(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the reading alone; cheaper where no picture is needed."""
        return self.learn(images).reading

    def raw_coefficients(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) float32 as read, before calibration."""
        return self.see(images).coefficients.float()

    def begin_at(self, target: Tensor) -> None:
        """Take the resting target face, (3, S, S) RGB in [0, 1], as where learning begins."""


class CodeNormalizer(Normalizer):
    """A normalizer with nothing but coefficients between its two halves.

    They can be trained apart, since the exact coefficients of a render are known.
    """

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return the half that reads and the half that draws."""
        raise NotImplementedError

    def draw(self, coefficients: Tensor) -> Tensor:
        """(B, E) coefficients in [0, 1] → (B, 3, S, S) RGB, about [0, 1], not clamped."""
        raise NotImplementedError


def leaky_clamp(x: Tensor, slope: float = 0.1) -> Tensor:
    """``x`` (...) in [0, 1]; beyond, gradients are ``slope`` of their size instead of nothing.

    With nothing, a coefficient that was once read below 0 could never be raised by the picture.
    """
    clamped = x.clamp(0, 1)
    rest = slope * (x - clamped)
    return clamped + (rest - rest.detach())
