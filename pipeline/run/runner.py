"""Run the selected stages over an output folder: sources first, then maps and joins together.

Consecutive stages work on different shards at the same time. Whatever happens, committed shards
are kept, and the same command resumes from there.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..care.withdrawal import carry_out
from ..config import RunConfig
from ..errors import (
    Interrupted,
    NormpipeError,
    OutputError,
    missing_resource,
    one_line,
    resource_shortage,
)
from ..stage import MapStage, SourceStage, Stage
from ..store.commit import json_bytes, remove_temporaries, write_if_changed
from ..store.damage import drop_damaged, refuse_damaged
from ..store.derive import derive
from ..store.job_file import Claim, claim, refuse_foreign
from ..store.lock import locked
from ..store.shards import ShardFolder, ShardRecord, require_dataset
from ..store.storage import is_store, is_within
from ..store.tombstones import DECIDED_BY, WITHDRAWN
from .loop import Lane, Loop, Shutdown
from .making import ShardTask
from .places import Remote, StageThreads
from .plan import (
    Retry,
    StagePlan,
    describe,
    fingerprint,
    input_digests,
    is_current,
    plan_stage,
    refuse_other_settings,
)
from .progress import Progress
from .source_run import run_source
from .tries import RunFolder, clear

if TYPE_CHECKING:
    from .cluster import Cluster

log = logging.getLogger("normpipe")

#: Inputs that must be decided before --max-rejected may stop a job.
REJECTED_SAMPLE = 100


@dataclass(frozen=True)
class Options:
    """What the command line asks of a run, besides the job's settings."""

    overwrite: bool = False
    retry_failed: bool = False
    #: The input's absolute path and the dataset's name: an output folder belongs to one job.
    identity: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    #: The settings to save in the folder's job, by table; none: those of the flow's stages.
    settings: Mapping[str, BaseModel] = field(default_factory=lambda: dict[str, BaseModel]())


class Runner:
    """One run of one job. ``stop()`` and ``drain()`` may be called from a signal handler."""

    def __init__(
        self,
        root: Path,
        flow: Sequence[Stage],
        run: RunConfig,
        options: Options,
        progress: Progress | None = None,
        remote: Remote | None = None,
    ) -> None:
        """Set up a run.

        ``flow``: all stages of the job in order; ``run()`` takes those to run. ``remote``: how
        workers in other processes build them, if the settings ask for workers.
        """
        self.root = root
        self._flow = list(flow)
        self._settings, self._options, self._remote = run, options, remote
        self._progress = progress or Progress(run.log_seconds)
        self._shutdown = Shutdown()
        self._rejected: dict[str, list[int]] = {}
        self._plans: dict[str, StagePlan] = {}
        #: Shards that this run made, by dataset.
        self._made: set[tuple[str, int]] = set()
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._total = 0
        self._retry: Retry | None = None
        self._job: Claim
        self._run: RunFolder
        self._folder_created = False
        self._loop: Loop
        self._threads: StageThreads
        self._cluster: Cluster | None = None

    def stop(self) -> None:
        """Ask the run to end soon: drop the shards in flight, keep those in place."""
        self._shutdown.stopped.set()

    def drain(self, seconds: float) -> None:
        """Ask the run to start no more shards, and to drop those not done in ``seconds``."""
        self._shutdown.drain(seconds)

    def run(self, selected: Sequence[Stage]) -> None:
        """Run stages. Raises NormpipeError (the user must act) or Interrupted (run it again)."""
        try:
            with ExitStack() as stack:
                self._run_in(stack, selected)
        except Interrupted:
            raise
        except Exception as error:  # a shortage may come as any error; others are re-raised
            if shortage := missing_resource(error):
                raise resource_shortage(f"{shortage} ({one_line(error)})") from error
            raise

    def _run_in(self, stack: ExitStack, selected: Sequence[Stage]) -> None:
        refuse_foreign(self.root)
        stack.enter_context(locked(self.root))
        options = self._options
        self._job = claim(self.root, options.identity, self._flow, options.settings, selected)
        clear(self.root)
        remove_temporaries(self.root)
        for folder in (self.root / stage.writes for stage in self._flow):
            if not is_store(folder) and not is_within(folder, self.root):  # a link to another disk
                remove_temporaries(folder.resolve())
        finish_withdrawal(self.root)
        for stage in selected:
            drop_damaged(ShardFolder(self.root / stage.writes))
        if options.retry_failed and not options.overwrite:
            self._retry = Retry(self.root, self._flow)
        maps = [stage for stage in selected if isinstance(stage, MapStage)]
        for stage in maps:
            stack.callback(stage.close)  # after the threads that use it
        self._start_places(stack, [one for one in selected if not isinstance(one, SourceStage)])
        for stage in maps:
            self._shutdown.check()
            # A wrong device or wrong weights must show before hours of other stages, not after.
            self._described(stage)
        if options.overwrite:  # nothing will be refused
            self._job.accept()
        for stage in selected:
            self._shutdown.check()
            if isinstance(stage, SourceStage):
                self._open(stage)
                overwrite, description = options.overwrite, self._descriptions[stage.name]
                run_source(stage, self.root, description, overwrite, self._retry)
        self._run_lanes([stage for stage in selected if not isinstance(stage, SourceStage)])
        self._job.accept()
        for stage in selected:
            derive(self.root, stage)
        # If asked to end while the last shards were made, the caller must start nothing more.
        self._shutdown.check()

    def _start_places(self, stack: ExitStack, stages: list[Stage]) -> None:
        """Create the run's folder and start threads and workers; on exit, nothing can add to it."""
        if not stages:
            return
        remote = self._remote if any(isinstance(stage, MapStage) for stage in stages) else None
        self._run = RunFolder.new(self.root)
        stack.callback(self._run.close)
        if remote is not None:
            from .cluster import start_cluster  # imports Dask

            self._create_run_folder(remote.worker_settings(self._settings))
            cluster = start_cluster(self._settings, self._run, remote, self._shutdown.requested)
            self._cluster = stack.enter_context(cluster)
            stack.callback(self._run.close)  # workers that still run notice it, and stop
        self._loop = Loop(
            self._run,
            self._settings,
            self._progress,
            self._shutdown,
            self._task,
            self._committed,
        )
        self._threads = StageThreads(self._run, stages, self._settings, self._loop.advance)
        stack.callback(self._threads.close)

    def _create_run_folder(self, settings: dict[str, Any]) -> None:
        if not self._folder_created:
            self._run.create(settings)
        self._folder_created = True

    def _place(self, stage: Stage) -> "StageThreads | Cluster":
        if self._cluster is not None and isinstance(stage, MapStage):
            return self._cluster
        return self._threads

    def _described(self, stage: Stage) -> dict[str, Any]:
        """Load a stage's models where it will run; return the description of its results."""
        if stage.name not in self._descriptions:
            if self._cluster is not None and isinstance(stage, MapStage):
                self._descriptions[stage.name] = self._cluster.describe(stage)
            else:
                stage.open()
                self._descriptions[stage.name] = describe(stage)
        return self._descriptions[stage.name]

    def _open(self, stage: Stage) -> None:
        """Load a stage's models and refuse to mix its results with those of other settings."""
        description = self._described(stage)
        folder = ShardFolder(self.root / stage.writes)
        if not self._options.overwrite:
            refuse_other_settings(stage, folder, description)
        # Written at once, even while --overwrite leaves old shards: each shard carries its own
        # fingerprint, so the description need not match them (and the old one must not).
        write_if_changed(folder.stage_path, json_bytes(description, ascii_only=False))

    def _plan(self, stages: list[Stage]) -> None:
        """Plan all stages; before any work, refuse unreadable input and shards of other input."""
        made = {stage.writes for stage in stages}
        for stage in stages:
            for name in (one for one in stage.reads if one not in made):
                require_dataset(ShardFolder(self.root / name), stage.name)
                refuse_damaged(ShardFolder(self.root / name), stage.name)
            self._open(stage)
        for stage in stages:
            plan = plan_stage(
                self.root, stage, self._descriptions[stage.name], self._options.retry_failed
            )
            self._plans[stage.name] = plan
            if plan.stale and not (self._options.overwrite or self._options.retry_failed):
                raise OutputError(
                    f"{stage.writes}: {len(plan.stale)} shards were made from other input than "
                    f"what {', '.join(stage.reads)} holds now: redo them with --overwrite (or, if "
                    "a run with --retry-failed was stopped, continue it)"
                )

    def _run_lanes(self, stages: list[Stage]) -> None:
        """Make the shards of maps and joins."""
        if not stages:
            return
        self._plan(stages)
        self._job.accept()
        lanes = [Lane(stage, self._place(stage), self.root) for stage in stages]
        self._total = sum(record.rows for record in lanes[0].source.records().values())
        self._loop.run(lanes, self._total)

    def _task(self, stage: Stage, number: int) -> ShardTask | ShardRecord:
        """Return the task of a shard, or the record of a shard that is current."""
        description = self._descriptions[stage.name]
        record = self._plans[stage.name].done.get(number)
        if record is None or any((name, number) in self._made for name in stage.reads):
            wanted = fingerprint(description, input_digests(self.root, stage.reads, number))
            record = ShardFolder(self.root / stage.writes).record(number)
            retried = stage if self._options.retry_failed else None
            if record is None or not is_current(record, wanted, retried):
                retry = self._retry if isinstance(stage, MapStage) else None
                self._create_run_folder({})  # only now: if all is current, nothing is written
                return ShardTask(
                    stage=stage.name,
                    shard=number,
                    fingerprint=wanted,
                    keep_settled=retry is not None
                    and retry.keeps_settled(stage, description, number),
                    quarantine="",
                )
        self._count(stage.name, record)
        return record

    def _committed(self, stage: str, record: ShardRecord) -> None:
        """Note a new shard; stop if too many rows are rejected."""
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
        # Withdrawn rows say nothing about the quality of the images.
        rows = record.rows - record.reasons.get(f"{DECIDED_BY}:{WITHDRAWN}", 0)
        counts[0] += rows - record.statuses.get("ok", 0)
        counts[1] += rows


def finish_withdrawal(root: Path) -> None:
    """Finish what a killed ``normpipe withdraw`` started."""
    intent = carry_out(root)
    if intent is not None:
        log.warning("finished a withdrawal that was stopped: %s", root)
        for line in intent.remains:
            log.warning("%s", line)
