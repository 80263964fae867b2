"""The large normalizer: a transformer encodes the face; target tokens attend to its expression.

After Norface (identity normalization with a shared masked-autoencoder encoder, an expression
merging module and a decoder), whose code and weights were never published; cross-attention as in
FlowFace. The narrow code between the faces is our own, because attention over all tokens of the
original leaks its identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...pipeline.errors import InputError
from .base import CodeNormalizer, Reading, TrainingOutputs, leaky_clamp
from .layers import UpBlock, around_face, init_kaiming, init_zeros, resize, warp_by_flow
from .vit import (
    Attention,
    CrossAttention,
    Mlp,
    Shape,
    Stem,
    TransformerBlock,
    Vit,
    init_transformer,
    layer_norm,
    run_blocks,
)

Merge = Literal["narrow", "full"]
Paint = Literal["change", "whole"]

_READING_WIDTHS = (32, 320)  # per patch, per face
_GROWTH = (192, 128, 96, 64)  # channels at 1/16, 1/8, 1/4 and 1/2 of the picture's size
_LARGEST_FLOW = 0.25  # of half the picture's width
_GAINS: dict[Paint, float] = {"change": 0.3, "whole": 1.0}  # of what the last layers paint
_RESIDUAL_DROPPED = 0.25  # share of training faces drawn from their coefficients alone


class ReadingHead(nn.Module):
    """Patch tokens → expression coefficients, landmarks and pose."""

    def __init__(self, width: int, patches: int, expressions: int) -> None:
        super().__init__()
        narrow, hidden = _READING_WIDTHS
        # Few channels of every patch, so that each unit can use its own region.
        self.squeeze = nn.Linear(width, narrow)
        self.hidden = nn.Linear(narrow * patches, hidden)
        self.dropout = nn.Dropout(0.1)
        self.coefficients = nn.Linear(hidden, expressions)
        self.landmarks = nn.Linear(hidden, 136)
        self.pose = nn.Linear(hidden, 3)

    def forward(self, patches: Tensor) -> Reading:
        """(B, N, D) → readings."""
        x = functional.gelu(self.squeeze(patches)).flatten(1)
        x = self.dropout(functional.gelu(self.hidden(x)))  # (B, 320)
        return Reading(self.coefficients(x), self.landmarks(x), self.pose(x))


class NarrowCode(nn.Module):
    """The bottleneck from original to target: one token per coefficient, and a few residual ones.

    A residual token summarizes the picture in ``width`` numbers in [-1, 1]; it can hold what the
    coefficients cannot (a tongue, a wink's furrows), and little more.
    """

    def __init__(self, shape: Shape, expressions: int, tokens: int, width: int) -> None:
        super().__init__()
        wide = shape.width
        self.resting = nn.Parameter(torch.randn(expressions, wide) * 0.02)
        self.moved = nn.Parameter(torch.randn(expressions, wide) * 0.04)
        self.tokens = tokens
        if tokens:
            self.queries = nn.Parameter(torch.randn(tokens, wide) * 0.02)
            self.look = CrossAttention(wide, shape.heads)
            self.squeeze = nn.Linear(wide, width)
            self.widen = nn.Linear(width, wide)
        self.apply(init_transformer)

    def residual(self, seen: Tensor) -> Tensor | None:
        """(B, N, D) tokens of the original → (B, K, w) in [-1, 1]; None if K is 0."""
        if not self.tokens:
            return None
        queries = self.queries.expand(seen.shape[0], -1, -1)
        return torch.tanh(self.squeeze(self.look(queries, seen)))

    def forward(self, coefficients: Tensor, residual: Tensor | None) -> Tensor:
        """(B, E), (B, K, w) → (B, E + K, D); None is a residual without information."""
        code = self.resting + coefficients[..., None] * self.moved
        if not self.tokens:
            return code
        extra = self.queries.expand(code.shape[0], -1, -1)
        if residual is not None:
            extra = extra + self.widen(residual)
        return torch.cat([code.to(extra.dtype), extra], 1)


class MergeBlock(nn.Module):
    """The target's tokens attend to the code, then to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_target = layer_norm(width)
        self.norm_code = layer_norm(width)
        self.ask = CrossAttention(width, heads)
        self.norm_self = layer_norm(width)
        self.settle = Attention(width, heads)
        self.norm_mlp = layer_norm(width)
        self.mlp = Mlp(width)

    def forward(self, target: Tensor, code: Tensor) -> Tensor:
        """(B, N, D), (B, M, D) → (B, N, D)."""
        target = target + self.ask(self.norm_target(target), self.norm_code(code))
        target = target + self.settle(self.norm_self(target))
        return target + self.mlp(self.norm_mlp(target))


class Painter(nn.Module):
    """Tokens → a change of the resting target face: a flow that warps it, and a residual.

    ``paint``: see ``NorfaceNormalizer``.
    """

    def __init__(self, shape: Shape, depth: int, grid: int, paint: Paint) -> None:
        super().__init__()
        self.grid = grid
        self.gain = _GAINS[paint]
        self.paints_change = paint == "change"
        whole = not self.paints_change  # in a difference, what is added to both sides cancels
        self.blocks = nn.ModuleList(
            TransformerBlock(shape.width, shape.heads) for _ in range(depth)
        )
        self.norm = layer_norm(shape.width, bias=whole)
        self.apply(init_transformer)
        self.seed = nn.Linear(shape.width, _GROWTH[0], bias=whole)
        self.grow = nn.Sequential(*(UpBlock(before, width) for before, width in pairwise(_GROWTH)))
        self.flow = nn.Conv2d(_GROWTH[-1], 2, 3, padding=1)
        self.paint = nn.Conv2d(_GROWTH[-1], 12, 3, padding=1)
        for part in (self.seed, self.grow):
            part.apply(init_kaiming)
        # The initial output is the resting face: no flow, no residual.
        for layer in (self.flow, self.paint):
            init_zeros(layer)

    def forward(
        self, tokens: Tensor, at_rest: Tensor | None, resting: Tensor, recompute: bool
    ) -> Tensor:
        """Return (B, 3, S, S) RGB, about [0, 1].

        Args:
            tokens: (B, N, D).
            at_rest: (1, N, D), those of the resting face, to paint the difference; or None.
            resting: (1, 3, S, S), the resting face.
            recompute: see ``run_blocks``.
        """
        x = self._seeds(tokens, recompute)
        if at_rest is not None:
            x = x - self._seeds(at_rest, recompute)
        x = self.grow(x.transpose(1, 2).unflatten(2, (self.grid, self.grid)))  # (B, 64, S/2, S/2)
        flow = _LARGEST_FLOW * torch.tanh(self.gain * self.flow(x).float())
        painted = functional.pixel_shuffle(self.gain * self.paint(x).float(), 2)  # (B, 3, S, S)
        return warp_by_flow(resting.float(), flow) + painted

    def _seeds(self, tokens: Tensor, recompute: bool) -> Tensor:
        """(B, N, D) → (B, N, 192)."""
        return self.seed(self.norm(run_blocks(self.blocks, tokens, recompute=recompute)))


class NorfaceNormalizer(CodeNormalizer):
    """Aligned face → the target face with the same expression.

    Args:
        expressions: number of coefficients.
        size: of the encoder: ``T`` (learns on a CPU), ``S`` or ``B``.
        stem: of the encoder: ``patch`` or ``conv``, see ``Vit``.
        image_size: side of the pictures that the encoder sees and of those it draws, in pixels; a
            multiple of 16.
        picture_size: pixels that a picture is resized to; the encoder sees ``image_size`` of them,
            around the face. 0: the whole picture.
        merge: ``narrow``: the target sees coefficients and residual tokens; ``full``: it sees all
            tokens of the original, including its identity.
        merge_depth: merging blocks.
        decoder_depth: transformer blocks before the convolutions.
        residual_tokens: in addition to the coefficients, with ``merge="narrow"``. With 0, only
            coefficients pass, and the halves can be trained separately.
        residual_width: numbers per residual token.
        paint: ``change``: the painter gets the difference between the tokens and those of the
            resting face; ``whole``, as in files of 0.1.0: the tokens. What all faces share is then
            much larger than what differs, so the first steps overshoot, and the code dies: all
            faces get the same picture (docs/models/norface.md).
        mirror: see ``CodeNormalizer``.
    """

    target_tokens: Tensor
    template: Tensor
    gain: Tensor
    offset: Tensor

    def __init__(  # noqa: PLR0913
        self,
        expressions: int = 53,
        size: str = "B",
        image_size: int = 224,
        merge: Merge = "narrow",
        merge_depth: int = 4,
        decoder_depth: int = 2,
        residual_tokens: int = 4,
        residual_width: int = 8,
        paint: Paint = "change",
        stem: Stem = "patch",
        picture_size: int = 0,
        mirror: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if merge not in ("narrow", "full"):
            raise InputError(f"unknown merge '{merge}': use narrow or full")
        if paint not in _GAINS:
            raise InputError(f"unknown paint '{paint}': use change or whole")
        if picture_size and picture_size < image_size:
            raise InputError(
                f"picture_size = {picture_size} is smaller than image_size = {image_size}"
            )
        self.expressions = expressions
        self.output_size = image_size
        self.input_size = picture_size or image_size
        self._settings = {
            "expressions": expressions,
            "size": size,
            "image_size": image_size,
            "merge": merge,
            "merge_depth": merge_depth,
            "decoder_depth": decoder_depth,
            "residual_tokens": residual_tokens,
            "residual_width": residual_width,
            "paint": paint,
            "stem": stem,
            "picture_size": picture_size,
        }
        self.separable = merge == "narrow" and not residual_tokens
        self.set_mirror(mirror)
        self.encoder = Vit(size, image_size, stem)
        shape, grid = self.encoder.shape, self.encoder.grid
        self.head = ReadingHead(shape.width, grid**2, expressions)
        self.head.apply(init_transformer)
        for output in (self.head.coefficients, self.head.landmarks, self.head.pose):
            nn.init.normal_(output.weight, std=0.01)  # begins near the average face
        self.narrow: NarrowCode | None = None
        if merge == "narrow":
            self.narrow = NarrowCode(shape, expressions, residual_tokens, residual_width)
        self.merging = nn.ModuleList(
            MergeBlock(shape.width, shape.heads) for _ in range(merge_depth)
        )
        self.merging.apply(init_transformer)
        self.painter = Painter(shape, decoder_depth, grid, paint)
        self.target_tokens = nn.Parameter(torch.randn(1, grid**2, shape.width) * 0.02)
        self.template = nn.Parameter(torch.full((1, 3, image_size, image_size), 0.5))
        # Calibration, fitted on held-out renders: coefficient = (reading - offset) * gain.
        self.register_buffer("gain", torch.ones(expressions))
        self.register_buffer("offset", torch.zeros(expressions))

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same network again."""
        return {**self._settings, "mirror": self.mirror} if self.mirror else dict(self._settings)

    def save_memory(self, on: bool = True) -> None:
        """Recompute the activations of transformer blocks in training instead of storing them."""
        self.encoder.recompute = on

    @torch.no_grad()
    def init_target(self, target: Tensor) -> None:
        """Initialize with the resting target face, (3, H, W) RGB in [0, 1].

        Call it after loading the encoder's initial weights: its tokens of the whole picture become
        the initial target tokens.
        """
        resting = resize(target[None].to(self.template), self.output_size)
        self.template.copy_(resting)
        was = self.encoder.training
        self.target_tokens.copy_(self.encoder.eval()(resting)[:, 1:])
        self.encoder.train(was)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], aligned, any size → (B, 3, S, S) RGB in [0, 1]."""
        if self.separable:
            return self.draw(self.read(images)).clamp(0, 1)
        tokens = self._tokens(images)
        return self._picture(self._calibrated(self._reading(tokens)), tokens).clamp(0, 1)

    def read(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) coefficients in [0, 1]."""
        return self._calibrated(self._read_looks(images))

    def raw_coefficients(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → (B, E) before calibration; see ``mirror``."""
        return self._read_looks(images).coefficients

    def read_whole(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the calibrated reading, in the passes of ``read`` alone."""
        seen = self._read_looks(images)
        return seen._replace(coefficients=self._calibrated(seen))

    def _read_looks(self, images: Tensor) -> Reading:
        second = self.encode(images.flip(-1)) if self.mirror else None
        return self.averaged(self.encode(images), second)

    def encode(self, images: Tensor) -> Reading:
        """(B, 3, H, W) RGB in [0, 1] → the reading alone, uncalibrated."""
        return self._reading(self._tokens(images))

    def forward_train(self, images: Tensor, drawn: Tensor | None = None) -> TrainingOutputs:
        """(B, 3, H, W) RGB in [0, 1] → pictures of ``drawn`` and reading, uncalibrated."""
        tokens = self._tokens(images)
        reading = self._reading(tokens)
        code = leaky_clamp(reading.coefficients.float())
        if drawn is not None:
            code, tokens = code[drawn], tokens[drawn]
        return TrainingOutputs(self._picture(code, tokens), reading)

    def draw(self, coefficients: Tensor) -> Tensor:
        """(B, E) in [0, 1] → (B, 3, S, S) RGB, about [0, 1], drawn from coefficients alone.

        Raises:
            InputError: ``merge`` is ``full``, so coefficients are not enough.
        """
        if self.narrow is None:
            raise InputError(
                "a norface network with merge = full needs pictures: use merge = narrow"
            )
        return self._merged(self.narrow(coefficients, None))

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return the encoder with its head, and all that draws coefficients."""
        assert self.narrow is not None
        target = nn.ParameterDict({"tokens": self.target_tokens, "template": self.template})
        decoder = {"narrow": self.narrow, "merging": self.merging, "painter": self.painter}
        return (
            nn.ModuleDict({"encoder": self.encoder, "head": self.head}),
            nn.ModuleDict({**decoder, "target": target}),
        )

    def _tokens(self, images: Tensor) -> Tensor:
        return self.encoder(around_face(resize(images, self.input_size), self.output_size))

    def _reading(self, tokens: Tensor) -> Reading:
        return self.head(tokens[:, 1:])

    def _calibrated(self, reading: Reading) -> Tensor:
        return ((reading.coefficients.float() - self.offset) * self.gain).clamp(0, 1)

    def _picture(self, coefficients: Tensor, tokens: Tensor) -> Tensor:
        if self.narrow is None:
            return self._merged(tokens)
        residual = self.narrow.residual(tokens)
        if residual is not None and self.training:
            kept = torch.rand(residual.shape[0], 1, 1, device=residual.device) >= _RESIDUAL_DROPPED
            residual = residual * kept
        return self._merged(self.narrow(coefficients, residual))

    def _merged(self, code: Tensor) -> Tensor:
        recompute = self.encoder.recompute and self.training
        at_rest = None
        if self.painter.paints_change:
            at_rest = self._moved_target(self._resting_code(), recompute)
        return self.painter(self._moved_target(code, recompute), at_rest, self.template, recompute)

    def _resting_code(self) -> Tensor:
        """Return (1, M, D), what the target attends to when it is at rest."""
        if self.narrow is None:
            return self._tokens(self.template)
        return self.narrow(self.template.new_zeros(1, self.expressions), None)

    def _moved_target(self, code: Tensor, recompute: bool) -> Tensor:
        """(B, M, D) → (B, N, D), the target's tokens after they attended to the code."""
        target = self.target_tokens.to(code.dtype).expand(code.shape[0], -1, -1)
        return run_blocks(self.merging, target, code, recompute=recompute)
