"""The course of a training run: which part of the network learns what, one after the other."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric import Fabric
from torch import nn

from ....pipeline.errors import InputError
from ....pipeline.store.commit import write_json
from ...networks.base import CodeNormalizer, Normalizer
from ..trainer import Schedule, Task, Trainer
from .batches import Batches, TargetBatches
from .data import Material, recipe
from .frozen import open_frozen
from .losses import LOSSES, OF_DECODERS, Objective
from .measures import Measures
from .report import evaluate_network, sheet_of_faces, sheet_of_renders, write_sheet
from .step_views import DecoderView, Views

if TYPE_CHECKING:
    from .fit_settings import FitNormalizerConfig

log = logging.getLogger(__name__)


class Course:
    """Trains ``network`` in place, part by part; every part may be stopped and goes on.

    Args:
        config: how.
        network: what learns.
        material: from what.
        fabric: device, precision and processes.
        output: where states, logs and sheets go.
    """

    def __init__(
        self,
        config: FitNormalizerConfig,
        network: Normalizer,
        material: Material,
        fabric: Fabric,
        output: Path,
    ) -> None:
        self.config = config
        self.network = network
        self.material = material
        self.fabric = fabric
        self.output = output
        self.measures = Measures(material.train)
        self._parts = config.accumulate * fabric.world_size
        self._learnt: dict[str, Any] = {}

    def run(self, deadline: Callable[[], bool]) -> bool:
        """Train all parts; False when stopped before the end."""
        tasks: list[Callable[[], tuple[Task, Schedule]]] = [self._rest]
        if isinstance(self.network, CodeNormalizer) and self._draws_first():
            tasks.insert(0, self._decoder)
        for make in tasks:
            task, schedule = make()
            trainer = Trainer(task, schedule, self.fabric, self.output)
            finished = trainer.run(self._evaluate, deadline)
            self._learnt[task.name] = {
                "steps": trainer.step,
                "cpu_seconds": round(trainer.cpu_seconds, 1),
            }
            if not finished:
                return False
            task.trained.load_state_dict(trainer.averaged())
        return True

    def summary(self) -> dict[str, Any]:
        """Return what was done, for the card."""
        seconds = sum(part["cpu_seconds"] for part in self._learnt.values())
        return {
            **self.material.summary(),
            "parts": self._learnt,
            "processes": self.fabric.world_size,
            "cpu_seconds": round(seconds, 1),
        }

    def _draws_first(self) -> bool:
        """Whether the decoder learns by itself: needed where nothing else would teach it."""
        apart = self.config.method == "coefficients"
        if apart and not len(self.material.train.target_of):
            raise InputError("no pair has a target picture; synthesize some with targets=true")
        if apart and not self.config.decoder_steps and not self.config.begin:
            raise InputError(
                "fit_normalizer.decoder_steps = 0: only with method = 'direct', or with weights "
                "to begin from (fit_normalizer.begin)"
            )
        return self.config.decoder_steps > 0 and len(self.material.train.target_of) > 0

    def _decoder(self) -> tuple[Task, Schedule]:
        """Exact coefficients → target pictures."""
        config, network = self.config, self.network
        assert isinstance(network, CodeNormalizer)
        used = config.losses.used()
        weights = {name: used[name] for name in OF_DECODERS if name in used}
        if not weights:
            raise InputError(
                "the decoder has no loss: give fit_normalizer.losses.picture a weight, or set "
                "fit_normalizer.decoder_steps = 0 with method = 'direct'"
            )
        size = config.decoder_batch_size
        batches = TargetBatches(self.material.train, size, config.seed, self._parts)
        steps, rate = config.decoder_steps, config.decoder_learning_rate
        task = Task(
            "decoder",
            DecoderView(network),
            network.halves()[1],
            Objective(weights, self.measures),
            batches,
            self._about(),
        )
        return task, self._schedule(steps, rate)

    def _rest(self) -> tuple[Task, Schedule]:
        """The encoder, or with ``direct`` the whole network."""
        config, network = self.config, self.network
        direct = config.method == "direct"
        trained: nn.Module = network
        if not direct and isinstance(network, CodeNormalizer):
            trained = network.halves()[0]
        objective = Objective(self._weights(direct), self.measures, self._frozen())
        drawn = bool(objective.needs & {"target", "drawn"})
        if drawn and not len(self.material.train.target_of):
            raise InputError("no pair has a target picture; synthesize some with targets=true")
        made_of = recipe(config, network, self.material, self._parts, drawn)
        task = Task(
            "network" if direct else "encoder",
            Views(network, objective.needs),
            trained,
            objective,
            Batches(self.material.train, made_of, config.seed, self.material.faces),
            self._about(),
        )
        inner = config.inner_learning_rate if config.optimizer == "muon" else None
        return task, self._schedule(config.steps, config.learning_rate, inner)

    def _weights(self, direct: bool) -> dict[str, float]:
        """Losses that count and can: those of real faces only where there are any."""
        weights = {
            name: weight
            for name, weight in self.config.losses.used().items()
            if (direct or name not in OF_DECODERS)
            and (self.material.faces or "faces" not in LOSSES[name].needs)
        }
        if not weights:
            raise InputError("nothing to learn: all weights in fit_normalizer.losses are 0")
        return weights

    def _frozen(self) -> dict[str, nn.Module]:
        """The user's networks, for the losses that need one."""
        config, found = self.config, dict[str, nn.Module]()
        given = {
            "identity": (config.identity_network, config.identity_architecture),
            "expression": (config.expression_network, config.expression_architecture),
        }
        for name, (path, architecture) in given.items():
            wanted = name in config.losses.used()
            if wanted and not path:
                raise InputError(
                    f"fit_normalizer.losses.{name} needs a network of yours: set "
                    f"fit_normalizer.{name}_network = 'FILE.safetensors'"
                )
            if wanted:
                found[name] = open_frozen(Path(path), architecture)
        return found

    def _about(self) -> dict[str, Any]:
        return {"settings": self.config.shaping(), "data": self.material.digest()}

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
        """Score the averaged network on held-out people; draw it on renders and real faces."""
        if isinstance(trainer.task.views, DecoderView):
            return
        was = trainer.plain.state_dict()
        kept = {name: value.clone() for name, value in was.items()}
        trainer.plain.load_state_dict(trainer.averaged())
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        trainer.plain.load_state_dict(kept)
        step, material = trainer.step, self.material
        scores = evaluate_network(network, material.held_out, material.train, self.config.seed)
        write_json(self.output / "progress.json", {"step": step, "scores": scores})
        log.info("held out at step %d: %s", step, json.dumps(scores["degraded"]["mean"]))
        trainer.logs.numbers(step, _flat(scores, "held_out"))
        sheets = {}
        if len(material.held_out.target_of):
            sheets["renders"] = sheet_of_renders(network, material.held_out)
        if material.faces is not None:
            sheets["faces"] = sheet_of_faces(network, material.faces)
        folder = self.output / "sheets"
        folder.mkdir(exist_ok=True)
        for name, sheet in sheets.items():
            write_sheet(sheet, str(folder / f"{name}-{step:07d}.jpg"))
            trainer.logs.picture(step, name, sheet)


def _flat(scores: dict[str, Any], prefix: str) -> dict[str, float]:
    """Nested scores as ``prefix/inner/name``."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}/{name}")  # type: ignore[arg-type]
        elif isinstance(value, int | float):
            found[f"{prefix}/{name}"] = float(value)
    return found
