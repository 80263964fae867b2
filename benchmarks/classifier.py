"""Does reading keep up with training? Steps per second from shards, relative to one cached batch.

    python benchmarks/classifier.py OUT                       # OUT: normpipe run, with labels
    python benchmarks/classifier.py OUT --device cuda --preset norface --batch 128

Three ways: pictures decoded in advance (the default if they fit in memory), decoded from the shards
on demand, and one batch repeated. Goal: 0.9 of the last for the first two.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from normpipe.pipeline.read.dataset import open_dataset
from normpipe.stages.classification.classifier_losses import ClassifierObjective
from normpipe.stages.classification.settings import ClassifyConfig
from normpipe.stages.classification.views import (
    BatchOrder,
    ClassifierBatches,
    ClassifierView,
    ViewData,
    ViewPool,
)
from normpipe.stages.classify import build_classifier, plan_partitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the network, on a CPU")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = ClassifyConfig.model_validate({"preset": args.preset, "shared_subjects": True})
    listing, task, parts = plan_partitions(
        config, open_dataset(args.data, status="all", decode=False)
    )
    rows = parts[0].train[listing.usable[parts[0].train]]
    truth = task.truth(listing.take(rows).labels)
    network = build_classifier(config, task).to(args.device)
    view = ClassifierView(network).to(args.device).train()
    objective = ClassifierObjective(task, truth, {"labels": 1.0}, 1.0, False).to(args.device)
    optimizer = torch.optim.AdamW(view.parameters())

    def step(batch: dict[str, torch.Tensor]) -> None:
        batch = {name: value.to(args.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(args.device, torch.bfloat16, args.device == "cuda"):
            total = objective(view(batch), batch)["total"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    def rate(batches: list[dict[str, torch.Tensor]] | DataLoader) -> float:
        times = []
        for place, batch in enumerate(batches):
            if place == 3:
                times.append(time.perf_counter())
            step(batch)
        if args.device == "cuda":
            torch.cuda.synchronize()
        return (args.steps - 3) / (time.perf_counter() - times[0])

    def loader(memory_gb: float) -> DataLoader:
        pool = ViewPool(listing, rows, memory_gb, args.threads)
        data = ViewData(pool, rows, config.views, network, config.normalizer)
        batches = ClassifierBatches(data, truth, BatchOrder(args.batch, 1, 0, 0.2))
        return DataLoader(
            batches, batch_size=None, sampler=range(args.steps), num_workers=args.workers,
            prefetch_factor=4 if args.workers else None,
        )  # fmt: skip

    one = next(iter(loader(0)))
    found = {
        "cached batch": rate([one] * args.steps),
        "decoded beforehand": rate(loader(1000)),
        "decoded from shards": rate(loader(0)),
    }
    cached = found["cached batch"]
    print(f"{len(rows)} faces, batches of {args.batch}, {args.preset} on {args.device}")
    for name, value in found.items():
        print(f"{name:22} {value:6.2f} steps/s  {value / cached:5.2f} of the cached batch")
    if args.json:
        shares = {name: float(np.round(value / cached, 4)) for name, value in found.items()}
        args.json.write_text(json.dumps({"steps_per_second": found, "shares": shares}, indent=2))


if __name__ == "__main__":
    main()
