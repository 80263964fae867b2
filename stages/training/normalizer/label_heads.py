"""Reads the labels of photographs off the coefficients, so that photographs teach the code.

A label reaches the network only through the coefficients, and the heads are as small as a linear
layer. So the code itself must say on photographs what it says on renders, and a head can learn
little that the code does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ....manifests.arrays import Floats
from ....manifests.vocabularies import EMOTIONS
from ...networks.base import leaky_clamp
from ...synthesis.scene.acting import prototype
from ...synthesis.scene.expressions import ACTION_UNIT_SHAPES, RENDERED_UNITS

#: What may be covered in a photograph: nothing, the mouth, or brows and eyes.
WHOLE, LOWER_COVERED, UPPER_COVERED = 0, 1, 2
#: Shapes that are seen above the mouth.
_UPPER = ("brow", "eye", "cheekSquint", "noseSneer")
_SHARPNESS = 3.0  # a prototype drawn in full is about 3 to 6 logits ahead of other emotions
#: Heads begin near their answer and have far fewer weights than the encoder: they may learn faster.
_SPEED = 5.0
# Units that several shapes or a band of one make.
_MORE_SHAPES = {
    "AU26": ("jawOpen",),
    "AU27": ("jawOpen",),
    "AU28": ("mouthRollLower", "mouthRollUpper"),
    "AU61": ("eyeLookOut_L", "eyeLookIn_R"),
    "AU62": ("eyeLookIn_L", "eyeLookOut_R"),
}


class EmotionHead(nn.Module):
    """Coefficients → emotions, by a linear layer that begins at the emotions' prototypes.

    The prototypes are those of the renderer's acting. What is learnt in addition is kept small
    (``distance``): free weights would grow until the faintest reading decides, and the code would
    have no reason to say it louder.

    Args:
        names: of the E coefficients.
        used: (E,) bool, the coefficients that this head may read.
    """

    prototypes: Tensor
    used: Tensor

    def __init__(self, names: Sequence[str], used: Tensor) -> None:
        super().__init__()
        # Laughter is left out: otherwise a label of happiness opens the mouth of every smile.
        rows = np.stack([prototype(emotion, names, ("laughter",)) for emotion in EMOTIONS])
        self.register_buffer("used", used.float())
        self.register_buffer("prototypes", torch.from_numpy(rows - rows.mean(0)))
        self.change = nn.Parameter(torch.zeros(len(EMOTIONS), len(names)))
        self.bias = nn.Parameter(torch.zeros(len(EMOTIONS)))

    def forward(self, code: Tensor) -> Tensor:
        """(R, E) → (R, 8) logits in the order of ``EMOTIONS``."""
        weight = (_SHARPNESS * self.prototypes + _SPEED * self.change) * self.used
        return code @ weight.T + _SPEED * self.bias

    def distance(self) -> Tensor:
        """Return () the squared distance of the weights from the prototypes."""
        return (_SPEED * self.change * self.used).square().sum()


class UnitHead(nn.Module):
    """Coefficients → action units: one scale, which cannot be negative, and one offset each.

    The code of a unit is the mean of its shapes over both sides. AU25 is no part of the code.
    """

    shapes: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("shapes", torch.from_numpy(unit_shapes(names)))
        self.scale = nn.Parameter(torch.full((len(RENDERED_UNITS),), 1.0))
        self.offset = nn.Parameter(torch.zeros(len(RENDERED_UNITS)))

    def forward(self, code: Tensor) -> Tensor:
        """(R, E) → (R, U), units in the order of ``RENDERED_UNITS``."""
        scale = functional.softplus(_SPEED * self.scale)
        return (code @ self.shapes.T) * scale + _SPEED * self.offset


class LabelHeads(nn.Module):
    """All heads. Their outputs are named as the losses that need them.

    Args:
        names: of the E coefficients.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        upper = torch.tensor([name.startswith(_UPPER) for name in names])
        self.emotions = EmotionHead(names, torch.ones_like(upper))
        self.emotions_upper = EmotionHead(names, upper)
        self.emotions_lower = EmotionHead(names, ~upper)
        self.occurrence = UnitHead(names)
        self.intensity = UnitHead(names)

    def forward(self, coefficients: Tensor) -> dict[str, Tensor]:
        """(R, E) coefficients as read, not clamped → logits and intensities by name.

        Three times (R, 8), for ``emotions``, ``emotions_upper`` and ``emotions_lower``; twice
        (R, U), logits of ``occurrence`` and ``intensity`` from 0 to 5. ``emotions_distance`` and
        so on, (), is how far an emotion head is from the prototypes.
        """
        code = leaky_clamp(coefficients)
        found: dict[str, Tensor] = {}
        for name, head in self.named_children():
            found[name] = head(code)
            if isinstance(head, EmotionHead):
                found[f"{name}_distance"] = head.distance()
        return found


def unit_shapes(names: Sequence[str]) -> Floats:
    """Return (U, E) float32 whose rows average the shapes of each unit; 0 where there is none."""
    found = np.zeros((len(RENDERED_UNITS), len(names)), np.float32)
    for row, unit in enumerate(RENDERED_UNITS):
        shapes = _MORE_SHAPES.get(unit) or ACTION_UNIT_SHAPES.get(unit, ())
        wanted = {*shapes, *(shape + side for shape in shapes for side in ("_L", "_R"))}
        places = [place for place, name in enumerate(names) if name in wanted]
        found[row, places] = 1 / max(1, len(places))
    return found
