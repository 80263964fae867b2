"""The interface of normalizers: a face in, the target face with the same expression out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

from torch import Tensor, nn


class Reading(NamedTuple):
    """The predictions of an encoder.

    Attributes:
        coefficients: (B, E) expression coefficients, not yet clamped to [0, 1].
        landmarks: (B, 136) x, y of 68 points, 0 the centre, 1 the edge; auxiliary in training.
        pose: (B, 3) yaw, pitch, roll in units of 30 degrees; auxiliary in training.
    """

    coefficients: Tensor
    landmarks: Tensor
    pose: Tensor


class TrainingOutputs(NamedTuple):
    """The outputs of a normalizer in training.

    Attributes:
        picture: (D, 3, S, S) RGB, about [0, 1], not clamped, of the faces to be drawn.
        reading: the encoder's predictions for all faces.
    """

    picture: Tensor
    reading: Reading


class NormalizerNetwork(nn.Module):
    """An aligned face → the target face with the same expression.

    Attributes:
        input_size: side of the network's input in pixels; ``forward`` takes any size.
        output_size: side of its output in pixels.
        expressions: number of coefficients it predicts.
        sees_colour: False if it converts its input to grey; training then keeps grey pictures, a
            third of the memory.
    """

    input_size: int
    output_size: int
    expressions: int
    sees_colour: bool = True

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same network again, as JSON values."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], aligned, any size → (B, 3, S, S) RGB in [0, 1]."""
        raise NotImplementedError

    def read(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) coefficients in [0, 1], calibrated."""
        raise NotImplementedError

    def forward_train(self, images: Tensor, drawn: Tensor | None = None) -> TrainingOutputs:
        """(B, 3, H, W) RGB in [0, 1] → what the training losses need, uncalibrated.

        ``drawn``: (D,) int64, rows of ``images`` of which a picture is needed; None: all of them.
        """
        raise NotImplementedError

    def encode(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the reading alone; cheaper if no picture is needed."""
        return self.forward_train(images).reading

    def read_whole(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → coefficients as ``read`` gives them, landmarks and pose.

        A network that can do it in the passes of ``read`` alone overrides this.
        """
        return self.encode(images)._replace(coefficients=self.read(images))

    def raw_coefficients(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) float32 coefficients before calibration."""
        return self.encode(images).coefficients.float()

    def for_inference(self) -> NormalizerNetwork:
        """Return the network to use, in evaluation mode: the same, or a copy that is faster."""
        return self.eval()

    def init_target(self, target: Tensor) -> None:
        """Initialize with the resting target face, (3, S, S) RGB in [0, 1]."""


class CodeNormalizer(NormalizerNetwork):
    """A normalizer with only coefficients between its two halves.

    The halves can be trained separately, since the exact coefficients of a render are known.

    Attributes:
        separable: whether its settings let only coefficients pass; see ``is_separable``.
        mirror: for each coefficient, its index in a mirror image. If given, predictions are
            averaged over the picture and its mirror image.
    """

    separable: bool = True
    mirror: list[int]

    def set_mirror(self, mirror: Sequence[int]) -> None:
        """Set ``mirror``; empty: predict on the picture alone.

        Raises:
            ValueError: it does not name every coefficient once, or more than coefficients pass.
        """
        if mirror and sorted(mirror) != list(range(self.expressions)):
            raise ValueError(f"mirror must name each of {self.expressions} coefficients once")
        if mirror and not self.separable:
            raise ValueError("a mirror image is read only where coefficients alone pass")
        self.mirror = list(mirror)

    def averaged(self, first: Reading, second: Reading | None) -> Reading:
        """Average what is read off a picture and its mirror image: coefficients and pose, float32.

        The landmarks are those of the picture.
        """
        coefficients, pose = first.coefficients.float(), first.pose.float()
        if second is not None:
            coefficients = (coefficients + second.coefficients.float()[:, self.mirror]) / 2
            pose = (pose + second.pose.float() * pose.new_tensor((-1, 1, -1))) / 2
        return Reading(coefficients, first.landmarks, pose)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return the encoder and the decoder."""
        raise NotImplementedError

    def draw(self, coefficients: Tensor) -> Tensor:
        """(B, E) coefficients in [0, 1] → (B, 3, S, S) RGB, about [0, 1], not clamped."""
        raise NotImplementedError


def is_separable(network: NormalizerNetwork) -> TypeGuard[CodeNormalizer]:
    """Return whether only coefficients pass, so that the halves can be trained separately."""
    return isinstance(network, CodeNormalizer) and network.separable


def leaky_clamp(x: Tensor, slope: float = 0.1) -> Tensor:
    """Clamp ``x`` (...) to [0, 1]; outside, gradients are scaled by ``slope`` instead of 0.

    With 0, the picture could never raise a coefficient once it was predicted below 0.
    """
    clamped = x.clamp(0, 1)
    rest = slope * (x - clamped)
    return clamped + (rest - rest.detach())
