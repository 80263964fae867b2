"""Expression coefficients, and the facial action units that correspond to them.

Coefficients are in [0, 1], one per shape of the face kit. They are not FACS intensities: a
coefficient is a fraction of a scanned actor's full movement, and the action-unit intensities given
here are five times that, nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....manifests.arrays import Floats

# Shape stems (without _L/_R) of each action unit; the stronger side counts.
ACTION_UNIT_SHAPES: dict[str, tuple[str, ...]] = {
    "AU1": ("browInnerUp",),
    "AU2": ("browOuterUp",),
    "AU4": ("browDown",),
    "AU5": ("eyeWide",),
    "AU6": ("cheekSquint",),
    "AU7": ("eyeSquint",),
    "AU9": ("noseSneer",),
    "AU10": ("mouthUpperUp",),
    "AU12": ("mouthSmile",),
    "AU14": ("mouthDimple",),
    "AU15": ("mouthFrown",),
    "AU16": ("mouthLowerDown",),
    "AU17": ("mouthShrugLower",),
    "AU18": ("mouthPucker",),
    "AU20": ("mouthStretch",),
    "AU22": ("mouthFunnel",),
    "AU24": ("mouthPress",),
    "AU33": ("cheekPuff",),
    "AU45": ("eyeBlink",),
    "AU61": ("eyeLookLeft",),
    "AU62": ("eyeLookRight",),
    "AU63": ("eyeLookUp",),
    "AU64": ("eyeLookDown",),
}
#: The action units that renders are labelled with, a subset of ``vocabularies.ACTION_UNITS``.
# AU25 is a measured lip gap, 26/27 bands of jawOpen, 28 both lips rolled in. AU23 has no shape.
RENDERED_UNITS: tuple[str, ...] = tuple(
    sorted([*ACTION_UNIT_SHAPES, "AU25", "AU26", "AU27", "AU28"], key=lambda name: int(name[2:]))
)
OCCURRENCE_INTENSITY = 1.0  # of 5: FACS level A
JAW_STRETCH = 0.55  # jawOpen from which AU27 replaces AU26
FULL_LIP_GAP = 1.6  # head units (about cm) at which AU25 counts as intensity 5


@dataclass(frozen=True)
class Expression:
    """An expression: (E,) coefficients in [0, 1] in kit order, and the intended emotion, if any."""

    coefficients: Floats
    emotion: str | None


def stems(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without their side, each once, in order."""
    return tuple(dict.fromkeys(name.removesuffix("_L").removesuffix("_R") for name in names))


def from_named(names: Sequence[str], values: Mapping[str, float]) -> Floats:
    """Return (E,) coefficients from values by name; a stem sets both sides; unknown: KeyError."""
    result = np.zeros(len(names), np.float32)
    for name, value in values.items():
        found = [i for i, full in enumerate(names) if full in (name, f"{name}_L", f"{name}_R")]
        if not found:
            raise KeyError(name)
        result[found] = value
    return result


def action_units(
    names: Sequence[str], coefficients: Floats, lip_gap: float = 0.0
) -> dict[str, float]:
    """Return action-unit intensities in [0, 5] by name.

    Args:
        names: shape names in the order of ``coefficients``.
        coefficients: (E,) in [0, 1].
        lip_gap: lip distance beyond that at rest, in head units, for AU25.
    """
    value = dict(zip(names, np.asarray(coefficients, float).tolist(), strict=True))

    strongest: dict[str, float] = {}
    for name, amount in value.items():
        stem = name.removesuffix("_L").removesuffix("_R")
        strongest[stem] = max(strongest.get(stem, 0.0), amount)
    units = {
        unit: 5 * max(strongest.get(stem, 0.0) for stem in shapes)
        for unit, shapes in ACTION_UNIT_SHAPES.items()
    }
    units["AU61"] = 5 * max(value.get("eyeLookOut_L", 0.0), value.get("eyeLookIn_R", 0.0))
    units["AU62"] = 5 * max(value.get("eyeLookIn_L", 0.0), value.get("eyeLookOut_R", 0.0))
    jaw = value.get("jawOpen", 0.0)
    units["AU25"] = 5 * float(np.clip(lip_gap / FULL_LIP_GAP, 0, 1))
    units["AU26"] = 5 * jaw / JAW_STRETCH if jaw < JAW_STRETCH else 0.0
    units["AU27"] = 5 * jaw if jaw >= JAW_STRETCH else 0.0
    units["AU28"] = 2.5 * (value.get("mouthRollLower", 0.0) + value.get("mouthRollUpper", 0.0))
    return {unit: float(units[unit]) for unit in RENDERED_UNITS}


def occurring(intensities: Mapping[str, float]) -> dict[str, bool]:
    """Return which action units count as present."""
    return {unit: value >= OCCURRENCE_INTENSITY for unit, value in intensities.items()}
