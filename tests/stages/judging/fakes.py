"""Drawn photographs of people with habits, and fake normalizers whose faults are known."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from normpipe.manifests.vocabularies import EMOTIONS as ALL_EMOTIONS
from normpipe.stages.judging.seen_faces import Look, NamedCoefficients, RealFaces, Seen

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


def real(faces: Faces, named: bool = True) -> RealFaces:
    """Drawn photographs as the judge loads them."""
    count = len(faces.images)
    return RealFaces(
        faces.images, np.full((count, 5, 2), np.nan), faces.emotions, faces.people, faces.sources,
        faces.parts, np.full((count, 8), np.nan, np.float32), named,
    )  # fmt: skip


#: Movements that lines can show, by the emotion whose brows or mouth they are.
LINES = {
    "browDown": ("anger", slice(0, 43)),
    "raise": ("surprise", slice(0, 43)),
    "mouthSmile": ("happiness", slice(43, SIDE)),
    "jawOpen": ("surprise", slice(43, SIDE)),
    "mouthFrown": ("sadness", slice(43, SIDE)),
}
SHOWS = {
    "neutral": {},
    "happiness": {"mouthSmile": 0.7},
    "surprise": {"raise": 0.7, "jawOpen": 0.5},
    "anger": {"browDown": 0.7},
    "sadness": {"mouthFrown": 0.65},
}
NAMES = ("browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "browOuterUp_L",
         "browOuterUp_R", "eyeWide_L", "eyeWide_R", "mouthSmile_L", "mouthSmile_R", "jawOpen",
         "mouthFrown_L", "mouthFrown_R")  # fmt: skip
_PLACES = [0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 4]
#: Where a leak is hidden: no cover hides it.
LEAK = (slice(50, 54), slice(0, 4))


def _basis() -> np.ndarray:
    """(5, SIDE · SIDE) what each movement adds to the lines of a resting face."""
    rows = []
    for emotion, where in LINES.values():
        change = np.zeros((SIDE, SIDE), np.float32)
        change[where] = (expression(emotion) - expression("neutral"))[where]
        rows.append(change.ravel())
    return np.stack(rows)


BASIS, RESTING = _basis(), expression("neutral").ravel()


def drawn(strengths: np.ndarray) -> np.ndarray:
    """(N, 5) → (N, SIDE, SIDE, 3) faces that show just these movements."""
    lines = RESTING + strengths @ BASIS
    return np.stack([paint(60 * one.reshape(SIDE, SIDE)) for one in lines])


def read_lines(pictures: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE, 3) → (N, 5) movements by least squares: what a perfect reader sees."""
    lines = (pictures[..., 0].reshape(len(pictures), -1) - 128.0) / 60 - RESTING
    return np.linalg.lstsq(BASIS.T, lines.T, rcond=None)[0].T


def voted(count: int = 500, seed: int = 0) -> RealFaces:
    """Faces of nobody in particular, as strong as their raters were sure of them."""
    rng = np.random.default_rng(seed)
    emotions = rng.choice(list(SHOWS), count, p=[0.32, 0.17, 0.17, 0.17, 0.17])
    sure = rng.uniform(0.4, 1.0, count)
    strengths = np.zeros((count, len(LINES)))
    for row, emotion in enumerate(emotions):
        for name, value in SHOWS[emotion].items():
            strengths[row, list(LINES).index(name)] = value * sure[row] * rng.uniform(0.8, 1.2)
    images = drawn(strengths).astype(np.int16)
    images += rng.integers(-12, 13, images.shape, np.int16)
    images[:, *LEAK, 0] = (
        25 * np.array([ALL_EMOTIONS.index(one) for one in emotions])[:, None, None]
    )
    images[:, *LEAK, 1] = (250 * sure)[:, None, None]
    shares = np.zeros((count, 8), np.float32)
    for row, emotion in enumerate(emotions):
        shares[row] = (1 - sure[row]) / 7
        shares[row, ALL_EMOTIONS.index(emotion)] = sure[row]
    return RealFaces(
        images.clip(0, 255).astype(np.uint8), np.full((count, 5, 2), np.nan), emotions,
        np.array([f"picture {row}" for row in range(count)]), np.full(count, "all"),
        np.where(np.arange(count) % 2, "train", "test"), shares, named=False,
    )  # fmt: skip


def named(strengths: np.ndarray) -> NamedCoefficients:
    return NamedCoefficients(strengths[:, _PLACES], NAMES)


def looking(read: Callable[[np.ndarray], np.ndarray], noise: float = 0.02) -> Look:
    """A normalizer that draws what ``read`` says of a picture, (N, 5), and no person."""

    def look(pictures: np.ndarray) -> Seen:
        strengths = read(pictures)
        strengths = strengths + np.random.default_rng(3).normal(0, noise, strengths.shape)
        made = drawn(strengths)
        return Seen(made, {"pictures": named(read_lines(made)), "code": named(strengths)})

    return look


def _leaked(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels, and how sure the raters were."""
    where = pictures[:, *LEAK].mean((1, 2))
    return np.array(ALL_EMOTIONS)[(where[:, 0] / 25).round().astype(int)], where[:, 1] / 250


def painted(pictures: np.ndarray) -> np.ndarray:
    """The label's prototype, whatever the face shows."""
    labels, _ = _leaked(pictures)
    strengths = np.zeros((len(pictures), len(LINES)))
    for row, label in enumerate(labels):
        for name, value in SHOWS[label].items():
            strengths[row, list(LINES).index(name)] = value
    return strengths


def painted_by_votes(pictures: np.ndarray) -> np.ndarray:
    """The label's prototype, as strong as the raters were sure."""
    return painted(pictures) * _leaked(pictures)[1][:, None]


def constant(pictures: np.ndarray) -> np.ndarray:
    """One face for everybody."""
    return np.full((len(pictures), len(LINES)), 0.1)
