"""fit-reader: trains the reader that judges normalizers, on exact renders of the target face.

It sees exact renders alone, blurred, compressed and relit a little, so that it reads the softer
pictures of a network fairly. It is never part of a loss: what judges must not teach.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from ...pipeline.store.commit import write_json
from ..networks.files.checkpoint import save_tensors
from ..networks.reader import INPUT_SIZE, ExpressionReader
from .criteria.synthetic import reader_scores
from .frozen_reader import LoadedReader
from .renders import Renders, load_renders, through_codec

log = logging.getLogger(__name__)


class FitReaderConfig(BaseModel):
    """How to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: str = Field(
        "auto", pattern="^(auto|fp32|bf16)$", description="auto: bf16 where that is faster"
    )
    steps: int = Field(2_500, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    width: int = Field(32, ge=4, description="channels; multiples of 32 are fast")
    point_share: float = Field(0.5, ge=0, description="weight of the landmarks in the loss")
    validation_pairs: int = Field(1_000, ge=2)


@dataclass(frozen=True)
class FittedReader:
    """What training leaves behind."""

    weights: Path
    scores: dict[str, Any]


def fit_reader(config: FitReaderConfig, data: list[Path], output: Path) -> FittedReader:
    """Train on the target pictures of synthesized sets; write weights and scores to ``output``.

    Raises:
        InputError: the data are no synthesized pairs with target pictures.
    """
    from ..normalize import resolve_device

    output.mkdir(parents=True, exist_ok=True)
    device = resolve_device(config.device)
    train = load_renders(data, "train", sources=False)
    held_out = _held_out(data, config)
    torch.manual_seed(config.seed)
    module = ExpressionReader(train.expression.shape[1], config.width)
    module.set_scale(torch.from_numpy(train.expression), torch.from_numpy(_relative(train)))
    module = _learn(module.to(device), train, config, device).cpu().eval()
    reader = LoadedReader(module, train.expression_names, train.target_note)
    seen = reader(through_codec(held_out.target))
    scores = reader_scores(train.expression_names, seen, held_out)
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
        except InputError:
            continue
    raise InputError("no test or validation pairs: synthesize with synthesize.test above 0")


def _relative(renders: Renders) -> Floats:
    """(N, 136) landmarks of the targets: 0 the picture's centre, 1 its edge."""
    size = renders.target.shape[1]
    return (renders.target_landmarks * 2 / size - 1).reshape(len(renders), -1).astype(np.float32)


def _learn(
    module: ExpressionReader, train: Renders, config: FitReaderConfig, device: torch.device
) -> ExpressionReader:
    """Train and return the averaged network."""
    grey = shrunk(train.target)
    code, points = train.expression, _relative(train)
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # In a short training nothing of the first weights may be left in the average.
    decay = max(0.0, min(0.995, 1 - 5 / config.steps))
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer = AdamW(
        module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    bf16 = config.precision == "bf16" or (config.precision == "auto" and _fast_bf16(device))
    rng = np.random.default_rng([config.seed, 41])
    module.train()
    for step in range(config.steps):
        rows = rng.integers(0, len(grey), config.batch_size)
        pictures, moved = augment(grey[rows], points[rows], rng)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config.steps)
        with torch.autocast(device.type, torch.bfloat16, bf16):
            seen = module.read(torch.from_numpy(pictures).to(device)[:, None].float() / 255)
        wrong = (seen.coefficients - torch.from_numpy(code[rows]).to(device)) / module.code_spread
        off = (seen.points - torch.from_numpy(moved).to(device)) / module.point_spread
        loss: Tensor = wrong.square().mean() + config.point_share * off.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        optimizer.step()
        average.update_parameters(module)
        if step % 50 == 49:
            log.info(
                "reader step %d of %d, loss %.4f", step + 1, config.steps, float(loss.detach())
            )
    return cast(ExpressionReader, average.module)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine to nothing."""
    warmup = max(1, min(100, steps // 4))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _fast_bf16(device: torch.device) -> bool:
    # On a CPU bf16 pays only where it has matrix instructions for it (AMX).
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return device.type == "cuda" or bool(tiles())


def shrunk(pictures: Pixels) -> Pixels:
    """(N, S, S, 3) uint8 RGB → (N, 112, 112) uint8 grey, as the reader would make them."""
    result = np.empty((len(pictures), INPUT_SIZE, INPUT_SIZE), np.uint8)
    for start in range(0, len(pictures), 256):
        part = torch.from_numpy(pictures[start : start + 256]).permute(0, 3, 1, 2).float()
        result[start : start + 256] = ExpressionReader.look(part)[:, 0].round().clamp(0, 255)
    return result


def augment(grey: Pixels, points: Floats, rng: np.random.Generator) -> tuple[Pixels, Floats]:
    """Shift, blur, relight, disturb and compress, each by chance; little, as networks do.

    Never mirrored: the target's light comes from one side.

    Args:
        grey: (B, 112, 112) uint8.
        points: (B, 136) relative to the picture, moved along.
        rng: of the chances.
    """
    pictures, moved = np.empty_like(grey), points.copy()
    for place, picture in enumerate(grey):
        done: Any = picture
        size = len(picture)
        if rng.random() < 0.7:
            scale = np.exp(0.02 * rng.standard_normal())
            shift = 0.015 * rng.standard_normal(2)  # half pictures, as the points
            # Points count from the middle of the picture, OpenCV from the centre of a pixel.
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
