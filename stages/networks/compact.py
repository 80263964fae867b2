"""The compact normalizer: predicts expression coefficients and draws the target face from them.

The narrow code between its two parts lets little pass but the expression: an encoder (aligned grey
crop → one coefficient per shape of the face kit) and a decoder (coefficients → picture of the
target face), trained separately.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import CodeNormalizer, Reading, TrainingOutputs, leaky_clamp
from .layers import (
    TransposedUpBlock,
    UpBlock,
    around_face,
    folded,
    init_kaiming,
    init_zeros,
    resize,
    shuffle_pixels,
    warp_by_flow,
)

INPUT_SIZE = 112
OUTPUT_SIZE = 192
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
#: Channels of the shipped encoder after each downsampling by 2.
WIDTHS = (24, 48, 80, 128, 192)
_BLOCKS = (0, 1, 2, 2, 1)
_FIRST_DECODER = "fine"  # of 0.1.0
_FIRST_GRID = 6
_LARGEST_FLOW = 0.25  # of half the picture's width


class Residual(nn.Module):
    """Two 3 x 3 convolutions with an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        y = torch.relu_(self.first_norm(self.first(x)))
        return torch.relu_(x + self.second_norm(self.second(y)))


def encoder_body(widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = _BLOCKS) -> nn.Sequential:
    """Return the encoder's convolutions: (B, 1, 112, 112) → (B, widths[-1], 4, 4)."""
    layers: list[nn.Module] = []
    before = 1
    for width, count in zip(widths, blocks, strict=True):
        layers += [
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            *(Residual(width) for _ in range(count)),
        ]
        before = width
    return nn.Sequential(*layers)


class CompactEncoder(nn.Module):
    """Aligned face → expression coefficients.

    Args:
        expressions: number of coefficients.
        widths: channels after each downsampling by 2.
        blocks: residual blocks after each.
    """

    def __init__(
        self, expressions: int, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = _BLOCKS
    ) -> None:
        super().__init__()
        self.body = encoder_body(widths, blocks)
        self.squeeze = nn.Conv2d(widths[-1], 64, 1)
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


class Grown(NamedTuple):
    """How a decoder grows from 6 x 6 cells to its last grid.

    Attributes:
        widths: channels of each grid, twice as fine as the one before.
        block: doubles a grid.
        cell_px: side of a cell of the last grid, in pixels of the picture.
        flows: of each side of such a cell, with a flow of its own.
    """

    widths: tuple[int, ...]
    block: type[UpBlock | TransposedUpBlock]
    cell_px: int
    flows: int


#: By name; ``fine`` is that of 0.1.0.
DECODERS = {
    "coarse": Grown((96, 80, 64, 40), TransposedUpBlock, 4, 2),
    "fine": Grown((96, 80, 64, 40, 24), UpBlock, 2, 1),
}


class CompactDecoder(nn.Module):
    """Expression coefficients → the target face.

    The resting face is a learned picture; the decoder warps it (flow) and adds what warping cannot
    produce (teeth, closed lids, furrows). Warping keeps skin, brows and irises sharp.

    Each cell of the last grid draws all its pixels at once.

    Args:
        expressions: number of coefficients.
        kind: a name in ``DECODERS``. On a CPU ``coarse`` costs a third of ``fine``.
    """

    def __init__(self, expressions: int, kind: str = "coarse") -> None:
        super().__init__()
        widths, block, self.cell_px, self.flows = DECODERS[kind]
        first, last = widths[0], widths[-1]
        self.cells = (first, _FIRST_GRID, _FIRST_GRID)
        self.template = nn.Parameter(torch.full((1, 3, OUTPUT_SIZE, OUTPUT_SIZE), 0.5))
        self.code = nn.Sequential(
            nn.Linear(expressions, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU()
        )
        self.seed = nn.Linear(256, first * _FIRST_GRID**2)
        self.grow = nn.Sequential(*(block(before, width) for before, width in pairwise(widths)))
        self.flow = nn.Conv2d(last, 2 * self.flows**2, 3, padding=1)
        self.residual = nn.Conv2d(last, 3 * self.cell_px**2, 3, padding=1)
        self.apply(init_kaiming)
        # The initial output is the template: no flow, no residual.
        for layer in (self.flow, self.residual):
            init_zeros(layer)

    def begin_like(self, other: CompactDecoder) -> None:
        """Take from a finer decoder all but the last layers, which then have little to learn."""
        parts = (("code", self.code), ("seed", self.seed))
        for name, part in parts:
            part.load_state_dict(other.get_submodule(name).state_dict())
        with torch.no_grad():
            self.template.copy_(other.template)
        for block, like in zip(self.grow, other.grow, strict=False):
            if isinstance(block, TransposedUpBlock) and isinstance(like, UpBlock):
                block.begin_like(like)

    def forward(self, coefficients: Tensor) -> Tensor:
        """(B, E) in [0, 1] → (B, 3, 192, 192) RGB, about [0, 1]."""
        x = functional.silu(self.seed(self.code(coefficients)))
        x = self.grow(x.unflatten(1, self.cells))  # (B, C, G, G): a grid of cells
        flow = shuffle_pixels(self.flow(x).float(), self.flows)  # (B, 2, 96, 96)
        warped = warp_by_flow(self.template.float(), _LARGEST_FLOW * torch.tanh(flow))
        return warped.add_(shuffle_pixels(self.residual(x).float(), self.cell_px))


class CompactNormalizer(CodeNormalizer):
    """Aligned face → the target face with the same expression.

    Args:
        expressions: number of coefficients.
        mirror: see ``CodeNormalizer``.
        picture_size: pixels that a picture is resized to; the encoder sees 112 x 112 of them,
            around the face. 112: the whole picture.
        widths: the encoder's five, see ``CompactEncoder``.
        decoder: a name in ``DECODERS``. Files of 0.1.0 name none: theirs is ``fine``.

    Raises:
        ValueError: ``mirror`` does not name every coefficient once, ``picture_size`` is odd or
            smaller than 112, ``widths`` are not five positive numbers, or ``decoder`` is unknown.
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
        widths: Sequence[int] = WIDTHS,
        decoder: str = "coarse",
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}")
        if len(widths) != len(WIDTHS) or min(widths) < 1:
            raise ValueError(f"widths must be {len(WIDTHS)} positive channel counts")
        if picture_size < INPUT_SIZE or picture_size % 2:
            raise ValueError(f"picture_size must be even and at least {INPUT_SIZE}")
        self.expressions = expressions
        self.input_size = picture_size
        self.widths = tuple(widths)
        self.set_mirror(mirror)
        self.encoder = CompactEncoder(expressions, widths)
        self.decoder = CompactDecoder(expressions, decoder)
        self.kind = decoder
        self.register_buffer("grey", torch.tensor(_GREY).view(1, 3, 1, 1))
        # Calibration, fitted on held-out renders: coefficient = (reading - offset) * gain.
        self.register_buffer("gain", torch.ones(expressions))
        self.register_buffer("offset", torch.zeros(expressions))

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same network again."""
        found: dict[str, Any] = {"expressions": self.expressions, "decoder": self.kind}
        if self.input_size != INPUT_SIZE:
            found["picture_size"] = self.input_size
        if self.widths != WIDTHS:
            found["widths"] = list(self.widths)
        return {**found, "mirror": self.mirror} if self.mirror else found

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], aligned, any size → (B, 3, 192, 192) RGB in [0, 1]."""
        return self.decoder(self.read(images)).clamp(0, 1)

    def read(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) coefficients in [0, 1]."""
        return ((self.raw_coefficients(images) - self.offset) * self.gain).clamp(0, 1)

    def raw_coefficients(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) before calibration; see ``mirror``."""
        return self._read_looks(images).coefficients

    def read_whole(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the calibrated reading, in the passes of ``read`` alone."""
        seen = self._read_looks(images)
        calibrated = ((seen.coefficients - self.offset) * self.gain).clamp(0, 1)
        return seen._replace(coefficients=calibrated)

    def _read_looks(self, images: Tensor) -> Reading:
        """Return what is read, averaged over the looks."""
        first, *second = [self.encode_look(look) for look in self.looks(images)]
        return self.averaged(first, second[0] if second else None)

    def looks(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] → what the encoder sees, one or two (B, 1, 112, 112)."""
        face = self._face(images)
        if not self.mirror:
            return [face]
        if self.kind == _FIRST_DECODER:  # files of 0.1.0 keep their bytes: the same up to rounding
            return [face, self._face(images.flip(-1))]
        return [face, face.flip(-1)]

    def forward_train(self, images: Tensor, drawn: Tensor | None = None) -> TrainingOutputs:
        """(B, 3, H, W) RGB in [0, 1] → pictures of ``drawn`` and reading, uncalibrated."""
        reading = self.encode(images)
        code = reading.coefficients if drawn is None else reading.coefficients[drawn]
        return TrainingOutputs(self.draw(leaky_clamp(code)), reading)

    def encode(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the reading alone, uncalibrated."""
        return self.encode_look(self._face(images))

    def encode_look(self, look: Tensor) -> Reading:
        """(B, 1, 112, 112) standardized grey → the reading, uncalibrated; see ``looks``."""
        return self.encoder(look)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, C, 4, 4), the features behind the coefficients.

        C is the last of ``widths``, 192 as shipped.
        """
        return self.encoder.body(self._face(images))

    def _face(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, 1, 112, 112) standardized grey around the face."""
        red, green, blue = (images[:, i : i + 1] * self.grey[:, i : i + 1] for i in range(3))
        return around_face(standardize(red + green + blue, self.input_size), INPUT_SIZE)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return the encoder and the decoder."""
        return self.encoder, self.decoder

    def draw(self, coefficients: Tensor) -> Tensor:
        """(B, E) coefficients in [0, 1] → (B, 3, 192, 192) RGB, about [0, 1]."""
        return self.decoder(coefficients)

    def for_inference(self) -> CompactNormalizer:
        """Return the network with its batch normalizations folded; as it is if of 0.1.0."""
        if self.kind == _FIRST_DECODER:  # keeps its bytes
            return self.eval()
        made = copy.deepcopy(self).eval()
        made.encoder = folded(made.encoder)
        made.decoder = made.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made

    def init_target(self, target: Tensor) -> None:
        """Set the template to the resting target face, (3, 192, 192) RGB in [0, 1]."""
        with torch.no_grad():
            self.decoder.template.copy_(target[None])


def standardize(grey: Tensor, size: int = INPUT_SIZE) -> Tensor:
    """(B, 1, H, W) → (B, 1, S, S) with mean 0 and deviation 1 in the face region of each picture.

    Black borders of tight photographs are outside that region, so they do not change contrast.
    """
    grey = resize(grey, size)
    face = grey[..., size // 4 : size * 7 // 8, size // 4 : size * 3 // 4]
    mean = face.mean((1, 2, 3), keepdim=True)
    deviation = face.std((1, 2, 3), keepdim=True)
    return (grey - mean) / (deviation + 0.02)
