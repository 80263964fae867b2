"""Runs a map stage over shards: read and prepare, compute, finish and write, all at once.

Three threads and a pool, joined by bounded queues: the reader cuts batches and hands rows to the
pool, the computer runs the network batch by batch, the writer collects rows in order and commits.
Order and batches are the plan's, so timing never changes a byte.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

from .attempts import Attempt, InHand
from .errors import Interrupted, NormpipeError, SampleError
from .feed import Channel, ShardFeed
from .retrying import Kept, SettledRows
from .shards import ShardFolder, ShardWriter
from .stage import MapStage, Row
from .stage_worker import Context, StageWorker, Wanted
from .storage import parquet_file, store_errors

log = logging.getLogger("normpipe")


class Batch(NamedTuple):
    """Rows of one batch and what the pool or the network is making of them; None ends a try."""

    attempt: Attempt
    rows: list[Row] | None
    futures: list[Future[Any]]


def read_batches(folder: ShardFolder, number: int, size: int) -> Iterator[list[Row]]:
    """Yield a shard's rows in batches of ``size``, a row group in memory at a time."""
    rest: list[Row] = []
    path = folder.shard(number)
    with parquet_file(path) as file:
        for group in range(file.num_row_groups):
            with store_errors(path):
                rest += file.read_row_group(group).to_pylist()
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
    if rest:
        yield rest


def prepare(stage: MapStage, row: Row, kept: Kept | None = None) -> Any:
    """Return the prepared item, or what decides the row: SampleError, ``kept``, None: passed on."""
    if row["status"] != "ok":
        return None
    if kept is not None:
        return kept
    try:
        return stage.prepare(row)
    except SampleError as error:
        return error


def finish(stage: MapStage, row: Row, item: Any, result: Any) -> list[Row]:
    """Return the output rows of one input row, whatever became of it."""
    if item is None:
        return [stage.pass_on(row)]
    if isinstance(item, Kept):
        return item.rows
    if not isinstance(item, SampleError):
        try:
            return stage.finish_row(row, item, result)
        except SampleError as error:
            item = error
    if item.detail:
        log.debug("%s: %s: %s (%s)", stage.name, row["key"], item.reason, item.detail)
    return [stage.refuse(row, item.reason)]


def compute(stage: MapStage, items: list[Any]) -> list[Any]:
    """Return a result for each item; those that were decided already get None."""
    live = [i for i, item in enumerate(items) if not isinstance(item, SampleError | Kept | None)]
    results: list[Any] = [None] * len(items)
    if not live:
        return results
    if stage.keeps_places:
        alive = {*live}
        outputs = stage.compute([item if i in alive else None for i, item in enumerate(items)])
        return [output if i in alive else None for i, output in enumerate(outputs)]
    for i, output in zip(live, stage.compute([items[i] for i in live]), strict=True):
        results[i] = output
    return results


def process(stage: MapStage, rows: list[Row]) -> list[Row]:
    """Run one batch in the calling thread: the contract in one line, for tests and warm-up."""
    items = [prepare(stage, row) for row in rows]
    results = compute(stage, items)
    return [
        out
        for row, item, result in zip(rows, items, results, strict=True)
        for out in finish(stage, row, item, result)
    ]


class MapWorker(StageWorker):
    """The threads of one map stage."""

    def __init__(
        self,
        stage: MapStage,
        folders: tuple[ShardFolder, ShardFolder],
        feeds: tuple[ShardFeed, ShardFeed | None],
        wanted: Wanted,
        settled: Callable[[int], SettledRows | None],
        context: Context,
    ) -> None:
        """Hold what the threads need; ``start`` starts them.

        ``settled`` gives what a retry keeps of a shard.
        """
        super().__init__(stage.name, feeds, context)
        self._stage = stage
        self._source, self._target = folders
        self._wanted = wanted
        self._settled = settled
        self._tries: Counter[int] = Counter()
        self.in_hand = InHand(stage.name)
        self._ready: Channel[Batch | None] = Channel(context.prefetch, context.stop)
        self._made: Channel[Batch | None] = Channel(context.prefetch, context.stop)

    def _loops(self) -> tuple[Callable[[], None], ...]:
        return self._read, self._compute, self._write

    def quarantine(self, number: int, fingerprint: str) -> None:
        """Commit a shard as quarantined, in the calling thread, without working on it."""
        self._feed.put(number)
        self._feed.get()
        self._quarantine(Attempt(number, fingerprint))

    def _read(self) -> None:
        while (number := self._feed.get()) is not None:
            wanted = self._wanted(number)
            if not isinstance(wanted, str):
                self._skip(wanted)
                continue
            record = self._source.record(number)
            attempt = Attempt(number, wanted, record.rows if record else 0)
            self.in_hand.begin(attempt)
            self._read_shard(attempt)
        self._ready.put(None)

    def _read_shard(self, attempt: Attempt) -> None:
        try:
            settled = self._settled(attempt.number)
            for rows in read_batches(self._source, attempt.number, self._stage.batch_size):
                if attempt.error is not None:
                    break
                attempt.keys.update(row["parent_key"] for row in rows)
                pool = self._context.pool
                kept = [settled.of(row) if settled else None for row in rows]
                futures = [
                    pool.submit(prepare, self._stage, row, one)
                    for row, one in zip(rows, kept, strict=True)
                ]
                self._ready.put(Batch(attempt, rows, futures))
        except Interrupted:
            raise
        except Exception as error:
            attempt.error = error
        self._ready.put(Batch(attempt, None, []))

    def _compute(self) -> None:
        while (batch := self._ready.get()) is not None:
            rows, attempt = batch.rows, batch.attempt
            if rows is None or attempt.error is not None:
                self._made.put(batch._replace(futures=[]))
                continue
            try:
                items = [future.result() for future in batch.futures]
                results = compute(self._stage, items)
                pool = self._context.pool
                futures = [
                    pool.submit(finish, self._stage, row, item, result)
                    for row, item, result in zip(rows, items, results, strict=True)
                ]
            except Exception as error:
                attempt.error, futures = error, []
            self._made.put(Batch(attempt, rows, futures))
        self._made.put(None)

    def _write(self) -> None:
        writer: ShardWriter | None = None
        try:
            while (batch := self._made.get()) is not None:
                attempt = batch.attempt
                if writer is None:
                    writer = ShardWriter(self._target, attempt.number, self._stage.schema)
                if attempt.error is None and batch.rows is not None:
                    self._add(writer, batch)
                if batch.rows is None:
                    self._end(writer, attempt)
                    self.in_hand.end(attempt)
                    writer = None
        finally:
            if writer is not None:
                writer.drop()
        self._finish()

    def _add(self, writer: ShardWriter, batch: Batch) -> None:
        attempt = batch.attempt
        try:
            rows = [row for future in batch.futures for row in future.result()]
            writer.add(rows)
        except NormpipeError:
            raise
        except Exception as error:
            attempt.error = error
            return
        statuses = Counter(row["status"] for row in rows)
        attempt.statuses.update(statuses)
        attempt.inputs += len(batch.rows or [])
        self.in_hand.advance(len(batch.rows or []))
        self._context.progress.advance(self._stage.name, len(batch.rows or []), statuses)

    def _end(self, writer: ShardWriter, attempt: Attempt) -> None:
        """Commit a shard, or try it again, or quarantine it."""
        number, error = attempt.number, attempt.error
        if error is None:
            self._count_quarantine(False, "")
            self._commit(writer, attempt, quarantined=False)
            return
        writer.drop()
        takeback = Counter({status: -count for status, count in attempt.statuses.items()})
        self._context.progress.advance(self._stage.name, -attempt.inputs, takeback)
        if isinstance(error, Interrupted):  # it would not have been through in time
            self._feed.done(number)
            return
        if isinstance(error, NormpipeError) or is_fatal(error):
            raise error
        self._tries[number] += 1
        again = self._tries[number] <= self._context.retries
        log.warning(
            "%s: shard %d broke (%s: %s), %s",
            self._stage.name,
            number,
            type(error).__name__,
            one_line(error),
            "trying again" if again else "quarantined: its rows are failed(quarantined)",
        )
        if again:
            self._feed.done(number, again=True)
            return
        self._count_quarantine(True, f"{type(error).__name__}: {one_line(error)}")
        self._quarantine(attempt)

    def _quarantine(self, attempt: Attempt) -> None:
        """Commit a shard whose rows are ``failed(quarantined)``."""
        attempt.keys = set()
        settled, broken = self._settled(attempt.number), SampleError("quarantined")
        with ShardWriter(self._target, attempt.number, self._stage.schema) as writer:
            for rows in read_batches(self._source, attempt.number, self._stage.batch_size):
                attempt.keys.update(row["parent_key"] for row in rows)
                kept = [settled.of(row) if settled else None for row in rows]
                out = [
                    made
                    for row, one in zip(rows, kept, strict=True)
                    for made in finish(
                        self._stage, row, (one or broken) if row["status"] == "ok" else None, None
                    )
                ]
                writer.add(out)
                statuses = Counter(row["status"] for row in out)
                self._context.progress.advance(self._stage.name, len(rows), statuses)
            self._commit(writer, attempt, quarantined=True)

    def _commit(self, writer: ShardWriter, attempt: Attempt, quarantined: bool) -> None:
        record = writer.commit(attempt.fingerprint, attempt.keys, quarantined)
        self._context.committed(self._stage.name, record)
        self._through(attempt.number)


def one_line(error: BaseException) -> str:
    """Return an error's message as one short line."""
    return " ".join(str(error).split())[:300]


def is_fatal(error: BaseException) -> bool:
    """Say whether an error makes every further try in this process pointless.

    A failed CUDA kernel leaves the process's CUDA context unusable; out-of-memory does not.
    """
    text = str(error)
    return isinstance(error, RuntimeError) and "CUDA error" in text and "out of memory" not in text
