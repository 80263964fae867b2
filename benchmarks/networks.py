"""Measure the speed of the normalizers, also relative to the machine's matrix products.

    python benchmarks/networks.py                       # on the CPU, one thread
    python benchmarks/networks.py --device cuda --batch 64 --compile

On a GPU the share is that of targets.md, Speed 5: multiplications and additions of the network per
second, over those of large bf16 matrix products in the same run. Prints a table and writes
benchmarks/results/networks.json; exits with 1 if compact misses its target.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from normpipe.stages.networks import NETWORKS
from normpipe.stages.networks.files.checkpoint import WEIGHTS_FOLDER

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "compact": ("compact", {}),
    "norface-S": ("norface", {"size": "S"}),
    "norface-B": ("norface", {"size": "B"}),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Targets of compact: size of the shipped weights, and rate on two CPU cores.
LARGEST_BYTES, LEAST_RATE = 16_000_000, 20.0


class Clock:
    """Measures the seconds of an action: wall time on a GPU, else the process's CPU time.

    CPU time, because other work on the machine increases the wall time.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self.seconds = seconds

    def __call__(self, action: Callable[[], Any]) -> tuple[float, float]:
        """Return (seconds, wall seconds) of one of many repeated actions."""
        for _ in range(2):
            action()
        self._wait()
        count, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < self.seconds or count < 3:
            action()
            count += 1
            if count % 8 == 0:
                self._wait()
        self._wait()
        elapsed = time.perf_counter() - wall
        spent = time.process_time() - cpu if self.device.type == "cpu" else elapsed
        return spent / count, elapsed / count

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def products(device: torch.device, precision: torch.dtype, clock: Clock) -> float:
    """Return operations per second of the fastest large matrix product."""
    best = 0.0
    for size in (4096, 8192) if device.type == "cuda" else (512, 1024):
        left, right = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
        seconds, _ = clock(lambda a=left, b=right: a @ b)
        best = max(best, 2 * size**3 / seconds)
    return best


def measure(name: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return one row of the table."""
    device = torch.device(arguments.device)
    clock = Clock(device, arguments.seconds)
    network, settings = MODELS[name]
    module = NETWORKS[network](**settings).eval().requires_grad_(False).to(device)
    images = torch.rand(arguments.batch, 3, arguments.input_size, arguments.input_size)
    images = images.to(device)
    bf16 = precision == "bf16"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, bf16):
        with FlopCounterMode(display=False) as counter:
            module(images[:1])
        work = counter.get_total_flops()
        run = torch.compile(module) if arguments.compile else module
        seconds, wall = clock(lambda: run(images))
    rate = arguments.batch / seconds
    peak = products(device, PRECISIONS[precision], clock)
    return {
        "network": name,
        "precision": precision,
        "parameters_millions": round(sum(p.numel() for p in module.parameters()) / 1e6, 1),
        "gflop_an_image": round(work / 1e9, 2),
        "images_per_s": round(rate, 2),
        "images_per_s_wall": round(arguments.batch / wall, 2),
        "matrix_products_tflops": round(peak / 1e12, 3),
        "share_of_products": round(rate * work / peak, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--networks", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    folder = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=folder / "networks.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(name, precision, arguments)
        for name in arguments.networks
        for precision in arguments.precisions
    ]
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))
    report: dict[str, Any] = {
        "device": arguments.device,
        "gpu": torch.cuda.get_device_name() if arguments.device != "cpu" else None,
        "torch": torch.__version__,
        "batch": arguments.batch,
        "compiled": arguments.compile,
        "load_average": os.getloadavg()[0],
        "rows": rows,
    }
    missed = False
    mine = [row for row in rows if row["network"] == "compact" and row["precision"] == "fp32"]
    if arguments.device == "cpu" and mine:
        size = (WEIGHTS_FOLDER / "compact.safetensors").stat().st_size
        rate = 2 * mine[0]["images_per_s"]  # two cores, each with its own batches
        missed = size > LARGEST_BYTES or rate < LEAST_RATE
        report["compact"] = {"bytes": size, "images_per_s_of_two_cores": rate, "met": not missed}
        print(
            f"compact: {size:,} bytes (at most {LARGEST_BYTES:,}), {rate:.0f} images/s of two "
            f"cores (at least {LEAST_RATE:.0f}): {'missed' if missed else 'met'}"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
