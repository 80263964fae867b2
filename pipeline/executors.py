"""Workers in other processes, by way of Dask: started here, or those of a running cluster.

The only module that knows Dask. Tasks and results are references and counts; pictures go from disk
to worker to disk. Dask decides where a task runs; who may commit is decided by leases alone.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import dask.config
from distributed import (
    Client,
    Future,
    Nanny,
    Scheduler,
    Security,
    SpecCluster,
    Worker,
)

from .config import RunConfig
from .errors import InputError
from .shard_work import Factory, Outcome, Ticket, describe_stage, run_shard
from .stage import MEMORY

log = logging.getLogger("normpipe")


def hush() -> None:
    """Let Dask's own loggers be silent: users see our lines, not its tracebacks."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


hush()

#: Seconds between looks at the workers.
_LOOK_SECONDS = 1.0
#: Seconds in which a scheduler must answer.
_CONNECT_SECONDS = 10.0
#: A scheduler that has not answered for this many lease times is gone.
_PATIENCE = 2.0
#: What tells libraries how many threads to start; torch is told again by the stages.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalWorker(Worker):
    """A worker on this machine. Signals reach the whole group; what they mean is ours to say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)
        hush()
        super().__init__(*args, **kwargs)


def worker_specs(run: RunConfig, security: Security | None = None) -> dict[str, dict[str, Any]]:
    """Return what starts each local worker: its one task at a time, its GPU, its environment."""
    names = [str(gpu) for gpu in run.gpus] or [""] * run.workers
    common = {
        "nthreads": 1,
        "worker_class": LocalWorker,
        # The machine's memory is nobody's share: Dask would pause and kill by its own count.
        "memory_limit": 0,
        "dashboard": False,
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": security,
        "death_timeout": 60,
    }
    threads = str(max(1, run.threads // len(names)))
    shared = {name: threads for name in _THREADS if name not in os.environ}
    specs: dict[str, dict[str, Any]] = {}
    for i, gpu in enumerate(names):
        own: dict[str, Any] = {"name": f"worker-{i}", "env": dict(shared)}
        if gpu:
            # Set in the process before anything asks for a GPU: it sees this one, as number 0.
            own["env"]["CUDA_VISIBLE_DEVICES"] = gpu
            own["resources"] = {"GPU": 1}
        specs[f"worker-{i}"] = {"cls": Nanny, "options": common | own}
    return specs


@contextmanager
def started(run: RunConfig) -> Generator["Cluster", None, None]:
    """Start local workers, or connect to the scheduler that the settings name.

    Raises:
        InputError: no scheduler answers.
    """
    if run.scheduler:
        with _client(run.scheduler) as client:
            yield Cluster(client, run)
        return
    config = {
        # Dask would put these into this process's environment, too.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.scheduler.worker-ttl": f"{2 * run.lease_seconds}s",
        "distributed.comm.timeouts.connect": "60s",  # many processes start at once
        "distributed.worker.memory.terminate": False,
    }
    # Who may send tasks may run code: other users of this machine must not.
    security = Security.temporary()
    with dask.config.set(config):
        options = {
            "host": "127.0.0.1",
            "port": 0,
            "protocol": "tls://",
            "security": security,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        }
        local = SpecCluster(
            workers=worker_specs(run, security),
            scheduler={"cls": Scheduler, "options": options},
            security=security,
            silence_logs=logging.CRITICAL,  # pyright: ignore[reportArgumentType] # a level, too
        )
        try:
            with _client(local) as client:
                yield Cluster(client, run)
        finally:
            # What has gone by itself is gone.
            with contextlib.suppress(Exception):
                local.close(timeout=10)


@contextmanager
def _client(where: Any) -> Generator[Client, None, None]:
    try:
        client = Client(where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {where} ({type(error).__name__}): start one with 'dask "
            "scheduler', mend the address, or leave out --scheduler"
        ) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=5)


class Cluster:
    """The workers of one run: tasks go out, outcomes come back."""

    def __init__(self, client: Client, run: RunConfig) -> None:
        self._client = client
        self.lease_seconds = run.lease_seconds
        self._where = run.scheduler or "the local scheduler"
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._workers: dict[str, dict[str, Any]] = {}
        #: When a worker's sign of life was last another, by our clock.
        self._signs: dict[str, tuple[Any, float]] = {}
        self._holders: dict[str, str] = {}
        self._memory_told = False
        self._answered = time.monotonic()
        # What workers offer is to be known before the first task.
        with contextlib.suppress(Exception):
            self._look()
        self._watch = threading.Thread(target=self._look_often, name="cluster", daemon=True)
        self._watch.start()

    @property
    def where(self) -> str:
        """Return the scheduler's address, for messages."""
        return self._where

    def close(self) -> None:
        """Look no more."""
        self._closing.set()

    def gone(self) -> bool:
        """Say whether the scheduler is lost, and every task with it."""
        if self._client.status not in ("running", "connecting"):
            return True
        silent = time.monotonic() - self._answered
        return silent > max(_CONNECT_SECONDS, _PATIENCE * self.lease_seconds)

    def workers(self) -> dict[str, dict[str, float]]:
        """Return address → resources of the workers that are there, silent ones too."""
        with self._lock:
            return {address: dict(w.get("resources") or {}) for address, w in self._workers.items()}

    def asked(self, needs: dict[str, float]) -> dict[str, float]:
        """Return of what a stage needs that for which workers are asked.

        Memory only where some worker says, or said, how much it has: most say nothing of it.
        """
        with self._lock:
            told = self._memory_told
        return {kind: amount for kind, amount in needs.items() if told or kind != MEMORY}

    def able(self, needs: dict[str, float]) -> set[str]:
        """Return the workers that have what a stage needs, silent ones too."""
        asked = self.asked(needs)
        return {
            address
            for address, has in self.workers().items()
            if all(has.get(kind, 0) >= amount for kind, amount in asked.items())
        }

    def silent(self) -> set[str]:
        """Return the workers without a sign of life for the lease time."""
        now = time.monotonic()
        with self._lock:
            return {a for a, (_, when) in self._signs.items() if now - when > self.lease_seconds}

    def awake(self) -> set[str]:
        """Return the workers to choose among, none being: any, for none is silent."""
        silent = self.silent()
        return self.workers().keys() - silent if silent else set()

    def holders(self) -> dict[str, str]:
        """Return task → worker that has it, as last seen."""
        with self._lock:
            return dict(self._holders)

    def describe(
        self, factory: Factory, run: str, stage: str, needs: dict[str, float], among: set[str]
    ) -> Future[Any]:
        """Ask some worker that has what a stage needs what shapes the stage's results."""
        return self._submit(describe_stage, (factory, run, stage), needs, among)

    def shard(
        self,
        factory: Factory,
        ticket: Ticket,
        needs: dict[str, float],
        among: set[str],
    ) -> Future[Any]:
        """Send a shard to one of some workers, or, where none is named, to any."""
        return self._submit(run_shard, (factory, ticket), needs, among)

    def _submit(
        self,
        function: Any,
        arguments: tuple[Any, ...],
        needs: dict[str, float],
        among: set[str],
    ) -> Future[Any]:
        return self._client.submit(
            function,
            *arguments,
            key=f"normpipe-{uuid.uuid4().hex}",  # a second try is another task
            pure=False,
            resources=self.asked(needs) or None,
            workers=sorted(among) or None,
        )

    def when_done(self, future: Future[Any], into: "queue.SimpleQueue[Future[Any]]") -> None:
        """Put a future into a queue when it has an end, good or bad."""
        future.add_done_callback(into.put)

    def outcome(self, future: Future[Any]) -> Outcome | None:
        """Return a done task's outcome; None where its workers died or it was cancelled."""
        if future.status != "finished":
            return None
        try:
            return Outcome(*future.result(timeout=_CONNECT_SECONDS))
        except Exception:  # it went with its worker before it was fetched
            return None

    def cancel(self, future: Future[Any]) -> None:
        """Forget a task; where it runs, its lease ends it."""
        with contextlib.suppress(Exception):
            future.cancel(force=True)

    def _look_often(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            try:
                self._look()
            except Exception:  # no answer: gone() says when that has lasted too long
                if self._client.status not in ("running", "connecting"):
                    return

    def _look(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        processing: Any = self._client.processing()
        now = time.monotonic()
        with self._lock:
            lost = self._workers.keys() - workers.keys()
            self._workers = dict(workers)
            self._memory_told |= any(MEMORY in (w.get("resources") or {}) for w in workers.values())
            for address, worker in workers.items():
                sign = worker.get("last_seen")
                if self._signs.get(address, (None, 0.0))[0] != sign:
                    self._signs[address] = (sign, now)
            for address in lost:
                self._signs.pop(address, None)
            self._holders = {str(key): a for a, keys in processing.items() for key in keys}
            self._answered = now
        for address in sorted(lost):
            if not self._closing.is_set():
                log.warning("worker %s is gone; what it had in hand moves to others", address)
