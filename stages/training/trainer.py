"""One network learning one thing: a loop that can be killed and goes on as if it had not been."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from ...pipeline.errors import InputError
from ..networks.checkpoint import read_notes, read_tensors, save_tensors

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. ``workers`` only prepares batches; it changes no result."""

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    ema_decay: float
    save_every: int
    evaluate_every: int
    workers: int

    def rate(self, step: int) -> float:
        """Linear warm-up, then a half cosine to nothing."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Trainer:
    """Trains ``module`` on ``batches`` (batch n a function of n) and keeps an averaged copy.

    Args:
        name: of the part, for files and log lines.
        module: the network.
        loss: (module, batch) → scalar.
        schedule: how long and how fast.
        fabric: device and precision.
        folder: where the state is kept.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        schedule: Schedule,
        fabric: Fabric,
        folder: Path,
    ) -> None:
        self.name = name
        self.schedule = schedule
        self.fabric = fabric
        self.state_file = folder / f"{name}.state.safetensors"
        self.step = 0
        self.losses: list[float] = []
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = AdamW(
            module.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.module, self.optimizer = fabric.setup(module, optimizer)
        self.plain = module
        self.average = AveragedModel(
            module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema_decay), use_buffers=True
        )
        self._loss = loss
        self._fingerprint = json.dumps(
            {"steps": schedule.steps, "rate": schedule.learning_rate, "shapes": _shapes(module)}
        )

    def run(self, batches: Dataset[Batch], evaluate: Callable[[int, nn.Module], None]) -> nn.Module:
        """Train from the saved state, if any, to the last step; return the averaged network."""
        self.resume()
        started, first = time.monotonic(), self.step
        for batch in self._loader(batches):
            self._learn(batch)
            if self.step % 50 == 0 or self.step == self.schedule.steps:
                speed = (self.step - first) / (time.monotonic() - started)
                recent = sum(self.losses[-50:]) / len(self.losses[-50:])
                log.info(
                    "%s step %d of %d, loss %.4f, %.2f steps/s",
                    self.name, self.step, self.schedule.steps, recent, speed,
                )  # fmt: skip
            if self.step % self.schedule.evaluate_every == 0 or self.step == self.schedule.steps:
                evaluate(self.step, self.average.module)
            if self.step % self.schedule.save_every == 0 or self.step == self.schedule.steps:
                self.save()
        return self.average.module.eval()

    def _loader(self, batches: Dataset[Batch]) -> Iterable[Batch]:
        """Batches in order from the next step on."""
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=range(self.step, self.schedule.steps),
            num_workers=self.schedule.workers,
            prefetch_factor=4 if self.schedule.workers else None,
            # Its own, or opening a loader would move the random state that dropout draws from.
            generator=torch.Generator(),
        )
        ready: Any = self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        return ready

    def _learn(self, batch: Batch) -> None:
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        loss = self._loss(self.module, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.module, self.optimizer, max_norm=2.0)
        self.optimizer.step()
        self.average.update_parameters(self.plain)
        self.step += 1
        self.losses.append(float(loss.detach()))

    def save(self) -> None:
        """Write everything that the next step depends on to one file, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        tensors |= {f"module.{name}": value for name, value in self.plain.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()
            }
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        save_tensors(
            tensors, self.state_file, {"step": self.step, "fingerprint": self._fingerprint}
        )

    def resume(self) -> bool:
        """Load the saved state, if there is one.

        Raises:
            InputError: it belongs to other settings.
        """
        if not self.state_file.is_file():
            return False
        notes, tensors = read_notes(self.state_file), read_tensors(self.state_file)
        if notes.get("fingerprint") != self._fingerprint:
            raise InputError(
                f"{self.state_file} was written with other settings: use another output folder, "
                "or delete it"
            )
        self.plain.load_state_dict(_under("module.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        state: dict[int, dict[str, Any]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, field = name.split(".", 1)
            state.setdefault(int(index), {})[field] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random_cuda"])
        self.losses = tensors["losses"].tolist()
        self.step = int(notes["step"])
        log.info("%s goes on from step %d", self.name, self.step)
        return True


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _shapes(module: nn.Module) -> list[list[int]]:
    return [list(parameter.shape) for parameter in module.parameters()]
