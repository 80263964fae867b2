"""Where the workers of a run come from, and what they are told: the run's folder and its stages."""

import json
import logging
import queue
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from .commit import write_json
from .config import RunConfig
from .errors import InputError, Interrupted, NormpipeError
from .feed import Stop
from .leases import CLUSTER_FOLDER, clear
from .shard_work import Factory, Outcome, description_path, write_run
from .stage import MapStage

if TYPE_CHECKING:
    from .executors import Cluster

log = logging.getLogger("normpipe")

_GLANCE_SECONDS = 0.1
#: Workers that are asked what a stage is like, before it is given up.
_TRIES = 5
#: Seconds between words about what is missing.
_PATIENCE_SECONDS = 30.0


class Remote(NamedTuple):
    """What a run with workers is made of: who builds the stages there, and of which settings."""

    factory: Factory
    #: Settings of the job, ready for JSON, as the factory takes them.
    job: dict[str, Any]


class Workers:
    """The workers of one run, and the folder through which they are told what to do."""

    def __init__(self, cluster: "Cluster", run: Path, factory: Factory, stop: Stop) -> None:
        self.cluster = cluster
        self.run = run
        self.factory = factory
        self._stop = stop

    def describe(self, stage: MapStage) -> dict[str, Any]:
        """Return what shapes a stage's results, as some worker says; the others must agree.

        Raises:
            NormpipeError: the stage cannot be opened there.
            Interrupted: stopped while waiting for a worker.
        """
        for _ in range(_TRIES):
            outcome = self._ask(stage)
            if outcome is not None:
                break
        else:
            raise NormpipeError(
                f"{stage.name}: workers die when they open the stage: see what they say "
                "themselves (memory is the usual reason)"
            )
        if outcome.kind != "description":
            raise InputError(f"{stage.name}, on a worker: {outcome.text}")
        description = json.loads(outcome.text)
        write_json(description_path(self.run, stage.name), description)
        return description

    def _ask(self, stage: MapStage) -> Outcome | None:
        """Let some worker open a stage; None where it died, or was silent for the lease time."""
        needs = stage.resources()
        among = self.cluster.awake()
        future = self.cluster.describe(self.factory, str(self.run), stage.name, needs, among)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.cluster.when_done(future, done)
        patience = Patience(self.cluster, stage.name, needs)
        try:
            while done.empty():
                if self._stop.ending:
                    raise Interrupted("stopped")
                if self.cluster.gone():
                    raise Interrupted(f"{self.cluster.where} does not answer any more")
                if self.cluster.holders().get(str(future.key)) in self.cluster.silent():
                    log.warning("%s: its worker is silent; asking another", stage.name)
                    return None
                patience.look()
                time.sleep(_GLANCE_SECONDS)
            return self.cluster.outcome(future)
        finally:
            self.cluster.cancel(future)


class Patience:
    """Says now and then what a stage is waiting for, so that nothing hangs in silence."""

    def __init__(self, cluster: "Cluster", stage: str, needs: dict[str, float]) -> None:
        self._cluster = cluster
        self._stage = stage
        self._needs = needs
        self._spoke = time.monotonic() - _PATIENCE_SECONDS + 5.0  # the first word after 5 s

    def look(self) -> None:
        """Warn where no worker can do the work."""
        if time.monotonic() - self._spoke < _PATIENCE_SECONDS:
            return
        workers = self._cluster.workers()
        able = self._cluster.able(self._needs)
        if not workers:
            log.warning("%s: waiting for a worker at %s", self._stage, self._cluster.where)
        elif not able:
            asked = self._cluster.asked(self._needs)
            wanted = " ".join(f"{name}={amount:g}" for name, amount in asked.items())
            log.warning(
                "%s: waiting for a worker with %s; none of the %d has it (dask worker … "
                "--resources '%s')",
                self._stage,
                wanted,
                len(workers),
                wanted,
            )
        elif not able - self._cluster.silent():
            log.warning("%s: all %d workers that could do it are silent", self._stage, len(able))
        else:
            return
        self._spoke = time.monotonic()


@contextmanager
def at_work(
    root: Path, settings: RunConfig, remote: Remote, stop: Stop
) -> Generator[Workers, None, None]:
    """Have workers for a run; on leaving, whatever is still in hand can commit nothing more.

    Raises:
        InputError: no scheduler answers.
    """
    from .executors import started  # imports Dask

    run = root.resolve() / CLUSTER_FOLDER / uuid4().hex[:12]
    own = {"prefetch": settings.prefetch, "retries": settings.retries}
    count = len(settings.gpus) or settings.workers
    if count:
        own["threads"] = max(1, settings.threads // count)
    elif "threads" in settings.model_fields_set:
        own["threads"] = settings.threads
    with ExitStack() as stack:
        stack.callback(clear, root)
        write_run(root.resolve(), run, {"run": own, "job": remote.job})
        cluster = stack.enter_context(started(settings))
        stack.callback(clear, root)  # first of all: what still runs sees it, and ends
        stack.callback(cluster.close)
        yield Workers(cluster, run, remote.factory, stop)
