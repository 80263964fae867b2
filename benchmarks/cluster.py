"""Efficiency of several workers. Two commands:

    python benchmarks/cluster.py --workers 1 2 4 8                  # stages that only wait
    python benchmarks/cluster.py --workers 1 2 4 8 --input PHOTOS   # the real job

Rates are computed from the times of the shards' records, from the end of the first wave to the last
shard; starting processes and loading models does not count. Efficiency is the rate of N workers
over N times the rate of one. Stages that only wait show the cost of distributing shards, on any
machine; the real job needs N idle cores (``--threads`` for each worker), or it measures the lack of
them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from normpipe.pipeline.store.shards import ShardFolder

TOYS = Path(__file__).parent.parent / "tests" / "pipeline" / "cluster_toys.py"


def toy(output: Path, workers: int, args: argparse.Namespace) -> list[str]:
    settings = {"names": args.shards * 10, "seconds": args.seconds / 10, "shard_rows": 10}
    run = {"workers": workers, "threads": workers}
    return [sys.executable, str(TOYS), str(output), json.dumps(settings), json.dumps(run)]


def real(output: Path, workers: int, args: argparse.Namespace) -> list[str]:
    words = ["run", "--input", args.input, "--output", output, "--until", "normalize", "--quiet"]
    words += ["--limit", args.shards * args.shard_rows, "--workers", workers]
    for setting in (
        f"ingest.shard_rows={args.shard_rows}",
        f"run.threads={workers * args.threads}",
    ):
        words += ["--set", setting]
    code = "from normpipe.pipeline.commands.app import main; main()"
    return [sys.executable, "-c", code, *map(str, words)]


def rate(output: Path, dataset: str, workers: int) -> float:
    """Return shards per second after the first wave."""
    folder = ShardFolder(output / dataset)
    times = sorted(p.stat().st_mtime for p in folder.records_path.glob("*.json"))
    first = times[workers - 1]
    return (len(times) - workers) / (times[-1] - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shard of the waiting stage")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--shard-rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    args = parser.parse_args()
    if min(args.workers) != 1:
        parser.error("--workers must begin with 1, the baseline of the others")
    command, dataset = (toy, "made") if args.input is None else (real, "normalized/compact")
    rates: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in sorted(args.workers):
            output = Path(folder) / str(workers)
            done = subprocess.run(
                command(output, workers, args), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            if done.returncode:
                sys.exit(done.stderr.decode())
            rates[workers] = rate(output, dataset, workers)
            load = os.getloadavg()[0]
            print(
                f"{workers} workers: {rates[workers]:.3f} shards/s, efficiency "
                f"{rates[workers] / (workers * rates[1]):.2f} (load average {load:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
