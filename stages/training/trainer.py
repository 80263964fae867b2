"""The training loop: one network, one task; resumes after a kill with the same result."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ...pipeline.errors import InputError
from ..networks.devices import multiplies_bf16_fast, resolve_device
from ..networks.files.checkpoint import read_notes, read_tensors, save_tensors
from .batching import Batch
from .logs import Logs
from .muon import Muon, inner_weights

log = logging.getLogger(__name__)

_LOG_EVERY = 50
_STATES = ("optimizer.", "muon.")  # prefixes of the optimizers' tensors in a checkpoint
_CLOCK_EVERY = 10  # steps between checks of the clock if several processes have to agree


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rates. ``workers`` only prepare batches and do not change results."""

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    ema_decay: float
    save_every: int
    evaluate_every: int
    workers: int
    accumulate: int
    seed: int
    #: Learning rate of Muon, for the inner weights; None trains them with AdamW, too.
    inner_rate: float | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then half a cosine to 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class TrainingTask:
    """What to train, on what data and with what loss.

    Attributes:
        name: for files and log lines.
        views: the module that runs the network on a batch.
        trained: the part of the network that is trained and averaged.
        objective: (outputs, batch) → losses by name and their ``total``; its ``weights`` name the
            losses.
        batches: item ``step * parts + part`` is one part of batch ``step``.
        about: settings and data that a checkpoint must match.
        rates: learning rate of some parts as a share of the schedule's, by the prefix of their
            weights' names in ``trained``.
    """

    name: str
    views: nn.Module
    trained: nn.Module
    objective: nn.Module
    batches: Dataset[Batch]
    about: dict[str, Any]
    rates: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains a part of a network and keeps an averaged copy of it.

    Args:
        task: what to train.
        schedule: steps and learning rates.
        fabric: device, precision and processes.
        folder: for the checkpoint and the log.
    """

    def __init__(
        self, task: TrainingTask, schedule: Schedule, fabric: Fabric, folder: Path
    ) -> None:
        self.task = task
        self.schedule = schedule
        self.fabric = fabric
        self.logs = Logs(folder, task.name, fabric.is_global_zero)
        self.state_file = folder / f"{task.name}.state.safetensors"
        self.step = 0
        self.cpu_seconds = 0.0
        self.losses: list[float] = []
        self._pending: list[Tensor] = []
        self._window: list[list[float]] = []
        self._names = ["total", *_weights(task)]
        self._bar: tqdm[Any]
        # The rest of the network may run, but is frozen.
        for parameter in task.views.parameters():
            parameter.requires_grad_(False)
        for parameter in task.trained.parameters():
            parameter.requires_grad_(True)
        self.unwrapped = task.trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizers = _optimizers(self.unwrapped, schedule, task.rates)
        self.module, *self.optimizers = cast("list[Any]", fabric.setup(task.views, *optimizers))
        self.objective = task.objective.to(fabric.device)
        self.average = AveragedModel(
            self.unwrapped, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema_decay), use_buffers=True
        )
        shapes = [list(parameter.shape) for parameter in self.unwrapped.parameters()]
        about = {**task.about, "losses": _weights(task), "shapes": shapes}
        self._fingerprint = json.dumps(about, sort_keys=True)

    def run(
        self, evaluate: Callable[[Trainer], None], deadline: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train from the checkpoint, if any, to the last step; return False if stopped earlier.

        Args:
            evaluate: called at intervals, in the first process only.
            deadline: returns True when it is time to save and stop.
        """
        self.resume()
        self.logs.begin(self.step)
        with self._bar_on_terminal() as self._bar:
            done = self._train(evaluate, deadline)
        self.logs.close()
        return done

    def _train(self, evaluate: Callable[[Trainer], None], deadline: Callable[[], bool]) -> bool:
        started, first, busy = time.monotonic(), self.step, time.process_time()
        batches = self._batches()
        done = self.step >= self.schedule.steps
        while not done:
            self._learn(batches)
            self._bar.update()
            done = self.step >= self.schedule.steps
            stop = not done and self._stops(deadline)
            if done or stop or self.step % _LOG_EVERY == 0:
                self._flush()
                self.cpu_seconds += time.process_time() - busy
                speed = (self.step - first) / (time.monotonic() - started)
                # A stop writes no row that an undisturbed run would not write.
                self._log(speed, written=done or self._due(_LOG_EVERY))
                busy = time.process_time()
            if self.fabric.is_global_zero and (done or self._due(self.schedule.evaluate_every)):
                evaluate(self)
                busy = time.process_time()
            if done or stop or self._due(self.schedule.save_every):
                self.save()
            if stop:
                break
        return done

    def _bar_on_terminal(self) -> tqdm[Any]:
        """Return a progress bar, shown by the first process if it writes to a terminal."""
        return tqdm(
            total=self.schedule.steps,
            initial=self.step,
            desc=self.task.name,
            unit="step",
            disable=None if self.fabric.is_global_zero else True,
            leave=False,
            ncols=shutil.get_terminal_size().columns - 4,  # room for ^C
        )

    def averaged(self) -> dict[str, Tensor]:
        """Return the averaged weights (...) of the trained part, by name."""
        return self.average.module.state_dict()

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _stops(self, deadline: Callable[[], bool]) -> bool:
        """Return whether to stop; all processes follow the clock of the first one."""
        if self.fabric.world_size == 1:
            return deadline()
        return self.step % _CLOCK_EVERY == 0 and bool(self.fabric.broadcast(deadline()))

    def _batches(self) -> Iterator[Batch]:
        """Return this process's parts of the batches, in order from the next step on."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        parts = self.schedule.accumulate * world
        items = range(self.step * parts + rank, self.schedule.steps * parts, world)
        loader = DataLoader(
            self.task.batches,
            batch_size=None,
            sampler=items,
            num_workers=self.schedule.workers,
            prefetch_factor=4 if self.schedule.workers else None,
            # Its own generator: a loader would otherwise advance the global random state.
            generator=torch.Generator(),
        )
        ready: Any = self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        return iter(ready)

    def _learn(self, batches: Iterator[Batch]) -> None:
        self.module.train()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step) * group["share"]
            optimizer.zero_grad(set_to_none=True)
        accumulate, found = self.schedule.accumulate, None
        for turn in range(accumulate):
            part = turn * self.fabric.world_size + self.fabric.global_rank
            # For dropout: the seed depends on step and part, so no random state needs saving.
            torch.manual_seed(((self.schedule.seed << 44) + (self.step << 12) + part) % (1 << 63))
            batch = next(batches)
            with self.fabric.no_backward_sync(self.module, enabled=turn < accumulate - 1):
                terms = self.objective(self.module(batch), batch)
                self.fabric.backward(terms["total"] / accumulate)
            values = torch.stack([terms[name].detach() for name in self._names]) / accumulate
            found = values if found is None else found + values
        for optimizer in self.optimizers:
            self.fabric.clip_gradients(self.module, optimizer, max_norm=2.0)
            optimizer.step()
        self.average.update_parameters(self.unwrapped)
        self.step += 1
        if found is not None:
            self._pending.append(found)

    def _flush(self) -> None:
        """Fetch the losses of the last steps, averaged over the processes."""
        if self._pending:
            values = self.fabric.all_reduce(torch.stack(self._pending), reduce_op="mean")
            rows = torch.as_tensor(values).double().cpu().tolist()
            self._window += rows
            self.losses += [row[0] for row in rows]
            self._pending = []

    def _log(self, speed: float, written: bool) -> None:
        window = torch.tensor(self._window, dtype=torch.float64)
        means = dict(zip(self._names, window.mean(0).tolist(), strict=True))
        if written:
            numbers = {f"loss/{name}": value for name, value in means.items()}
            numbers["rate"] = self.schedule.rate(self.step - 1)
            self.logs.numbers(self.step, {**numbers, "cpu_seconds": self.cpu_seconds})
        if self.step % _LOG_EVERY == 0:
            self._window = []
        if not self._bar.disable and self.step < self.schedule.steps:
            self._bar.set_postfix_str(f"loss {means['total']:.4f}")
        elif self.fabric.is_global_zero:
            log.info(
                "%s step %d of %d, loss %.4f, %.2f steps/s",
                self.task.name, self.step, self.schedule.steps, means["total"], speed,
            )  # fmt: skip

    def save(self) -> None:
        """Write all that the next step depends on to one file, atomically."""
        self._flush()
        if self.fabric.is_global_zero:
            tensors = {
                f"module.{name}": value for name, value in self.unwrapped.state_dict().items()
            }
            tensors |= {f"average.{name}": v for name, v in self.average.state_dict().items()}
            for prefix, optimizer in zip(_STATES, self.optimizers, strict=False):
                for index, state in optimizer.state_dict()["state"].items():
                    tensors |= {
                        f"{prefix}{index}.{name}": torch.as_tensor(value)
                        for name, value in state.items()
                    }
            tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
            tensors["window"] = torch.tensor(self._window, dtype=torch.float64)
            notes = {
                "step": self.step,
                "fingerprint": self._fingerprint,
                "precision": self._precision(),
                "cpu_seconds": self.cpu_seconds,
            }
            save_tensors(tensors, self.state_file, notes)
        self.fabric.barrier()

    def _precision(self) -> str:
        """Return the precision in use; ``auto`` differs between machines."""
        return str(self.fabric.strategy.precision.precision)

    def resume(self) -> bool:
        """Load the checkpoint, if there is one.

        Raises:
            InputError: it has other settings, data or precision.
        """
        if not self.state_file.is_file():
            return False
        notes, tensors = read_notes(self.state_file), read_tensors(self.state_file)
        if notes.get("fingerprint") != self._fingerprint:
            raise InputError(
                f"{self.state_file} was written with other settings or data: use another output "
                "folder, or delete it"
            )
        before, here = notes.get("precision"), self._precision()
        finished = int(notes["step"]) >= self.schedule.steps  # then nothing more is computed
        if not finished and before not in (None, here):
            raise InputError(
                f"{self.state_file} was computed in {before}, but would continue in {here}: "
                f"set precision = '{'bf16' if 'bf16' in before else 'fp32'}', or start again"
            )
        self.unwrapped.load_state_dict(_under("module.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        for prefix, optimizer in zip(_STATES, self.optimizers, strict=False):
            state: dict[int, dict[str, Any]] = {}
            for name, value in _under(prefix, tensors).items():
                index, field = name.split(".", 1)
                state.setdefault(int(index), {})[field] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.losses = tensors["losses"].tolist()
        self._window = tensors["window"].tolist()
        self.step = int(notes["step"])
        self.cpu_seconds = float(notes["cpu_seconds"])
        if self.step < self.schedule.steps:
            log.info("%s resumes from step %d", self.task.name, self.step)
        return True


def keep_norms(module: nn.Module) -> None:
    """Put batch norms into evaluation mode: they use their running statistics, and keep them."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def make_fabric(
    device: str, precision: str, setting: str, devices: int = 1, nodes: int = 1
) -> Fabric:
    """Return a Fabric with the configured device, precision and processes.

    Args:
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32 or bf16.
        setting: name of the setting ``device`` comes from, for messages.
        devices: processes on this machine, with one GPU each if GPUs are used.
        nodes: number of machines.

    Raises:
        InputError: a device does not exist.
    """
    found = resolve_device(device, setting)
    on_gpu = found.type == "cuda"
    if on_gpu and devices > torch.cuda.device_count():
        raise InputError(f"devices = {devices}, but torch sees {torch.cuda.device_count()} GPUs")
    bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16_fast(found))
    return Fabric(
        accelerator=found.type,
        devices=[found.index] if ":" in device else devices,
        num_nodes=nodes,
        # A head whose only loss has weight 0 gets no gradients.
        strategy="ddp_find_unused_parameters_true" if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if bf16 else "32-true",
    )


def _optimizers(module: nn.Module, schedule: Schedule, rates: dict[str, float]) -> list[Optimizer]:
    """Return AdamW for all weights, or AdamW and Muon; ``share`` scales the schedule's rate.

    ``rates``: of AdamW's weights, see ``TrainingTask``.
    """
    inner = inner_weights(module) if schedule.inner_rate is not None else []
    known = {id(weight) for weight in inner}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, weight in module.named_parameters():
        if id(weight) not in known:
            shares = (share for prefix, share in rates.items() if name.startswith(prefix))
            groups.setdefault(next(shares, 1.0), []).append(weight)
    rate, decay = schedule.learning_rate, schedule.weight_decay
    parts = [{"params": weights, "share": share} for share, weights in groups.items() if weights]
    found: list[Optimizer] = [AdamW(parts, rate, weight_decay=decay)]
    if schedule.inner_rate is not None and inner:
        share = schedule.inner_rate / rate
        group = {"params": inner, "share": share}
        found.append(Muon([group], schedule.inner_rate, weight_decay=decay))
    return found


def _weights(task: TrainingTask) -> dict[str, float]:
    return cast("dict[str, float]", task.objective.weights)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
