"""Tries at shards: those in hand, how fast they go, and which will be through in time."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import Interrupted

log = logging.getLogger("normpipe")


@dataclass(eq=False)
class Attempt:
    """One try at one shard of ``rows`` inputs, ``inputs`` of which are written."""

    number: int
    fingerprint: str
    rows: int = 0
    keys: set[str] = field(default_factory=lambda: set[str]())
    error: Exception | None = None
    inputs: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter[str]())


class InHand:
    """The shards that a worker has begun and not ended, oldest first, and its rate."""

    def __init__(self, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds; replaced in tests."""
        self._stage = stage
        self._clock = clock
        self._lock = threading.Lock()  # one thread begins, another ends, a third asks
        self._attempts: list[Attempt] = []
        self._rows = 0
        self._busy = self._since = 0.0

    def begin(self, attempt: Attempt) -> None:
        """Take a shard into hand."""
        with self._lock:
            if not self._attempts:
                self._since = self._clock()
            self._attempts.append(attempt)

    def advance(self, rows: int) -> None:
        """Count rows that are through."""
        self._rows += rows

    def end(self, attempt: Attempt) -> None:
        """Give a shard out of hand, whatever became of it."""
        with self._lock:
            self._attempts.remove(attempt)
            if not self._attempts:
                self._busy += self._clock() - self._since

    def rate(self) -> float:
        """Return rows a second, over the time in which there was something in hand."""
        with self._lock:
            busy = self._busy + (self._clock() - self._since if self._attempts else 0.0)
        return self._rows / busy if busy > 0 else 0.0

    def drop_late(self, seconds: float) -> None:
        """Drop the shards that will not be through in ``seconds``; all where no rate is known."""
        rate, left = self.rate(), 0
        with self._lock:
            attempts = list(self._attempts)
        for attempt in attempts:
            left += attempt.rows - attempt.inputs
            if attempt.error is None and (rate <= 0 or left / rate > seconds):
                attempt.error = Interrupted("stopped")
                why = "no time to finish" if rate > 0 else "just begun, its rate is not known"
                log.info("%s: shard %d dropped: %s", self._stage, attempt.number, why)
