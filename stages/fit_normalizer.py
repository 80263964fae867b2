"""fit-normalizer: trains the compact normalizer on synthesized pairs.

The decoder (coefficients → target face) and the encoder (face → coefficients) learn apart, each
from what it needs alone; the finished network is both, one after the other. All may be killed at
any time and goes on from the last saved state as if it had not been.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..pipeline.commit import write_json
from ..pipeline.errors import InputError
from ..pipeline.stage import sha256_file
from .networks.checkpoint import save_tensors
from .networks.compact import CompactNormalizer, standardize
from .training.losses import ExpressionLoss, PictureLoss
from .training.pictures import Batches, PairCache, load_pairs
from .training.report import evaluate_network
from .training.scores import degraded_set, read_all
from .training.targets import TargetBatches
from .training.trainer import Schedule, Trainer

log = logging.getLogger(__name__)


class FitNormalizerConfig(BaseModel):
    """How to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware multiplies it faster"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice")
    workers: int = Field(1, ge=0, description="processes that prepare batches")
    encoder_steps: int = Field(13_000, ge=1)
    encoder_batch_size: int = Field(64, ge=2)
    encoder_learning_rate: float = Field(1.2e-3, gt=0)
    decoder_steps: int = Field(3_000, ge=1)
    decoder_batch_size: int = Field(24, ge=1)
    decoder_learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(300, ge=1)
    weight_decay: float = Field(0.03, ge=0)
    ema_decay: float = Field(0.998, gt=0, lt=1)
    save_every: int = Field(500, ge=1)
    evaluate_every: int = Field(1_000, ge=1)
    evaluation_pairs: int = Field(1_000, ge=2, description="held-out pairs for the running scores")
    most_gain: float = Field(
        1.35, ge=1, description="how far weak readings may be stretched to the spread of the truth"
    )


@dataclass(frozen=True)
class FitResult:
    """What training leaves behind."""

    weights: Path
    scores: dict[str, Any]


def fit(config: FitNormalizerConfig, data: list[Path], output: Path) -> FitResult:
    """Train on synthesized datasets and write weights, scores and picture sheets to ``output``.

    Raises:
        InputError: the data are no synthesized pairs, or ``output`` holds another run's state.
    """
    output.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = make_fabric(config)
    train = load_pairs(data, "train")
    held_out = load_pairs(data, "validation", config.evaluation_pairs)
    log.info("%d training pairs, %d held out", len(train), len(held_out))
    fabric.seed_everything(config.seed, verbose=False)
    network = CompactNormalizer(len(train.expression_names))
    network.decoder = _fit_decoder(config, network, train, fabric, output)
    network.encoder = _fit_encoder(config, network, train, held_out, fabric, output)
    network = network.cpu().eval()
    calibrate(network, held_out, config)
    test = _test_pairs(data, held_out)
    scores = evaluate_network(network, test, train, config.seed, output / "sheet.png")
    weights = output / "compact.safetensors"
    notes = {"network": "compact", "expression_names": ",".join(train.expression_names)}
    save_tensors(network.state_dict(), weights, notes)
    card = {
        "sha256": sha256_file(weights),
        "recipe": config.model_dump(mode="json"),
        "training": {
            "pairs": len(train),
            "target_pictures": len(train.target_of),
            "identities": len(np.unique(train.identity)),
        },
        "scores": scores,
    }
    write_json(output / "compact.json", card)
    return FitResult(weights, scores)


def make_fabric(config: FitNormalizerConfig) -> Fabric:
    """Device and precision as configured; asking for what is not there is an error."""
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise InputError("device cuda was asked for but torch sees no GPU; use --set device=cpu")
    on_gpu = cuda and config.device != "cpu"
    # On a CPU bf16 pays only where it has matrix instructions for it (AMX).
    fast = on_gpu or bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast)
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if bf16 else "32-true",
    )


def _fit_decoder(
    config: FitNormalizerConfig,
    network: CompactNormalizer,
    train: PairCache,
    fabric: Fabric,
    output: Path,
) -> Any:
    if not len(train.target_of):
        raise InputError("no pair has a target picture; synthesize some with targets=true")
    resting = np.median(train.target[:: max(1, len(train.target) // 256)], axis=0) / 255
    with torch.no_grad():
        network.decoder.template.copy_(
            torch.from_numpy(resting.astype(np.float32)).permute(2, 0, 1)[None]
        )
    picture_loss = PictureLoss(train).to(fabric.device)

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        target = batch["target"].float().permute(0, 3, 1, 2) / 255
        return picture_loss(module(batch["expression"]).float(), target)

    schedule = _schedule(config, config.decoder_steps, config.decoder_learning_rate)
    trainer = Trainer("decoder", network.decoder, loss, schedule, fabric, output)
    batches = TargetBatches(train, config.decoder_batch_size, config.seed)
    return trainer.run(batches, lambda _step, _module: None)


def _fit_encoder(
    config: FitNormalizerConfig,
    network: CompactNormalizer,
    train: PairCache,
    held_out: PairCache,
    fabric: Fabric,
    output: Path,
) -> Any:
    expression_loss = ExpressionLoss(train).to(fabric.device)

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return expression_loss(module(standardize(batch["grey"].float() / 255)), batch)

    def evaluate(step: int, module: nn.Module) -> None:
        whole = CompactNormalizer(len(train.expression_names)).to(fabric.device).eval()
        whole.encoder.load_state_dict(module.state_dict())
        whole.decoder.load_state_dict(network.decoder.state_dict())
        scores = evaluate_network(whole, held_out, train, config.seed, output / "sheet.png")
        write_json(output / "progress.json", {"step": step, "scores": scores})
        log.info("held out at step %d: %s", step, json.dumps(scores["degraded"]["mean"]))

    schedule = _schedule(config, config.encoder_steps, config.encoder_learning_rate)
    trainer = Trainer("encoder", network.encoder, loss, schedule, fabric, output)
    return trainer.run(Batches(train, config.encoder_batch_size, config.seed), evaluate)


def _schedule(config: FitNormalizerConfig, steps: int, rate: float) -> Schedule:
    return Schedule(
        steps=steps,
        learning_rate=rate,
        warmup_steps=min(config.warmup_steps, max(1, steps // 4)),
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        save_every=config.save_every,
        evaluate_every=config.evaluate_every,
        workers=config.workers,
    )


def calibrate(network: CompactNormalizer, held_out: PairCache, config: FitNormalizerConfig) -> None:
    """Stretch readings, which a squared error draws towards the mean, back to the truth's spread.

    The offset is what the encoder reads off faces that do not move so; the gain is bounded.
    """
    grey, truth = degraded_set(held_out, config.seed)
    reading = read_all(network, grey)
    offset, gain = np.zeros(truth.shape[1], np.float32), np.ones(truth.shape[1], np.float32)
    for shape in range(truth.shape[1]):
        resting = truth[:, shape] < 0.02
        if resting.sum() >= 8:
            offset[shape] = np.clip(np.median(reading[resting, shape]), 0, 0.15)
        spread = reading[:, shape].std()
        if spread > 1e-3:
            gain[shape] = np.clip(truth[:, shape].std() / spread, 1.0, config.most_gain)
    network.offset.copy_(torch.from_numpy(offset))
    network.gain.copy_(torch.from_numpy(gain))


def _test_pairs(data: list[Path], otherwise: PairCache) -> PairCache:
    """People that neither training nor calibration saw; the held-out ones where there are none."""
    try:
        return load_pairs(data, "test")
    except InputError:
        return otherwise
