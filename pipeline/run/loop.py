"""The one loop of a run: sends shards to be made, and puts in place what the first good task made.

A shard is one task, made wherever the place makes it, under a name that nobody else has. Here alone
is decided what becomes of it: whether it is tried again, given to another, set aside or dropped.
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
from ..errors import Interrupted, NormpipeError, lacking
from ..stage import JoinStage, Stage
from ..store.shards import ShardFolder, ShardRecord, parsed
from .making import DEATHS, Outcome, Ticket
from .progress import Progress
from .tries import RunFolder, stage_of

if TYPE_CHECKING:
    from .cluster import Cluster
    from .places import Host

log = logging.getLogger("normpipe")

#: Shards of one stage that may be quarantined in a row before the job stops: then it is no shard's
#: fault.
QUARANTINES_IN_A_ROW = 3
#: Times that a task may be lost before its shard was begun.
_LOSSES = 3 * (1 + DEATHS)
_GLANCE_SECONDS, _LOOK_SECONDS = 0.1, 1.0
#: Seconds that a network file system may take to show what another machine has made.
_SHOW_SECONDS = 30.0


class Ending:
    """How a run is asked to end; from a signal handler, too."""

    def __init__(self) -> None:
        self.stopped, self._drained = threading.Event(), threading.Event()
        self._drop_at = 0.0

    def drain(self, seconds: float) -> None:
        """Ask that no shard be begun, and those dropped that are not through in ``seconds``."""
        self._drop_at = time.monotonic() + seconds
        self._drained.set()

    def asked(self) -> bool:
        """Say whether nothing new is to be begun."""
        return self._drained.is_set() or self.stopped.is_set()

    def left(self) -> float:
        """Return the seconds that are left, once the run is asked to end."""
        return self._drop_at - time.monotonic() if self._drained.is_set() else 0.0

    def check(self) -> None:
        """Raise Interrupted where nothing new is to be begun."""
        if self.asked():
            raise Interrupted("stopped")


@dataclass(eq=False)
class Pending:
    """A shard that is being made, by one task or, where a worker fell silent, by several."""

    ticket: Ticket
    rows: int
    #: Task → it is known to be stuck.
    tasks: dict[Any, bool] = field(default_factory=lambda: dict[Any, bool]())
    tries: int = 0
    losses: int = 0
    #: Input rows that are written, and what they became.
    written: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter[str]())
    #: When somebody was first seen to make it.
    begun: float | None = None


class Lane:
    """What the loop knows of one stage: shards that wait, shards that are being made, the pace."""

    def __init__(self, stage: Stage, place: "Host | Cluster", root: Path) -> None:
        self.stage, self.place = stage, place
        self.source, self.target = (
            ShardFolder(root / name) for name in (stage.reads[0], stage.writes)
        )
        self.waiting: deque[int] = deque()
        #: Of the first that waits, once there was no room for it.
        self.ticket: Ticket | None = None
        #: Oldest first.
        self.pending: dict[int, Pending] = {}
        self.through = False
        self.quarantines = 0
        #: Rows that were made, the seconds that they took, and when the last shard arrived.
        self.rows, self.seconds, self.since = 0, 0.0, 0.0

    def took(self, one: Pending, now: float) -> float:
        """Return for how long a shard has been made; in order, since the one before was through."""
        begun = now if one.begun is None else one.begun
        return now - (max(self.since, begun) if self.place.in_order else begun)

    def late(self, seconds: float, now: float) -> list[int]:
        """Return the shards that will not be through in so many seconds, or are not begun.

        ``now``: by the clock of ``Pending.begun``.
        """
        late: list[int] = []
        rows, took, left = self.rows, self.seconds, 0.0
        for one in list(self.pending.values())[: int(self.place.in_order)]:
            if one.written:  # what is known of the very shard that is being written counts, too
                rows, took = rows + one.written, took + self.took(one, now)
        for number, one in self.pending.items():
            if rows and self.place.in_order:  # behind those before it
                left += (one.rows - one.written) * took / rows
            elif rows:
                left = one.rows * took / rows - self.took(one, now)
            if one.begun is None or not rows or left > seconds:
                late.append(number)
        return late


class Loop:
    """Sends, lands and puts in place the shards of stages, which hand them on to each other."""

    def __init__(
        self,
        run: RunFolder,
        settings: RunConfig,
        progress: Progress,
        ending: Ending,
        ticket: Callable[[Stage, int], Ticket | ShardRecord],
        committed: Callable[[str, ShardRecord], None],
    ) -> None:
        """Hold what the loop acts on.

        Args:
            ticket: what to send for a shard, or the record of one that is current.
            committed: called with stage and record after each shard that was put in place.
        """
        self._run, self._settings, self._progress, self._ending = run, settings, progress, ending
        self._ticket, self._committed = ticket, committed
        self._lanes: list[Lane] = []
        self._done: queue.SimpleQueue[tuple[Lane, Pending, Any]] = queue.SimpleQueue()

    def walk(self, lanes: list[Lane], total: int) -> None:
        """Make all shards of some stages, of ``total`` inputs each. Raises Interrupted."""
        self._lanes = lanes
        for lane in lanes:
            self._progress.begin(lane.stage.name, total)
            if self._before(lane) is None:
                lane.waiting.extend(lane.source.records())
        try:
            self._go_round()
        finally:
            self._progress.close()
        self._ending.check()

    def _go_round(self) -> None:
        looked = time.monotonic()
        while not self._is_over():
            with suppress(queue.Empty):
                self._land(*self._done.get(timeout=_GLANCE_SECONDS))
            if self._ending.asked():
                if self._ending.stopped.is_set() or self._ending.left() <= 0:
                    raise Interrupted("stopped")
                self._drop_late(self._ending.left())
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                for lane in self._lanes:
                    self._look(lane)

    def _before(self, lane: Lane) -> Lane | None:
        """Return the lane that hands its shards on to another, if there is one."""
        i = self._lanes.index(lane)
        chained = i > 0 and self._lanes[i - 1].stage.writes in lane.stage.reads
        return self._lanes[i - 1] if chained else None

    def _is_over(self) -> bool:
        """Send what can be sent; say whether all lanes are through, or drained."""
        for lane in self._lanes:
            while lane.waiting and not self._ending.asked() and self._send_next(lane):
                pass
            before = self._before(lane)
            more = lane.waiting or lane.pending or (before is not None and not before.through)
            if not more and not lane.through:
                lane.through = True
                self._progress.finish(lane.stage.name)
        if self._ending.asked():
            return not any(lane.pending for lane in self._lanes)
        return all(lane.through for lane in self._lanes)

    def _send_next(self, lane: Lane) -> bool:
        """Begin the next shard, or pass it on if it is current; say whether there was room."""
        number = lane.waiting[0]
        ticket = lane.ticket or self._ticket(lane.stage, number)
        if not isinstance(ticket, ShardRecord):
            lane.ticket = ticket
            if len(lane.pending) >= lane.place.room(lane.stage):
                return False
        lane.waiting.popleft()
        if isinstance(ticket, ShardRecord):
            self._progress.skip(lane.stage.name, ticket.inputs)
            self._through(lane, number)
            return True
        lane.ticket = None
        record = lane.source.record(number)
        one = lane.pending[number] = Pending(ticket, record.rows if record else 0)
        one.begun = time.monotonic() if lane.place.in_order else None
        self._send(lane, one)
        return True

    def _send(self, lane: Lane, one: Pending, quarantine: str = "") -> None:
        if quarantine and not one.ticket["quarantine"]:
            one.ticket["quarantine"] = quarantine
            shard = f"{lane.stage.name}: shard {one.ticket['shard']}"
            log.warning("%s quarantined: %s; its rows are failed(quarantined)", shard, quarantine)
        task = lane.place.submit(lane.stage, one.ticket)
        one.tasks[task] = False
        task.add_done_callback(lambda task: self._done.put((lane, one, task)))

    def _through(self, lane: Lane, number: int) -> None:
        """Hand a shard that is in place to the stage that reads it."""
        for other in self._lanes:
            if self._before(other) is lane:
                other.waiting.append(number)

    def _land(self, lane: Lane, one: Pending, task: Any) -> None:
        """Act on a task's end."""
        number, name = one.ticket["shard"], lane.stage.name
        if lane.pending.get(number) is not one:  # in place already, or dropped: it comes too late
            return
        outcome = lane.place.outcome(task)
        one.tasks.pop(task)
        for line in outcome.lines if outcome else ():
            log.warning("%s", line)
        if outcome is None or outcome.kind in ("stopped", "deadly"):
            self._lost(lane, one, outcome)
        elif outcome.kind == "made":
            self._arrived(lane, one, outcome)
        elif outcome.kind == "broken":
            self._broke(lane, one, outcome.text)
        elif outcome.kind == "lacking":
            raise lacking(f"{name}: shard {number}: {outcome.text}")
        else:
            raise outcome.error or NormpipeError(f"{name}: shard {number}: {outcome.text}")

    def _broke(self, lane: Lane, one: Pending, why: str) -> None:
        """Try a broken shard again or, after a few tries, set it aside."""
        shard = f"{lane.stage.name}: shard {one.ticket['shard']}"
        self._take_back(lane, one)
        one.tries += 1
        if one.ticket["quarantine"] or isinstance(lane.stage, JoinStage):
            raise NormpipeError(f"{shard} cannot be made: {why}")
        again = one.tries <= self._settings.retries
        log.warning("%s broke (%s)%s", shard, why, ", trying again" if again else "")
        self._send(lane, one, "" if again else f"it broke {one.tries} times ({why})")

    def _lost(self, lane: Lane, one: Pending, outcome: Outcome | None) -> None:
        """Act on a task that ended without a shard, unless another of the same is under way."""
        name, number = lane.stage.name, one.ticket["shard"]
        lane.place.look(lane.stage)
        if not all(one.tasks.values()):
            return
        self._take_back(lane, one)
        for token in self._run.made(name, number):
            # It was whole, and its maker died before it said so.
            return self._arrived(lane, one, Outcome("made", token))
        one.losses += 1
        if one.losses > _LOSSES:
            why = outcome.text if outcome else "its workers die before they begin"
            raise NormpipeError(
                f"{name}: shard {number} is lost each time it is sent ({why}): see what the "
                "workers say themselves"
            )
        dead = len(self._run.begun(name, number)) >= DEATHS
        why = f"it was begun {DEATHS} times and its worker died or fell silent" if dead else ""
        return self._send(lane, one, why)

    def _arrived(self, lane: Lane, one: Pending, outcome: Outcome) -> None:
        """Put in place what a task made."""
        name, number, now = lane.stage.name, one.ticket["shard"], time.monotonic()
        record = self._record(outcome.text)
        if (record.fingerprint, record.shard) != (one.ticket["fingerprint"], number):
            raise AssertionError(f"{name}: {outcome.text} is no shard {number} as it was asked for")
        self._run.adopt(outcome.text, record, lane.target)
        self._forget(lane, one)
        lane.rows += one.rows
        lane.seconds += lane.took(one, now) if lane.place.in_order else outcome.seconds
        lane.since = now
        if not one.written:
            self._progress.advance(name, record.inputs, record.statuses)
        self._committed(name, record)
        self._through(lane, number)
        lane.quarantines = lane.quarantines + 1 if record.quarantined else 0
        if lane.quarantines >= QUARANTINES_IN_A_ROW:
            raise NormpipeError(
                f"{name}: {lane.quarantines} shards in a row broke, the last: {record.why}: this "
                "is not about the data; mend the cause and run again with --retry-failed"
            )

    def _forget(self, lane: Lane, one: Pending) -> None:
        """Let go of a shard; whoever still makes it sees so, and stops."""
        number = one.ticket["shard"]
        del lane.pending[number]
        for task in one.tasks:
            lane.place.cancel(task)
        if one.tasks or not lane.place.in_order:  # else its only maker has said that it ended
            self._run.end(*self._run.begun(lane.stage.name, number))

    def _record(self, token: str) -> ShardRecord:
        until = time.monotonic() + _SHOW_SECONDS
        while (record := parsed(self._run.record(token) or b"")) is None:
            if time.monotonic() > until or self._ending.stopped.is_set():
                raise NormpipeError(
                    f"a worker says that it made {token}, but it is not in {self._run.path} here: "
                    "do all machines see the same folder?"
                )
            time.sleep(_GLANCE_SECONDS)
        return record

    def _look(self, lane: Lane) -> None:
        """Give shards that a silent worker has to another; say what is waited for."""
        self._notice_begun(lane)
        for number, one in list(lane.pending.items()):
            for task, known in one.tasks.items():
                if not known and (why := lane.place.stuck(task)):
                    one.tasks[task] = True
                    log.warning("%s: shard %d is taken over: %s", lane.stage.name, number, why)
            if one.tasks and all(one.tasks.values()) and lane.place.room(lane.stage):
                self._lost(lane, one, None)
        if lane.pending:
            lane.place.look(lane.stage)

    def _notice_begun(self, lane: Lane) -> None:
        """Note which of the shards that are with workers somebody makes by now."""
        if any(one.begun is None for one in lane.pending.values()):
            begun = {stage_of(token)[1] for token in self._run.begun(lane.stage.name)}
            for number in begun & lane.pending.keys():
                one = lane.pending[number]
                one.begun = time.monotonic() if one.begun is None else one.begun

    def _drop_late(self, seconds: float) -> None:
        """Once asked to end, drop what will not be through in time."""
        for lane in self._lanes:
            self._notice_begun(lane)
            for number in lane.late(seconds, time.monotonic()):
                log.info("%s: shard %d dropped: no time to finish", lane.stage.name, number)
                one = lane.pending[number]
                self._forget(lane, one)
                self._take_back(lane, one)

    def advance(self, ticket: Ticket, rows: int, statuses: Counter[str]) -> None:
        """Count input rows that a thread of this process has written."""
        lane = next(one for one in self._lanes if one.stage.name == ticket["stage"])
        one = lane.pending.get(ticket["shard"])
        if one is not None:
            one.written += rows
            one.statuses.update(statuses)
            self._progress.advance(ticket["stage"], rows, statuses)

    def _take_back(self, lane: Lane, one: Pending) -> None:
        back = Counter({status: -count for status, count in one.statuses.items()})
        if one.written:
            self._progress.advance(lane.stage.name, -one.written, back)
        one.written, one.statuses = 0, Counter()
