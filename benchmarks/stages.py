"""Measure the speed of each stage, relative to its network alone. One command:

    python benchmarks/stages.py

Every case runs the real engine in a separate process: ``align`` with OpenCV's cascades (and with
an insightface pack, ``--pack DIR``), ``normalize``, and the two overlapped. It prints:

images/s        inputs per second, from the first row read to the last index written
compute only    inputs per second of the network alone, in the same process: normalize's network on
                random batches, a detector repeatedly on prepared photographs
ratio           the first over the second (overlapped: over the slower stage's)
CPU ratio       CPU time of the whole process over that of the networks alone; the measure that
                counts on a CPU, where all share the cores
CPU ms outside  CPU time per input outside the networks
peak MB         peak resident memory, and how much higher it was in the second half of the run

Absolute figures hold for this machine, if it is idle; ratios come from one run.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "stages.json"
#: Pictures of the sample set that are no faces.
NO_FACES = {"no_face.jpg", "truncated.jpg"}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    stages: tuple[str, ...]
    input: str
    output: str
    settings: tuple[str, ...]
    limit: int
    alone_s: float


@dataclass
class Alone:
    """Times of a network alone, over ``inputs`` inputs."""

    inputs: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        return self.inputs / self.wall_s


class Memory(threading.Thread):
    """Samples this process's resident memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._over = threading.Event()

    def run(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._over.wait(0.02):
            self.samples.append((time.perf_counter(), process.memory_info().rss))

    def stop(self) -> tuple[float, float]:
        """Return the peak in MB, and the peak of the second half minus that of the first."""
        self._over.set()
        self.join()
        middle = (self.samples[0][0] + self.samples[-1][0]) / 2
        early = max(rss for at, rss in self.samples if at <= middle)
        late = max(rss for at, rss in self.samples if at >= middle)
        return max(early, late) / 1e6, (late - early) / 1e6


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def detector_alone(stage, root: Path, dataset) -> "callable":  # type: ignore[valid-type]
    """Return a function that detects faces in one batch of prepared photographs."""
    from normpipe.manifests.vocabularies import SampleError
    from normpipe.pipeline.run.making import read_batches

    items = []
    for row in next(read_batches(dataset, 0, 4 * stage.batch_size)):
        try:
            items.append(stage.prepare(row))
        except SampleError:
            continue
    batches = itertools.cycle(
        items[i : i + stage.batch_size] for i in range(0, len(items), stage.batch_size)
    )

    def one() -> int:
        batch = next(batches)
        stage.compute(batch)
        return len(batch)

    return one


def network_alone(config, size_px: int):
    """Return a function that runs normalize's network over one random batch."""
    import torch

    from normpipe.stages.networks import NETWORKS
    from normpipe.stages.networks.devices import resolve_device
    from normpipe.stages.networks.files.checkpoint import find_weights, load_weights

    device = resolve_device(config.device, "normalize.device")
    network = NETWORKS[config.network]()
    load_weights(network, find_weights(config.weights or config.network))
    network = network.eval().requires_grad_(False).to(device)
    images = torch.rand(config.batch_size, 3, size_px, size_px, device=device)
    bf16 = config.precision == "bf16"

    def one() -> int:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, bf16):
            network(images)
        return len(images)

    return one


def measure_alone(one, total: Alone, seconds: float) -> None:
    """Add some seconds of a network alone to ``total``."""
    one()
    synchronize()
    wall, cpu, inputs = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        inputs += one()
    synchronize()
    total.inputs += inputs
    total.wall_s += time.perf_counter() - wall
    total.cpu_s += time.process_time() - cpu


def count_computed(stage) -> list[int]:
    """Count the items that the engine passes to a stage's network."""
    compute, counts = stage.compute, [0]

    def counted(items):
        counts[0] += len(items)
        return compute(items)

    stage.compute = counted
    return counts


def run_case(case: Case) -> dict[str, object]:
    """Run one case; called in a separate process."""
    import logging

    from normpipe.pipeline.config import load_job
    from normpipe.pipeline.run.progress import Progress
    from normpipe.pipeline.run.runner import Options, Runner
    from normpipe.pipeline.store.shards import ShardFolder
    from normpipe.stages import CONFIGS, build_flow

    logging.getLogger("normpipe").setLevel(logging.ERROR)
    given = {"input": Path(case.input), "output": Path(case.output), "dataset": "benchmark"}
    job = load_job(None, given, [*case.settings, f"ingest.limit={case.limit}"], CONFIGS)
    flow = {stage.name: stage for stage in build_flow(job)}
    stages = [flow[name] for name in case.stages]

    def runner() -> Runner:
        return Runner(
            job.output, list(flow.values()), job.run, Options(), Progress(1e9, bars=False)
        )

    runner().run([flow["ingest"]])
    alone, alones = {}, {name: Alone() for name in case.stages}
    for stage in stages:
        stage.open()
        if stage.name == "align":
            alone["align"] = detector_alone(stage, job.output, ShardFolder(job.output / "manifest"))
        else:
            alone["normalize"] = network_alone(stage.config, flow["align"].config.size_px)
    counts = {stage.name: count_computed(stage) for stage in stages}
    for counter, one in ((alones[name], alone[name]) for name in case.stages):
        measure_alone(one, counter, case.alone_s)
    for count in counts.values():
        count[0] = 0
    memory = Memory()
    memory.start()
    wall, cpu = time.perf_counter(), time.process_time()
    runner().run(stages)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak_mb, growth_mb = memory.stop()
    computed = {name: count[0] for name, count in counts.items()}
    for counter, one in ((alones[name], alone[name]) for name in case.stages):
        measure_alone(one, counter, case.alone_s)
    inputs = sum(r.inputs for r in ShardFolder(job.output / "manifest").records().values())
    networks_cpu = sum(computed[n] * a.cpu_s / a.inputs for n, a in alones.items())
    slowest = min(a.rate for a in alones.values())
    return {
        "case": case.name,
        "inputs": inputs,
        "computed": computed,
        "wall_s": wall,
        "images_per_s": inputs / wall,
        "compute_only_per_s": {name: a.rate for name, a in alones.items()},
        "ratio": inputs / wall / slowest,
        "cpu_s": cpu,
        "networks_cpu_s": networks_cpu,
        "cpu_ratio": cpu / networks_cpu,
        "cpu_ms_outside": 1000 * (cpu - networks_cpu) / inputs,
        "peak_mb": peak_mb,
        "second_half_mb": growth_mb,
    }


def sample_photographs(folder: Path, count: int, size_px: int) -> None:
    """Fill a folder with the package's sample faces, again and again, ``size_px`` square."""
    from importlib.resources import files

    from PIL import Image

    folder.mkdir(parents=True)
    samples = Path(str(files("normpipe.stages"))) / "samples"
    faces = [p for p in sorted(samples.glob("*.jpg")) if p.name not in NO_FACES]
    pictures: list[bytes] = []
    for i, face in enumerate(faces):
        path = folder / f"{i:06d}.jpg"
        with Image.open(face) as image:
            image.convert("RGB").resize((size_px, size_px)).save(path, quality=92)
        pictures.append(path.read_bytes())
    for i in range(len(faces), count):
        (folder / f"{i:06d}.jpg").write_bytes(pictures[i % len(pictures)])


def cases(args: argparse.Namespace, work: Path) -> list[Case]:
    """Return the cases to measure; normalize reads align's output."""
    photographs = args.input or work / "photographs"
    if not args.input:
        sample_photographs(photographs, args.images, args.size_px)
    # Several shards, so that stages can overlap; multiples of 64 rows, so that batches are full.
    rows = max(64, args.images // 16 // 64 * 64)
    common = [f"ingest.shard_rows={rows}", f"run.threads={args.threads}"]
    common += [f"normalize.precision={args.precision}", *args.set]
    if args.weights:
        common.append(f"normalize.weights={args.weights.resolve()}")
    if args.device:
        common += [f"normalize.device={args.device}", f"align.device={args.device}"]
    detectors = {"opencv": ["align.detector=opencv"]}
    if args.pack:
        pack = str(Path(args.pack).resolve()) if Path(args.pack).is_dir() else args.pack
        detectors["insightface"] = ["align.detector=insightface", f"align.pack={pack}"]

    def case(name: str, stages: tuple[str, ...], output: str, detector: str) -> Case:
        settings = (*common, *detectors[detector])
        places = str(photographs), str(work / output)
        return Case(name, stages, *places, settings, args.images, args.alone)

    best = "insightface" if args.pack else "opencv"
    return [
        *(case(f"align ({d})", ("align",), d, d) for d in detectors),
        case("normalize", ("normalize",), best, best),
        case(f"align ({best}) + normalize", ("align", "normalize"), "both", best),
    ]


def table(results: list[dict]) -> str:  # type: ignore[type-arg]
    """Return the results as a table."""
    head = ["stage", "inputs", "images/s", "compute only", "ratio", "CPU ratio", "CPU ms outside",
            "peak MB", "2nd half"]  # fmt: skip
    rows = [
        [
            r["case"], str(r["inputs"]), f"{r['images_per_s']:.1f}",
            " / ".join(f"{rate:.1f}" for rate in r["compute_only_per_s"].values()),
            f"{r['ratio']:.2f}", f"{r['cpu_ratio']:.2f}", f"{r['cpu_ms_outside']:.1f}",
            f"{r['peak_mb']:.0f}", f"{r['second_half_mb']:+.0f}",
        ]
        for r in results
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    )


def machine() -> dict[str, object]:
    """Describe the machine."""
    import torch

    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((s.partition(": ")[2] for s in lines if "model name" in s), processor)
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def main() -> None:
    description, _, legend = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=legend, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, help="folder of photographs; else the sample faces")
    parser.add_argument("--images", type=int, default=1024, help="how many (default 1024)")
    parser.add_argument("--size-px", type=int, default=512, help="of the samples (default 512)")
    parser.add_argument("--pack", help="insightface pack (a directory, or a name): measure it too")
    parser.add_argument("--weights", type=Path, help=".safetensors for normalize; else the shipped")
    parser.add_argument("--device", help="auto, cpu or cuda, for all stages")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument(
        "--alone", type=float, default=3.0,
        help="seconds for which a network alone is measured, before and after the run (default 3)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", action="append", default=[], help="stage.key=value, repeatable")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the figures")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = []
    with tempfile.TemporaryDirectory(prefix="normpipe-") as folder:
        about = machine()
        for case in cases(args, Path(folder)):
            print(f"measuring {case.name} …", file=sys.stderr, flush=True)
            with ProcessPoolExecutor(1, mp_context=context) as process:
                results.append(process.submit(run_case, case).result())
    print(table(results))
    print(" | ".join(f"{name}: {value}" for name, value in about.items() if value is not None))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    report = {"machine": about, "settings": settings, "results": results}
    args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"figures: {args.json}")


if __name__ == "__main__":
    main()
