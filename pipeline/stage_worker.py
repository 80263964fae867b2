"""What the threads of a stage have in common, whether the work is done here or by workers."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from .errors import Interrupted, NormpipeError
from .feed import ShardFeed, Stop
from .progress import Progress
from .shards import ShardRecord

#: Shards of one stage that may be quarantined in a row before the job stops: then it is no shard's
#: fault.
QUARANTINES_IN_A_ROW = 3


#: Gives the fingerprint of a shard to make, or the record of one that is committed and current.
Wanted = Callable[[int], str | ShardRecord]


@dataclass
class Context:
    """What the workers of one job share."""

    stop: Stop
    pool: Executor
    progress: Progress
    prefetch: int
    retries: int
    #: Called with stage name and record after every commit, e.g. to watch the rejected share.
    committed: Callable[[str, ShardRecord], None]


class StageWorker:
    """Takes shard numbers from a feed and, once they are committed, puts them into the next one."""

    def __init__(
        self, name: str, feeds: tuple[ShardFeed, ShardFeed | None], context: Context
    ) -> None:
        """``name``: of the stage; ``feeds``: its own and that of the stage behind it, if any."""
        self._name = name
        self._feed, self._next = feeds
        self._context = context
        self._quarantines = 0

    def _loops(self) -> tuple[Callable[[], None], ...]:
        """Return what runs in a thread each."""
        raise NotImplementedError

    def start(self) -> list[threading.Thread]:
        """Start and return the threads; they end when the feed does, or with the job's stop."""
        threads = [
            threading.Thread(
                target=guarded,
                args=(loop, self._context.stop),
                name=f"{self._name}-{loop.__name__}",
            )
            for loop in self._loops()
        ]
        for thread in threads:
            thread.start()
        return threads

    def _skip(self, record: ShardRecord) -> None:
        """Pass a shard on that is committed and current."""
        self._context.progress.skip(self._name, record.inputs)
        self._through(record.shard)

    def _through(self, number: int) -> None:
        """Say that a shard is committed."""
        if self._next is not None:
            self._next.put(number)
        self._feed.done(number)

    def _finish(self) -> None:
        """Say that no shard follows."""
        if self._next is not None:
            self._next.close()
        if not self._context.stop.ending:
            self._context.progress.finish(self._name)

    def _count_quarantine(self, quarantined: bool, why: str) -> None:
        """Raise where too many shards in a row were quarantined. ``why``: of the last."""
        self._quarantines = self._quarantines + 1 if quarantined else 0
        if self._quarantines >= QUARANTINES_IN_A_ROW:
            raise NormpipeError(
                f"{self._name}: {self._quarantines} shards in a row broke, the last: {why}: this "
                "is not about the data; mend the cause and run again with --retry-failed"
            )


def guarded(loop: Callable[[], None], stop: Stop) -> None:
    """Run a thread's loop; an error stops the whole job and is raised in the main thread."""
    try:
        loop()
    except Interrupted:
        pass
    except BaseException as error:
        stop.set(error)
