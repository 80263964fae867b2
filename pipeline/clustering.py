"""Map stages whose shards are made by workers in other processes.

A ``ClusterWorker`` stands where a ``MapWorker`` stands in a run of one process: it takes shard
numbers from the same feed and passes them on when they are committed.
"""

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .attempts import Attempt, InHand
from .errors import Interrupted, NormpipeError
from .feed import ShardFeed
from .leases import adopt, is_claimed
from .shard_work import DEATHS, Outcome, Ticket
from .shards import ShardFolder, ShardRecord
from .stage import MapStage
from .stage_worker import Context, StageWorker
from .workplace import Patience, Workers

log = logging.getLogger("normpipe")

#: Shards that a worker has waiting beside the one it makes.
_WAITING = 1
_GLANCE_SECONDS = 0.2
_LOOK_SECONDS = 1.0
#: Times that a task may be lost before its shard was begun.
_LOSSES = 3
#: Seconds that a network file system may take to show what another machine has committed.
_SHOW_SECONDS = 30.0


@dataclass(eq=False)
class Flight:
    """A shard that is with the workers, under one task or, where one fell silent, several."""

    attempt: Attempt
    ticket: Ticket
    #: Task → the worker it is on was silent.
    tasks: dict[Any, bool] = field(default_factory=lambda: dict[Any, bool]())
    #: The workers that may have it; none: any.
    among: set[str] = field(default_factory=lambda: set[str]())
    losses: int = 0
    begun: float | None = None


class InFlight(InHand):
    """The shards that are with workers; which will be in time, by how long others took."""

    def __init__(self, stage: str, is_begun: Callable[[int], bool]) -> None:
        """``is_begun``: says of a shard's number whether a worker works on it."""
        super().__init__(stage)
        self._is_begun = is_begun
        self._pace = 0.0
        self.flights: dict[int, Flight] = {}

    def took(self, seconds: float, rows: int) -> None:
        """Note how long a worker took for a shard of so many rows."""
        pace = seconds / max(1, rows)
        self._pace = pace if self._pace == 0 else 0.7 * self._pace + 0.3 * pace

    def notice(self, flight: Flight) -> None:
        """Note that a shard was begun, where it was."""
        if flight.begun is None and self._is_begun(flight.attempt.number):
            flight.begun = time.monotonic()

    def drop_late(self, seconds: float) -> None:
        """Drop the shards that will not be through in ``seconds``, and those not begun."""
        for flight in list(self.flights.values()):
            attempt = flight.attempt
            if attempt.error is not None:
                continue
            self.notice(flight)
            begun = flight.begun
            passed = time.monotonic() - begun if begun is not None else 0.0
            left = attempt.rows * self._pace - passed
            if begun is None or self._pace == 0 or left > seconds:
                attempt.error = Interrupted("stopped")


class ClusterWorker(StageWorker):
    """The threads of one map stage in the coordinator: one sends shards, one receives ends."""

    def __init__(
        self,
        stage: MapStage,
        folders: tuple[ShardFolder, ShardFolder],
        feeds: tuple[ShardFeed, ShardFeed | None],
        ticket: Callable[[int], Ticket | ShardRecord],
        context: Context,
        workers: Workers,
    ) -> None:
        """``ticket``: what to send for a shard, or the record of one that is current."""
        super().__init__(stage.name, feeds, context)
        self._stage = stage
        self._source, self._target = folders
        self._ticket = ticket
        self._workers = workers
        self._cluster = workers.cluster
        self._needs = stage.resources()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._all_sent = threading.Event()
        self._lock = threading.Lock()  # of the flights: one thread adds, the other does the rest
        self._looked = 0.0
        self._patience = Patience(self._cluster, stage.name, self._needs)
        self.in_hand = InFlight(stage.name, partial(is_claimed, workers.run, stage.writes))
        self._flights = self.in_hand.flights

    def _loops(self) -> tuple[Callable[[], None], ...]:
        return self._send, self._receive

    def _send(self) -> None:
        while (number := self._feed.get()) is not None:
            ticket = self._ticket(number)
            if isinstance(ticket, ShardRecord):
                self._skip(ticket)
                continue
            while not self._room() and not self._context.stop.ending:
                self._context.stop.check()
                time.sleep(_GLANCE_SECONDS / 4)
            if self._context.stop.ending:
                self._feed.done(number)
                continue
            record = self._source.record(number)
            flight = Flight(
                Attempt(number, ticket["fingerprint"], record.rows if record else 0), ticket
            )
            self._flights[number] = flight
            self._launch(flight)
        self._all_sent.set()

    def _room(self) -> bool:
        able = self._cluster.able(self._needs)
        return len(self._flights) < max(1, len(able)) * (1 + _WAITING)

    def _launch(self, flight: Flight) -> None:
        flight.among = self._cluster.awake()
        future = self._cluster.shard(
            self._workers.factory, flight.ticket, self._needs, flight.among
        )
        flight.tasks[future] = False
        self._cluster.when_done(future, self._done)

    def _receive(self) -> None:
        while not (self._all_sent.is_set() and not self._flights):
            self._context.stop.check()
            with contextlib.suppress(queue.Empty):
                future = self._done.get(timeout=_GLANCE_SECONDS)
                with self._lock:
                    self._land(future)
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._looked = time.monotonic()
                with self._lock:
                    self._look()
        self._finish()

    def _look(self) -> None:
        """Drop what comes too late, move what a silent worker has, notice a lost scheduler."""
        if self._cluster.gone():
            self._context.stop.set(Interrupted(f"{self._cluster.where} does not answer any more"))
            return
        silent, workers = self._cluster.silent(), self._cluster.workers()
        holders = self._cluster.holders()
        for number, flight in list(self._flights.items()):
            self.in_hand.notice(flight)
            if flight.attempt.error is not None:
                self._drop(flight)
                continue
            for future, was_silent in flight.tasks.items():
                if not was_silent and holders.get(future.key) in silent:
                    flight.tasks[future] = True
                    log.warning(
                        "%s: shard %d is taken over: no sign of worker %s for %g s",
                        self._stage.name,
                        number,
                        holders[future.key],
                        self._cluster.lease_seconds,
                    )
            able = self._cluster.able(self._needs) - silent
            # A silent worker has it, or whoever might have it is gone: another may.
            lost = flight.among and not flight.among & workers.keys()
            if able and (lost or all(flight.tasks.values())):
                self._launch(flight)
        if self._flights:
            self._patience.look()

    def _drop(self, flight: Flight) -> None:
        log.info("%s: shard %d dropped: no time to finish", self._stage.name, flight.attempt.number)
        self._forget(flight)
        self._feed.done(flight.attempt.number)

    def _forget(self, flight: Flight) -> None:
        self._flights.pop(flight.attempt.number, None)
        for future in flight.tasks:
            self._cluster.cancel(future)

    def _land(self, future: Any) -> None:
        flight = next((f for f in self._flights.values() if future in f.tasks), None)
        if flight is None:  # of a shard that is through, or was dropped
            return
        outcome = self._cluster.outcome(future)
        flight.tasks.pop(future)
        if outcome is None or outcome.kind == "lost":
            self._lost(flight, outcome.text if outcome else "its workers die before they begin")
            return
        for line in outcome.lines:
            log.warning("%s", line)
        number = flight.attempt.number
        if outcome.kind == "refused":
            raise NormpipeError(outcome.text)
        if outcome.kind not in ("made", "current"):
            raise NormpipeError(f"{self._stage.name}: shard {number}: {outcome.text}")
        self._arrived(flight, outcome)

    def _lost(self, flight: Flight, why: str) -> None:
        """Send a shard again whose task ended without an outcome, unless another is under way."""
        if self._cluster.gone():
            self._context.stop.set(Interrupted(f"{self._cluster.where} does not answer any more"))
            return
        if not all(flight.tasks.values()):
            return
        flight.losses += 1
        if flight.losses > _LOSSES * (1 + DEATHS):
            raise NormpipeError(
                f"{self._stage.name}: shard {flight.attempt.number} is lost each time it is sent "
                f"({why}): see what the workers say themselves"
            )
        self._launch(flight)

    def _arrived(self, flight: Flight, outcome: Outcome) -> None:
        number = flight.attempt.number
        if outcome.kind == "made" and outcome.text:
            adopt(self._workers.run, outcome.text, self._target, number)
        record = self._record(flight.ticket)
        self._forget(flight)
        self.in_hand.took(outcome.seconds, record.inputs)
        self._context.progress.advance(self._stage.name, record.inputs, Counter(record.statuses))
        self._context.committed(self._stage.name, record)
        self._through(number)
        why = outcome.lines[-1] if outcome.lines else "no word"
        if record.quarantined and outcome.kind == "current":  # made by a task that never answered
            log.warning(
                "%s: shard %d quarantined: its rows are failed(quarantined); the worker that knows "
                "why died before it could say so",
                self._stage.name,
                number,
            )
        self._count_quarantine(record.quarantined, why)

    def _record(self, ticket: Ticket) -> ShardRecord:
        """Return the record that a worker has written."""
        until = time.monotonic() + _SHOW_SECONDS
        while time.monotonic() < until:
            record = self._target.record(ticket["shard"])
            if record is not None and record.fingerprint == ticket["fingerprint"]:
                return record
            self._context.stop.check()
            time.sleep(_GLANCE_SECONDS)
        raise NormpipeError(
            f"{self._stage.name}: a worker says that it committed shard {ticket['shard']}, but it "
            f"is not in {self._target.path} here: do all machines see the same folder?"
        )
