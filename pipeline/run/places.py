"""Where shards are made: in threads of this process, or by workers (``cluster``), behind one face.

A task is a ticket of some hundred bytes; all else a worker reads in the run's folder. Models stay
loaded from shard to shard.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ..config import RunConfig, differences
from ..errors import NormpipeError, lack_of, one_line
from ..stage import MapStage, Stage
from ..store.commit import json_bytes
from ..store.shards import ShardFolder
from ..store.storage import location
from .making import Advance, Line, Outcome, Ticket, make_shard
from .plan import describe
from .tries import SETTINGS_FILE, RunFolder, RunOver

log = logging.getLogger("normpipe")

#: Builds the map stages of a job by name, of the settings that the coordinator wrote.
Factory = Callable[[dict[str, Any], RunConfig], dict[str, MapStage]]


class Remote(NamedTuple):
    """What a run with workers is made of: who builds the stages there, and of which settings."""

    factory: Factory
    #: Settings of the job, ready for JSON, as the factory takes them.
    job: dict[str, Any]

    def told(self, settings: RunConfig) -> dict[str, Any]:
        """Return what workers read in the run's folder: how they run, and the job."""
        own: dict[str, Any] = {"prefetch": settings.prefetch}
        if count := len(settings.gpus) or settings.workers:
            own["threads"] = max(1, settings.threads // count)
        elif "threads" in settings.model_fields_set:
            own["threads"] = settings.threads
        return {"run": own, "job": self.job}


class Host:
    """The stages of one run in this process, each opened once; as a place: threads of it.

    Of each map stage one shard is written while the next is read ahead; of a join, there is one.
    """

    #: Shards of a stage are made one behind the other, and not side by side.
    in_order = True

    def __init__(
        self,
        run: RunFolder,
        stages: Iterable[Stage],
        settings: RunConfig,
        advance: Advance = lambda *_: None,
    ) -> None:
        self.run = run
        self.stages = {stage.name: stage for stage in stages}
        self._pool = ThreadPoolExecutor(settings.threads, "pool")
        self._tasks = ThreadPoolExecutor(2 * max(1, len(self.stages)), "shard")
        self._lines = {
            name: Line(run, self._pool, settings.prefetch, advance) for name in self.stages
        }
        #: Held while a stage works in a worker: then only one shard can be what it died over.
        self.locks = {name: threading.Lock() for name in self.stages}
        self._descriptions: dict[str, dict[str, Any]] = {}

    def describe(self, name: str) -> dict[str, Any]:
        """Load a stage's models, once; return what shapes its results, as JSON holds it."""
        if name not in self._descriptions:
            self.stages[name].open()
            self._descriptions[name] = json.loads(json_bytes(describe(self.stages[name])))
        return self._descriptions[name]

    def check(self, name: str) -> None:
        """Raise where this process would make other bytes than the others."""
        wanted = json.loads(self.run.description_path(name).read_bytes())
        changed = differences(wanted, self.describe(name))
        if changed:
            raise NormpipeError(
                f"a worker differs from the others ({'; '.join(changed[:3])}): install the "
                "same versions and files everywhere, or leave that worker out"
            )

    def make(self, ticket: Ticket) -> Outcome:
        """Make a shard of a stage that is open."""
        stage = self.stages[ticket["stage"]]
        inputs = [ShardFolder(self.run.root / name) for name in stage.reads]
        return make_shard(stage, inputs, ticket, self._lines[stage.name])

    def close(self) -> None:
        """Give up what is under way, and let go of the threads."""
        for line in self._lines.values():
            line.stopped.set()
        for pool in (self._tasks, *(line.computer for line in self._lines.values()), self._pool):
            pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------ a place, as cluster.Cluster is

    def room(self, stage: Stage) -> int:
        """Return how many shards of a stage may be here at once."""
        return 2 if isinstance(stage, MapStage) else 1

    def submit(self, stage: Stage, ticket: Ticket) -> Future[Outcome]:
        """Begin a task; return its future."""
        del stage
        return self._tasks.submit(self.make, ticket)

    def outcome(self, future: Future[Outcome]) -> Outcome | None:
        """Return a done task's outcome."""
        return future.result()

    def stuck(self, _future: Any) -> str:
        """Return why a task should be given to another: never."""
        return ""

    def cancel(self, _future: Any) -> None:
        """Forget a task: it sees by itself that it is not wanted any more."""

    def look(self, _stage: Stage) -> None:
        """Say what is waited for: nothing."""


# ---------------------------------------------------------------- in a worker's process

_hosts: dict[str, Host] = {}
_hosts_lock = threading.Lock()


def _host(run: str, factory: Factory) -> Host:
    """Return the host of a run; that of an earlier run is let go, with its models."""
    with _hosts_lock:
        if run in _hosts:
            return _hosts[run]
        folder = RunFolder(location(run))
        try:
            told = json.loads((folder.path / SETTINGS_FILE).read_bytes())
        except FileNotFoundError:
            raise RunOver(
                f"no {run}/{SETTINGS_FILE} here: the run is over, or this worker does not see the "
                "output folder"
            ) from None
        # Left out: as many threads as this machine lends.
        settings = RunConfig.model_validate(told["run"])
        stages = factory(told["job"], settings)
        earlier = [_hosts.pop(old) for old in list(_hosts)]
        here = _hosts[run] = Host(folder, stages.values(), settings)
    for gone in earlier:
        gone.close()
        for stage in gone.stages.values():
            stage.close()
    return here


def run_task(factory: Factory, run: str, stage: str, ticket: Ticket | None) -> Outcome:
    """Make one shard on this worker or, without a ticket, say what shapes a stage's results."""
    lines = _Lines()
    log.addHandler(lines)
    log.propagate = False  # the coordinator shows them, once
    try:
        here = _host(run, factory)
        with here.locks[stage]:
            if ticket is None:
                return Outcome("description", json.dumps(here.describe(stage)), lines=lines.found())
            here.check(stage)
            return here.make(ticket)._replace(lines=lines.found())
    except RunOver as error:
        return Outcome("stopped", str(error))
    except Exception as error:  # a worker answers with what went wrong
        own = isinstance(error, NormpipeError)
        text = str(error) if own else f"{type(error).__name__}: {one_line(error)}"
        if lack := lack_of(error):
            return Outcome("lacking", f"{lack} ({text})")
        return Outcome("refused", text, error=NormpipeError(f"{stage}: {text}"))
    finally:
        log.removeHandler(lines)


class _Lines(logging.Handler):
    """Collects warnings of a task, for the coordinator to show."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage()[:500])

    def found(self) -> tuple[str, ...]:
        """Return the first of them."""
        return tuple(self._said[:10])
