"""Runs the selected stages over an output folder: sources first, then maps and joins together.

Consecutive stages work on different shards at the same time; what is committed is kept, whatever
happens, and the same command goes on from there.
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..manifests.schema import SCHEMA_VERSION
from .attempts import InHand
from .clustering import ClusterWorker
from .commit import LOCK_FILE, STORE_LOCK, locked, remove_temporaries, temporary, write_if_changed
from .config import RunConfig
from .damage import drop_damaged, refuse_damaged
from .derive import derive, to_json
from .errors import InputError, Interrupted, NormpipeError, OutputError
from .feed import ShardFeed, Stop
from .joining import JoinWorker
from .leases import clear
from .mapping import MapWorker
from .plan import (
    StagePlan,
    current,
    describe,
    fingerprint,
    input_digests,
    plan_stage,
    refuse_other,
)
from .progress import Progress
from .retrying import Retry, SettledRows
from .shard_work import Ticket
from .shards import ShardFolder, ShardRecord, require_dataset
from .sources import run_source
from .stage import JoinStage, MapStage, SourceStage, Stage
from .stage_worker import Context
from .tombstones import DECIDED_BY, WITHDRAWN
from .withdrawal import carry_out
from .workplace import Remote, Workers, at_work

log = logging.getLogger("normpipe")

#: Inputs that must be decided before --max-rejected may stop a job.
REJECTED_SAMPLE = 100


@dataclass(frozen=True)
class Options:
    """What the command line asks of a run, beside the job's settings."""

    overwrite: bool = False
    retry_failed: bool = False
    #: The input as an absolute path, and the dataset's name: an output folder belongs to one job.
    identity: dict[str, str] = field(default_factory=lambda: dict[str, str]())


class Runner:
    """One run of one job in one process.

    ``stop()`` and ``drain()`` may be called from a signal handler.
    """

    def __init__(
        self,
        root: Path,
        flow: Sequence[Stage],
        run: RunConfig,
        options: Options,
        progress: Progress | None = None,
        remote: Remote | None = None,
    ) -> None:
        """Hold what a run is made of.

        ``flow``: all stages of the job in order; ``run`` is given those to run. ``remote``: how
        workers in other processes build them, where the settings ask for such.
        """
        self.root = root
        self._flow = list(flow)
        self._settings = run
        self._options = options
        self._progress = progress or Progress(run.log_seconds)
        self._stop = Stop()
        self._rejected: dict[str, list[int]] = {}
        self._plans: dict[str, StagePlan] = {}
        #: Shards that this run has made, by dataset.
        self._made: set[tuple[str, int]] = set()
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._total = 0
        self._in_hand: list[InHand] = []
        self._drop_at = 0.0
        self._retry: Retry | None = None
        self._remote = remote
        self._workers: Workers | None = None

    def stop(self) -> None:
        """Ask the run to end soon: shards in hand are dropped, committed ones kept."""
        self._stop.set()

    def drain(self, seconds: float) -> None:
        """Ask the run to begin no shard, and to drop those that are not through in ``seconds``."""
        self._drop_at = time.monotonic() + seconds
        self._stop.end()

    def run(self, selected: Sequence[Stage]) -> None:
        """Run stages. Raises NormpipeError (the user must act) or Interrupted (run it again)."""
        with ExitStack() as stack:
            refuse_foreign(self.root)
            stack.enter_context(locked(self.root))
            claim(self.root, self._options.identity, self._flow)
            clear(self.root)
            remove_temporaries(self.root)
            finish_withdrawal(self.root)
            for stage in selected:
                drop_damaged(ShardFolder(self.root / stage.writes))
            if self._options.retry_failed and not self._options.overwrite:
                self._retry = Retry(self.root, self._flow)
            maps = [stage for stage in selected if isinstance(stage, MapStage)]
            if maps and self._remote is not None:
                work = at_work(self.root, self._settings, self._remote, self._stop)
                self._workers = stack.enter_context(work)
            for stage in maps:
                self._stop.check_new()
                # A wrong device or weights file must show before hours of other stages, not after.
                stack.callback(stage.close)
                self._described(stage)
            for stage in selected:
                self._stop.check_new()
                if isinstance(stage, SourceStage):
                    self._open(stage)
                    description = self._descriptions[stage.name]
                    overwrite = self._options.overwrite
                    run_source(stage, self.root, description, overwrite, self._retry)
            workers = [stage for stage in selected if not isinstance(stage, SourceStage)]
            if workers:
                self._run_workers(workers)
            for stage in selected:
                derive(self.root, stage)
            # Asked to end while the last shards were made: whoever called is to begin nothing more.
            self._stop.check_new()

    def _described(self, stage: Stage) -> dict[str, Any]:
        """Load a stage's models, here or on a worker, and return what shapes its results."""
        if stage.name not in self._descriptions:
            if self._workers is not None and isinstance(stage, MapStage):
                self._descriptions[stage.name] = self._workers.describe(stage)
            else:
                stage.open()
                self._descriptions[stage.name] = describe(stage)
        return self._descriptions[stage.name]

    def _open(self, stage: Stage) -> None:
        """Load a stage's models and refuse to mix its results with others."""
        description = self._described(stage)
        folder = ShardFolder(self.root / stage.writes)
        if not self._options.overwrite:
            refuse_other(stage, folder, description)
        # While old shards remain after --overwrite, the old description must not vouch for them:
        # every shard carries its own fingerprint, so the new one can be written at once.
        write_if_changed(folder.stage_path, to_json(description))

    def _run_workers(self, stages: list[Stage]) -> None:
        made = {stage.writes for stage in stages}
        for stage in stages:
            for name in stage.reads:
                if name not in made:
                    require_dataset(ShardFolder(self.root / name), stage.name)
                    refuse_damaged(ShardFolder(self.root / name), stage.name)
            self._open(stage)
        self._plan(stages)
        with ThreadPoolExecutor(self._settings.threads, "pool") as pool:
            context = Context(
                self._stop,
                pool,
                self._progress,
                self._settings.prefetch,
                self._settings.retries,
                self._committed,
            )
            threads = self._start(stages, context)
            for thread in threads:
                # Joined in glances, so that the main thread takes signals.
                while thread.is_alive():
                    thread.join(0.2)
                    self._drop_late()
            pool.shutdown(wait=True, cancel_futures=True)
        self._progress.close()
        if self._stop.ending:
            raise self._stop.error or Interrupted("stopped")

    def _drop_late(self) -> None:
        """Once asked to end, drop what will not be through in time; everything, when it is up."""
        if self._stop.is_set() or not self._stop.ending:
            return
        left = self._drop_at - time.monotonic()
        if left <= 0:
            return self._stop.set()
        for in_hand in self._in_hand:
            in_hand.drop_late(left)
        return None

    def _start(self, stages: list[Stage], context: Context) -> list[threading.Thread]:
        self._total = self._inputs(stages[0])
        feeds = [ShardFeed(self._stop) for _ in stages]
        threads: list[threading.Thread] = []
        for i, (stage, feed) in enumerate(zip(stages, feeds, strict=True)):
            self._progress.begin(stage.name, self._total)
            chained = i > 0 and stages[i - 1].writes in stage.reads
            following = i + 1 < len(stages) and stage.writes in stages[i + 1].reads
            if not chained:
                for number in ShardFolder(self.root / stage.reads[0]).records():
                    feed.put(number)
                feed.close()
            next_feed = feeds[i + 1] if following else None
            threads += self._worker(stage, feed, next_feed, context).start()
        return threads

    def _worker(
        self, stage: Stage, feed: ShardFeed, next_feed: ShardFeed | None, context: Context
    ) -> MapWorker | JoinWorker | ClusterWorker:
        def wanted(number: int) -> str | ShardRecord:
            return self._wanted(stage, number)

        def settled(number: int) -> SettledRows | None:
            if self._retry is None:
                return None
            return self._retry.settled(stage, self._descriptions[stage.name], number)

        def ticket(number: int) -> Ticket | ShardRecord:
            mark = self._wanted(stage, number)
            if not isinstance(mark, str):
                return mark
            assert self._workers is not None
            record = ShardFolder(self.root / stage.writes).record(number)
            return Ticket(
                run=str(self._workers.run),
                stage=stage.name,
                shard=number,
                fingerprint=mark,
                replaces=record.sha256 if record else "",
                mends=settled(number) is not None,
            )

        if isinstance(stage, JoinStage):
            return JoinWorker(stage, self.root, feed, wanted, context)
        if isinstance(stage, MapStage):
            folders = (
                ShardFolder(self.root / stage.reads[0]),
                ShardFolder(self.root / stage.writes),
            )
            if self._workers is None:
                worker = MapWorker(stage, folders, (feed, next_feed), wanted, settled, context)
            else:
                worker = ClusterWorker(
                    stage, folders, (feed, next_feed), ticket, context, self._workers
                )
            self._in_hand.append(worker.in_hand)
            return worker
        raise TypeError(f"{stage.name} is no stage that the engine can run")

    def _wanted(self, stage: Stage, number: int) -> str | ShardRecord:
        """Return the fingerprint of a shard to make, or the record of one that is current."""
        done = self._plans[stage.name].done.get(number)
        if done is not None and not any((name, number) in self._made for name in stage.reads):
            self._count(stage.name, done)
            return done
        mark = fingerprint(
            self._descriptions[stage.name], input_digests(self.root, stage.reads, number)
        )
        record = ShardFolder(self.root / stage.writes).record(number)
        retry = stage if self._options.retry_failed else None
        if record is not None and current(record, mark, retry):
            self._count(stage.name, record)
            return record
        return mark

    def _plan(self, stages: list[Stage]) -> None:
        """Plan, and refuse to overwrite shards made from another input, before work is done."""
        for stage in stages:
            description = self._descriptions[stage.name]
            plan = plan_stage(self.root, stage, description, self._options.retry_failed)
            self._plans[stage.name] = plan
            if plan.stale and not (self._options.overwrite or self._options.retry_failed):
                raise OutputError(
                    f"{stage.writes}: {len(plan.stale)} shards were made from other input than "
                    f"what {', '.join(stage.reads)} holds now: redo them with --overwrite (or, if "
                    "a run with --retry-failed was stopped, go on with it)"
                )

    def _inputs(self, stage: Stage) -> int:
        return sum(r.rows for r in ShardFolder(self.root / stage.reads[0]).records().values())

    def _committed(self, stage: str, record: ShardRecord) -> None:
        """Note what was made; stop where too much of it is rejected."""
        self._made.update((one.writes, record.shard) for one in self._flow if one.name == stage)
        self._count(stage, record)
        bad, rows = self._rejected[stage]
        limit = self._settings.max_rejected
        if rows and bad / rows > limit and (rows >= REJECTED_SAMPLE or rows >= self._total):
            raise NormpipeError(
                f"stopped: {bad} of {rows} rows of {stage} are rejected or failed, more than "
                f"--max-rejected {limit:g}; see 'normpipe status {self.root}' for the reasons, "
                "then change the settings or raise the share"
            )

    def _count(self, stage: str, record: ShardRecord) -> None:
        counts = self._rejected.setdefault(stage, [0, 0])
        # Who was withdrawn says nothing of the pictures.
        rows = record.rows - record.reasons.get(f"{DECIDED_BY}:{WITHDRAWN}", 0)
        counts[0] += rows - record.statuses.get("ok", 0)
        counts[1] += rows


def finish_withdrawal(root: Path) -> None:
    """Finish what a killed ``normpipe withdraw`` began."""
    intent = carry_out(root)
    if intent is not None:
        log.warning("finished a withdrawal that was stopped: %s", root)
        for line in intent.remains:
            log.warning("%s", line)


def refuse_foreign(root: Path) -> None:
    """Raise where the output folder holds something that is no job of ours."""
    if not root.exists():
        return
    if not root.is_dir():
        raise OutputError(f"{root} is a file: choose a folder for --output")
    ours = (root / "job.json").is_file()
    # What a run leaves that was killed before it had claimed the folder.
    begun = {LOCK_FILE, STORE_LOCK, temporary(root / "job.json").name}
    if not ours and any(path.name not in begun for path in root.iterdir()):
        raise OutputError(f"{root} is not empty and holds no normpipe job: choose another --output")


def claim(root: Path, identity: dict[str, str], flow: Sequence[Stage]) -> None:
    """Write ``job.json``, or refuse a folder of another job."""
    path = root / "job.json"
    card = {
        "schema_version": SCHEMA_VERSION,
        **identity,
        "flow": [
            {"stage": stage.name, "reads": list(stage.reads), "writes": stage.writes}
            for stage in flow
        ],
    }
    # A first attempt that failed before any work (a mistyped input) does not claim the folder.
    if path.is_file() and next(root.rglob("records/*.json"), None) is not None:
        old = read_job(root)
        for name, value in identity.items():
            if old.get(name) != value:
                raise OutputError(
                    f"{root} belongs to another job ({name}: {old.get(name)}, here {value}): "
                    "choose another --output (or, if the input only moved, edit job.json in it)"
                )
    write_if_changed(path, to_json(card))


def read_job(root: Path) -> dict[str, Any]:
    """Return a folder's ``job.json``. Raises InputError where it is no job's folder."""
    path = root / "job.json"
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{root} holds no normpipe job (no job.json): give the --output of a run"
        ) from None
    except (ValueError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be read ({error}): restore it, or start over") from None
