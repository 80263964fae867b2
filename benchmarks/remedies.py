"""Which change brings the compact normalizer closer to its goals? Short comparable trainings.

    python benchmarks/remedies.py --sets PAIRED SOURCES --steps 300 --output remedies
    python benchmarks/remedies.py --sets PAIRED SOURCES --steps 700 --batch-size 32 \\
        --output remedies --only new_base new_wide

Each remedy changes one thing of a baseline and nothing else: the same pictures in the same order,
the same steps, one seed. ``on_...`` continues from the shipped weights (baseline ``on_base``),
``mid_...`` from those of ``--middle``, half-way through a training (``mid_base``), ``new_...`` from
scratch (``new_base``). Scores: R² of the predicted coefficients, by movement, on people of the sets
that no training saw (split ``test``), clean and degraded with fixed seeds, before calibration; and
the error of the target's landmarks. ``--tag _long`` stores a remedy of another length separately,
to compare at equal CPU time. A killed run resumes; finished remedies are not repeated. Encoders
only; nothing of this ships.
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from normpipe.pipeline.store.commit import write_json
from normpipe.stages.networks.base import Reading
from normpipe.stages.networks.compact import CompactEncoder, CompactNormalizer, Residual
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.layers import resize
from normpipe.stages.synthesis.drawing.degrade import Degraded, _placement, degrade
from normpipe.stages.training.batching import Batch, NetworkOutputs
from normpipe.stages.training.normalizer import batches as batches_module
from normpipe.stages.training.normalizer.batches import Batches, Recipe, planes
from normpipe.stages.training.normalizer.data import TrainingData, load_training_data
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig
from normpipe.stages.training.normalizer.losses import LOSSES, Frozen, Loss, Objective
from normpipe.stages.training.normalizer.pair_statistics import PairStatistics
from normpipe.stages.training.normalizer.scores import (
    degraded_set,
    landmark_error_by_region,
    r2_by_column,
    read_coefficients,
)
from normpipe.stages.training.normalizer.step_views import Views
from normpipe.stages.training.trainer import Schedule, Trainer, TrainingTask, make_fabric

MOVEMENTS = {
    "jaw": ("jawOpen",),
    "smile": ("mouthSmile",),
    "brow raise": ("browInnerUp", "browOuterUp"),
    "blink": ("eyeBlink",),
    "eyeWide": ("eyeWide",),
    "press": ("mouthPress",),
    "dimple": ("mouthDimple",),
    "frown": ("mouthFrown",),
}
MISSED = tuple(stem for stems in MOVEMENTS.values() for stem in stems)
SIDE = 112


@dataclass(frozen=True)
class Remedy:
    """What differs from the baseline of its group.

    Attributes:
        rate: the learning rate.
        first: share of the steps in a first phase: at ``first_side`` pixels, or with ``mild``
            degradations only.
        side: input pixels of the encoder.
        blocks, widths: of the encoder; added blocks begin as identities.
        missed: weight of the shapes that miss their goals.
        losses: weights of the losses.
    """

    begin: str
    rate: float
    first: float = 0.0
    first_side: int = SIDE
    mild: bool = False
    side: int = SIDE
    blocks: tuple[int, ...] = (0, 1, 2, 2, 1)
    widths: tuple[int, ...] = (24, 48, 80, 128, 192)
    missed: float = 1.0
    losses: dict[str, float] = field(
        default_factory=lambda: {
            "coefficients": 0.5, "displacement": 0.5, "landmarks": 0.1, "pose": 0.05
        }
    )  # fmt: skip


ON = Remedy("compact", 3e-4)
MID = Remedy("mid", 8e-4)  # ``--middle``
NEW = Remedy("", 1.2e-3)
ABSOLUTE = {"absolute": 0.5, "displacement": 0.5, "landmarks": 0.1, "pose": 0.05}
REMEDIES = {
    "on_base": ON,
    "on_missed": replace(ON, missed=3.0),
    "on_deeper": replace(ON, blocks=(1, 2, 3, 3, 2)),
    "on_slow": replace(ON, rate=1e-4),
    "on_fast": replace(ON, rate=8e-4),
    "on_pixels": replace(ON, side=128),
    "on_absolute": replace(ON, losses=ABSOLUTE),
    "on_mild": replace(ON, first=0.7, mild=True),
    "mid_base": MID,
    "mid_missed": replace(MID, missed=3.0),
    "mid_deeper": replace(MID, blocks=(1, 2, 3, 3, 2)),
    "mid_slow": replace(MID, rate=3e-4),
    "mid_pixels": replace(MID, side=128),
    "mid_absolute": replace(MID, losses=ABSOLUTE),
    "mid_mild": replace(MID, first=0.7, mild=True),
    "mid_plain": replace(MID, losses={"coefficients": 1.0}),
    "new_base": NEW,
    "new_half": replace(NEW, first=0.7, first_side=SIDE // 2),
    "new_wide": replace(NEW, widths=(40, 72, 120, 192, 288)),
    "new_mild": replace(NEW, first=0.7, mild=True),
    "new_missed": replace(NEW, missed=3.0),
}


class AnySide(CompactNormalizer):
    """The compact network with another input size; the same weights fit."""

    side = SIDE

    def _face(self, images: Tensor) -> Tensor:
        side = self.side
        grey = resize((images * self.grey).sum(1, keepdim=True), side)
        face = grey[..., side // 4 : side * 7 // 8, side // 4 : side * 3 // 4]
        mean, deviation = face.mean((1, 2, 3), keepdim=True), face.std((1, 2, 3), keepdim=True)
        return (grey - mean) / (deviation + 0.02)

    def encode_look(self, look: Tensor) -> Reading:
        encoder = self.encoder
        x = encoder.body(look)
        if x.shape[-1] != 4:
            x = functional.interpolate(x, (4, 4), mode="bilinear", antialias=self.side > SIDE)
        x = functional.relu(encoder.squeeze(x))
        x = encoder.dropout(functional.relu(encoder.hidden(x.flatten(1))))
        return Reading(encoder.coefficients(x), encoder.landmarks(x), encoder.pose(x))


def absolute(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Mean over shapes of the absolute error, relative to the deviation; smooth near nothing."""
    error = outputs["coefficients"][: len(batch["expression"])] - batch["expression"]
    shapes = statistics.shapes.sqrt() / statistics.shapes.sqrt().sum()
    deviation = (1 / (statistics.shapes * len(shapes))).sqrt()
    return (((error / deviation).square() + 0.01).sqrt() - 0.1).mean()


LOSSES["absolute"] = Loss(absolute)


def mild(
    source: np.ndarray, points: np.ndarray, rng: np.random.Generator, size: int, mirror: float
) -> Degraded:
    """Only place and mirror, the first steps of ``degrade``."""
    matrix, flipped = _placement(rng, len(source), size, mirror)
    picture = cv2.warpAffine(source, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    moved = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    return Degraded(np.asarray(picture, np.uint8), moved.astype(np.float32), flipped)


def build(remedy: Remedy, expressions: int, middle: Path | None = None) -> AnySide:
    wanted = CompactEncoder(expressions, remedy.widths, remedy.blocks)
    begin = str(middle) if remedy.begin == "mid" else remedy.begin
    before = open_normalizer(begin).module if begin else None
    network = AnySide(expressions, decoder=before.kind if before else "coarse")
    if before:
        network.load_state_dict(before.state_dict())
        take_over(network.encoder, wanted, remedy.blocks)
    network.encoder = wanted
    network.offset.zero_()
    network.gain.fill_(1.0)
    return network


def take_over(old: CompactEncoder, new: CompactEncoder, blocks: tuple[int, ...]) -> None:
    """Copy ``old``; new blocks are last in their stage and are initialized as identities."""
    left = list(old.body)
    for module in new.body:
        if isinstance(module, Residual) and not (left and isinstance(left[0], Residual)):
            nn.init.zeros_(module.second_norm.weight)
            continue
        module.load_state_dict(left.pop(0).state_dict())
    for name in ("squeeze", "hidden", "coefficients", "landmarks", "pose"):
        getattr(new, name).load_state_dict(getattr(old, name).state_dict())


def train(
    name: str, remedy: Remedy, steps: int, data: TrainingData, args: argparse.Namespace
) -> tuple[AnySide, float, float]:
    """Train one remedy, in one or two phases under one schedule; network, CPU and wall seconds."""
    fabric = make_fabric(args.device, args.precision, "--device")
    fabric.seed_everything(0, verbose=False)
    network = build(remedy, len(data.train.expression_names), args.middle)
    statistics = PairStatistics(data.train)
    stems = [n.removesuffix("_L").removesuffix("_R") for n in data.train.expression_names]
    counts = torch.tensor([remedy.missed if stem in MISSED else 1.0 for stem in stems])
    weighed = statistics.shapes * counts
    statistics.shapes.copy_(weighed * statistics.shapes.sum() / weighed.sum())
    phases = [(steps, remedy.side, degrade)]
    if remedy.first:
        first = round(steps * remedy.first)
        way = mild if remedy.mild else degrade
        phases = [(first, remedy.first_side, way), (steps - first, remedy.side, degrade)]
    started, busy = time.monotonic(), 0.0
    done = 0
    for place, (count, side, way) in enumerate(phases):
        network.side = side
        size = min(max(side, SIDE), len(data.train.source[0]))
        batches = Batches(data.train, Recipe(args.batch_size, 0, 0, size), place)
        task = TrainingTask(
            f"{name}{place}", Views(network, frozenset()), network.encoder,
            Objective(remedy.losses, statistics), batches, {"remedy": repr(remedy), "steps": steps},
        )  # fmt: skip
        trainer = Trainer(
            task, schedule(remedy.rate, done, count, steps, args), fabric, args.output
        )
        with mock.patch.object(batches_module, "degrade", way):
            trainer.run(lambda _: None)
        network.encoder.load_state_dict(trainer.averaged())
        busy += trainer.cpu_seconds
        done += count
    return network.cpu().eval(), busy, time.monotonic() - started


@dataclass(frozen=True)
class Piece(Schedule):
    """A part of a longer schedule: one warm-up and one half cosine over all parts."""

    before: int = 0
    whole: int = 1

    def rate(self, step: int) -> float:
        """Return the learning rate of a step of this part."""
        return replace(self, steps=self.whole, before=0).of_whole(self.before + step)

    def of_whole(self, step: int) -> float:
        return Schedule.rate(self, step)


def schedule(
    rate: float, before: int, count: int, whole: int, args: argparse.Namespace
) -> Schedule:
    return Piece(
        steps=count, learning_rate=rate, warmup_steps=max(1, whole // 10), weight_decay=0.03,
        ema_decay=0.99, save_every=100, evaluate_every=1 << 40, workers=args.workers,
        accumulate=1, seed=0, before=before, whole=whole,
    )  # fmt: skip


class Trial:
    """Fixed test pictures, to score networks on."""

    def __init__(self, data: TrainingData) -> None:
        pairs = data.test
        self.train, self.names = data.train, pairs.expression_names
        clean = planes([pairs.source[row] for row in range(len(pairs))])
        self.kinds = {"clean": (clean, pairs.expression), "degraded": degraded_set(pairs, 0)}

    def scores(self, network: AnySide) -> dict[str, dict[str, float]]:
        stems = [name.removesuffix("_L").removesuffix("_R") for name in self.names]
        found: dict[str, dict[str, float]] = {}
        for kind, (images, truth) in self.kinds.items():
            predicted = read_coefficients(network, images)
            by_shape = r2_by_column(predicted, truth)
            found[kind] = {
                movement: round(float(by_shape[[stem in wanted for stem in stems]].mean()), 4)
                for movement, wanted in MOVEMENTS.items()
            }
            found[kind]["mean of all shapes"] = round(float(np.nanmean(by_shape)), 4)
            error = landmark_error_by_region(self.train, predicted.clip(0, 1), truth)
            found[kind]["landmarks, %"] = round(float(np.mean(list(error.values()))), 4)
        return found


def show(found: dict[str, dict]) -> None:
    for kind in ("clean", "degraded"):
        for name, one in found.items():
            values = " ".join(f"{value:6.3f}" for value in one["scores"][kind].values())
            print(f"{kind:9}{name:14}{one['steps']:6}{one['cpu_seconds']:7.0f} s {values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="states and remedies.json")
    parser.add_argument("--middle", type=Path, help="unfinished weights that mid_... start from")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=REMEDIES, default=list(REMEDIES))
    parser.add_argument("--tag", default="", help="added to names, for runs of another length")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.middle is None:
        args.only = [name for name in args.only if not name.startswith("mid_")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "remedies.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    plain = AnySide(53)
    data = load_training_data(FitNormalizerConfig(), plain, args.sets, [])
    trial = Trial(data)
    if "shipped" not in found:
        network = build(ON, 53).eval()
        found["shipped"] = {"steps": 0, "cpu_seconds": 0, "scores": trial.scores(network)}
    for name in args.only:
        key = name + args.tag
        if key not in found:
            network, busy, wall = train(key, REMEDIES[name], args.steps, data, args)
            found[key] = {
                "steps": args.steps, "cpu_seconds": round(busy), "wall_seconds": round(wall),
                "scores": trial.scores(network),
            }  # fmt: skip
            write_json(file, found)
            show({key: found[key]})
    show(found)


if __name__ == "__main__":
    main()
