"""Gaze. The kit's eyeballs do not rotate, so the irises move over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ....manifests.arrays import Floats

EYE_RADIUS = 1.5  # head units, of the kit's eyeballs
# Degrees at coefficient 1: about as far as eyes turn before the head follows.
_ACROSS, _UP, _DOWN = 32.0, 22.0, 28.0


def gaze_angles(names: Sequence[str], amounts: Floats) -> Floats:
    """Return (2, 2) float32 degrees: right and left eye, each to the person's left and up.

    Args:
        names: shape names in the order of ``amounts``.
        amounts: (E,) amount of each shape.
    """
    value = dict(zip(names, np.asarray(amounts, float).tolist(), strict=True))
    angles = np.zeros((2, 2), np.float32)
    for eye, (side, left, right) in enumerate((("R", "In", "Out"), ("L", "Out", "In"))):
        towards = {
            way: value.get(f"eyeLook{way}_{side}", 0.0) for way in ("In", "Out", "Up", "Down")
        }
        angles[eye, 0] = _ACROSS * (towards[left] - towards[right])
        angles[eye, 1] = _UP * towards["Up"] - _DOWN * towards["Down"]
    return angles


def offset_from_gaze(offset: Tensor, angles: Tensor) -> Tensor:
    """Convert offsets (N, 2) from the resting optical axis to one turned by (N, 2) radians."""
    turn, rise = angles.unbind(1)
    across, up = offset.unbind(1)
    depth = (EYE_RADIUS**2 - across**2 - up**2).clamp(min=0.01).sqrt()
    # Rotate the point back: first about the vertical axis, then about the horizontal one.
    sideways = across * turn.cos() - depth * turn.sin()
    ahead = across * turn.sin() + depth * turn.cos()
    upwards = up * rise.cos() - ahead * rise.sin()
    ahead = up * rise.sin() + ahead * rise.cos()
    result = torch.stack([sideways, upwards], 1)
    # Points behind the eyeball's equator must not get the iris.
    return result.masked_fill(ahead[:, None] < 0, EYE_RADIUS)
