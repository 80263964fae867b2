"""Workers in other processes, through Dask: started here, or those of a running cluster.

The only module that knows Dask. Tasks and results are references and counts; images go from disk
to worker to disk. Dask decides where a task runs and restarts local workers; the coordinator
decides which results count.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator
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

from ..config import RunConfig
from ..errors import InputError, Interrupted, NormpipeError, resource_shortage
from ..stage import MEMORY, Stage
from ..store.commit import write_json
from .making import ShardTask, TaskOutcome
from .places import Remote, run_task
from .tries import RunFolder

log = logging.getLogger("normpipe")


def silence_dask() -> None:
    """Silence Dask's own loggers: users see our messages, not its tracebacks."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


silence_dask()

#: Shards that wait at a worker, besides the one that it makes.
_WAITING = 1
#: Seconds between checks of the workers, and of a request for a description.
_CHECK_SECONDS, _POLL_SECONDS = 1.0, 0.1
#: Seconds in which a scheduler must answer.
_CONNECT_SECONDS = 10.0
#: A scheduler that has not answered for this many lease timeouts is lost.
_LOST_AFTER_LEASES = 2.0
#: Seconds between warnings about what is missing, and before the first.
_WARN_SECONDS, _FIRST_WARNING_SECONDS = 30.0, 5.0
#: Attempts to have a worker describe a stage.
_DESCRIBE_ATTEMPTS = 5
#: Set the number of threads that libraries start; the stages set torch's again.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalWorker(Worker):
    """A worker on this machine. It ignores signals: the coordinator acts on them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)
        silence_dask()
        super().__init__(*args, **kwargs)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close silently, even if the run ended while this worker was still starting."""
        with contextlib.suppress(Exception):  # the run is over, whatever the error
            return await super().close(*args, **kwargs)


def worker_specs(run: RunConfig, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the Dask spec of each local worker: one task at a time, its GPU, its environment."""
    names = [str(gpu) for gpu in run.gpus] or [""] * run.workers
    # No limit on memory: Dask would pause and kill workers by its own count.
    common = {"nthreads": 1, "worker_class": LocalWorker, "memory_limit": 0, **common}
    threads = str(max(1, run.threads // len(names)))
    shared = {name: threads for name in _THREADS if name not in os.environ}
    specs: dict[str, dict[str, Any]] = {}
    for i, gpu in enumerate(names):
        own: dict[str, Any] = {"name": f"worker-{i}", "env": dict(shared)}
        if gpu:
            # Set before anything in the process asks for a GPU: it sees only this one, as number 0.
            own["env"]["CUDA_VISIBLE_DEVICES"] = gpu
            own["resources"] = {"GPU": 1}
        specs[f"worker-{i}"] = {"cls": Nanny, "options": common | own}
    return specs


@contextmanager
def start_cluster(
    settings: RunConfig, run: RunFolder, remote: Remote, is_shutting_down: Callable[[], bool]
) -> Generator["Cluster", None, None]:
    """Start local workers, or connect to the scheduler that the settings name.

    Raises:
        InputError: no scheduler answers.
    """
    with contextlib.ExitStack() as stack:
        where: Any = settings.scheduler or stack.enter_context(_start_local(settings))
        client = stack.enter_context(_client(where))
        one = Cluster(client, settings, run, remote, is_shutting_down)
        threading.Thread(target=one.watch, name="cluster", daemon=True).start()
        stack.callback(one.closing.set)
        yield one


@contextmanager
def _start_local(settings: RunConfig) -> Generator[SpecCluster, None, None]:
    """Start a scheduler and workers on this machine."""
    config = {
        # Dask would put these into this process's environment, too.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.scheduler.worker-ttl": f"{2 * settings.lease_seconds}s",
        "distributed.comm.timeouts.connect": "60s",  # many processes start at once
        "distributed.worker.memory.terminate": False,
    }
    # Anyone who can submit tasks can run code: other users of this machine must not.
    security = Security.temporary()
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    with dask.config.set(config):
        options = {**common, "port": 0, "dashboard_address": "127.0.0.1:0"}
        local = SpecCluster(
            workers=worker_specs(settings, {**common, "death_timeout": 60}),
            scheduler={"cls": Scheduler, "options": options},
            security=security,
            silence_logs=logging.CRITICAL,  # pyright: ignore[reportArgumentType] # a level, too
        )
        try:
            yield local
        finally:
            # Some of it may have ended by itself.
            with contextlib.suppress(Exception):
                local.close(timeout=10)


@contextmanager
def _client(where: Any) -> Generator[Client, None, None]:
    try:
        client = Client(where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {where} ({type(error).__name__}): start one with 'dask "
            "scheduler', correct the address, or leave out --scheduler"
        ) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.close(timeout=5)


class Cluster:
    """The workers of one run: submits tasks to them and returns their outcomes."""

    in_order = False

    def __init__(
        self,
        client: Client,
        settings: RunConfig,
        run: RunFolder,
        remote: Remote,
        is_shutting_down: Callable[[], bool],
    ) -> None:
        """``is_shutting_down``: returns whether the run was asked to end."""
        self._client, self._run, self._factory = client, run, remote.factory
        self._is_shutting_down = is_shutting_down
        self._lease_seconds = settings.lease_seconds
        self._where = settings.scheduler or "the local scheduler"
        self._lock = threading.Lock()
        self.closing = threading.Event()
        #: Address → resources of the connected workers, silent ones too.
        self._workers: dict[str, dict[str, float]] = {}
        #: Worker → its last heartbeat, and when it arrived, by our clock.
        self._heartbeats: dict[str, tuple[Any, float]] = {}
        #: Task → its worker, as last polled; task → workers to which it was restricted.
        self._workers_of_tasks: dict[str, str] = {}
        self._restrictions: dict[str, set[str]] = {}
        self._memory_known = False
        self._last_answer = time.monotonic()
        #: Stage → when the last warning said what it waits for.
        self._warned_at: dict[str, float] = {}
        # Get the workers' resources before the first task; if that fails, ``watch`` polls again.
        with contextlib.suppress(Exception):
            self._poll()

    # ------------------------------------------------------------ the workers

    def watch(self) -> None:
        """Poll the workers until the run is over; for a thread."""
        while not self.closing.wait(_CHECK_SECONDS):
            try:
                self._poll()
            except Exception:  # no answer: ``_is_lost`` decides when that has lasted too long
                if self._client.status not in ("running", "connecting"):
                    return

    def _poll(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        processing: Any = self._client.processing()
        now = time.monotonic()
        with self._lock:
            lost = self._workers.keys() - workers.keys()
            self._workers = {at: dict(one.get("resources") or {}) for at, one in workers.items()}
            self._memory_known |= any(MEMORY in has for has in self._workers.values())
            for address, worker in workers.items():
                heartbeat = worker.get("last_seen")
                if self._heartbeats.get(address, (None, 0.0))[0] != heartbeat:
                    self._heartbeats[address] = (heartbeat, now)
            for address in lost:
                self._heartbeats.pop(address, None)
            self._workers_of_tasks = {
                str(key): at for at, keys in processing.items() for key in keys
            }
            self._last_answer = now
        for address in sorted(lost):
            if not self.closing.is_set():
                log.warning("worker %s is gone; its shards move to other workers", address)

    def _is_lost(self) -> bool:
        """Return whether the scheduler is lost, and every task with it."""
        if self._client.status not in ("running", "connecting"):
            return True
        silent = time.monotonic() - self._last_answer
        return silent > max(_CONNECT_SECONDS, _LOST_AFTER_LEASES * self._lease_seconds)

    def _silent_workers(self) -> set[str]:
        """Return the workers that sent no heartbeat for the lease timeout."""
        now = time.monotonic()
        with self._lock:
            return {
                a for a, (_, when) in self._heartbeats.items() if now - when > self._lease_seconds
            }

    def _required(self, stage: Stage) -> dict[str, float]:
        """Return the resources that a worker must declare to run a stage.

        Memory only if some worker declares, or declared, how much it has: most do not.
        """
        needs = stage.resources().items()
        return {kind: amount for kind, amount in needs if self._memory_known or kind != MEMORY}

    def _able_workers(self, stage: Stage) -> set[str]:
        """Return the workers that have what a stage needs, silent ones too."""
        required = self._required(stage).items()
        with self._lock:
            workers = list(self._workers.items())
        return {at for at, has in workers if all(has.get(kind, 0) >= n for kind, n in required)}

    # ------------------------------------------------------------ a place

    def capacity(self, stage: Stage) -> int:
        """Return how many shards of a stage may be in flight at once."""
        able = self._able_workers(stage)
        if able and not able - self._silent_workers():
            return 0
        return max(1, len(able)) * (1 + _WAITING)

    def submit(self, stage: Stage, task: ShardTask) -> Future[Any]:
        """Submit a shard's task to the workers that are not silent."""
        return self._submit(stage, task)

    def _submit(self, stage: Stage, task: ShardTask | None) -> Future[Any]:
        silent = self._silent_workers()
        allowed = (self._able_workers(stage) or {*self._workers}) - silent if silent else set[str]()
        key = f"normpipe-{uuid.uuid4().hex}"  # to Dask, a second attempt is another task
        self._restrictions[key] = allowed
        return self._client.submit(
            run_task,
            self._factory,
            str(self._run.path),
            stage.name,
            task,
            key=key,
            pure=False,
            resources=self._required(stage) or None,
            workers=sorted(allowed) or None,
        )

    def outcome(self, future: Future[Any]) -> TaskOutcome | None:
        """Return a done task's outcome; None if its workers died or it was cancelled."""
        self._restrictions.pop(str(future.key), None)
        if future.status != "finished":
            return None
        try:
            return TaskOutcome(*future.result(timeout=_CONNECT_SECONDS))
        except Exception:  # the worker died before its result was fetched
            return None

    def stuck(self, future: Future[Any]) -> str:
        """Return why another worker should take over a task: its worker is silent, or is gone."""
        worker = self._workers_of_tasks.get(str(future.key), "")
        if worker in self._silent_workers():
            return f"no heartbeat from worker {worker} for {self._lease_seconds:g} s"
        allowed = self._restrictions.get(str(future.key))
        if allowed and not allowed & self._workers.keys():
            return "the workers that it was sent to are gone"
        return ""

    def cancel(self, future: Future[Any]) -> None:
        """Cancel a task; where it runs already, it notices that it is no longer wanted."""
        self._restrictions.pop(str(future.key), None)
        with contextlib.suppress(Exception):  # its worker, or the scheduler, may be gone
            future.cancel(force=True)

    def check_workers(self, stage: Stage) -> None:
        """Warn from time to time if no worker can run a stage, so that nothing hangs silently.

        Raises:
            Interrupted: the scheduler does not answer.
        """
        if self._is_lost():
            raise Interrupted(f"{self._where} no longer answers")
        able = self._able_workers(stage)
        message = ""
        if not self._workers:
            message = f"waiting for a worker at {self._where}"
        elif not able:
            wanted = " ".join(f"{name}={much:g}" for name, much in self._required(stage).items())
            message = (
                f"waiting for a worker with {wanted}; none of the {len(self._workers)} has it "
                f"(dask worker … --resources '{wanted}')"
            )
        elif not able - self._silent_workers():
            message = f"all {len(able)} workers that could do it are silent"
        now = time.monotonic()
        quiet = now - _WARN_SECONDS + _FIRST_WARNING_SECONDS
        if not message:
            self._warned_at[stage.name] = quiet
        elif now - self._warned_at.setdefault(stage.name, quiet) >= _WARN_SECONDS:
            self._warned_at[stage.name] = now
            log.warning("%s: %s", stage.name, message)

    def describe(self, stage: Stage) -> dict[str, Any]:
        """Return what shapes a stage's results, from one worker; the others must agree.

        Raises:
            NormpipeError: the stage cannot be opened there.
            Interrupted: the scheduler does not answer.
        """
        for _ in range(_DESCRIBE_ATTEMPTS):
            outcome = self._ask_worker(stage)
            if outcome is not None:
                break
        else:
            raise NormpipeError(
                f"{stage.name}: workers die when they open the stage: see their own logs "
                "(memory is the usual reason)"
            )
        for line in outcome.warnings:
            log.warning("%s", line)
        if outcome.kind == "shortage":
            raise resource_shortage(f"{stage.name}, on a worker: {outcome.text}")
        if outcome.kind != "description":
            raise InputError(f"{stage.name}, on a worker: {outcome.text}")
        description = json.loads(outcome.text)
        write_json(self._run.description_path(stage.name), description)
        return description

    def _ask_worker(self, stage: Stage) -> TaskOutcome | None:
        """Let a worker open and describe a stage; None if it died, or is silent."""
        future = self._submit(stage, None)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        future.add_done_callback(done.put)
        try:
            while done.empty():
                if self._is_shutting_down():
                    raise Interrupted("stopped")
                self.check_workers(stage)
                if why := self.stuck(future):
                    log.warning("%s: asking another worker: %s", stage.name, why)
                    return None
                time.sleep(_POLL_SECONDS)
            return self.outcome(future)
        finally:
            self.cancel(future)
