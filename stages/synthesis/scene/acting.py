"""Samples expressions: emotions, single movements, ramps of one movement, talking, gaze."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....manifests.arrays import Floats
from .expressions import ACTION_UNIT_SHAPES, Expression, stems

Range = tuple[float, float]
# (low, high) of the coefficients, sampled independently: EMFACS combinations with variation.
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
# Laughter and shouting count as happiness and anger.
EMOTION_OF = {"laughter": "happiness", "shouting": "anger"}


def prototype(emotion: str, names: Sequence[str], without: Sequence[str] = ()) -> Floats:
    """Return (E,) float32, the middle of an emotion's prototypes; contempt moves both corners half.

    ``names``: of the E coefficients. Laughter counts as happiness, shouting as anger; ``without``:
    prototypes that do not count.
    """
    found = [
        shapes
        for one, shapes in PROTOTYPES.items()
        if EMOTION_OF.get(one, one) == emotion and one not in without
    ]
    stem_of = [name.removesuffix("_L").removesuffix("_R") for name in names]
    rows = [[sum(one.get(stem, (0.0, 0.0))) / 2 for stem in stem_of] for one in found]
    return np.array(rows, np.float32).mean(0) * (0.5 if emotion == "contempt" else 1.0)


# Sounds, by lip shape; (low, high) as above.
_SOUNDS: dict[str, dict[str, Range]] = {
    "a": {"jawOpen": (0.25, 0.65), "mouthLowerDown": (0.0, 0.4), "mouthUpperUp": (0.0, 0.3)},
    "e": {
        "mouthStretch": (0.1, 0.5),
        "mouthSmile": (0.0, 0.3),
        "mouthLowerDown": (0.1, 0.5),
        "mouthUpperUp": (0.0, 0.3),
        "jawOpen": (0.05, 0.25),
    },
    "o": {"mouthFunnel": (0.3, 0.8), "jawOpen": (0.1, 0.4), "mouthPucker": (0.0, 0.4)},
    "u": {"mouthPucker": (0.4, 1.0), "mouthFunnel": (0.1, 0.5), "jawOpen": (0.0, 0.2)},
    "m": {
        "mouthPress": (0.2, 0.8),
        "mouthRollLower": (0.1, 0.7),
        "mouthRollUpper": (0.1, 0.6),
        "mouthShrugUpper": (0.0, 0.3),
    },
    "f": {"mouthRollLower": (0.4, 0.9), "mouthUpperUp": (0.1, 0.4), "jawOpen": (0.0, 0.15)},
    "s": {
        "mouthStretch": (0.1, 0.4),
        "mouthLowerDown": (0.1, 0.6),
        "mouthShrugUpper": (0.0, 0.3),
        "jawOpen": (0.0, 0.12),
    },
}
_UPPER_FACE = ("browInnerUp", "browOuterUp", "browDown", "eyeWide", "eyeSquint", "cheekSquint")
# Share of each kind of expression in a mixed set.
_MIXED = {"prototype": 0.42, "sparse": 0.22, "talking": 0.12, "single": 0.17, "gaze": 0.07}
#: Kinds of expressions of a set; ``ramp_expression`` samples ``ramps``.
KINDS = ("mixed", "prototype", "sparse", "single", "talking", "gaze", "ramps")
_PROTOTYPE_SHARES = {
    "neutral": 3, "happiness": 3, "laughter": 1.5, "surprise": 2, "anger": 2, "shouting": 1,
    "disgust": 1.5, "sadness": 2, "fear": 1.5, "contempt": 0.9,
}  # fmt: skip
# Weights of single movements: more for small ones that prototypes hardly show; default 1.
_SHARES_ALONE = {
    "mouthPucker": 2, "mouthRollLower": 2, "mouthRollUpper": 2, "cheekPuff": 2, "mouthPress": 2.5,
    "mouthDimple": 2.5, "mouthFrown": 2.5, "eyeWide": 2, "browDown": 2, "browInnerUp": 2,
    "mouthClose": 0,
}  # fmt: skip
# Probability that only one side moves; brows and lids seldom can.
_ALONE_ON_ONE_SIDE = {
    "browOuterUp": 0.1, "mouthSmile": 0.1, "mouthDimple": 0.15, "mouthUpperUp": 0.1,
    "noseSneer": 0.08, "cheekPuff": 0.12, "mouthFrown": 0.06, "mouthLowerDown": 0.08,
    "eyeBlink": 0.06, "mouthStretch": 0.06, "mouthPress": 0.05,
}  # fmt: skip
_SELDOM_ALONE = 0.03
_GAZE: dict[str, tuple[str, ...]] = {
    "AU61": ("eyeLookOut_L", "eyeLookIn_R"),
    "AU62": ("eyeLookIn_L", "eyeLookOut_R"),
    "AU63": ("eyeLookUp",),
    "AU64": ("eyeLookDown",),
}
#: The shapes of each action unit in a ramp.
RAMPS: dict[str, tuple[str, ...]] = {
    **ACTION_UNIT_SHAPES,
    **_GAZE,
    "AU26": ("jawOpen",),
    "AU28": ("mouthRollLower", "mouthRollUpper"),
}
RAMP_STEPS = 5  # 0, 0.25, 0.5, 0.75, 1


def draw_expression(
    rng: np.random.Generator, names: Sequence[str], kind: str = "mixed"
) -> Expression:
    """Sample an expression from the tables above; ``kind``: one of ``KINDS`` except ``ramps``."""
    if kind == "mixed":
        kind = str(rng.choice(list(_MIXED), p=list(_MIXED.values())))
    values = np.zeros(len(names), np.float32)
    actor = _Actor(values, names, rng)
    emotion: str | None = None
    if kind == "prototype":
        emotion = _emotion(actor)
    elif kind == "talking":
        _talk(actor)
    elif kind in ("sparse", "single"):
        usual = [stem for stem in stems(names) if not stem.startswith("eyeLook")]
        shares = np.array([_SHARES_ALONE.get(stem, 1.0) for stem in usual])
        count = 1 if kind == "single" else int(rng.integers(2, 6))
        for stem in rng.choice(usual, count, replace=False, p=shares / shares.sum()):
            actor.move(str(stem), rng.uniform(0.1, 1.0))
    if kind in ("prototype", "talking") and rng.random() < 0.35:
        extra = ["browInnerUp", "browOuterUp", "browDown", "eyeSquint", "eyeBlink", "mouthPress",
                 "mouthLeft", "mouthRight", "jawLeft", "jawRight", "jawForward", "mouthShrugUpper",
                 "mouthRollLower", "mouthFrown", "mouthDimple"]  # fmt: skip
        actor.move(str(rng.choice(extra)), rng.uniform(0.05, 0.5))
    _move_gaze(actor, far=kind == "gaze")
    _resolve_conflicts(values, names)
    return Expression(values, emotion)


def ramp_expression(rng: np.random.Generator, names: Sequence[str], step: int) -> Expression:
    """Return one random action unit at ``step`` / 4 of its full movement; nothing else moves."""
    possible = [unit for unit, shapes in RAMPS.items() if _places(names, shapes)]
    unit = str(rng.choice(possible))
    values = np.zeros(len(names), np.float32)
    values[_places(names, RAMPS[unit])] = step / (RAMP_STEPS - 1)
    return Expression(values, "neutral" if step == 0 else None)


def _places(names: Sequence[str], shapes: Sequence[str]) -> list[int]:
    """Return the indices of shapes given by name, or by stem for both sides."""
    return [i for i, name in enumerate(names) if name in shapes or name[:-2] in shapes]


class _Actor:
    """Sets shapes on both sides, slightly asymmetric, with one side always a little stronger."""

    def __init__(self, values: Floats, names: Sequence[str], rng: np.random.Generator) -> None:
        self.values = values
        self.names = names
        self.rng = rng
        self._lean = 0.1 * float(rng.standard_normal())

    def move(self, stem: str, value: float) -> None:
        """Raise a shape to at least this value."""
        sides = [i for i, name in enumerate(self.names) if name in (stem, f"{stem}_L", f"{stem}_R")]
        paired = len(sides) == 2
        alone = paired and self.rng.random() < _ALONE_ON_ONE_SIDE.get(stem, _SELDOM_ALONE)
        spared = int(self.rng.integers(2))
        for order, index in enumerate(sides):
            uneven = 1.0
            if paired:
                lean = self._lean if order else -self._lean
                uneven += lean + 0.05 * float(self.rng.standard_normal())
            strength = 0.1 if alone and order == spared else 1.0
            reached = max(float(self.values[index]), value * uneven * strength)
            self.values[index] = min(max(reached, 0.0), 1.0)


def _emotion(actor: _Actor) -> str:
    """Apply a random prototype and return its emotion."""
    rng = actor.rng
    shares = np.array(list(_PROTOTYPE_SHARES.values()))
    emotion = str(rng.choice(list(_PROTOTYPE_SHARES), p=shares / shares.sum()))
    strength = 1.0 if rng.random() < 0.6 else rng.uniform(0.25, 1.0)
    for stem, (low, high) in PROTOTYPES[emotion].items():
        actor.move(stem, strength * rng.uniform(low, high))
    if emotion == "contempt":  # one corner of the mouth alone
        resting = str(rng.choice(["_L", "_R"]))
        actor.values[[i for i, name in enumerate(actor.names) if name.endswith(resting)]] = 0
    return EMOTION_OF.get(emotion, emotion)


def _talk(actor: _Actor) -> None:
    """Apply a sound, sometimes blended with another; the upper face moves independently."""
    rng = actor.rng
    first, second = (str(sound) for sound in rng.choice(list(_SOUNDS), 2, replace=False))
    share = 1.0 if rng.random() < 0.6 else rng.uniform(0.3, 1.0)
    for sound, weight in ((first, share), (second, 1 - share)):
        for stem, (low, high) in _SOUNDS[sound].items():
            if weight > 0:
                actor.move(stem, weight * rng.uniform(low, high))
    for stem in _UPPER_FACE:
        if rng.random() < 0.2:
            actor.move(stem, rng.uniform(0.1, 0.7))


def _move_gaze(actor: _Actor, far: bool) -> None:
    """Apply gaze, the same for both eyes, and blinks."""
    values, names, rng = actor.values, actor.names, actor.rng
    index = {name: i for i, name in enumerate(names)}
    if "eyeLookUp_L" not in index:
        return
    across = up = 0.0
    if far or rng.random() < 0.12:
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.1)
        across, up = reach * np.cos(turn), reach * np.sin(turn)
    elif rng.random() < 0.6:
        across, up = 0.35 * rng.standard_normal(), 0.25 * rng.standard_normal()
    pairs = {
        "eyeLookOut_L": across, "eyeLookIn_R": across, "eyeLookIn_L": -across,
        "eyeLookOut_R": -across, "eyeLookUp_L": up, "eyeLookUp_R": up,
        "eyeLookDown_L": -up, "eyeLookDown_R": -up,
    }  # fmt: skip
    for name, amount in pairs.items():
        values[index[name]] = min(max(float(values[index[name]]), amount, 0.0), 1.0)
    if not far and rng.random() < 0.12:
        actor.move("eyeBlink", 1.0 if rng.random() < 0.5 else rng.uniform(0.2, 1.0))


def _resolve_conflicts(values: Floats, names: Sequence[str]) -> None:
    """Weaken movements whose antagonist is active."""
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
