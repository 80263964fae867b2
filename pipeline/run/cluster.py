"""Workers in other processes, by way of Dask: started here, or those of a running cluster.

The only module that knows Dask. Tasks and results are references and counts; pictures go from disk
to worker to disk. Dask decides where a task runs, and starts local workers again; what of it counts
is the coordinator's to say.
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
from ..errors import InputError, Interrupted, NormpipeError, lacking
from ..stage import MEMORY, Stage
from ..store.commit import write_json
from .making import Outcome, Ticket
from .places import Remote, run_task
from .tries import RunFolder

log = logging.getLogger("normpipe")


def hush() -> None:
    """Let Dask's own loggers be silent: users see our lines, not its tracebacks."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


hush()

#: Shards that a worker has waiting beside the one it makes.
_WAITING = 1
#: Seconds between looks at the workers, and at the end of a question.
_LOOK_SECONDS, _GLANCE_SECONDS = 1.0, 0.1
#: Seconds in which a scheduler must answer.
_CONNECT_SECONDS = 10.0
#: A scheduler that has not answered for this many lease times is gone.
_PATIENCE = 2.0
#: Seconds between words about what is missing, and before the first.
_SPEAK_SECONDS, _FIRST_SECONDS = 30.0, 5.0
#: Workers that are asked what a stage is like, before it is given up.
_ASKED = 5
#: What tells libraries how many threads to start; torch is told again by the stages.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalWorker(Worker):
    """A worker on this machine. Signals reach the whole group; what they mean is ours to say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)
        hush()
        super().__init__(*args, **kwargs)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """End, and say nothing of a run that ended while this worker was still starting."""
        with contextlib.suppress(Exception):  # the run is over, whatever it was
            return await super().close(*args, **kwargs)


def worker_specs(run: RunConfig, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what starts each local worker: its one task at a time, its GPU, its environment."""
    names = [str(gpu) for gpu in run.gpus] or [""] * run.workers
    # The machine's memory is nobody's share: Dask would pause and kill by its own count.
    common = {"nthreads": 1, "worker_class": LocalWorker, "memory_limit": 0, **common}
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
def started(
    settings: RunConfig, run: RunFolder, remote: Remote, is_ending: Callable[[], bool]
) -> Generator["Cluster", None, None]:
    """Start local workers, or connect to the scheduler that the settings name.

    Raises:
        InputError: no scheduler answers.
    """
    with contextlib.ExitStack() as stack:
        where: Any = settings.scheduler or stack.enter_context(_local(settings))
        client = stack.enter_context(_client(where))
        one = Cluster(client, settings, run, remote, is_ending)
        threading.Thread(target=one.look_often, name="cluster", daemon=True).start()
        stack.callback(one.closing.set)
        yield one


@contextmanager
def _local(settings: RunConfig) -> Generator[SpecCluster, None, None]:
    """Start workers on this machine, and what they need."""
    config = {
        # Dask would put these into this process's environment, too.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.scheduler.worker-ttl": f"{2 * settings.lease_seconds}s",
        "distributed.comm.timeouts.connect": "60s",  # many processes start at once
        "distributed.worker.memory.terminate": False,
    }
    # Who may send tasks may run code: other users of this machine must not.
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
        with contextlib.suppress(Exception):  # a scheduler that is gone needs no farewell
            client.close(timeout=5)


class Cluster:
    """The workers of one run: tasks go out, outcomes come back."""

    in_order = False

    def __init__(
        self,
        client: Client,
        settings: RunConfig,
        run: RunFolder,
        remote: Remote,
        is_ending: Callable[[], bool],
    ) -> None:
        """``is_ending``: says whether the run is asked to end, and waits for nobody."""
        self._client, self._run, self._factory = client, run, remote.factory
        self._is_ending = is_ending
        self._lease_seconds = settings.lease_seconds
        self._where = settings.scheduler or "the local scheduler"
        self._lock = threading.Lock()
        self.closing = threading.Event()
        #: Address → resources of the workers that are there, silent ones too.
        self._workers: dict[str, dict[str, float]] = {}
        #: When a worker's sign of life was last another, by our clock.
        self._signs: dict[str, tuple[Any, float]] = {}
        #: Task → worker that has it, as last seen; task → workers to which it was restricted.
        self._holders: dict[str, str] = {}
        self._among: dict[str, set[str]] = {}
        self._memory_told = False
        self._answered = time.monotonic()
        #: Stage → when it was last said what it waits for.
        self._spoke: dict[str, float] = {}
        # What workers offer is to be known before the first task; no answer: look_often asks again.
        with contextlib.suppress(Exception):
            self._look_once()

    # ------------------------------------------------------------ the workers

    def look_often(self) -> None:
        """Look at the workers until the run is over; for a thread."""
        while not self.closing.wait(_LOOK_SECONDS):
            try:
                self._look_once()
            except Exception:  # no answer: _gone says when that has lasted too long
                if self._client.status not in ("running", "connecting"):
                    return

    def _look_once(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        processing: Any = self._client.processing()
        now = time.monotonic()
        with self._lock:
            lost = self._workers.keys() - workers.keys()
            self._workers = {at: dict(one.get("resources") or {}) for at, one in workers.items()}
            self._memory_told |= any(MEMORY in has for has in self._workers.values())
            for address, worker in workers.items():
                sign = worker.get("last_seen")
                if self._signs.get(address, (None, 0.0))[0] != sign:
                    self._signs[address] = (sign, now)
            for address in lost:
                self._signs.pop(address, None)
            self._holders = {str(key): at for at, keys in processing.items() for key in keys}
            self._answered = now
        for address in sorted(lost):
            if not self.closing.is_set():
                log.warning("worker %s is gone; what it had in hand moves to others", address)

    def _gone(self) -> bool:
        """Say whether the scheduler is lost, and every task with it."""
        if self._client.status not in ("running", "connecting"):
            return True
        silent = time.monotonic() - self._answered
        return silent > max(_CONNECT_SECONDS, _PATIENCE * self._lease_seconds)

    def _silent(self) -> set[str]:
        """Return the workers without a sign of life for the lease time."""
        now = time.monotonic()
        with self._lock:
            return {a for a, (_, when) in self._signs.items() if now - when > self._lease_seconds}

    def _asked(self, stage: Stage) -> dict[str, float]:
        """Return of what a stage needs that for which workers are asked.

        Memory only where some worker says, or said, how much it has: most say nothing of it.
        """
        needs = stage.resources().items()
        return {kind: amount for kind, amount in needs if self._memory_told or kind != MEMORY}

    def _able(self, stage: Stage) -> set[str]:
        """Return the workers that have what a stage needs, silent ones too."""
        asked = self._asked(stage).items()
        with self._lock:
            workers = list(self._workers.items())
        return {at for at, has in workers if all(has.get(kind, 0) >= much for kind, much in asked)}

    # ------------------------------------------------------------ a place

    def room(self, stage: Stage) -> int:
        """Return how many shards of a stage may be here at once."""
        able = self._able(stage)
        if able and not able - self._silent():
            return 0
        return max(1, len(able)) * (1 + _WAITING)

    def submit(self, stage: Stage, ticket: Ticket) -> Future[Any]:
        """Send a shard to the workers that are not silent."""
        return self._submit(stage, ticket)

    def _submit(self, stage: Stage, ticket: Ticket | None) -> Future[Any]:
        silent = self._silent()
        among = (self._able(stage) or {*self._workers}) - silent if silent else set[str]()
        key = f"normpipe-{uuid.uuid4().hex}"  # a second try is another task
        self._among[key] = among
        return self._client.submit(
            run_task,
            self._factory,
            str(self._run.path),
            stage.name,
            ticket,
            key=key,
            pure=False,
            resources=self._asked(stage) or None,
            workers=sorted(among) or None,
        )

    def outcome(self, future: Future[Any]) -> Outcome | None:
        """Return a done task's outcome; None where its workers died or it was cancelled."""
        self._among.pop(str(future.key), None)
        if future.status != "finished":
            return None
        try:
            return Outcome(*future.result(timeout=_CONNECT_SECONDS))
        except Exception:  # it went with its worker before it was fetched
            return None

    def stuck(self, future: Future[Any]) -> str:
        """Return why a task should be given to another: its worker is silent, or is gone."""
        holder = self._holders.get(str(future.key), "")
        if holder in self._silent():
            return f"no sign of worker {holder} for {self._lease_seconds:g} s"
        among = self._among.get(str(future.key))
        if among and not among & self._workers.keys():
            return "the workers that it was sent to are gone"
        return ""

    def cancel(self, future: Future[Any]) -> None:
        """Forget a task; where it runs, it sees that it is not wanted any more."""
        self._among.pop(str(future.key), None)
        with contextlib.suppress(Exception):  # its worker, or the scheduler, may be gone
            future.cancel(force=True)

    def look(self, stage: Stage) -> None:
        """Warn now and then where no worker can do the work, so that nothing hangs in silence.

        Raises:
            Interrupted: the scheduler does not answer.
        """
        if self._gone():
            raise Interrupted(f"{self._where} does not answer any more")
        able = self._able(stage)
        words = ""
        if not self._workers:
            words = f"waiting for a worker at {self._where}"
        elif not able:
            wanted = " ".join(f"{name}={much:g}" for name, much in self._asked(stage).items())
            words = (
                f"waiting for a worker with {wanted}; none of the {len(self._workers)} has it "
                f"(dask worker … --resources '{wanted}')"
            )
        elif not able - self._silent():
            words = f"all {len(able)} workers that could do it are silent"
        now = time.monotonic()
        quiet = now - _SPEAK_SECONDS + _FIRST_SECONDS
        if not words:
            self._spoke[stage.name] = quiet
        elif now - self._spoke.setdefault(stage.name, quiet) >= _SPEAK_SECONDS:
            self._spoke[stage.name] = now
            log.warning("%s: %s", stage.name, words)

    def describe(self, stage: Stage) -> dict[str, Any]:
        """Return what shapes a stage's results, as some worker says; the others must agree.

        Raises:
            NormpipeError: the stage cannot be opened there.
            Interrupted: the scheduler does not answer.
        """
        for _ in range(_ASKED):
            outcome = self._ask(stage)
            if outcome is not None:
                break
        else:
            raise NormpipeError(
                f"{stage.name}: workers die when they open the stage: see what they say "
                "themselves (memory is the usual reason)"
            )
        for line in outcome.lines:
            log.warning("%s", line)
        if outcome.kind == "lacking":
            raise lacking(f"{stage.name}, on a worker: {outcome.text}")
        if outcome.kind != "description":
            raise InputError(f"{stage.name}, on a worker: {outcome.text}")
        description = json.loads(outcome.text)
        write_json(self._run.description_path(stage.name), description)
        return description

    def _ask(self, stage: Stage) -> Outcome | None:
        """Let some worker open a stage; None where it died, or is silent."""
        future = self._submit(stage, None)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        future.add_done_callback(done.put)
        try:
            while done.empty():
                if self._is_ending():
                    raise Interrupted("stopped")
                self.look(stage)
                if why := self.stuck(future):
                    log.warning("%s: another worker is asked: %s", stage.name, why)
                    return None
                time.sleep(_GLANCE_SECONDS)
            return self.outcome(future)
        finally:
            self.cancel(future)
