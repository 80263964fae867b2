"""The compact normalizer: a face's expression as coefficients, and the target face making it.

Two parts with a narrow code between them, so that little of a person but their expression can pass:
an encoder (aligned grey crop → one coefficient per shape of the face kit) and a decoder
(coefficients → picture of the target face), trained apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import CodeNormalizer, Outputs, Reading, leaky_clamp
from .layers import Grow, bend, init_nothing, init_painting, resize

INPUT_SIZE = 112
OUTPUT_SIZE = 192
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_WIDTHS = (24, 48, 80, 128, 192)
_BLOCKS = (0, 1, 2, 2, 1)
_DECODER_WIDTHS = (96, 80, 64, 40, 24)
_FIRST_GRID = 6
_ABOVE = 0.84  # of the rows that are not looked at, those above; a face lies low in its picture
_LARGEST_FLOW = 0.25  # of half the picture's width


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(x + self.second_norm(self.second(y)))


class CompactEncoder(nn.Module):
    """Aligned face → expression coefficients.

    Args:
        expressions: how many coefficients.
        widths: channels after each halving of the picture.
        blocks: residual blocks after each.
    """

    def __init__(
        self, expressions: int, widths: Sequence[int] = _WIDTHS, blocks: Sequence[int] = _BLOCKS
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width, count in zip(widths, blocks, strict=True):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                *(Residual(width) for _ in range(count)),
            ]
            before = width
        self.body = nn.Sequential(*layers)
        self.squeeze = nn.Conv2d(before, 64, 1)
        cells = (-(-INPUT_SIZE // 2 ** len(widths))) ** 2
        self.hidden = nn.Linear(64 * cells, 320)
        self.dropout = nn.Dropout(0.1)
        self.coefficients = nn.Linear(320, expressions)
        self.landmarks = nn.Linear(320, 136)
        self.pose = nn.Linear(320, 3)

    def forward(self, grey: Tensor) -> Reading:
        """(B, 1, 112, 112) standardized grey → readings."""
        x = self.body(grey)  # (B, C, 4, 4)
        x = functional.relu(self.squeeze(x))  # (B, 64, 4, 4)
        x = self.dropout(functional.relu(self.hidden(x.flatten(1))))  # (B, 320)
        return Reading(self.coefficients(x), self.landmarks(x), self.pose(x))


class CompactDecoder(nn.Module):
    """Expression coefficients → the target face.

    The resting face is a learned picture; the decoder bends it (flow) and paints what bending
    cannot bring forth (teeth, closed lids, furrows). Bending keeps skin, brows and irises sharp.
    """

    def __init__(self, expressions: int) -> None:
        super().__init__()
        self.template = nn.Parameter(torch.full((1, 3, OUTPUT_SIZE, OUTPUT_SIZE), 0.5))
        self.code = nn.Sequential(
            nn.Linear(expressions, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU()
        )
        self.seed = nn.Linear(256, _DECODER_WIDTHS[0] * _FIRST_GRID**2)
        pairs = pairwise(_DECODER_WIDTHS)
        self.grow = nn.Sequential(*(Grow(before, width) for before, width in pairs))
        self.flow = nn.Conv2d(_DECODER_WIDTHS[-1], 2, 3, padding=1)
        self.residual = nn.Conv2d(_DECODER_WIDTHS[-1], 12, 3, padding=1)
        self.apply(init_painting)
        # Begins as the template, unbent and unpainted.
        for layer in (self.flow, self.residual):
            init_nothing(layer)

    def forward(self, coefficients: Tensor) -> Tensor:
        """(B, E) in [0, 1] → (B, 3, 192, 192) RGB, about [0, 1]."""
        x = functional.silu(self.seed(self.code(coefficients)))
        x = self.grow(
            x.unflatten(1, (_DECODER_WIDTHS[0], _FIRST_GRID, _FIRST_GRID))
        )  # (B, 24, 96, 96)
        flow = _LARGEST_FLOW * torch.tanh(self.flow(x).float())  # (B, 2, 96, 96)
        bent = bend(self.template.float(), flow)
        painted = functional.pixel_shuffle(self.residual(x).float(), 2)  # (B, 3, 192, 192)
        return bent + painted


class CompactNormalizer(CodeNormalizer):
    """Aligned face → the target face with the same expression.

    Args:
        expressions: how many coefficients.
        mirror: for each coefficient, which one it is in a mirror image. With it, a picture is read
            twice, as it is and mirrored, and the mean counts; without, once.
        picture_size: pixels that a picture is brought to; the encoder looks at 112 x 112 of them,
            around the face. 112: at the whole picture.
        widths: the encoder's five, see ``CompactEncoder``.

    Raises:
        ValueError: ``mirror`` does not name every coefficient once, ``picture_size`` is not
            even or smaller than 112, or ``widths`` are not five from 1 on.
    """

    output_size = OUTPUT_SIZE
    sees_colour = False

    grey: Tensor
    gain: Tensor
    offset: Tensor

    def __init__(
        self,
        expressions: int = 53,
        mirror: Sequence[int] = (),
        picture_size: int = INPUT_SIZE,
        widths: Sequence[int] = _WIDTHS,
    ) -> None:
        super().__init__()
        if len(widths) != len(_WIDTHS) or min(widths) < 1:
            raise ValueError(f"widths have to be {len(_WIDTHS)} channel counts from 1 on")
        if picture_size < INPUT_SIZE or picture_size % 2:
            raise ValueError(f"picture_size has to be even and {INPUT_SIZE} or more")
        self.expressions = expressions
        self.input_size = picture_size
        self.widths = tuple(widths)
        self.look_twice(mirror)
        self.encoder = CompactEncoder(expressions, widths)
        self.decoder = CompactDecoder(expressions)
        self.register_buffer("grey", torch.tensor(_GREY).view(1, 3, 1, 1))
        # Coefficients are displayed as (reading - offset) * gain; fitted on held-out renders.
        self.register_buffer("gain", torch.ones(expressions))
        self.register_buffer("offset", torch.zeros(expressions))

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that build the same network again."""
        found: dict[str, Any] = {"expressions": self.expressions}
        if self.input_size != INPUT_SIZE:
            found["picture_size"] = self.input_size
        if self.widths != _WIDTHS:
            found["widths"] = list(self.widths)
        return {**found, "mirror": self.mirror} if self.mirror else found

    def look_twice(self, mirror: Sequence[int]) -> None:
        """From now on read the mirror image, too; see ``mirror`` of the class. Nothing: once."""
        if mirror and sorted(mirror) != list(range(self.expressions)):
            raise ValueError(f"mirror has to name each of {self.expressions} coefficients once")
        self.mirror = list(mirror)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], aligned, any size → (B, 3, 192, 192) RGB in [0, 1]."""
        return self.decoder(self.read(images)).clamp(0, 1)

    def read(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) coefficients in [0, 1]."""
        return ((self.raw_coefficients(images) - self.offset) * self.gain).clamp(0, 1)

    def raw_coefficients(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) as read, before calibration; see ``mirror``."""
        told = self.see(images).coefficients.float()
        if not self.mirror:
            return told
        other = self.see(images.flip(-1)).coefficients.float()
        return (told + other[:, self.mirror]) / 2

    def learn(self, images: Tensor) -> Outputs:
        """(B, 3, H, W) RGB in [0, 1] → picture and reading, uncalibrated."""
        reading = self.see(images)
        return Outputs(self.draw(leaky_clamp(reading.coefficients)), reading)

    def see(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the reading alone, uncalibrated."""
        return self.encoder(self._face(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, C, 4, 4), what the coefficients are read off.

        C is the last of ``widths``, 192 as shipped.
        """
        return self.encoder.body(self._face(images))

    def _face(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, 1, 112, 112) standardized grey around the face."""
        grey = standardize((images * self.grey).sum(1, keepdim=True), self.input_size)
        unseen = self.input_size - INPUT_SIZE
        top, left = round(_ABOVE * unseen), unseen // 2
        return grey[..., top : top + INPUT_SIZE, left : left + INPUT_SIZE]

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return encoder and decoder."""
        return self.encoder, self.decoder

    def draw(self, coefficients: Tensor) -> Tensor:
        """(B, E) coefficients in [0, 1] → (B, 3, 192, 192) RGB, about [0, 1]."""
        return self.decoder(coefficients)

    def begin_at(self, target: Tensor) -> None:
        """Begin with the resting target face, (3, 192, 192) RGB in [0, 1], as the template."""
        with torch.no_grad():
            self.decoder.template.copy_(target[None])


def standardize(grey: Tensor, size: int = INPUT_SIZE) -> Tensor:
    """(B, 1, H, W) → (B, 1, S, S) with mean 0 and deviation 1 in the middle of each picture.

    Only where the face is: black borders of tight photographs must not change its contrast.
    """
    grey = resize(grey, size)
    face = grey[..., size // 4 : size * 7 // 8, size // 4 : size * 3 // 4]
    mean = face.mean((1, 2, 3), keepdim=True)
    deviation = face.std((1, 2, 3), keepdim=True)
    return (grey - mean) / (deviation + 0.02)
