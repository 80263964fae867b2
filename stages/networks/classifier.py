"""The classifier: two views of a face, mixtures of experts before and after one query per label.

Both views pass through one shared encoder. Their tokens, plus view embeddings, pass through mixture
layers; one attention query per label pools them; shared experts with a gate per label compute the
logits. Input and output mixtures are from Norface (Liu et al., ECCV 2024); gates per label are from
multi-gate mixtures of experts (Ma et al., KDD 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .compact import INPUT_SIZE, WIDTHS, Residual, encoder_body, standardize
from .experts import Mixture, MixtureOutput
from .layers import around_face
from .vit import Stem, Vit, layer_norm

Preset = Literal["compact", "small", "norface"]
#: The second view: a picture, or a normalizer's coefficients or features of the first.
Second = Literal["picture", "code", "features"]

COMPACT_PICTURE = 144  # side of the shipped encoder's pictures, in pixels
_SMALL_SIZE = 64
_SMALL_WIDTHS = (32, 64, 96)
_SMALL_WIDTH = 96
_CODE_TOKENS = 4


class ClassifierOutput(NamedTuple):
    """The classifier's predictions.

    Attributes:
        logits: (B, L).
        input_gates: (B, N, E) of the last layer before the queries, tokens of both views.
        output_gates: (B, L, E).
        balance: (), mean balance loss over the mixtures.
        seen: (B, N) bool, tokens of views that are present.
    """

    logits: Tensor
    input_gates: Tensor
    output_gates: Tensor
    balance: Tensor
    seen: Tensor


class SmallEncoder(nn.Module):
    """A small convolutional encoder for CPUs: a grey picture → 4 × 4 tokens."""

    image_size = _SMALL_SIZE
    colour = False
    width = _SMALL_WIDTH

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in _SMALL_WIDTHS:
            # The first layer has a large kernel and stride 4: large maps would take most time.
            kernel, stride = (3, 2) if layers else (7, 4)
            layers += [
                nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                Residual(width),
            ]
            before = width
        self.body = nn.Sequential(*layers)
        cells = (_SMALL_SIZE // 2 ** (len(_SMALL_WIDTHS) + 1)) ** 2
        self.place = nn.Parameter(torch.zeros(1, cells, _SMALL_WIDTH))
        nn.init.normal_(self.place, std=0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1, 64, 64) in [0, 1] → (B, 16, 96)."""
        mean = pictures.mean((1, 2, 3), keepdim=True)
        deviation = pictures.std((1, 2, 3), keepdim=True)
        x = self.body((pictures - mean) / (deviation + 0.02))  # (B, 96, 4, 4)
        return x.flatten(2).transpose(1, 2) + self.place


class CompactTokens(nn.Module):
    """The compact normalizer's encoder up to its last map: a grey picture → 4 × 4 tokens.

    Args:
        image_size: side of its pictures, of which it sees 112 px around the face.
        widths: channels, see ``compact.CompactEncoder``.
    """

    colour = False

    def __init__(self, image_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.width = widths[-1]
        self.body = encoder_body(widths)
        self.norm = layer_norm(self.width)
        cells = (-(-INPUT_SIZE // 2 ** len(widths))) ** 2
        self.place = nn.Parameter(torch.zeros(1, cells, self.width))
        nn.init.normal_(self.place, std=0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] → (B, 16, D)."""
        look = around_face(standardize(pictures, self.image_size), INPUT_SIZE)
        return self.norm(self.body(look).flatten(2).transpose(1, 2)) + self.place


class VitEncoder(nn.Module):
    """A vision transformer encoder; masked-autoencoder checkpoints load into ``vit``.

    ``picture_size``: side of its pictures, of which it sees ``image_size`` px around the face; 0:
    it sees them whole.
    """

    colour = True

    def __init__(
        self, size: str = "B", image_size: int = 224, stem: Stem = "patch", picture_size: int = 0
    ) -> None:
        super().__init__()
        self.vit = Vit(size, image_size, stem)
        self.image_size = picture_size or image_size
        self.width = self.vit.shape.width

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) RGB in [0, 1] → (B, 1 + (S / 16)², D), S as ``Vit`` sees them."""
        return self.vit(around_face(pictures, self.vit.image_size))


class MixtureLayer(nn.Module):
    """A transformer block with a mixture of experts as its feed-forward part."""

    def __init__(self, width: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attention = nn.MultiheadAttention(width, _heads(width), batch_first=True)
        self.norm2 = layer_norm(width)
        self.mixture = Mixture(width, hidden, experts, top)

    def forward(self, x: Tensor, seen: Tensor) -> MixtureOutput:
        """(B, N, D) tokens, (B, N) bool which of them are present → (B, N, D) tokens."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, key_padding_mask=~seen, need_weights=False)[0]
        mixed = self.mixture(self.norm2(x), seen)
        return mixed._replace(tokens=x + mixed.tokens)


class MixtureHead(nn.Module):
    """Tokens of two views → one logit per label."""

    def __init__(
        self,
        labels: int,
        width: int,
        experts: int,
        wide: int,
        top: int,
        layers: int,
        second: Second,
        second_size: int,
    ) -> None:
        super().__init__()
        hidden = max(1, wide * width // experts)
        self.second: Second = second
        self.view = nn.Parameter(torch.zeros(2, 1, width))
        nn.init.normal_(self.view, std=0.02)
        if second == "code":
            self.code = nn.Linear(second_size, _CODE_TOKENS * width)
        elif second == "features":
            self.features = nn.Linear(second_size, width)
        blocks = (MixtureLayer(width, hidden, experts, top) for _ in range(layers))
        self.layers = nn.ModuleList(blocks)
        self.norm = layer_norm(width)
        self.queries = nn.Parameter(torch.zeros(1, labels, width))
        nn.init.normal_(self.queries, std=width**-0.5)
        self.gather = nn.MultiheadAttention(width, _heads(width), batch_first=True)
        self.norm_gathered = layer_norm(width)
        self.output = Mixture(width, hidden, experts, top, labels)
        self.dropout = nn.Dropout(0.1)
        self.answer = nn.Parameter(torch.zeros(labels, width))
        nn.init.normal_(self.answer, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(labels))

    def given(self, second: Tensor) -> Tensor:
        """(B, K) code or (B, K, H, W) features → (B, N, D) tokens."""
        if self.second == "code":
            return self.code(second).unflatten(1, (_CODE_TOKENS, -1))
        return self.features(second.flatten(2).transpose(1, 2))

    def forward(self, tokens: dict[int, Tensor], present: Tensor) -> ClassifierOutput:
        """View → (B, N, D) tokens, (B, 2) bool which views a row has → logits and gates."""
        seen = torch.cat(
            [present[:, v : v + 1].expand(-1, x.shape[1]) for v, x in tokens.items()], 1
        )
        x = torch.cat([found + self.view[v] for v, found in tokens.items()], 1)  # (B, N, D)
        gates, balances = x.new_ones((*x.shape[:2], 1)), list[Tensor]()
        for layer in self.layers:
            mixed: MixtureOutput = layer(x, seen)
            x, gates = mixed.tokens, mixed.gates
            balances.append(mixed.balance)
        x = self.norm(x)
        queries = self.queries.expand(len(x), -1, -1)
        asked = self.gather(queries, x, x, key_padding_mask=~seen, need_weights=False)[0]
        asked = self.norm_gathered(queries + asked)  # (B, L, D)
        mixed = self.output(asked)
        balances.append(mixed.balance)
        found = self.dropout(asked + mixed.tokens)
        logits = torch.einsum("bld,ld->bl", found.float(), self.answer.float()) + self.bias
        return ClassifierOutput(logits, gates, mixed.gates, torch.stack(balances).mean(), seen)


class MixtureClassifier(nn.Module):
    """Two views of a face → one logit per label.

    Args:
        labels: L.
        preset: ``compact`` (the compact normalizer's encoder, grey), ``small`` (64 px grey) or
            ``norface`` (a vision transformer, colour).
        experts: in each mixture; 1 makes it a dense layer of the same size.
        wide: total hidden width of all experts of a mixture, in token widths.
        top: experts used per token; 0 uses all, with soft weights.
        layers: mixture layers before the queries.
        second: kind of the second view.
        second_size: channels of ``code`` or ``features``.
        size: of the vision transformer.
        image_size: side of the pictures of ``compact``, and of what ``norface`` sees, in pixels.
        picture_size: of ``norface``, see ``VitEncoder``.
        stem: of the vision transformer, see ``Vit``.
        widths: of the compact encoder.
        mirror: average the logits over a picture and its mirror image, except in training.
    """

    def __init__(  # noqa: PLR0913
        self,
        labels: int,
        preset: Preset = "small",
        experts: int = 4,
        wide: int = 4,
        top: int = 0,
        layers: int = 1,
        second: Second = "picture",
        second_size: int = 0,
        size: str = "B",
        image_size: int = 224,
        picture_size: int = 0,
        stem: Stem = "patch",
        widths: Sequence[int] = WIDTHS,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {
            "labels": labels, "preset": preset, "experts": experts, "wide": wide, "top": top,
            "layers": layers, "second": second, "second_size": second_size, "size": size,
            "image_size": image_size, "picture_size": picture_size, "stem": stem,
            "widths": list(widths), "mirror": mirror,
        }  # fmt: skip
        self.mirror = mirror
        self.encoder: CompactTokens | SmallEncoder | VitEncoder
        if preset == "compact":
            self.encoder = CompactTokens(image_size, widths)
        elif preset == "small":
            self.encoder = SmallEncoder()
        else:
            self.encoder = VitEncoder(size, image_size, stem, picture_size)
        width = self.encoder.width
        self.head = MixtureHead(labels, width, experts, wide, top, layers, second, second_size)

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same network again."""
        return dict(self._settings)

    @property
    def image_size(self) -> int:
        """Return the side of its input pictures, in pixels."""
        return int(self.encoder.image_size)

    @property
    def colour(self) -> bool:
        """Return whether it takes (3, S, S) RGB, else (1, S, S) grey."""
        return bool(self.encoder.colour)

    def forward(
        self, first: Tensor | None, second: Tensor | None, present: Tensor
    ) -> ClassifierOutput:
        """Predict the labels; gates are those of the pictures as they are, see ``mirror``.

        Args:
            first: (B, C, S, S) originals in [0, 1], or None if no row has one.
            second: (B, C, S, S) pictures in [0, 1], (B, K) codes or (B, K, H, W) features; or None.
            present: (B, 2) bool, which views a row has; at least one.
        """
        seen = self._look(first, second, present)
        if not self.mirror or self.training:
            return seen
        flipped = None if first is None else first.flip(-1)
        if second is not None and self.head.second == "picture":
            second = second.flip(-1)
        other = self._look(flipped, second, present)
        return seen._replace(logits=(seen.logits + other.logits) / 2)

    def _look(
        self, first: Tensor | None, second: Tensor | None, present: Tensor
    ) -> ClassifierOutput:
        pictures = {0: first, 1: second if self.head.second == "picture" else None}
        shown = {view: x for view, x in pictures.items() if x is not None}
        tokens: dict[int, Tensor] = {}
        if shown:
            # One pass over both views, so that they share batch statistics.
            made = self.encoder(torch.cat(list(shown.values()))).split(len(present))
            tokens = dict(zip(shown, made, strict=True))
        if second is not None and 1 not in tokens:
            tokens[1] = self.head.given(second)
        return self.head(tokens, present)


def _heads(width: int) -> int:
    """Return the number of attention heads: at most 12, of at least 24 channels each."""
    return max(heads for heads in range(1, 13) if width % heads == 0 and width // heads >= 24)


def probabilities(kind: str, logits: Tensor) -> Tensor:
    """(B, L) logits → (B, L) probabilities; for ``intensity``, levels from 0 to 5."""
    if kind == "emotion":
        return functional.softmax(logits, 1)
    found = torch.sigmoid(logits)
    return 5 * found if kind == "intensity" else found
