"""The phases of a training run: the decoder first, then the encoder or the whole network."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric import Fabric
from torch import Tensor, nn

from ....pipeline.errors import InputError
from ....pipeline.store.commit import write_json
from ...networks.base import CodeNormalizer, NormalizerNetwork, is_separable
from ..trainer import Schedule, Trainer, TrainingTask
from .batches import Batches, TargetBatches
from .data import TrainingData, recipe
from .frozen import open_frozen
from .label_heads import LabelHeads
from .losses import DECODER_LOSSES, LOSSES, Objective
from .pair_statistics import PairStatistics
from .report import evaluate_network, sheet_of_faces, sheet_of_renders, write_sheet
from .step_views import DecoderView, Views

if TYPE_CHECKING:
    from .fit_settings import FitNormalizerConfig

log = logging.getLogger(__name__)


class TrainingPhases:
    """Trains ``network`` in place, phase by phase; each phase can be stopped and resumed.

    Args:
        config: settings.
        network: to train.
        data: to train on.
        fabric: device, precision and processes.
        output: for checkpoints, logs and sheets.
    """

    def __init__(
        self,
        config: FitNormalizerConfig,
        network: NormalizerNetwork,
        data: TrainingData,
        fabric: Fabric,
        output: Path,
    ) -> None:
        self.config = config
        self.network = network
        self.data = data
        self.fabric = fabric
        self.output = output
        self.statistics = PairStatistics(data.train)
        self._parts = config.accumulate * fabric.world_size
        self._done: dict[str, Any] = {}

    def run(self, deadline: Callable[[], bool]) -> bool:
        """Train all phases; return False if stopped before the end."""
        share = self.config.begin_share
        begun = copy.deepcopy(self._main_part().state_dict()) if share else {}
        phases: list[Callable[[], tuple[TrainingTask, Schedule]]] = [self._main_phase]
        if is_separable(self.network) and self._has_decoder_phase():
            phases.insert(0, self._decoder_phase)
        for make in phases:
            task, schedule = make()
            trainer = Trainer(task, schedule, self.fabric, self.output)
            finished = trainer.run(self._evaluate, deadline)
            self._done[task.name] = {
                "steps": trainer.step,
                "cpu_seconds": round(trainer.cpu_seconds, 1),
            }
            if not finished:
                return False
            task.trained.load_state_dict(trainer.averaged())
        self._mix_with(begun)
        return True

    def _mix_with(self, begun: dict[str, Tensor]) -> None:
        """Mix the weights that training began with into what the main phase trained.

        Between the two, little of what is new is lost, and what was known before is less forgotten
        (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
        """
        trained = self._main_part().state_dict()
        for name, value in begun.items():
            if value.is_floating_point():
                trained[name].lerp_(value.to(trained[name].device), self.config.begin_share)

    def _main_part(self) -> nn.Module:
        """Return what the main phase trains: the encoder, or with ``direct`` the whole network."""
        network = self.network
        if self.config.method != "direct" and is_separable(network):
            return network.halves()[0]
        return network

    def summary(self) -> dict[str, Any]:
        """Return data and phases of the training, for the card."""
        seconds = sum(part["cpu_seconds"] for part in self._done.values())
        return {
            **self.data.summary(),
            "parts": self._done,
            "processes": self.fabric.world_size,
            "cpu_seconds": round(seconds, 1),
        }

    def _has_decoder_phase(self) -> bool:
        """Return whether the decoder is trained alone first, as ``coefficients`` requires."""
        separate = self.config.method == "coefficients"
        if separate and not len(self.data.train.target_of):
            raise InputError("no pair has a target picture: synthesize some with targets=true")
        if separate and not self.config.decoder_steps and not self.config.begin:
            raise InputError(
                "fit_normalizer.decoder_steps = 0 requires method = 'direct', or weights to start "
                "from (fit_normalizer.begin)"
            )
        return self.config.decoder_steps > 0 and len(self.data.train.target_of) > 0

    def _decoder_phase(self) -> tuple[TrainingTask, Schedule]:
        """Return the task of the decoder: exact coefficients → target pictures."""
        config, network = self.config, self.network
        assert isinstance(network, CodeNormalizer)
        used = config.losses.used()
        weights = {name: used[name] for name in DECODER_LOSSES if name in used}
        if not weights:
            raise InputError(
                "the decoder has no loss: give fit_normalizer.losses.picture a weight, or set "
                "fit_normalizer.decoder_steps = 0 with method = 'direct'"
            )
        size = config.decoder_batch_size
        batches = TargetBatches(self.data.train, size, config.seed, self._parts)
        steps, rate = config.decoder_steps, config.decoder_learning_rate
        task = TrainingTask(
            "decoder",
            DecoderView(network),
            network.halves()[1],
            Objective(weights, self.statistics),
            batches,
            self._about(),
        )
        schedule = self._schedule(steps, rate)
        if config.decoder_ema_decay:
            schedule = replace(schedule, ema_decay=config.decoder_ema_decay)
        return task, schedule

    def _main_phase(self) -> tuple[TrainingTask, Schedule]:
        """Return the task of the encoder, or with ``direct`` of the whole network."""
        config, network = self.config, self.network
        direct = config.method == "direct"
        trained = self._main_part()
        objective = Objective(self._weights(direct), self.statistics, self._frozen())
        heads = None
        if any(need.startswith("labels") for need in objective.needs):
            heads = LabelHeads(self.data.train.expression_names)
            trained = nn.ModuleDict({"network": trained, "heads": heads})
        drawn = bool(objective.needs & {"target", "drawn"})
        if drawn and not len(self.data.train.target_of):
            raise InputError("no pair has a target picture: synthesize some with targets=true")
        made_of = recipe(config, network, self.data, self._parts, drawn)
        task = TrainingTask(
            "network" if direct else "encoder",
            Views(network, objective.needs, heads, config.batch_norm == "frozen"),
            trained,
            objective,
            Batches(self.data.train, made_of, config.seed, self.data.faces),
            self._about(),
        )
        inner = config.inner_learning_rate if config.optimizer == "muon" else None
        return task, self._schedule(config.steps, config.learning_rate, inner)

    def _weights(self, direct: bool) -> dict[str, float]:
        """Return the weights of the losses in use; those of real faces only if there are any."""
        weights = {
            name: weight
            for name, weight in self.config.losses.used().items()
            if (direct or name not in DECODER_LOSSES) and self._can_learn(LOSSES[name].needs)
        }
        if not weights:
            raise InputError("nothing to learn: all weights in fit_normalizer.losses are 0")
        return weights

    def _can_learn(self, needs: frozenset[str]) -> bool:
        """Return whether there are faces and labels for a loss that needs them."""
        faces = self.data.faces
        labels = faces.labels.known() if faces and faces.labels else {}
        kinds = {need.removeprefix("labels:") for need in needs if need.startswith("labels:")}
        labelled = bool(labels) or "labels" not in needs
        return (faces is not None or "faces" not in needs) and kinds <= {*labels} and labelled

    def _frozen(self) -> dict[str, nn.Module]:
        """Return the user's frozen networks, for the losses that need one."""
        config, found = self.config, dict[str, nn.Module]()
        given = {
            "identity": (config.identity_network, config.identity_architecture),
            "expression": (config.expression_network, config.expression_architecture),
        }
        for name, (path, architecture) in given.items():
            wanted = name in config.losses.used()
            if wanted and not path:
                raise InputError(
                    f"fit_normalizer.losses.{name} needs a network that you supply: set "
                    f"fit_normalizer.{name}_network = 'FILE.safetensors'"
                )
            if wanted:
                found[name] = open_frozen(Path(path), architecture)
        return found

    def _about(self) -> dict[str, Any]:
        return {"settings": self.config.shaping(), "data": self.data.digest()}

    def _schedule(self, steps: int, rate: float, inner: float | None = None) -> Schedule:
        config = self.config
        return Schedule(
            steps=steps,
            learning_rate=rate,
            warmup_steps=min(config.warmup_steps, max(1, steps // 4)),
            weight_decay=config.weight_decay,
            ema_decay=config.ema_decay,
            save_every=config.save_every,
            evaluate_every=config.evaluate_every,
            workers=config.workers,
            accumulate=config.accumulate,
            seed=config.seed,
            inner_rate=inner,
        )

    def _evaluate(self, trainer: Trainer) -> None:
        """Score the averaged network on held-out people; write sheets of renders and real faces."""
        if isinstance(trainer.task.views, DecoderView):
            return
        was = trainer.unwrapped.state_dict()
        kept = {name: value.clone() for name, value in was.items()}
        trainer.unwrapped.load_state_dict(trainer.averaged())
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        trainer.unwrapped.load_state_dict(kept)
        step, data = trainer.step, self.data
        scores = evaluate_network(network, data.held_out, data.train, self.config.seed)
        write_json(self.output / "progress.json", {"step": step, "scores": scores})
        log.info("held out at step %d: %s", step, json.dumps(scores["degraded"]["mean"]))
        trainer.logs.numbers(step, _flat(scores, "held_out"))
        sheets = {}
        if len(data.held_out.target_of):
            sheets["renders"] = sheet_of_renders(network, data.held_out)
        if data.faces is not None:
            sheets["faces"] = sheet_of_faces(network, data.faces)
        folder = self.output / "sheets"
        folder.mkdir(exist_ok=True)
        for name, sheet in sheets.items():
            write_sheet(sheet, str(folder / f"{name}-{step:07d}.jpg"))
            trainer.logs.picture(step, name, sheet)


def _flat(scores: dict[str, Any], prefix: str) -> dict[str, float]:
    """Flatten nested scores to ``prefix/inner/name``."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}/{name}")  # type: ignore[arg-type]
        elif isinstance(value, int | float):
            found[f"{prefix}/{name}"] = float(value)
    return found
