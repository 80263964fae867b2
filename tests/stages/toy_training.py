"""A small task for the trainer. Run as a script it trains in as many processes as it is told to."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from normpipe.stages.training.trainer import Schedule, Trainer, TrainingTask, make_fabric

BATCH, STEPS = 8, 60


class Points(torch.utils.data.Dataset):
    """Item ``step * parts + part``: a part of a batch that depends on the step alone."""

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return 1 << 40

    def __getitem__(self, item):
        step, part = divmod(item, self.parts)
        x = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(step))
        return {"x": x.chunk(self.parts)[part]}


class View(nn.Module):
    """Has a head that no loss looks at, as a network has where a weight is 0."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        inner = [nn.Linear(width, width), nn.Tanh()] if width > 8 else []
        self.body = nn.Sequential(nn.Linear(5, width), nn.Tanh(), *inner, nn.Linear(width, 1))
        self.unused = nn.Linear(8, 3)

    def forward(self, batch):
        return {"y": self.body(batch["x"])}


class SquaredError(nn.Module):
    weights = {"error": 1.0}  # noqa: RUF012

    def forward(self, seen, batch):
        error = (seen["y"][:, 0] - batch["x"].sum(1)).square().mean()
        return {"total": error, "error": error}


def train(folder, devices=1, accumulate=1, stops=(), steps=STEPS, precision="fp32", muon=None):
    """Train as far as ``stops`` lets it; return the trainer and whether it came to the end.

    With ``muon``, its rate, there is a layer inside that it is for.
    """
    fabric = make_fabric("cpu", precision, "toy.device", devices)
    fabric.launch()
    view = View(8 if muon is None else 16)
    batches = Points(accumulate * devices)
    task = TrainingTask("toy", view, view, SquaredError(), batches, {"what": "toy"})
    schedule = Schedule(steps, 0.01, 3, 0.01, 0.9, 7, 1000, 0, accumulate, 0, muon)
    trainer = Trainer(task, schedule, fabric, folder)
    finished = trainer.run(lambda _: None, lambda: trainer.step in stops)
    return SimpleNamespace(trainer=trainer, finished=finished, rank=fabric.global_rank)


if __name__ == "__main__":
    train(Path(sys.argv[1]), devices=int(sys.argv[2]))
