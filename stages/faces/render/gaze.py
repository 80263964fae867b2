"""Where eyes look. The kit's eyeballs do not turn, so the irises move over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

EYE_RADIUS = 1.5  # head units, of the kit's eyeballs
# Degrees at coefficient 1: about as far as eyes go before the head follows.
_ACROSS, _UP, _DOWN = 32.0, 22.0, 28.0


def gaze_angles(names: Sequence[str], amounts: FloatArray) -> FloatArray:
    """(2, 2) float32 degrees: right and left eye, each to the person's left and up.

    Args:
        names: shape names in the order of ``amounts``.
        amounts: (E,) how far each shape is carried out.
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


def seen_from_axis(offset: FloatArray, angles: FloatArray) -> FloatArray:
    """Offsets (N, 2) from the resting optical axis → from the axis turned by (N, 2) degrees."""
    turn, rise = np.deg2rad(angles).T
    across, up = offset.T
    depth = np.sqrt((EYE_RADIUS**2 - across**2 - up**2).clip(0.01))
    # Turn the point back: first about the vertical axis, then about the horizontal one.
    sideways = across * np.cos(turn) - depth * np.sin(turn)
    ahead = across * np.sin(turn) + depth * np.cos(turn)
    upwards = up * np.cos(rise) - ahead * np.sin(rise)
    ahead = up * np.sin(rise) + ahead * np.cos(rise)
    result = np.stack([sideways, upwards], 1)
    # Behind the eyeball's equator nothing may look like its front.
    result[ahead < 0] = EYE_RADIUS
    return result.astype(np.float32)
