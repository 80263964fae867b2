"""What a worker does: one shard of one stage, by reference, under a lease.

A task carries a *ticket* of some hundred bytes and the function that builds the stages; all else
the worker reads in the run's folder. Models stay loaded from shard to shard. The shard itself goes
through the same threads as in a run without workers, so that its bytes are the same.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from .commit import json_bytes, write_json
from .config import RunConfig
from .errors import NormpipeError
from .feed import ShardFeed, Stop
from .leases import CLUSTER_FOLDER, Lease, LeaseLost, claim, leases_of
from .mapping import MapWorker, one_line
from .plan import describe, differences
from .progress import Progress
from .retrying import SettledRows
from .shards import ShardFolder, ShardRecord
from .stage import MapStage
from .stage_worker import Context
from .storage import is_store, location

log = logging.getLogger("normpipe")

#: A shard that was begun so often without a word of its end is quarantined.
DEATHS = 3
#: Seconds between looks at the lease while a shard is made.
_GLANCE_SECONDS = 0.5
#: Read by workers: the settings that build the stages, and what each stage must be like.
SETTINGS_FILE = "settings.json"

#: Builds the map stages of a job by name, of the settings that the coordinator wrote.
Factory = Callable[[dict[str, Any], RunConfig], dict[str, MapStage]]


class Ticket(TypedDict):
    """A task: which shard of which run. References only."""

    run: str
    stage: str
    shard: int
    fingerprint: str
    #: sha256 of the shard that this one replaces; empty: there is none.
    replaces: str
    #: Rows that the shard holds and that did not fail are kept.
    mends: bool


class Outcome(NamedTuple):
    """What became of a task; ``lines`` are the worker's warnings.

    ``text`` says why, or of a shard that was made in a store under which token it lies.
    """

    kind: Literal["made", "current", "lost", "refused", "broken", "description"]
    text: str = ""
    seconds: float = 0.0
    lines: tuple[str, ...] = ()


def description_path(run: Path, stage: str) -> Path:
    """Return where the coordinator writes what every worker's stage must be like."""
    return run / f"stage-{stage}.json"


class Host:
    """One run's stages in a worker's process."""

    def __init__(self, run: Path, factory: Factory) -> None:
        written = json.loads((run / SETTINGS_FILE).read_bytes())
        # Left out: as many threads as this machine lends.
        self.settings = RunConfig.model_validate(written["run"])
        self.pool = ThreadPoolExecutor(self.settings.threads, "pool")
        self._run = run
        self._stages = factory(written["job"], self.settings)
        self._locks = {name: threading.Lock() for name in self._stages}
        self._descriptions: dict[str, dict[str, Any]] = {}

    def lock(self, stage: str) -> threading.Lock:
        """Return what is held while a stage works: a worker's threads share one network."""
        return self._locks[stage]

    def open(self, name: str) -> MapStage:
        """Return a stage with its models loaded; they are loaded once."""
        stage = self._stages[name]
        stage.open()
        if name not in self._descriptions:
            self._descriptions[name] = json.loads(json_bytes(describe(stage)))
        return stage

    def describe(self, name: str) -> dict[str, Any]:
        """Return all that shapes an open stage's results, as JSON holds it."""
        return self._descriptions[name]

    def check(self, name: str) -> None:
        """Raise where this worker would make other bytes than the others."""
        wanted = json.loads(description_path(self._run, name).read_bytes())
        changed = differences(wanted, self._descriptions[name])
        if changed:
            raise NormpipeError(
                f"{name}: a worker differs from the others ({'; '.join(changed[:3])}): install the "
                "same versions and files everywhere, or leave that worker out"
            )

    def close(self) -> None:
        """Let go of the threads, and of what the stages started."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for stage in self._stages.values():
            stage.close()


_hosts: dict[str, Host] = {}
_hosts_lock = threading.Lock()


def host(run: str, factory: Factory) -> Host:
    """Return the host of a run; that of an earlier run is let go, with its models.

    Raises:
        LeaseLost: the run is over.
    """
    with _hosts_lock:
        if run not in _hosts:
            for old in list(_hosts):
                _hosts.pop(old).close()
            try:
                _hosts[run] = Host(location(run), factory)
            except FileNotFoundError:
                raise LeaseLost(
                    f"no {run}/{SETTINGS_FILE} here: the run is over, or this worker does not see "
                    "the output folder"
                ) from None
        return _hosts[run]


class _Lines(logging.Handler):
    """Collects warnings of a task, for the coordinator to show."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage()[:500])


def describe_stage(factory: Factory, run: str, stage: str) -> Outcome:
    """Open a stage on this worker; return what shapes its results as JSON, or why it cannot be."""
    try:
        here = host(run, factory)
        with here.lock(stage):
            here.open(stage)
        return Outcome("description", json.dumps(here.describe(stage)))
    except LeaseLost as error:
        return Outcome("refused", str(error))
    except NormpipeError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("broken", f"{type(error).__name__}: {one_line(error)}")


def run_shard(factory: Factory, ticket: Ticket) -> Outcome:
    """Make one shard, unless it is made; nothing that goes wrong is raised."""
    handler = _Lines()
    log.addHandler(handler)
    log.propagate = False  # the coordinator shows them, once
    began = time.monotonic()
    try:
        kind, text = _run_shard(factory, ticket)
    except LeaseLost as error:
        kind, text = "lost", str(error)
    except NormpipeError as error:
        kind, text = "refused", str(error)
    except Exception as error:
        kind, text = "broken", f"{type(error).__name__}: {one_line(error)}"
    finally:
        log.removeHandler(handler)
    return Outcome(kind, text, time.monotonic() - began, tuple(handler.lines[:10]))


def _run_shard(
    factory: Factory, ticket: Ticket
) -> tuple[Literal["made", "current", "lost", "refused", "broken"], str]:
    here = host(ticket["run"], factory)
    with here.lock(ticket["stage"]):
        stage = here.open(ticket["stage"])
        here.check(ticket["stage"])
        run, number = location(ticket["run"]), ticket["shard"]
        lease = claim(run, stage.writes, number)
        root = run.parent.parent
        target = lease.target(root / stage.writes)
        # Asked under the lease: from here on, no other worker can have committed it.
        if is_made(target.record(number), ticket):
            lease.release()
            return "current", ""
        _make(here, stage, ShardFolder(root / stage.reads[0]), target, ticket, lease)
        lease.release()
        return "made", lease.token


def is_made(record: ShardRecord | None, ticket: Ticket) -> bool:
    """Say whether a committed shard is what a ticket asks for."""
    return (
        record is not None
        and record.fingerprint == ticket["fingerprint"]
        and record.sha256 != ticket["replaces"]
    )


def _make(
    here: Host,
    stage: MapStage,
    source: ShardFolder,
    target: ShardFolder,
    ticket: Ticket,
    lease: Lease,
) -> None:
    """Run the stage's threads over one shard, as long as the lease holds."""
    number, stop = ticket["shard"], Stop()
    progress = Progress(float("inf"), bars=False)
    progress.begin(stage.name, 0)
    settings = here.settings

    def settled(wanted: int) -> SettledRows | None:
        # What an earlier try left half committed vouches for nothing: then all is made anew.
        mends = ticket["mends"] and target.record(wanted) is not None
        return SettledRows(target.shard(wanted), stage.name) if mends else None

    def wanted(_: int) -> str:
        return ticket["fingerprint"]

    context = Context(
        stop, here.pool, progress, settings.prefetch, settings.retries, lambda _s, _r: None
    )
    feed = ShardFeed(stop)
    worker = MapWorker(stage, (source, target), (feed, None), wanted, settled, context)
    if lease.number > DEATHS:
        log.warning(
            "%s: shard %d quarantined: it was begun %d times and its worker died or fell silent; "
            "its rows are failed(quarantined)",
            stage.name,
            number,
            DEATHS,
        )
        worker.quarantine(number, ticket["fingerprint"])
        return
    feed.put(number)
    feed.close()
    threads = worker.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(_GLANCE_SECONDS / len(threads))
        if not lease.held() and any(thread.is_alive() for thread in threads):
            stop.set(LeaseLost("the shard is another worker's by now"))
    if stop.error is not None:
        if not lease.held():  # what else went wrong followed from that
            raise LeaseLost("the shard is another worker's by now")
        raise stop.error


def write_run(root: Path, run: Path, settings: dict[str, Any]) -> None:
    """Make the folder of a run with workers. ``settings``: ``run`` and ``job``, ready for JSON."""
    if run.parent != root / CLUSTER_FOLDER:
        raise AssertionError(f"{run} does not lie in {root}")
    write_json(run / SETTINGS_FILE, settings)
    if not is_store(run):
        leases_of(run).mkdir()
