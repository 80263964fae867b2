"""fit-reader: trains the reader that judges normalizers, on exact renders of the target face.

The renders are slightly blurred, compressed and relit, so that it reads the softer pictures of a
network fairly. It is never used in a loss: a judge must not be trained against. A killed run
resumes from the last checkpoint, with the same result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from ...pipeline.stage import StageConfig, free, sha256_file
from ...pipeline.store.commit import write_json
from ..networks.files.checkpoint import save_tensors
from ..networks.reader import INPUT_SIZE, ExpressionReader
from ..training.batching import ENDLESS, Batch, NetworkOutputs
from ..training.synthesized import NoPairs
from ..training.trainer import Schedule, Trainer, TrainingTask, make_fabric
from .criteria.synthetic import reader_scores
from .frozen_reader import LoadedReader
from .renders import Renders, load_renders, through_codec


class FitReaderConfig(StageConfig):
    """Settings of fit-reader."""

    seed: int = Field(0, ge=0)
    device: str = free("auto", description="auto, cpu, cuda or cuda:N")
    precision: str = free(  # the checkpoint records its precision
        "auto",
        pattern="^(auto|fp32|bf16)$",
        description="fp32 or bf16; auto: bf16 where it is faster",
    )
    steps: int = Field(2_500, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    width: int = Field(32, ge=4, description="channels; multiples of 32 are fast")
    point_share: float = Field(0.5, ge=0, description="weight of the landmarks in the loss")
    validation_pairs: int = free(1_000, ge=2, description="pictures for the scores")
    save_every: int = free(500, ge=1, description="steps between checkpoints")


@dataclass(frozen=True)
class FittedReader:
    """The result of training."""

    weights: Path
    scores: dict[str, Any]


def fit_reader(config: FitReaderConfig, data: list[Path], output: Path) -> FittedReader:
    """Train on the target pictures of synthesized sets; write weights and scores to ``output``.

    Args:
        config: settings.
        data: outputs of ``normpipe synthesize``.
        output: output folder; a stopped run resumes there.

    Raises:
        InputError: the data are not synthesized pairs with target pictures, or ``output`` holds
            another run.
    """
    output.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric(config.device, config.precision, "fit_reader.device")
    train = load_renders(data, "train", sources=False)
    held_out = _held_out(data, config)
    fabric.seed_everything(config.seed, verbose=False)
    module = ExpressionReader(train.expression.shape[1], config.width)
    batches = TargetPictures(train, config.batch_size, config.seed)
    module.set_scale(torch.from_numpy(train.expression), torch.from_numpy(batches.points))
    about = {"settings": config.shaping(), "data": train.digest()}
    objective = _Objective(module, config.point_share)
    task = TrainingTask("reader", _View(module), module, objective, batches, about)
    trainer = Trainer(task, _schedule(config), fabric, output)
    trainer.run(lambda _: None)
    module.load_state_dict(trainer.averaged())
    module = module.cpu().eval()
    reader = LoadedReader(module, train.expression_names, train.target_note)
    readings = reader(through_codec(held_out.target))
    scores = reader_scores(train.expression_names, readings, held_out)
    weights = output / "reader.safetensors"
    notes = {
        "network": "reader",
        "settings": json.dumps(module.settings()),
        "expression_names": ",".join(train.expression_names),
        "target": json.dumps(train.target_note),
    }
    save_tensors(module.state_dict(), weights, notes)
    card = {
        "sha256": sha256_file(weights),
        "recipe": config.model_dump(mode="json"),
        "training": {"pictures": len(train), "target": train.target_note},
        "scores": scores,
    }
    write_json(output / "reader.json", card)
    return FittedReader(weights, scores)


def _held_out(data: list[Path], config: FitReaderConfig) -> Renders:
    for split in ("test", "validation"):
        try:
            return load_renders(data, split, config.validation_pairs, sources=False)
        except NoPairs:
            continue
    raise InputError("no test or validation pairs: synthesize with synthesize.test above 0")


def _schedule(config: FitReaderConfig) -> Schedule:
    return Schedule(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, min(100, config.steps // 4)),
        weight_decay=config.weight_decay,
        # In a short run, the average must not contain the initial weights.
        ema_decay=max(0.0, min(0.995, 1 - 5 / config.steps)),
        save_every=config.save_every,
        evaluate_every=config.steps,
        workers=0,
        accumulate=1,
        seed=config.seed,
    )


class TargetPictures(Dataset[Batch]):
    """Batches of augmented pictures of the target face; batch n depends on (seed, n) alone.

    Items hold ``images`` (B, 1, 112, 112) uint8 grey, ``expression`` (B, E) and ``points``
    (B, 136), 0 the picture's centre and 1 its edge.

    Attributes:
        points: (N, 136) float32 likewise, of the unaugmented pictures.
    """

    def __init__(self, renders: Renders, batch_size: int, seed: int) -> None:
        size = renders.target.shape[1]
        landmarks = (renders.target_landmarks * 2 / size - 1).reshape(len(renders), -1)
        self.points = landmarks.astype(np.float32)
        self._grey = shrunk(renders.target)
        self._expression = renders.expression
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, 41, step])
        rows = rng.integers(0, len(self._grey), self._batch_size)
        pictures, moved = augment(self._grey[rows], self.points[rows], rng)
        return {
            "images": torch.from_numpy(pictures)[:, None],
            "expression": torch.from_numpy(self._expression[rows]),
            "points": torch.from_numpy(moved),
        }


class _View(nn.Module):
    """Runs the reader on a batch."""

    def __init__(self, network: ExpressionReader) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> NetworkOutputs:
        return self.network.read(batch["images"].float() / 255)._asdict()


class _Objective(nn.Module):
    """Squared errors of coefficients and points, relative to their spread."""

    def __init__(self, network: ExpressionReader, point_share: float) -> None:
        super().__init__()
        self.weights = {"coefficients": 1.0, "points": point_share}
        self.register_buffer("code_spread", network.code_spread.clone())
        self.register_buffer("point_spread", network.point_spread.clone())

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        wrong = (outputs["coefficients"] - batch["expression"]) / self.get_buffer("code_spread")
        off = (outputs["points"] - batch["points"]) / self.get_buffer("point_spread")
        terms = {"coefficients": wrong.square().mean(), "points": off.square().mean()}
        total = torch.stack([self.weights[name] * terms[name] for name in terms]).sum()
        return {"total": total, **terms}


def shrunk(pictures: Pixels) -> Pixels:
    """(N, S, S, 3) uint8 RGB → (N, 112, 112) uint8 grey, as the reader's preprocessing does."""
    result = np.empty((len(pictures), INPUT_SIZE, INPUT_SIZE), np.uint8)
    for start in range(0, len(pictures), 256):
        part = torch.from_numpy(pictures[start : start + 256]).permute(0, 3, 1, 2).float()
        result[start : start + 256] = ExpressionReader.to_grey(part)[:, 0].round().clamp(0, 255)
    return result


def augment(grey: Pixels, points: Floats, rng: np.random.Generator) -> tuple[Pixels, Floats]:
    """Shift, blur, relight, add noise and compress slightly, each at random.

    Never mirrored: the target's light comes from one side.

    Args:
        grey: (B, 112, 112) uint8.
        points: (B, 136) relative to the picture; returned moved.
        rng: random generator.
    """
    pictures, moved = np.empty_like(grey), points.copy()
    for place, picture in enumerate(grey):
        done: Any = picture
        size = len(picture)
        if rng.random() < 0.7:
            scale = np.exp(0.02 * rng.standard_normal())
            shift = 0.015 * rng.standard_normal(2)  # in half pictures, like the points
            # Points are relative to the picture's centre, OpenCV counts from the first pixel's.
            offset = (size - 1) / 2 * (1 - scale) + shift * size / 2
            matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]], np.float32)
            done = cv2.warpAffine(done, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
            moved[place] = (scale * points[place].reshape(68, 2) + shift).reshape(-1)
        if rng.random() < 0.5:
            done = cv2.GaussianBlur(done, (0, 0), rng.uniform(0.3, 1.5))
        if rng.random() < 0.5:
            table = np.linspace(0, 1, 256) ** np.exp(0.15 * rng.standard_normal())
            table = table * np.exp(0.1 * rng.standard_normal()) + 0.03 * rng.standard_normal()
            done = cv2.LUT(done, (255 * table).clip(0, 255).astype(np.uint8))
        if rng.random() < 0.4:
            noise = rng.uniform(1, 8) * rng.standard_normal(done.shape, np.float32)
            done = np.clip(done + noise, 0, 255).astype(np.uint8)
        if rng.random() < 0.4:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
            done = cv2.imdecode(cv2.imencode(".jpg", done, quality)[1], cv2.IMREAD_GRAYSCALE)
        pictures[place] = done
    return pictures, moved
