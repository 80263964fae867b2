"""pretrain-encoder: trains an encoder to reconstruct masked patches of faces.

Masked-autoencoder training (arXiv 2111.06377) on the pictures of any shards, without labels. It may
be killed at any time; the same command resumes from the last checkpoint, with the same result.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ...pipeline.errors import InputError
from ...pipeline.stage import StageConfig, added, free, sha256_file
from ...pipeline.store.commit import write_bytes, write_json
from ..faces.pixels import encode
from ..networks.files.checkpoint import save_tensors
from ..networks.files.mae_checkpoints import load_encoder
from ..networks.mae import MaskedAutoencoder, Reconstruction, masked_loss, reconstructed_picture
from .batching import Batch, NetworkOutputs
from .masked import MaskedBatches, PictureRows, as_batch, resized
from .trainer import Schedule, Trainer, TrainingTask, make_fabric

log = logging.getLogger(__name__)

SHEET_PICTURES = 8


class PretrainEncoderConfig(StageConfig):
    """Settings of pretrain-encoder."""

    size: Literal["T", "S", "B"] = Field(
        "B", description="size of the encoder: T (for a CPU), S or B"
    )
    stem: Literal["patch", "conv"] = added(
        "patch",
        description="patch, as in public checkpoints, or conv: learns a little more per step",
    )
    image_size: int = Field(224, ge=16, multiple_of=16, description="side of the pictures, pixels")
    masked: float = Field(0.75, gt=0, lt=1, description="share of patches that are masked")
    encoder: str = free(
        "", description="checkpoint to start from (MAE, timm, Hugging Face); empty: from scratch"
    )
    column: str = Field("image", description="column of the shards with the pictures")
    split: str = Field(
        "train",
        description="only pictures of this split, if the data have splits; empty: all",
    )
    smallest_cut: float = Field(
        0.7, gt=0, le=1, description="smallest share of a picture's side that a random crop keeps"
    )
    held_out: int = Field(64, ge=1, description="pictures never trained on, for the scores")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = free("auto", description="auto, cpu or cuda")
    precision: Literal["auto", "fp32", "bf16"] = free(
        "auto", description="fp32 or bf16; auto: bf16 where it is faster"
    )
    threads: int | None = free(None, ge=1, description="CPU threads; unset: torch's choice")
    workers: int = free(4, ge=0, description="processes that prepare batches")
    save_memory: bool = free(False, description="recompute activations instead of storing them")
    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(
        1.5e-4, gt=0, description="for a batch of 256; scaled with the batch size"
    )
    warmup_steps: int = Field(4_000, ge=1)
    weight_decay: float = Field(0.05, ge=0)
    ema_decay: float = Field(0.999, gt=0, lt=1)
    save_every: int = free(1_000, ge=1, description="steps between checkpoints")
    evaluate_every: int = free(
        2_000, ge=1, description="steps between evaluations on held-out pictures"
    )


@dataclass(frozen=True)
class PretrainResult:
    """The result of training. ``loss``: on held-out pictures; a blank patch scores 1."""

    encoder: Path
    loss: float


def pretrain(config: PretrainEncoderConfig, data: list[Path], output: Path) -> PretrainResult:
    """Train on the pictures of shards; write the encoder, its scores and a sheet to ``output``.

    Raises:
        InputError: no pictures in the data, or another run in ``output``.
    """
    output.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    pictures = PictureRows(data, config.column, config.split)
    if len(pictures) <= config.held_out:
        raise InputError(
            f"{len(pictures)} pictures are too few to hold {config.held_out} out: give more, or "
            "lower pretrain_encoder.held_out"
        )
    _claim(config, pictures, output)
    numbers = np.linspace(0, len(pictures) - 1, config.held_out).round().astype(np.int64)
    log.info("%d pictures, %d held out", len(pictures) - config.held_out, config.held_out)
    fabric = make_fabric(config.device, config.precision, "pretrain_encoder.device")
    fabric.seed_everything(config.seed, verbose=False)
    network = MaskedAutoencoder(config.size, config.image_size, config.masked, config.stem)
    network.encoder.recompute = config.save_memory
    if config.encoder:
        load_encoder(network.encoder, Path(config.encoder))
    batches = MaskedBatches(
        pictures,
        numbers,
        config.batch_size,
        config.image_size,
        config.smallest_cut,
        config.seed,
    )
    held_out = _held_out(pictures, numbers, config)

    def evaluate(trainer: Trainer) -> None:
        score = evaluate_autoencoder(trainer.average.module, held_out, output / "sheet.png")
        write_json(output / "progress.json", {"step": trainer.step, "held_out_loss": score})
        log.info("held out at step %d: loss %.4f", trainer.step, score)

    task = TrainingTask("mae", _View(network), network, _Objective(), batches, about={})
    trainer = Trainer(task, _schedule(config), fabric, output)
    trainer.run(evaluate)
    trained = trainer.average.module.eval()
    score = evaluate_autoencoder(trained, held_out, output / "sheet.png")
    encoder = output / "encoder.safetensors"
    save_tensors(
        trained.get_submodule("encoder").state_dict(),
        encoder,
        {
            "kind": "masked autoencoder's encoder",
            "size": config.size,
            "image_size": config.image_size,
            "recipe": config.model_dump(mode="json"),
            "pictures": len(pictures) - config.held_out,
        },
    )
    card = {"sha256": sha256_file(encoder), "held_out_loss": score, "step": config.steps}
    write_json(output / "progress.json", card)
    return PretrainResult(encoder, score)


class _View(nn.Module):
    """Runs the network on a batch."""

    def __init__(self, network: MaskedAutoencoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> NetworkOutputs:
        return self.network(_unit(batch), batch["noise"])._asdict()


class _Objective(nn.Module):
    """The loss on masked patches."""

    weights: ClassVar[dict[str, float]] = {"masked": 1.0}

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        loss = masked_loss(Reconstruction(**outputs), _unit(batch))
        return {"total": loss, "masked": loss}


def _unit(batch: Batch) -> Tensor:
    return batch["images"].float() / 255


def _claim(config: PretrainEncoderConfig, pictures: PictureRows, output: Path) -> None:
    """Record settings and pictures in the folder. Raises InputError if it holds others."""
    recipe = config.shaping()
    recipe["pictures_sha256"] = pictures.digest()
    if config.encoder:
        recipe["encoder_sha256"] = _digest(Path(config.encoder))
    path = output / "recipe.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in {*recipe, *before} if before.get(name) != recipe.get(name))
        if other:
            raise InputError(
                f"{output} holds a run with another {', '.join(other)}: use another output folder, "
                "or delete it"
            )
    write_json(path, recipe)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no encoder checkpoint {path}")
    return sha256_file(path)


def _schedule(config: PretrainEncoderConfig) -> Schedule:
    return Schedule(
        steps=config.steps,
        learning_rate=config.learning_rate * config.batch_size / 256,
        warmup_steps=min(config.warmup_steps, max(1, config.steps // 10)),
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        save_every=config.save_every,
        evaluate_every=config.evaluate_every,
        workers=config.workers,
        accumulate=1,
        seed=config.seed,
    )


def _held_out(
    pictures: PictureRows, numbers: np.ndarray[Any, Any], config: PretrainEncoderConfig
) -> dict[str, Tensor]:
    """Return the held-out pictures, uncropped, each with a fixed mask."""
    images = np.stack([resized(one, config.image_size) for one in pictures.pictures(numbers)])
    return as_batch(images, np.random.default_rng([config.seed, 33]))


@torch.inference_mode()
def evaluate_autoencoder(module: nn.Module, held_out: dict[str, Tensor], sheet: Path) -> float:
    """Return the mean loss on held-out pictures; write a sheet of masked | painted | original.

    ``held_out``: ``images`` (N, 3, S, S) uint8 RGB and ``noise`` (N, P), see ``as_batch``.
    """
    was = module.training
    module.eval()
    device = next(module.parameters()).device
    losses: list[float] = []
    lines: list[Tensor] = []
    for first in range(0, len(held_out["images"]), SHEET_PICTURES):
        rows = slice(first, first + SHEET_PICTURES)
        images = held_out["images"][rows].to(device).float() / 255
        painting = module(images, held_out["noise"][rows].to(device))
        losses += [float(masked_loss(painting, images))] * len(images)
        if not lines:
            blank = painting._replace(patches=torch.zeros_like(painting.patches))
            lines = [
                reconstructed_picture(blank, images),
                reconstructed_picture(painting, images),
                images,
            ]
    module.train(was)
    whole = torch.cat([torch.cat([*line], 2) for line in lines], 1)  # (3, 3 S, n S)
    pixels = (whole.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    write_bytes(sheet, encode(pixels, "png", 95))
    return round(float(np.mean(losses)), 5)
