"""Real clusters to test with: processes of ``dask scheduler`` and ``dask worker``, and toy jobs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from normpipe.pipeline.run.tries import RunFolder

TOYS = Path(__file__).with_name("cluster_toys.py")


def environment(**more: str) -> dict[str, str]:
    paths = [str(TOYS.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def toy_command(output: Path | str, settings: dict[str, Any], **run: Any) -> list[str]:
    run = {"threads": 2, "log_seconds": 1000, **run}
    return [sys.executable, str(TOYS), str(output), json.dumps(settings), json.dumps(run)]


def toy_job(output: Path | str, settings: dict[str, Any], **run: Any) -> subprocess.Popen[str]:
    command = toy_command(output, settings, **run)
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(job: subprocess.Popen[str], status: int = 0, seconds: float = 120) -> str:
    """Wait for a job; return what it said. Its exit status must be as expected."""
    try:
        stdout, stderr = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.kill()
        stdout, stderr = job.communicate()
        raise AssertionError(f"no end after {seconds} s:\n{stderr}") from None
    assert job.returncode == status, f"status {job.returncode}:\n{stderr}\n{stdout}"
    return stderr + stdout


def begun(out: Path, dataset: str = "*", stage: str = "*") -> list[Path]:
    """Return what says that a worker has begun a shard, of one dataset and its stage or of all."""
    claims = out.glob(f".cluster/*/leases/{dataset}/*/*")
    return [*claims, *out.glob(f".making/*/begun/{stage}-*")]


def laid(root: Path) -> RunFolder:
    """Return the folder of a new run, which is there."""
    run = RunFolder.new(root)
    run.create({})
    return run


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is true; return it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


class DaskCluster:
    """A scheduler and its workers, as a user starts them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", self._file)
        self.address = str(wait_for(self._address))
        self.workers: list[subprocess.Popen[bytes]] = []

    def _address(self) -> str | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return str(json.loads(self._file.read_text())["address"])
        return None

    def _start(self, what: str, *options: object, **more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, "--host", "127.0.0.1", "--no-dashboard"]
        log = (self._folder / f"{what}.log").open("ab")
        return subprocess.Popen(
            [*command, *map(str, options)],
            env=environment(**more),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def add(self, *options: str, nanny: bool = False, **more: str) -> subprocess.Popen[bytes]:
        """Start a worker; without a nanny, its process is the worker."""
        own = () if nanny else ("--no-nanny",)
        worker = self._start("worker", self.address, "--nthreads", "1", *own, *options, **more)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int = 0) -> Iterator[DaskCluster]:
    cluster = DaskCluster(folder)
    try:
        for _ in range(workers):
            cluster.add()
        yield cluster
    finally:
        cluster.close()


def children(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Return a process's children that run Python code of Dask's workers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
    return []
