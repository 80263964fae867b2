"""Where shards are made: in threads of this process, or by workers (``cluster``).

Both have the same interface. A task is a few hundred bytes; a worker reads everything else from
the run's folder. Models stay loaded from shard to shard.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ..config import RunConfig, differences
from ..errors import NormpipeError, missing_resource, one_line
from ..stage import MapStage, Stage
from ..store.commit import json_bytes
from ..store.shards import ShardFolder
from ..store.storage import location
from .making import Advance, ShardTask, StagePipeline, TaskOutcome, make_shard
from .plan import describe
from .tries import SETTINGS_FILE, RunFolder, RunOver

log = logging.getLogger("normpipe")

#: Builds the map stages of a job, by name, from the settings that the coordinator wrote.
Factory = Callable[[dict[str, Any], RunConfig], dict[str, MapStage]]


class Remote(NamedTuple):
    """How workers build a job's stages: the function, and the settings that it takes."""

    factory: Factory
    #: Settings of the job, ready for JSON, as the factory takes them.
    job: dict[str, Any]

    def worker_settings(self, settings: RunConfig) -> dict[str, Any]:
        """Return what workers read from the run's folder: how to run, and the job."""
        own: dict[str, Any] = {"prefetch": settings.prefetch}
        if count := len(settings.gpus) or settings.workers:
            own["threads"] = max(1, settings.threads // count)
        elif "threads" in settings.model_fields_set:
            own["threads"] = settings.threads
        return {"run": own, "job": self.job}


class StageThreads:
    """Makes the shards of one run's stages in threads of this process; opens each stage once.

    A map stage writes one shard while it reads the next ahead; a join makes one at a time.
    """

    #: Shards of a stage are made one after another, not in parallel.
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
        self._pipelines = {
            name: StagePipeline(run, self._pool, settings.prefetch, advance) for name in self.stages
        }
        #: Held while a worker runs a stage: if it dies, only one shard can be the cause.
        self.locks = {name: threading.Lock() for name in self.stages}
        self._descriptions: dict[str, dict[str, Any]] = {}

    def describe(self, name: str) -> dict[str, Any]:
        """Load a stage's models, once; return what shapes its results, ready for JSON."""
        if name not in self._descriptions:
            self.stages[name].open()
            self._descriptions[name] = json.loads(json_bytes(describe(self.stages[name])))
        return self._descriptions[name]

    def check(self, name: str) -> None:
        """Raise NormpipeError if this process would make other bytes than the other workers."""
        wanted = json.loads(self.run.description_path(name).read_bytes())
        changed = differences(wanted, self.describe(name))
        if changed:
            raise NormpipeError(
                f"a worker differs from the others ({'; '.join(changed[:3])}): install the "
                "same versions and files everywhere, or leave that worker out"
            )

    def make(self, task: ShardTask) -> TaskOutcome:
        """Make a shard of an open stage."""
        stage = self.stages[task["stage"]]
        inputs = [ShardFolder(self.run.root / name) for name in stage.reads]
        return make_shard(stage, inputs, task, self._pipelines[stage.name])

    def close(self) -> None:
        """Stop the shards in flight, and end the threads."""
        for pipeline in self._pipelines.values():
            pipeline.stopped.set()
        for pool in (
            self._tasks,
            *(pipeline.computer for pipeline in self._pipelines.values()),
            self._pool,
        ):
            pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------ the interface of cluster.Cluster

    def capacity(self, stage: Stage) -> int:
        """Return how many shards of a stage may be in flight at once."""
        return 2 if isinstance(stage, MapStage) else 1

    def submit(self, stage: Stage, task: ShardTask) -> Future[TaskOutcome]:
        """Submit a task; return its future."""
        del stage
        return self._tasks.submit(self.make, task)

    def outcome(self, future: Future[TaskOutcome]) -> TaskOutcome | None:
        """Return a done task's outcome."""
        return future.result()

    def stuck(self, _future: Any) -> str:
        """Return why another worker should take over a task: never."""
        return ""

    def cancel(self, _future: Any) -> None:
        """Do nothing: a task notices by itself that it is no longer wanted."""

    def check_workers(self, _stage: Stage) -> None:
        """Do nothing: there are no workers to wait for."""


# ---------------------------------------------------------------- in a worker's process

_threads_of_runs: dict[str, StageThreads] = {}
_threads_lock = threading.Lock()


def _stage_threads(run: str, factory: Factory) -> StageThreads:
    """Return the threads of a run; close those of an earlier run, with its models."""
    with _threads_lock:
        if run in _threads_of_runs:
            return _threads_of_runs[run]
        folder = RunFolder(location(run))
        try:
            saved = json.loads((folder.path / SETTINGS_FILE).read_bytes())
        except FileNotFoundError:
            raise RunOver(
                f"no {run}/{SETTINGS_FILE} here: the run is over, or this worker does not see the "
                "output folder"
            ) from None
        # Without ``threads``: as many as the CPUs that this process may use.
        settings = RunConfig.model_validate(saved["run"])
        stages = factory(saved["job"], settings)
        earlier = [_threads_of_runs.pop(old) for old in list(_threads_of_runs)]
        here = _threads_of_runs[run] = StageThreads(folder, stages.values(), settings)
    for gone in earlier:
        gone.close()
        for stage in gone.stages.values():
            stage.close()
    return here


def run_task(factory: Factory, run: str, stage: str, task: ShardTask | None) -> TaskOutcome:
    """Make one shard on this worker or, without a task, describe what shapes a stage's results."""
    collector = _WarningCollector()
    log.addHandler(collector)
    log.propagate = False  # the coordinator shows them, once
    try:
        here = _stage_threads(run, factory)
        with here.locks[stage]:
            if task is None:
                return TaskOutcome(
                    "description", json.dumps(here.describe(stage)), warnings=collector.first()
                )
            here.check(stage)
            return here.make(task)._replace(warnings=collector.first())
    except RunOver as error:
        return TaskOutcome("stopped", str(error))
    except Exception as error:  # a worker reports whatever went wrong
        own = isinstance(error, NormpipeError)
        text = str(error) if own else f"{type(error).__name__}: {one_line(error)}"
        if shortage := missing_resource(error):
            return TaskOutcome("shortage", f"{shortage} ({text})")
        return TaskOutcome("refused", text, error=NormpipeError(f"{stage}: {text}"))
    finally:
        log.removeHandler(collector)


class _WarningCollector(logging.Handler):
    """Collects warnings of a task, for the coordinator to show."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage()[:500])

    def first(self) -> tuple[str, ...]:
        """Return the first ten."""
        return tuple(self._messages[:10])
