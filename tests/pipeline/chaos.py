"""Chaos on a real Dask cluster: workers killed and stopped, the scheduler killed. Prints JSON.

    python -m tests.pipeline.chaos WORKDIR                       # toy stages
    python -m tests.pipeline.chaos WORKDIR --input PHOTOS --limit 300
    python -m tests.pipeline.chaos WORKDIR --store               # in an object store, served here

One job runs undisturbed in one process. The same job then runs on four workers: one is killed
every ``--every`` seconds, one is stopped, and after ``--scheduler-after`` seconds the scheduler is
killed. A new cluster goes on with the folder, its workers killed in the same way, to the end. Then
what was stopped wakes up. The two folders must be the same, byte for byte.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.pipeline.store.storage import location

from .clusters import DaskCluster, begun, environment, toy_command, wait_for
from .living import digests
from .stores import BUCKET, s3_server
from .stores import digests as digests_in_store

LEASE_SECONDS = 30
#: What lies in the folder of a run while it goes on, and is no part of a dataset.
UNFINISHED = (".cluster/", ".making/")
DATASETS = {
    "toy-map": "made",
    "toy-second": "second",
    "align": "aligned",
    "normalize": "normalized/compact",
}


class Chaos:
    """One disturbed run of a command on a cluster of its own."""

    def __init__(self, folder: Path, workers: int, generator: random.Random) -> None:
        folder.mkdir(parents=True)
        self.cluster = DaskCluster(folder)
        self._log = folder / "job.log"
        self._random = generator
        for _ in range(workers):
            self.cluster.add(nanny=True)
        wait_for(lambda: len(self.processes()) == workers)
        self.asleep: psutil.Process | None = None
        self.events: list[dict[str, Any]] = []
        self.began = time.monotonic()

    def processes(self) -> list[psutil.Process]:
        """Return the workers' own processes, below their nannies."""
        return [
            child
            for nanny in self.cluster.workers
            for child in psutil.Process(nanny.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]

    def note(self, what: str, **more: Any) -> None:
        self.events.append({"s": round(time.monotonic() - self.began, 1), "what": what, **more})

    def kill_one(self) -> None:
        awake = [p for p in self.processes() if self.asleep is None or p.pid != self.asleep.pid]
        if not awake:
            return
        victim = self._random.choice(awake)
        victim.kill()
        self.note("worker killed", pid=victim.pid)

    def stop_one(self) -> None:
        self.asleep = self._random.choice(self.processes())
        self.asleep.suspend()
        self.note("worker stopped", pid=self.asleep.pid)

    def said(self) -> str:
        return self._log.read_text()

    def run(
        self, command: list[str], out: Path, every: float, stop_at: float, scheduler_at: float
    ) -> int:
        """Run a command with disturbances; return its exit status."""
        with self._log.open("w") as log:
            job = subprocess.Popen(command, env=environment(), stderr=log, stdout=log)
        next_kill, taken, record = every, False, Path()
        while job.poll() is None:
            now = time.monotonic() - self.began
            # Only where all have a shard in hand does the stopped one have one, too.
            if self.asleep is None and now >= stop_at and len(begun(out)) >= len(self.processes()):
                self.stop_one()
            if not taken and (found := re.search(r"(\S+): shard (\d+) is taken over", self.said())):
                self.note("taken over", stage=found[1], shard=int(found[2]))
                taken = True
                record = ShardFolder(out / DATASETS[found[1]]).record_path(int(found[2]))
            in_place = any(event["what"] == "in place" for event in self.events)
            if taken and not in_place and record.is_file():
                self.note("in place")
            if self.cluster.scheduler.poll() is None:
                if now >= next_kill:
                    self.kill_one()
                    next_kill += every
                if now >= scheduler_at:
                    self.cluster.scheduler.kill()
                    self.note("scheduler killed")
            time.sleep(0.3)
        self.note("ended", status=job.returncode)
        return job.returncode


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--shards", type=int, default=120, help="of the toy job")
    parser.add_argument("--seconds", type=float, default=0.4, help="a row of the toy job")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=30.0)
    parser.add_argument("--stop-at", type=float, default=10.0)
    parser.add_argument("--scheduler-after", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help="write to a store, not a folder")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True)
    with ExitStack() as stack:
        out = args.workdir / "disturbed"
        if args.store:
            os.environ.update(stack.enter_context(s3_server(args.workdir)))
            out = location(f"s3://{BUCKET}/disturbed")
        print(json.dumps(disturb(args, out), indent=1))


def disturb(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Run the job undisturbed and disturbed; return what happened and what differs."""
    generator = random.Random(args.seed)

    def command(output: Path, scheduler: str = "", quick: bool = False) -> list[str]:
        if args.input is None:
            settings = {"names": args.shards * 10, "seconds": 0 if quick else args.seconds}
            return toy_command(output, settings, scheduler=scheduler, lease_seconds=LEASE_SECONDS)
        code = "from normpipe.pipeline.commands.app import main; main()"
        words = ["run", "--input", args.input, "--output", output, "--limit", args.limit]
        words += ["--set", "ingest.shard_rows=10", "--until", "pair"]
        words += ["--set", f"run.lease_seconds={LEASE_SECONDS}"]
        words += ["--scheduler", scheduler] if scheduler else []
        return [sys.executable, "-c", code, *map(str, words)]

    workdir = args.workdir
    began = time.monotonic()
    subprocess.run(command(workdir / "whole", quick=True), check=True, env=environment())
    alone = time.monotonic() - began
    rounds: list[Chaos] = []
    status, scheduler_at = 3, args.scheduler_after
    try:
        while status == 3 and len(rounds) < 4:
            chaos = Chaos(workdir / f"cluster-{len(rounds)}", args.workers, generator)
            rounds.append(chaos)
            stop_at = args.stop_at if len(rounds) == 1 else float("inf")
            job = command(out, chaos.cluster.address)
            status = chaos.run(job, out, args.every, stop_at, scheduler_at)
            scheduler_at = float("inf")
        for chaos in rounds:  # it does not change a finished dataset
            if chaos.asleep is not None and chaos.asleep.is_running():
                chaos.asleep.resume()
                chaos.note("woken")
        time.sleep(5)
    finally:
        for chaos in rounds:
            chaos.cluster.close()
    expected = digests(workdir / "whole")
    found = digests_in_store(out) if args.store else digests(out)
    # Who was woken may have left what it had made under its own name: the next run removes it.
    found = {name: digest for name, digest in found.items() if not name.startswith(UNFINISHED)}
    if args.input is not None:  # it names the output folder's input alone, which is the same
        assert "job.toml" in expected
    differing = [n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n)]
    return {
        "seconds_alone": round(alone, 1),
        "rounds": [chaos.events for chaos in rounds],
        "status": status,
        "kills": sum(e["what"] == "worker killed" for c in rounds for e in c.events),
        "files": len(found),
        "differing": differing,
        "verify": verify(out).differences,
        "tracebacks": sum(chaos.said().count("Traceback") for chaos in rounds),
    }


if __name__ == "__main__":
    main()
