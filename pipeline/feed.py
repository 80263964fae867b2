"""Queues between threads that can be stopped: shard numbers between stages, batches within one."""

import queue
import threading
from collections import deque
from typing import Generic, TypeVar

from .errors import Interrupted

Item = TypeVar("Item")
#: Seconds between looks at the stop signal while a thread waits.
_GLANCE = 0.1


class Stop:
    """One signal for all threads of a job, with the error that raised it, if any."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def set(self, error: BaseException | None = None) -> None:
        """Ask every thread to stop; the first error is kept."""
        with self._lock:
            if self.error is None:
                self.error = error
        self._event.set()

    def is_set(self) -> bool:
        """Say whether the job is to stop."""
        return self._event.is_set()

    def end(self) -> None:
        """Ask that nothing new be begun; what is in hand may be finished."""
        self._ending.set()

    @property
    def ending(self) -> bool:
        """Return whether nothing new is to be begun."""
        return self._ending.is_set() or self._event.is_set()

    def check(self) -> None:
        """Raise Interrupted where the job is to stop."""
        if self._event.is_set():
            raise Interrupted("stopped")

    def check_new(self) -> None:
        """Raise Interrupted where nothing new is to be begun."""
        if self.ending:
            raise Interrupted("stopped")


class Channel(Generic[Item]):
    """A bounded queue whose both ends give up when the job stops."""

    def __init__(self, size: int, stop: Stop) -> None:
        self._queue: queue.Queue[Item] = queue.Queue(size)
        self._stop = stop

    def put(self, item: Item) -> None:
        """Append, waiting for room. Raises Interrupted."""
        while True:
            self._stop.check()
            try:
                return self._queue.put(item, timeout=_GLANCE)
            except queue.Full:
                continue

    def get(self) -> Item:
        """Take the oldest, waiting for one. Raises Interrupted."""
        while True:
            self._stop.check()
            try:
                return self._queue.get(timeout=_GLANCE)
            except queue.Empty:
                continue


class ShardFeed:
    """Shard numbers on their way into a stage; a broken one may come back for another try."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._waiting: deque[int] = deque()
        self._in_hand = 0
        self._closed = False
        self._condition = threading.Condition()

    def put(self, number: int) -> None:
        """Append a shard that is ready to be read."""
        with self._condition:
            self._waiting.append(number)
            self._condition.notify_all()

    def close(self) -> None:
        """Say that no further shard will come from the stage before."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def get(self) -> int | None:
        """Take a shard into hand; None when all are through or none is to be begun.

        Raises Interrupted.
        """
        with self._condition:
            while True:
                self._stop.check()
                if self._stop.ending:
                    return None
                if self._waiting:
                    self._in_hand += 1
                    return self._waiting.popleft()
                if self._closed and self._in_hand == 0:
                    return None
                self._condition.wait(_GLANCE)

    def done(self, number: int, again: bool = False) -> None:
        """Give a shard out of hand: through, or to be tried ``again``."""
        with self._condition:
            self._in_hand -= 1
            if again:
                self._waiting.append(number)
            self._condition.notify_all()
