"""What faces do: seeded expression coefficients, and their names as facial action units.

Coefficients are in [0, 1], one per shape of the face kit. They are not FACS intensities: a
coefficient says how far a scanned actor's full movement is carried out, and the action-unit
intensities given here are five times that, nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

# Shape stems (without _L/_R) that carry out an action unit; the strongest side counts.
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
# AU25 is a measured lip gap, 26/27 bands of jawOpen, 28 both lips rolled in. AU23 has no shape.
ACTION_UNITS: tuple[str, ...] = tuple(
    sorted([*ACTION_UNIT_SHAPES, "AU25", "AU26", "AU27", "AU28"], key=lambda name: int(name[2:]))
)
OCCURRENCE_INTENSITY = 1.0  # of 5: FACS level A
JAW_STRETCH = 0.55  # jawOpen from which AU27 replaces AU26
FULL_LIP_GAP = 1.6  # head units (about cm) at which AU25 counts as intensity 5

Range = tuple[float, float]
# (low, high) of the coefficient, each drawn alone; EMFACS combinations with room for variants.
PROTOTYPES: dict[str, dict[str, Range]] = {
    "neutral": {},
    "happiness": {
        "mouthSmile": (0.35, 1.0),
        "cheekSquint": (0.2, 1.0),
        "eyeSquint": (0.0, 0.35),
        "mouthUpperUp": (0.0, 0.35),
        "mouthLowerDown": (0.0, 0.4),
        "jawOpen": (0.0, 0.25),
        "mouthDimple": (0.0, 0.2),
    },
    "laughter": {
        "mouthSmile": (0.6, 1.0),
        "cheekSquint": (0.5, 1.0),
        "jawOpen": (0.25, 0.65),
        "eyeBlink": (0.0, 0.6),
        "mouthUpperUp": (0.1, 0.5),
        "mouthLowerDown": (0.0, 0.5),
        "eyeSquint": (0.0, 0.5),
    },
    "surprise": {
        "browInnerUp": (0.4, 1.0),
        "browOuterUp": (0.4, 1.0),
        "eyeWide": (0.2, 1.0),
        "jawOpen": (0.1, 0.8),
        "mouthFunnel": (0.0, 0.3),
    },
    "anger": {
        "browDown": (0.5, 1.0),
        "eyeSquint": (0.1, 0.7),
        "mouthPress": (0.1, 0.9),
        "noseSneer": (0.0, 0.4),
        "mouthFrown": (0.0, 0.4),
        "mouthShrugLower": (0.0, 0.4),
    },
    "shouting": {
        "browDown": (0.4, 1.0),
        "eyeWide": (0.0, 0.5),
        "jawOpen": (0.25, 0.8),
        "mouthUpperUp": (0.2, 0.8),
        "mouthLowerDown": (0.3, 0.9),
        "noseSneer": (0.1, 0.7),
        "mouthStretch": (0.0, 0.6),
    },
    "disgust": {
        "noseSneer": (0.4, 1.0),
        "mouthUpperUp": (0.2, 0.8),
        "browDown": (0.1, 0.7),
        "eyeSquint": (0.1, 0.7),
        "mouthFrown": (0.0, 0.5),
        "mouthShrugLower": (0.0, 0.5),
        "cheekSquint": (0.0, 0.5),
    },
    "sadness": {
        "browInnerUp": (0.25, 1.0),
        "browDown": (0.1, 0.6),
        "mouthFrown": (0.3, 1.0),
        "mouthShrugLower": (0.1, 0.7),
        "eyeSquint": (0.0, 0.4),
        "eyeLookDown": (0.0, 0.6),
        "mouthPress": (0.0, 0.4),
    },
    "fear": {
        "browInnerUp": (0.5, 1.0),
        "browOuterUp": (0.2, 0.7),
        "browDown": (0.2, 0.6),
        "eyeWide": (0.4, 1.0),
        "mouthStretch": (0.3, 1.0),
        "jawOpen": (0.0, 0.5),
        "mouthLowerDown": (0.0, 0.5),
    },
    "contempt": {"mouthDimple": (0.4, 1.0), "mouthSmile": (0.0, 0.4), "mouthPress": (0.0, 0.3)},
}
# Laughter and shouting are ways to be happy and angry.
EMOTION_OF = {"laughter": "happiness", "shouting": "anger"}
_MOUTH_TALKING: dict[str, Range] = {
    "jawOpen": (0.0, 0.5),
    "mouthFunnel": (0.0, 0.5),
    "mouthPucker": (0.0, 0.6),
    "mouthLowerDown": (0.0, 0.6),
    "mouthUpperUp": (0.0, 0.4),
    "mouthStretch": (0.0, 0.5),
    "mouthRollLower": (0.0, 0.5),
    "mouthRollUpper": (0.0, 0.4),
    "mouthShrugUpper": (0.0, 0.4),
}
# How scenes are shared out among the ways of drawing an expression.
_KINDS = {"prototype": 0.5, "sparse": 0.25, "talking": 0.1, "single": 0.15}
_PROTOTYPE_SHARES = {
    "neutral": 3, "happiness": 3, "laughter": 1.5, "surprise": 2, "anger": 2, "shouting": 1,
    "disgust": 1.5, "sadness": 2, "fear": 1.5, "contempt": 0.7,
}  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """An expression: (E,) coefficients in [0, 1] in kit order, and the emotion meant, if any."""

    coefficients: FloatArray
    emotion: str | None


def stems(names: Sequence[str]) -> tuple[str, ...]:
    """Names without their side, each once, in order."""
    return tuple(dict.fromkeys(name.removesuffix("_L").removesuffix("_R") for name in names))


def from_named(names: Sequence[str], values: Mapping[str, float]) -> FloatArray:
    """(E,) coefficients from values by name; a stem sets both sides; unknown: KeyError."""
    result = np.zeros(len(names), np.float32)
    for name, value in values.items():
        found = [i for i, full in enumerate(names) if full in (name, f"{name}_L", f"{name}_R")]
        if not found:
            raise KeyError(name)
        result[found] = value
    return result


def draw_expression(rng: np.random.Generator, names: Sequence[str]) -> Expression:
    """Draw an expression as described by the tables above."""
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    values = np.zeros(len(names), np.float32)
    emotion: str | None = None
    if kind == "prototype":
        shares = np.array(list(_PROTOTYPE_SHARES.values()))
        emotion = str(rng.choice(list(_PROTOTYPE_SHARES), p=shares / shares.sum()))
        strength = 1.0 if rng.random() < 0.6 else rng.uniform(0.25, 1.0)
        for stem, (low, high) in PROTOTYPES[emotion].items():
            _set(values, names, rng, stem, strength * rng.uniform(low, high))
        if emotion == "contempt":
            values[
                [i for i, name in enumerate(names) if name.endswith(rng.choice(["_L", "_R"]))]
            ] = 0
        emotion = EMOTION_OF.get(emotion, emotion)
    elif kind == "talking":
        for stem, (low, high) in _MOUTH_TALKING.items():
            if rng.random() < 0.4:
                _set(values, names, rng, stem, rng.uniform(low, high))
    else:
        usual = [s for s in stems(names) if not s.startswith("eyeLook") and s != "mouthClose"]
        count = 1 if kind == "single" else int(rng.integers(2, 6))
        for stem in rng.choice(usual, count, replace=False):
            _set(values, names, rng, str(stem), rng.uniform(0.1, 1.0))
    if kind in ("prototype", "talking") and rng.random() < 0.35:
        extra = ["browInnerUp", "browOuterUp", "browDown", "eyeSquint", "eyeBlink", "mouthPress",
                 "mouthLeft", "mouthRight", "jawLeft", "jawRight", "jawForward", "mouthShrugUpper",
                 "mouthRollLower", "mouthFrown", "mouthDimple"]  # fmt: skip
        _set(values, names, rng, str(rng.choice(extra)), rng.uniform(0.05, 0.5))
    _look(values, names, rng)
    _make_possible(values, names)
    return Expression(values, emotion)


def _set(
    values: FloatArray, names: Sequence[str], rng: np.random.Generator, stem: str, value: float
) -> None:
    """Set a shape; paired shapes move together, a little unevenly, now and then one alone."""
    sides = [i for i, name in enumerate(names) if name in (stem, f"{stem}_L", f"{stem}_R")]
    one_sided = len(sides) == 2 and rng.random() < 0.08
    spared = int(rng.integers(2))
    for order, index in enumerate(sides):
        uneven = 1 + (0.12 * rng.standard_normal() if len(sides) == 2 else 0)
        strength = 0.1 if one_sided and order == spared else 1.0
        values[index] = np.clip(max(values[index], value * uneven * strength), 0, 1)


def _look(values: FloatArray, names: Sequence[str], rng: np.random.Generator) -> None:
    """Gaze, the same for both eyes, and blinks."""
    index = {name: i for i, name in enumerate(names)}
    if "eyeLookUp_L" not in index:
        return
    if rng.random() < 0.6:
        across, up = 0.35 * rng.standard_normal(), 0.25 * rng.standard_normal()
        pairs = {
            "eyeLookOut_L": across, "eyeLookIn_R": across, "eyeLookIn_L": -across,
            "eyeLookOut_R": -across, "eyeLookUp_L": up, "eyeLookUp_R": up,
            "eyeLookDown_L": -up, "eyeLookDown_R": -up,
        }  # fmt: skip
        for name, amount in pairs.items():
            values[index[name]] = np.clip(max(values[index[name]], amount), 0, 1)
    if rng.random() < 0.12:
        blink = 1.0 if rng.random() < 0.5 else rng.uniform(0.2, 1.0)
        _set(values, names, rng, "eyeBlink", blink)


def _make_possible(values: FloatArray, names: Sequence[str]) -> None:
    """Muscles that fight each other: the weaker gives way."""
    index = {name: i for i, name in enumerate(names)}
    for weak, strong in (
        ("eyeWide_L", "eyeBlink_L"), ("eyeWide_R", "eyeBlink_R"),
        ("eyeSquint_L", "eyeWide_L"), ("eyeSquint_R", "eyeWide_R"),
        ("mouthFrown_L", "mouthSmile_L"), ("mouthFrown_R", "mouthSmile_R"),
        ("jawLeft", "jawRight"), ("mouthLeft", "mouthRight"),
        ("mouthPress_L", "jawOpen"), ("mouthPress_R", "jawOpen"),
        ("mouthPucker", "mouthSmile_L"), ("mouthPucker", "mouthStretch_L"),
        ("mouthFunnel", "mouthSmile_L"), ("mouthStretch_L", "mouthFunnel"),
    ):  # fmt: skip
        if weak in index and strong in index:
            values[index[weak]] *= max(0.0, 1 - 1.2 * float(values[index[strong]]))
    if "mouthClose" in index and "jawOpen" in index:
        values[index["mouthClose"]] = min(values[index["mouthClose"]], values[index["jawOpen"]])


def action_units(
    names: Sequence[str], coefficients: FloatArray, lip_gap: float = 0.0
) -> dict[str, float]:
    """Action-unit intensities in [0, 5] by name.

    Args:
        names: shape names in the order of ``coefficients``.
        coefficients: (E,) in [0, 1].
        lip_gap: how much wider than at rest the lips part, in head units, for AU25.
    """
    value = dict(zip(names, np.asarray(coefficients, float).tolist(), strict=True))

    def strongest(stem: str) -> float:
        return max((value.get(f"{stem}{side}", 0.0) for side in ("", "_L", "_R")), default=0.0)

    units = {
        unit: 5 * max(strongest(stem) for stem in shapes)
        for unit, shapes in ACTION_UNIT_SHAPES.items()
    }
    units["AU61"] = 5 * max(value.get("eyeLookOut_L", 0.0), value.get("eyeLookIn_R", 0.0))
    units["AU62"] = 5 * max(value.get("eyeLookIn_L", 0.0), value.get("eyeLookOut_R", 0.0))
    jaw = value.get("jawOpen", 0.0)
    units["AU25"] = 5 * float(np.clip(lip_gap / FULL_LIP_GAP, 0, 1))
    units["AU26"] = 5 * jaw / JAW_STRETCH if jaw < JAW_STRETCH else 0.0
    units["AU27"] = 5 * jaw if jaw >= JAW_STRETCH else 0.0
    units["AU28"] = 2.5 * (value.get("mouthRollLower", 0.0) + value.get("mouthRollUpper", 0.0))
    return {unit: float(units[unit]) for unit in ACTION_UNITS}


def occurring(intensities: Mapping[str, float]) -> dict[str, bool]:
    """Which action units count as present."""
    return {unit: value >= OCCURRENCE_INTENSITY for unit, value in intensities.items()}
