"""Drawn photographs of people with habits, and fake normalizers whose faults are known."""

from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 96
EMOTIONS = ("neutral", "happiness", "surprise", "anger", "sadness")


@dataclass(frozen=True)
class Faces:
    images: np.ndarray
    emotions: np.ndarray
    people: np.ndarray
    sources: np.ndarray
    parts: np.ndarray
    looks: np.ndarray  # (N, SIDE, SIDE) what the person looks like, without the expression


def expression(emotion: str, strength: float = 1.0) -> np.ndarray:
    """(SIDE, SIDE) lines of brows and mouth."""
    canvas = np.zeros((SIDE, SIDE), np.float32)
    bend = {"happiness": 7, "sadness": -5}.get(emotion, 0) * strength
    xs = np.arange(30, 67)
    ys = 72 - bend * ((xs - 48) / 18) ** 2 + bend / 2
    cv2.polylines(canvas, [np.stack([xs, ys], 1).astype(np.int32)], False, 1.0, 2)
    if emotion == "surprise":
        cv2.ellipse(canvas, (48, 74), (9, int(9 * strength) + 1), 0, 0, 360, 1.0, 2)
    tilt = round({"anger": 6, "surprise": -4}.get(emotion, 0) * strength)
    cv2.line(canvas, (26, 30), (42, 30 + tilt), 1.0, 2)
    cv2.line(canvas, (70, 30), (54, 30 + tilt), 1.0, 2)
    return canvas


def look(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) smooth texture of one person, about -1 to 1."""
    coarse = rng.normal(size=(12, 12)).astype(np.float32)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def paint(pattern: np.ndarray) -> np.ndarray:
    grey = np.clip(128 + pattern, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def photographs(people: int = 60, each: int = 8, seed: int = 0) -> Faces:
    """People with a look of their own; every other person comes from source ``b``."""
    rng = np.random.default_rng(seed)
    images, emotions, names, sources, parts, looks = [], [], [], [], [], []
    for person in range(people):
        own = look(rng)
        for _ in range(each):
            emotion = str(rng.choice(EMOTIONS, p=[0.36, 0.16, 0.16, 0.16, 0.16]))
            drawn = 60 * expression(emotion, rng.uniform(0.4, 1.1))
            noise = rng.normal(scale=8, size=(SIDE, SIDE))
            images.append(paint(drawn + 55 * own + noise))
            emotions.append(emotion)
            names.append(f"p{person:03d}")
            sources.append("ab"[person % 2])
            parts.append("test" if person % 4 >= 2 else "train")
            looks.append(own)
    words = (np.array(x) for x in (emotions, names, sources, parts))
    return Faces(np.stack(images), *words, np.stack(looks))


def average(faces: Faces) -> np.ndarray:
    return np.repeat(paint(np.zeros((SIDE, SIDE)))[None], len(faces.images), 0)


def expression_only(faces: Faces, leak: float = 0.0, drop: str = "") -> np.ndarray:
    """The expression on an empty face, with ``leak`` of the person's look; none in a source."""
    return np.stack(
        [
            paint(60 * expression("neutral" if source == drop else emotion) + leak * own)
            for emotion, source, own in zip(faces.emotions, faces.sources, faces.looks, strict=True)
        ]
    )
