"""Runs a join stage, shard by shard, in one thread."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from .errors import OutputError
from .feed import ShardFeed
from .shards import ShardFolder, ShardWriter
from .stage import JoinStage
from .stage_worker import Context, StageWorker, Wanted

log = logging.getLogger("normpipe")


class JoinWorker(StageWorker):
    """The thread of one join stage."""

    def __init__(
        self,
        stage: JoinStage,
        root: Path,
        feed: ShardFeed,
        wanted: Wanted,
        context: Context,
    ) -> None:
        super().__init__(stage.name, (feed, None), context)
        self._stage = stage
        self._root = root
        self._wanted = wanted

    def _loops(self) -> tuple[Callable[[], None], ...]:
        return (self._run,)

    def _run(self) -> None:
        target = ShardFolder(self._root / self._stage.writes)
        while (number := self._feed.get()) is not None:
            wanted = self._wanted(number)
            if not isinstance(wanted, str):
                self._skip(wanted)
                continue
            self._join(target, number, wanted)
            self._through(number)
        self._finish()

    def _join(self, target: ShardFolder, number: int, wanted: str) -> None:
        inputs = [self._input(name, number) for name in self._stage.reads]
        with ShardWriter(target, number, self._stage.schema) as writer:
            for table in self._stage.join(number, inputs):
                self._context.stop.check()
                writer.add_table(table)
            record = writer.commit(wanted, None)
        self._context.progress.advance(self._stage.name, record.inputs, Counter(record.statuses))
        self._context.committed(self._stage.name, record)

    def _input(self, name: str, number: int) -> pa.Table:
        """Return a shard's wanted columns; an absent shard (a partial variant) has no rows."""
        folder = ShardFolder(self._root / name)
        columns = self._stage.columns
        if folder.record(number) is not None:
            return folder.read(number, None if columns is None else list(columns))
        template = next(iter(folder.records()), None)
        if template is None:
            raise OutputError(
                f"pair reads {folder.path}, which has no finished shard: run that variant first"
            )
        return folder.read(template, None if columns is None else list(columns)).slice(0, 0)
