"""The one loop of a run: submits shards' tasks and commits what the first good attempt made.

Each shard is one task, run in threads or by a worker, which writes under a name of its own. Only
the loop decides whether a shard is committed, retried, taken over, quarantined or dropped.
"""

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..errors import Interrupted, NormpipeError, resource_shortage
from ..stage import JoinStage, Stage
from ..store.shards import ShardFolder, ShardRecord, parse_record
from .making import MAX_DEATHS, ShardTask, TaskOutcome
from .progress import Progress
from .tries import RunFolder, stage_of

if TYPE_CHECKING:
    from .cluster import Cluster
    from .places import StageThreads

log = logging.getLogger("normpipe")

#: After this many quarantined shards of one stage in a row the job stops: it is not the data.
QUARANTINES_IN_A_ROW = 3
#: Times that a task may be lost before its shard was started.
_MAX_LOSSES = 3 * (1 + MAX_DEATHS)
_POLL_SECONDS, _CHECK_SECONDS = 0.1, 1.0
#: Seconds until a network file system must show a file that another machine wrote.
_VISIBLE_SECONDS = 30.0


class Shutdown:
    """A request to end the run; may be made from a signal handler."""

    def __init__(self) -> None:
        self.stopped, self._drained = threading.Event(), threading.Event()
        self._drop_at = 0.0

    def drain(self, seconds: float) -> None:
        """Start no more shards, and drop those that are not done in ``seconds``."""
        self._drop_at = time.monotonic() + seconds
        self._drained.set()

    def requested(self) -> bool:
        """Return whether nothing more may be started."""
        return self._drained.is_set() or self.stopped.is_set()

    def seconds_left(self) -> float:
        """Return the seconds that are left for shards in flight; 0 before a request."""
        return self._drop_at - time.monotonic() if self._drained.is_set() else 0.0

    def check(self) -> None:
        """Raise Interrupted if nothing more may be started."""
        if self.requested():
            raise Interrupted("stopped")


@dataclass(eq=False)
class Pending:
    """A shard in flight: with one attempt or, after a worker fell silent, several."""

    task: ShardTask
    rows: int
    #: Future of an attempt → whether it is known to be stuck.
    futures: dict[Any, bool] = field(default_factory=lambda: dict[Any, bool]())
    #: Attempts that failed, and that were lost with their worker.
    failures: int = 0
    losses: int = 0
    #: Input rows written so far, and the statuses of their output rows.
    written: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter[str]())
    #: When the loop first saw that it had been started.
    started_at: float | None = None


class Lane:
    """The loop's state of one stage: shards waiting, shards in flight, and throughput."""

    def __init__(self, stage: Stage, place: "StageThreads | Cluster", root: Path) -> None:
        self.stage, self.place = stage, place
        self.source, self.target = (
            ShardFolder(root / name) for name in (stage.reads[0], stage.writes)
        )
        self.waiting: deque[int] = deque()
        #: The task of the first waiting shard, kept while there is no capacity for it.
        self.task: ShardTask | None = None
        #: Oldest first.
        self.pending: dict[int, Pending] = {}
        self.done = False
        self.quarantined_in_a_row = 0
        #: Rows made, the seconds that they took, and when the last shard was committed.
        self.rows, self.seconds, self.last_commit = 0, 0.0, 0.0

    def elapsed(self, one: Pending, now: float) -> float:
        """Return the seconds spent on a shard; in order, only since the last commit."""
        started = now if one.started_at is None else one.started_at
        return now - (max(self.last_commit, started) if self.place.in_order else started)

    def late(self, seconds: float, now: float) -> list[int]:
        """Return the shards in flight that will not be done in ``seconds``, or have not started.

        ``now``: by the clock of ``Pending.started_at``.
        """
        late: list[int] = []
        rows, took, left = self.rows, self.seconds, 0.0
        for one in list(self.pending.values())[: int(self.place.in_order)]:
            if one.written:  # the part already written counts towards the throughput
                rows, took = rows + one.written, took + self.elapsed(one, now)
        for number, one in self.pending.items():
            if rows and self.place.in_order:  # behind those before it
                left += (one.rows - one.written) * took / rows
            elif rows:
                left = one.rows * took / rows - self.elapsed(one, now)
            if one.started_at is None or not rows or left > seconds:
                late.append(number)
        return late


class Loop:
    """Submits and commits the shards of all stages; a committed shard goes to the next stage."""

    def __init__(
        self,
        run: RunFolder,
        settings: RunConfig,
        progress: Progress,
        shutdown: Shutdown,
        task: Callable[[Stage, int], ShardTask | ShardRecord],
        committed: Callable[[str, ShardRecord], None],
    ) -> None:
        """Set up the loop.

        Args:
            task: returns the task of a shard, or the record of a shard that is current.
            committed: called with stage and record after each commit.
        """
        self._run, self._settings, self._progress, self._shutdown = (
            run,
            settings,
            progress,
            shutdown,
        )
        self._task, self._committed = task, committed
        self._lanes: list[Lane] = []
        self._done: queue.SimpleQueue[tuple[Lane, Pending, Any]] = queue.SimpleQueue()

    def run(self, lanes: list[Lane], total: int) -> None:
        """Make all shards of some stages, of ``total`` inputs each. Raises Interrupted."""
        self._lanes = lanes
        for lane in lanes:
            self._progress.begin(lane.stage.name, total)
            if self._before(lane) is None:
                lane.waiting.extend(lane.source.records())
        try:
            self._run_loop()
        finally:
            self._progress.close()
        self._shutdown.check()

    def _run_loop(self) -> None:
        checked = time.monotonic()
        while not self._submit_ready():
            with suppress(queue.Empty):
                self._handle_end(*self._done.get(timeout=_POLL_SECONDS))
            if self._shutdown.requested():
                if self._shutdown.stopped.is_set() or self._shutdown.seconds_left() <= 0:
                    raise Interrupted("stopped")
                self._drop_late(self._shutdown.seconds_left())
            if time.monotonic() - checked >= _CHECK_SECONDS:
                checked = time.monotonic()
                for lane in self._lanes:
                    self._check_lane(lane)

    def _before(self, lane: Lane) -> Lane | None:
        """Return the lane whose shards this lane reads, if there is one."""
        i = self._lanes.index(lane)
        chained = i > 0 and self._lanes[i - 1].stage.writes in lane.stage.reads
        return self._lanes[i - 1] if chained else None

    def _submit_ready(self) -> bool:
        """Submit what there is capacity for; return whether all lanes are done, or drained."""
        for lane in self._lanes:
            while lane.waiting and not self._shutdown.requested() and self._submit_next(lane):
                pass
            before = self._before(lane)
            more = lane.waiting or lane.pending or (before is not None and not before.done)
            if not more and not lane.done:
                lane.done = True
                self._progress.finish(lane.stage.name)
        if self._shutdown.requested():
            return not any(lane.pending for lane in self._lanes)
        return all(lane.done for lane in self._lanes)

    def _submit_next(self, lane: Lane) -> bool:
        """Submit the next shard, or skip it if it is current; return whether there was capacity."""
        number = lane.waiting[0]
        task = lane.task or self._task(lane.stage, number)
        if not isinstance(task, ShardRecord):
            lane.task = task
            if len(lane.pending) >= lane.place.capacity(lane.stage):
                return False
        lane.waiting.popleft()
        if isinstance(task, ShardRecord):
            self._progress.skip(lane.stage.name, task.inputs)
            self._hand_on(lane, number)
            return True
        lane.task = None
        record = lane.source.record(number)
        one = lane.pending[number] = Pending(task, record.rows if record else 0)
        one.started_at = time.monotonic() if lane.place.in_order else None
        self._submit(lane, one)
        return True

    def _submit(self, lane: Lane, one: Pending, quarantine: str = "") -> None:
        if quarantine and not one.task["quarantine"]:
            one.task["quarantine"] = quarantine
            shard = f"{lane.stage.name}: shard {one.task['shard']}"
            log.warning("%s quarantined: %s; its rows are failed(quarantined)", shard, quarantine)
        future = lane.place.submit(lane.stage, one.task)
        one.futures[future] = False
        future.add_done_callback(lambda future: self._done.put((lane, one, future)))

    def _hand_on(self, lane: Lane, number: int) -> None:
        """Hand a committed shard to the stage that reads it."""
        for other in self._lanes:
            if self._before(other) is lane:
                other.waiting.append(number)

    def _handle_end(self, lane: Lane, one: Pending, future: Any) -> None:
        """Act on an attempt that ended."""
        number, name = one.task["shard"], lane.stage.name
        if lane.pending.get(number) is not one:  # too late: committed already, or dropped
            return
        outcome = lane.place.outcome(future)
        one.futures.pop(future)
        for line in outcome.warnings if outcome else ():
            log.warning("%s", line)
        if outcome is None or outcome.kind in ("stopped", "too_many_deaths"):
            self._handle_loss(lane, one, outcome)
        elif outcome.kind == "made":
            self._commit(lane, one, outcome)
        elif outcome.kind == "failed":
            self._handle_failure(lane, one, outcome.text)
        elif outcome.kind == "shortage":
            raise resource_shortage(f"{name}: shard {number}: {outcome.text}")
        else:
            raise outcome.error or NormpipeError(f"{name}: shard {number}: {outcome.text}")

    def _handle_failure(self, lane: Lane, one: Pending, why: str) -> None:
        """Retry a failed shard or, after a few attempts, quarantine it."""
        shard = f"{lane.stage.name}: shard {one.task['shard']}"
        self._undo_progress(lane, one)
        one.failures += 1
        if one.task["quarantine"] or isinstance(lane.stage, JoinStage):
            raise NormpipeError(f"{shard} cannot be made: {why}")
        again = one.failures <= self._settings.retries
        log.warning("%s failed (%s)%s", shard, why, ", retrying" if again else "")
        self._submit(lane, one, "" if again else f"it failed {one.failures} times ({why})")

    def _handle_loss(self, lane: Lane, one: Pending, outcome: TaskOutcome | None) -> None:
        """Act on an attempt that ended without a result, unless another is still running."""
        name, number = lane.stage.name, one.task["shard"]
        lane.place.check_workers(lane.stage)
        if not all(one.futures.values()):
            return
        self._undo_progress(lane, one)
        for token in self._run.finished(name, number):
            # The shard was complete, and its worker died before it reported that.
            return self._commit(lane, one, TaskOutcome("made", token))
        one.losses += 1
        if one.losses > _MAX_LOSSES:
            why = outcome.text if outcome else "its workers die before they start"
            raise NormpipeError(
                f"{name}: shard {number} is lost each time it is sent ({why}): see the workers' "
                "own logs"
            )
        dead = len(self._run.active(name, number)) >= MAX_DEATHS
        why = (
            f"it was started {MAX_DEATHS} times and its worker died or went silent" if dead else ""
        )
        return self._submit(lane, one, why)

    def _commit(self, lane: Lane, one: Pending, outcome: TaskOutcome) -> None:
        """Put in place the shard that an attempt made."""
        name, number, now = lane.stage.name, one.task["shard"], time.monotonic()
        record = self._record(outcome.text)
        if (record.fingerprint, record.shard) != (one.task["fingerprint"], number):
            raise AssertionError(f"{name}: {outcome.text} is not shard {number} as requested")
        lane.target.put_in_place(record, self._run.shard(outcome.text))
        self._run.forget(outcome.text)
        self._release(lane, one)
        lane.rows += one.rows
        lane.seconds += lane.elapsed(one, now) if lane.place.in_order else outcome.seconds
        lane.last_commit = now
        if not one.written:
            self._progress.advance(name, record.inputs, record.statuses)
        self._committed(name, record)
        self._hand_on(lane, number)
        lane.quarantined_in_a_row = lane.quarantined_in_a_row + 1 if record.quarantined else 0
        if lane.quarantined_in_a_row >= QUARANTINES_IN_A_ROW:
            raise NormpipeError(
                f"{name}: {lane.quarantined_in_a_row} shards in a row failed, the last: "
                f"{record.why}: the data is not the cause; fix it and run again with --retry-failed"
            )

    def _release(self, lane: Lane, one: Pending) -> None:
        """Remove a shard from those in flight; attempts still running notice this and stop."""
        number = one.task["shard"]
        del lane.pending[number]
        for future in one.futures:
            lane.place.cancel(future)
        if one.futures or not lane.place.in_order:  # else its only attempt recorded its end itself
            self._run.end(*self._run.active(lane.stage.name, number))

    def _record(self, token: str) -> ShardRecord:
        until = time.monotonic() + _VISIBLE_SECONDS
        while (record := parse_record(self._run.record(token) or b"")) is None:
            if time.monotonic() > until or self._shutdown.stopped.is_set():
                raise NormpipeError(
                    f"a worker reports that it made {token}, but it is not in {self._run.path} "
                    "here: do all machines see the same folder?"
                )
            time.sleep(_POLL_SECONDS)
        return record

    def _check_lane(self, lane: Lane) -> None:
        """Take over the shards of silent workers; warn about what is waited for."""
        self._note_started(lane)
        for number, one in list(lane.pending.items()):
            for future, known in one.futures.items():
                if not known and (why := lane.place.stuck(future)):
                    one.futures[future] = True
                    log.warning("%s: shard %d is taken over: %s", lane.stage.name, number, why)
            if one.futures and all(one.futures.values()) and lane.place.capacity(lane.stage):
                self._handle_loss(lane, one, None)
        if lane.pending:
            lane.place.check_workers(lane.stage)

    def _note_started(self, lane: Lane) -> None:
        """Note which of the submitted shards a worker has started by now."""
        if any(one.started_at is None for one in lane.pending.values()):
            started = {stage_of(token)[1] for token in self._run.active(lane.stage.name)}
            for number in started & lane.pending.keys():
                one = lane.pending[number]
                one.started_at = time.monotonic() if one.started_at is None else one.started_at

    def _drop_late(self, seconds: float) -> None:
        """Drop the shards that will not be done in time."""
        for lane in self._lanes:
            self._note_started(lane)
            for number in lane.late(seconds, time.monotonic()):
                log.info("%s: shard %d dropped: no time to finish", lane.stage.name, number)
                one = lane.pending[number]
                self._release(lane, one)
                self._undo_progress(lane, one)

    def advance(self, task: ShardTask, rows: int, statuses: Counter[str]) -> None:
        """Count input rows that a thread of this process wrote."""
        lane = next(one for one in self._lanes if one.stage.name == task["stage"])
        one = lane.pending.get(task["shard"])
        if one is not None:
            one.written += rows
            one.statuses.update(statuses)
            self._progress.advance(task["stage"], rows, statuses)

    def _undo_progress(self, lane: Lane, one: Pending) -> None:
        back = Counter({status: -count for status, count in one.statuses.items()})
        if one.written:
            self._progress.advance(lane.stage.name, -one.written, back)
        one.written, one.statuses = 0, Counter()
