"""Measure the speed of rendering pairs, per CPU core or GPU: people and layout, and pictures.

    python benchmarks/rendering.py --facekit FACEKIT.npz                  # one CPU thread
    python benchmarks/rendering.py --facekit FACEKIT.npz --device cuda --batch 128

A pair is a source and a target picture. On the CPU, rates are pairs per second of the process's CPU
time, since other work on the machine increases the wall time (and, through shared caches, somewhat
the CPU time too: the load is printed). On a GPU, the rate is that of ``BatchRenderer`` in wall
time, with scenes laid out in advance; ``cores_for_layout`` is the number of CPU cores that the
layout keeps busy. Prints a table and writes benchmarks/results/rendering.json.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from threadpoolctl import threadpool_limits

from normpipe.stages.synthesis.cast import Cast
from normpipe.stages.synthesis.pair_renderer import PairRenderer
from normpipe.stages.synthesis.render_settings import SynthesizeConfig
from normpipe.stages.synthesis.synthesize import pairs_of

SIZES = ((96, 96), (128, 128), (128, 192))
#: Goals: pairs per second on a CPU core at 96 px, on a GPU at 128 px.
WANTED = {"cpu": ((96, 96), 30.0), "cuda": ((128, 128), 500.0)}


def measure(config: SynthesizeConfig, batch: int) -> dict[str, Any]:
    """Return the milliseconds per pair of every step, and the total rate."""
    renderer = PairRenderer(config, Cast(config))
    on_gpu = renderer.device.type == "cuda"
    specs = pairs_of(config)
    renderer.render([renderer.draft(spec) for spec in specs[:batch]])  # kernels, caches
    fresh = PairRenderer(config, renderer.cast)
    opened = time.process_time()
    drafts = [fresh.draft(spec) for spec in specs]
    laid_out = time.process_time()
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    for first in range(0, len(drafts), batch):
        renderer.render(drafts[first : first + batch])
    if on_gpu:
        torch.cuda.synchronize()
    pictures = clock() - start
    layout = laid_out - opened
    return {
        "source_px": config.size_px,
        "target_px": config.target_size_px,
        "pairs": len(specs),
        "pairs_a_person": len(specs) / config.identities,
        "layout_ms": 1e3 * layout / len(specs),
        "pictures_ms": 1e3 * pictures / len(specs),
        "pairs_per_second": len(specs) / (pictures if on_gpu else pictures + layout),
        "cores_for_layout": layout / pictures if on_gpu else None,
    }


def main() -> None:
    """Measure every size; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--facekit", required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    folder = Path(__file__).parent / "results"
    parser.add_argument("--json", type=Path, default=folder / "rendering.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)
    found: list[dict[str, Any]] = []
    for source, target in SIZES:
        config = SynthesizeConfig(
            facekit=options.facekit, device=options.device, pairs=options.pairs,
            identities=max(options.pairs // 8, 1), size_px=source, target_size_px=target,
        )  # fmt: skip
        row = measure(config, options.batch)
        found.append(row)
        print(
            f"{source}/{target} px on {options.device}: {row['pairs_per_second']:.1f} pairs/s "
            f"(people and layout {row['layout_ms']:.1f} ms, pictures {row['pictures_ms']:.1f} ms)"
        )
    size, wanted = WANTED[options.device]
    rate = next(r["pairs_per_second"] for r in found if (r["source_px"], r["target_px"]) == size)
    load = os.getloadavg()[0]
    print(f"goal at {size[0]} px: {wanted:.0f}; load of the machine {load:.1f}")
    result = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu, one thread",
        "torch": torch.__version__,
        "load": load,
        "wanted": wanted,
        "met": rate >= wanted,
        "sizes": found,
    }
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
