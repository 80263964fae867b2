"""fit-landmarks: trains the landmark network of the default detector, on renders alone.

A killed run resumes from the last checkpoint, with the same result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ....pipeline.errors import InputError
from ....pipeline.stage import StageConfig, free, sha256_file
from ....pipeline.store.commit import write_json
from ...networks.files.checkpoint import load_weights, save_tensors
from ...networks.landmarks import LandmarkNet, LandmarkOutput
from ..batching import Batch, NetworkOutputs
from ..pictures import Form, PairCache
from ..synthesized import NoPairs, load_pairs
from ..trainer import Schedule, Trainer, TrainingTask, make_fabric
from .face_crops import FaceCrops
from .marks import learn_marks

log = logging.getLogger(__name__)


class FitLandmarksConfig(StageConfig):
    """Settings of fit-landmarks."""

    begin: str = free("", description="weights file to start from; empty: from scratch")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = free("auto", description="auto, cpu or cuda")
    precision: Literal["auto", "fp32", "bf16"] = free(
        "auto", description="fp32 or bf16; auto: bf16 where it is faster"
    )
    threads: int | None = free(None, ge=1, description="CPU threads; unset: torch's choice")
    workers: int = free(0, ge=0, description="processes that prepare batches")
    steps: int = Field(6_000, ge=0, description="0: fit only to a detector's landmarks (pack)")
    batch_size: int = Field(64, ge=4)
    empty_share: float = Field(0.2, ge=0, lt=1, description="share of a batch without a face")
    wide_mouths: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of samples drawn from faces with wide or open mouths only",
    )
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of AdamW")
    inner_learning_rate: float = Field(
        0.02, gt=0, description="learning rate of Muon, for inner weights"
    )
    weight_decay: float = Field(0.02, ge=0)
    pack: str = free(
        "",
        description="insightface pack; the five points follow its detector's landmarks of --heads",
    )
    save_every: int = free(500, ge=1, description="steps between checkpoints")
    validation_crops: int = free(2_000, ge=4, description="crops of unseen people for the scores")


@dataclass(frozen=True)
class FittedLandmarks:
    """The result of training."""

    weights: Path
    scores: dict[str, float]


def fit_landmarks(
    config: FitLandmarksConfig, data: list[Path], output: Path, heads: Sequence[Path] = ()
) -> FittedLandmarks:
    """Train on the source pictures of synthesized sets; write weights and scores to ``output``.

    Args:
        config: settings.
        data: outputs of ``normpipe synthesize``.
        output: output folder; a stopped run resumes there.
        heads: such outputs, for the detector of ``config.pack``.

    Raises:
        InputError: the data are not synthesized pairs, ``output`` holds another run, the initial
            weights cannot be read, or only one of pack and heads is given.
    """
    if bool(config.pack) != bool(heads):
        raise InputError(
            "fit_landmarks.pack and --heads belong together: give an insightface pack and "
            "synthesized heads, or neither"
        )
    if not config.steps and not (config.begin and config.pack):
        raise InputError(
            "fit_landmarks.steps = 0 leaves the weights as they are: give fit_landmarks.begin, and "
            "fit_landmarks.pack to fit to its detector"
        )
    output.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    train = [load_pairs([folder], "train", source=Form()) for folder in data]
    held_out = _held_out(data)
    fabric = make_fabric(config.device, config.precision, "fit_landmarks.device")
    fabric.seed_everything(config.seed, verbose=False)
    network = LandmarkNet()
    batches = FaceCrops(
        train, config.batch_size, config.empty_share, config.seed, config.wide_mouths
    )
    if config.begin:
        load_weights(network, Path(config.begin))
    else:
        network.point_mean.copy_(_mean_points(batches))
    about = {
        "recipe": config.shaping(),
        "begin": sha256_file(Path(config.begin)) if config.begin else "",
        "data": [pairs.digest() for pairs in train],
    }
    task = TrainingTask("landmarks", _View(network), network, _Objective(), batches, about)
    trainer = Trainer(task, _schedule(config), fabric, output)
    trainer.run(lambda _: None)
    trained = network
    trained.load_state_dict(trainer.averaged())
    scores = landmark_scores(trained.cpu().eval(), held_out, config.validation_crops)
    if config.pack:
        scores |= learn_marks(trained, list(heads), config.pack)
    return _write(trained, config, scores, sum(map(len, train)), output)


def _write(
    network: LandmarkNet,
    config: FitLandmarksConfig,
    scores: dict[str, float],
    pictures: int,
    output: Path,
) -> FittedLandmarks:
    weights = output / "landmarks.safetensors"
    notes = {"network": "landmarks", "settings": json.dumps(network.settings())}
    save_tensors(network.state_dict(), weights, notes)
    card = {
        "sha256": sha256_file(weights),
        "recipe": config.model_dump(mode="json", exclude={"pack"}),  # a path of this machine
        "training": {"pictures": pictures},
        "scores": scores,
    }
    write_json(output / "landmarks.json", card)
    return FittedLandmarks(weights, scores)


class _View(nn.Module):
    """Runs the network on a batch."""

    def __init__(self, network: LandmarkNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> NetworkOutputs:
        found = self.network(batch["images"].float() / 255)
        return {"points": found.points68, "five": found.five, "face": found.face}


class _Objective(nn.Module):
    """Distances of points on faces, with most weight on the five, and face or not."""

    weights: ClassVar[dict[str, float]] = {"five": 1.0, "points": 0.5, "face": 0.02}

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        face, points = batch["face"], batch["points"]
        share = face / face.sum().clamp_min(1)
        five = LandmarkOutput(points, face).five
        terms = {
            "five": (share * _distance(outputs["five"], five)).sum(),
            "points": (share * _distance(outputs["points"], points)).sum(),
            "face": functional.binary_cross_entropy_with_logits(outputs["face"], face),
        }
        total = torch.stack([self.weights[name] * terms[name] for name in terms]).sum()
        return {"total": total, **terms}


def _distance(outputs: Tensor, truth: Tensor) -> Tensor:
    """Return (B,) mean distances of points (B, N, 2), smooth near 0; not squared, for outliers."""
    return ((outputs - truth).square().sum(-1) + 1e-4).sqrt().mean(-1)


def _mean_points(batches: FaceCrops) -> Tensor:
    found = [batches[item] for item in range(8)]
    points = torch.cat([batch["points"] for batch in found])
    face = torch.cat([batch["face"] for batch in found])
    return points[face > 0].mean(0)


def _schedule(config: FitLandmarksConfig) -> Schedule:
    return Schedule(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, min(200, config.steps // 4)),
        weight_decay=config.weight_decay,
        # In a short run, the average must not contain the initial weights.
        ema_decay=max(0.01, min(0.998, 1 - 5 / max(1, config.steps))),
        save_every=config.save_every,
        evaluate_every=max(1, config.steps),
        workers=config.workers,
        accumulate=1,
        seed=config.seed,
        inner_rate=config.inner_learning_rate if config.optimizer == "muon" else None,
    )


def _held_out(data: list[Path]) -> list[PairCache]:
    for split in ("test", "validation"):
        try:
            return [load_pairs([folder], split, source=Form()) for folder in data]
        except NoPairs:
            continue
    raise InputError("no test or validation pairs: synthesize with synthesize.test above 0")


@torch.inference_mode()
def landmark_scores(
    network: LandmarkNet, held_out: list[PairCache], crops: int
) -> dict[str, float]:
    """Score the network on degraded crops of people never trained on, in a single pass.

    ``five_percent``: median over faces of the mean distance of the five points, in percent of the
    distance between the eyes; ``faces_kept`` and ``empty_kept``: shares scored 0.5 or more.
    """
    batches = FaceCrops(held_out, 50, 0.5, seed=1)
    errors: list[Any] = []
    kept: list[Any] = []
    wrong: list[Any] = []
    for item in range(-(-crops // 50)):
        batch = batches[item]
        found: LandmarkOutput = network(batch["images"].float() / 255)
        face = batch["face"] > 0
        truth = LandmarkOutput(batch["points"], batch["face"]).five[face]
        eye_distance = (truth[:, 1] - truth[:, 0]).norm(dim=-1)
        errors += ((found.five[face] - truth).norm(dim=-1).mean(1) / eye_distance).tolist()
        kept += (found.face[face] >= 0).tolist()
        wrong += (found.face[~face] >= 0).tolist()
    return {
        "five_percent": round(100 * float(np.median(errors)), 3),
        "faces_kept": round(float(np.mean(kept)), 4),
        "empty_kept": round(float(np.mean(wrong)), 4),
    }
