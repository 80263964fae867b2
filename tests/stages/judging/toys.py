"""Renders whose answers can be read off with a ruler: a coefficient is the grey of a block."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from normpipe.manifests.schema import IMAGE, POINTS
from normpipe.stages.faces.pixels import encode
from normpipe.stages.judging.frozen_reader import PictureReadings
from normpipe.stages.judging.renders import Renders
from normpipe.stages.synthesis.scene.person import Demographics

SIDED = ("mouthSmile", "browInnerUp", "browOuterUp", "eyeBlink", "eyeWide", "mouthPress",
         "mouthDimple", "mouthFrown")  # fmt: skip
NAMES = ("jawOpen", *(f"{stem}_{side}" for stem in SIDED for side in "LR"))
SIZE = 64
HALF = SIZE // 2
BLOCK = 8
BASE = np.column_stack([np.linspace(8, 56, 68), 32 + 20 * np.sin(np.arange(68))])
MOVES = np.random.default_rng(5).normal(0, 1.5, (68, 2, len(NAMES)))


def places() -> list[tuple[slice, slice]]:
    """Blocks of the lower half; the upper half is background."""
    return [
        (slice(HALF + BLOCK * (i // 8), HALF + BLOCK * (i // 8 + 1)),
         slice(BLOCK * (i % 8), BLOCK * (i % 8 + 1)))
        for i in range(len(NAMES))
    ]  # fmt: skip


def points_of(expression):
    return (BASE + np.einsum("pce,ne->npc", MOVES, expression)).astype(np.float32)


def paint(expression):
    """(N, E) → (N, 64, 64, 3) exact targets."""
    pictures = np.full((len(expression), SIZE, SIZE, 3), 128, np.uint8)
    for column, (rows, across) in enumerate(places()):
        pictures[:, rows, across] = (20 + 200 * expression[:, column]).round()[:, None, None, None]
    return pictures


def read(pictures) -> PictureReadings:
    """What a perfect reader sees."""
    code = np.column_stack(
        [(pictures[:, r, c].mean((1, 2, 3)) - 20) / 200 for r, c in places()]
    ).astype(np.float32)
    return PictureReadings(code, points_of(code) / SIZE)


def toy_renders(people: int = 12, each: int = 12, crossed: bool = False, seed: int = 0) -> Renders:
    """People whose pictures carry a pattern of their own in the upper half, darker by number."""
    rng = np.random.default_rng(seed)
    if crossed:
        expression = np.tile(rng.random((each, len(NAMES))), (people, 1))
    else:
        expression = rng.random((people * each, len(NAMES)))
    identity = np.repeat(np.arange(people), each)
    target = paint(expression)
    source = target.copy()
    pattern = rng.integers(0, 8, (people, HALF // 8, SIZE // 8, 1)).repeat(8, 1).repeat(8, 2)
    source[:, :HALF] = (30 + 120 * identity / people)[:, None, None, None] + 10 * pattern[identity]
    return Renders(
        expression_names=NAMES,
        source=source,
        landmarks=points_of(expression),
        target=target,
        target_landmarks=points_of(expression),
        expression=expression.astype(np.float32),
        identity=identity,
        emotion=np.array(["happiness"] * len(identity)),
        target_note={"kind": "mean"},
    )


def kind(identity: int) -> Demographics:
    """Every third person alike; the darkest have the highest numbers."""
    return Demographics(
        masculine=identity % 2 == 0, age=(identity % 3) / 3 + 0.1, melanin=identity / 12
    )


def oracle(images: Tensor) -> Tensor:
    """The exact target: the blocks as they are, the person replaced by plain grey."""
    result = torch.full_like(images, 128 / 255)
    result[..., HALF:, :] = images[..., HALF:, :]
    return result


def average_face(images: Tensor) -> Tensor:
    """Always the same."""
    return torch.full_like(images, 0.5)


def unchanged(images: Tensor) -> Tensor:
    return images


def leaking(images: Tensor) -> Tensor:
    """The exact target with a faint trace of the person."""
    return oracle(images) + 0.04 * (images - 0.5) * (
        torch.arange(SIZE)[:, None] < HALF
    )  # the blocks stay as they are


def blind_to_the_dark(images: Tensor) -> Tensor:
    """Fails on the third of the people with the brightest upper half."""
    fails = images[..., :HALF, :].mean((1, 2, 3), keepdim=True) > 145 / 255
    return torch.where(fails, average_face(images), oracle(images))


def restless(images: Tensor) -> Tensor:
    """The exact target before a background that follows the person's."""
    return oracle(images) + 0.2 * (images.mean((1, 2, 3), keepdim=True) - 0.5)


def write_set(folder: Path, renders: Renders, split: list[str]) -> None:
    """Write renders as ``normpipe synthesize`` would."""
    folder.mkdir(parents=True)
    fields = [
        ("status", pa.string()), ("split", pa.string()), ("identity", pa.int64()),
        ("emotion", pa.string()), ("expression", pa.list_(pa.float32())),
        ("image", IMAGE), ("target", IMAGE), ("landmarks68", POINTS),
        ("target_landmarks68", POINTS),
    ]  # fmt: skip
    rows = [
        {
            "status": "ok",
            "split": split[i],
            "identity": int(renders.identity[i]),
            "emotion": None,
            "expression": renders.expression[i].tolist(),
            "image": {"bytes": encode(renders.source[i], "png", 95), "path": ""},
            "target": {"bytes": encode(renders.target[i], "png", 95), "path": ""},
            "landmarks68": renders.landmarks[i].tolist(),
            "target_landmarks68": renders.target_landmarks[i].tolist(),
        }
        for i in range(len(renders))
    ]
    schema = pa.schema(fields, metadata={"expression_names": ",".join(renders.expression_names)})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "shard-00000.parquet")
