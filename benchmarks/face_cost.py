"""Measure what a normalized face costs, in 1024 x 1024 fp32 matrix products of the same run.

    python benchmarks/face_cost.py                          # the shipped weights
    python benchmarks/face_cost.py --weights FILE.safetensors
    python benchmarks/face_cost.py --settings '{"decoder": "basis", "mirror": []}'   # random ones

One thread, fp32, batches of 32 faces of 224 px, as the normalize stage runs them. Each repetition
measures the product and every part; ratios are medians over the repetitions, of CPU time, because
other work on the machine increases the wall time. The parts:

resize     both looks' grey, resizing and standardizing
encoder    both looks
decoder    coefficients to picture
whole      the network as the stage calls it

Prints a table, writes benchmarks/results/face_cost.json, and exits with 1 if the whole costs more
than targets.md, Speed 2, allows.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.normalizer_file import open_normalizer

SIDE = 1024
#: The most that a face may cost, in products.
MOST = 0.8


def parts_of(network: CompactNormalizer, images: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what to measure, by name."""
    looks = network.looks(images)
    code = network.read(images)
    return {
        "resize": lambda: network.looks(images),
        "encoder": lambda: [network.encoder(look) for look in looks],
        "decoder": lambda: network.draw(code).clamp(0, 1),
        "whole": lambda: network(images),
    }


def cpu_ms(action: Callable[[], Any]) -> float:
    started = time.process_time()
    action()
    return 1000 * (time.process_time() - started)


def megamacs(action: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() / 2e6


@torch.inference_mode()
def measure(network: CompactNormalizer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report."""
    torch.manual_seed(0)
    faces = torch.rand(arguments.batch, 3, arguments.input_size, arguments.input_size)
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    parts = parts_of(network, faces)
    times: dict[str, list[float]] = {name: [] for name in ("product", *parts)}
    for turn in range(arguments.repeats + 2):
        product = statistics.median(cpu_ms(lambda: torch.mm(left, right)) for _ in range(3))
        found = {name: cpu_ms(part) / len(faces) for name, part in parts.items()}
        if turn >= 2:  # after warming up
            for name, value in {"product": product, **found}.items():
                times[name].append(value)
    rows = {
        name: {
            "cpu_ms_a_face": round(statistics.median(times[name]), 3),
            "products": round(
                statistics.median(
                    a / b for a, b in zip(times[name], times["product"], strict=True)
                ),
                3,
            ),
            "million_macs_a_face": round(megamacs(part) / len(faces), 1),
        }
        for name, part in parts.items()
    }
    return {"product_cpu_ms": round(statistics.median(times["product"]), 2), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="compact", help="a file, or a shipped name")
    parser.add_argument("--settings", help="JSON: a network with random weights instead")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=15)
    folder = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=folder / "face_cost.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.settings:
        network = CompactNormalizer(**json.loads(arguments.settings)).eval()
    else:
        network = open_normalizer(arguments.weights).module
    if not isinstance(network, CompactNormalizer):
        parser.error("only compact has these parts")
    report = measure(network.for_inference(), arguments)
    rows = report["rows"]
    print("part | CPU ms a face | products | million MACs a face")
    for name, row in rows.items():
        print(" | ".join(str(value) for value in (name, *row.values())))
    missed = rows["whole"]["products"] > MOST
    print(
        f"a {SIDE} x {SIDE} product: {report['product_cpu_ms']} CPU ms; a face: "
        f"{rows['whole']['products']} of it (at most {MOST}): {'missed' if missed else 'met'}"
    )
    report |= {
        "weights": None if arguments.settings else Path(arguments.weights).stem,
        "settings": network.settings(),
        "batch": arguments.batch,
        "input_size": arguments.input_size,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "met": not missed,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
