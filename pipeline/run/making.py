"""Make one shard: read its inputs, run a stage over them, write it under a name of its own.

One thread reads the shard and submits its batches: a pool prepares the rows, the stage's one
compute thread runs the network batch by batch, the pool finishes the rows, and the first thread
writes them in order. The next shard of the stage is read ahead as soon as this one has been read,
within the same budget of batches, and written as soon as this one is complete, so the pipeline does
not drain between shards. The plan fixes order and batches, so timing never changes a byte.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple, TypedDict

import pyarrow as pa

from ...manifests.vocabularies import SampleError
from ..errors import (
    Interrupted,
    NormpipeError,
    OutputError,
    breaks_cuda_context,
    missing_resource,
    one_line,
)
from ..stage import JoinStage, MapStage, Row, Stage
from ..store.shards import ShardFolder, ShardWriter
from ..store.storage import parquet_file, store_errors
from .retrying import Kept, SettledRows
from .tries import RunFolder, RunOver

log = logging.getLogger("normpipe")

#: A shard that was started this many times without finishing is not retried.
MAX_DEATHS = 3
#: Seconds between checks whether an attempt is still wanted, and whether the shard before is done.
_CHECK_SECONDS, _POLL_SECONDS = 1.0, 0.01


class ShardTask(TypedDict):
    """Which shard to make. References only."""

    stage: str
    shard: int
    fingerprint: str
    #: Keep the rows of the committed shard that did not fail.
    keep_settled: bool
    #: Why all its rows become ``failed(quarantined)``; empty: run the stage.
    quarantine: str


Advance = Callable[[ShardTask, int, Counter[str]], None]


class TaskOutcome(NamedTuple):
    """The result of a task.

    Attributes:
        kind: ``made``; ``failed``: this attempt failed; ``shortage``: the machine is out of memory,
            threads or files; ``too_many_deaths``: started ``MAX_DEATHS`` times without finishing;
            ``stopped``; ``refused``: the user must act; ``description``: of a stage.
        text: why; for ``made``, the token.
        seconds: from the first row computed to the last one written.
        warnings: log lines of the worker.
        error: for ``refused``.
    """

    kind: Literal[
        "made", "failed", "shortage", "too_many_deaths", "stopped", "refused", "description"
    ]
    text: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: NormpipeError | None = None


# ---------------------------------------------------------------- rows


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


def prepare_row(stage: MapStage, row: Row, kept: Kept | None = None) -> Any:
    """Return the prepared item, or what settles the row: SampleError, ``kept``, None: passed on."""
    if row["status"] != "ok":
        return None
    if kept is not None:
        return kept
    try:
        return stage.prepare(row)
    except SampleError as error:
        return error


def finish_row(stage: MapStage, row: Row, item: Any, result: Any) -> list[Row]:
    """Return the output rows of one input row, whether or not it could be processed."""
    if item is None:
        return [stage.pass_through(row)]
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
    """Return a result for each item; None for items that are already settled."""
    live = [i for i, item in enumerate(items) if not isinstance(item, SampleError | Kept | None)]
    results: list[Any] = [None] * len(items)
    if not live:
        return results
    if stage.keeps_positions:
        alive = {*live}
        outputs = stage.compute([item if i in alive else None for i, item in enumerate(items)])
        return [output if i in alive else None for i, output in enumerate(outputs)]
    for i, output in zip(live, stage.compute([items[i] for i in live]), strict=True):
        results[i] = output
    return results


def relate(
    stage: MapStage, rows: list[Row], items: list[Any], memory: dict[str, Any]
) -> Sequence[Any]:
    """Return the results of a batch, each of which may depend on those before it in its shard."""
    settled = [item.rows if isinstance(item, Kept) else None for item in items]
    return stage.relate(rows, compute(stage, items), settled, memory)


def process(stage: MapStage, rows: list[Row]) -> list[Row]:
    """Run one batch in the calling thread, for tests and warm-up."""
    stage.expect([row for row in rows if row["status"] == "ok"])
    items = [prepare_row(stage, row) for row in rows]
    results = relate(stage, rows, items, {})
    return [
        out
        for row, item, result in zip(rows, items, results, strict=True)
        for out in finish_row(stage, row, item, result)
    ]


# ---------------------------------------------------------------- shards


class StagePipeline:
    """What a stage's shards share in a process: compute thread, batch budget, and locks."""

    def __init__(self, run: RunFolder, pool: Executor, prefetch: int, advance: Advance) -> None:
        """``advance`` is called with the number of input rows written and their rows' statuses."""
        self.run, self.pool, self.advance = run, pool, advance
        self.stopped = threading.Event()
        #: Held by the shard that reads, and by the one that writes. A shard that waits to write has
        #: read as far ahead as the budget allows.
        self.reading, self.writing = threading.Lock(), threading.Lock()
        #: Batches in flight: one in the network, one being written, ``prefetch`` others.
        self.budget = threading.Semaphore(prefetch + 2)
        self.computer = ThreadPoolExecutor(1, "compute")


def make_shard(
    stage: Stage, inputs: Sequence[ShardFolder], task: ShardTask, pipeline: StagePipeline
) -> TaskOutcome:
    """Make one shard of an open stage, under a token of its own. Raises nothing."""
    run, number, token = pipeline.run, task["shard"], ""
    try:
        # Dask may resubmit a dead worker's task without telling the coordinator.
        if not task["quarantine"] and len(run.active(stage.name, number)) >= MAX_DEATHS:
            return TaskOutcome("too_many_deaths")
        token = run.begin(stage.name, number)
        one = _Attempt(stage, inputs, task, pipeline, token)
        one.join() if isinstance(stage, JoinStage) else one.map()
        return TaskOutcome("made", token, time.monotonic() - one.started)
    except (Interrupted, RunOver) as error:
        return TaskOutcome("stopped", str(error))
    except Exception as error:  # whatever a stage raises becomes the outcome of this attempt
        log.debug("%s: shard %d", stage.name, number, exc_info=True)
        text = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
        if isinstance(error, FileNotFoundError) and not run.is_active(token):
            return TaskOutcome("stopped", "the run is over")
        if isinstance(error, NormpipeError):
            return TaskOutcome("refused", str(error), error=error)
        if shortage := missing_resource(error):
            return TaskOutcome("shortage", f"{shortage} ({text})")
        if breaks_cuda_context(error):
            return _broken_gpu(stage.name, text)
        return TaskOutcome("failed", text)
    finally:
        if token:
            run.end(token)


def _broken_gpu(stage: str, text: str) -> TaskOutcome:
    message = f"{stage}: {text}: this process can no longer use its GPU; run the same command again"
    return TaskOutcome("refused", message, error=NormpipeError(message))


class _Batch(NamedTuple):
    """Rows in flight: their prepared items, and the future output rows of each."""

    rows: list[Row]
    prepared: list[Future[Any]]
    finished: Future[list[Future[list[Row]]]]


class _Attempt:
    """One attempt to make one shard."""

    def __init__(
        self,
        stage: Any,
        inputs: Sequence[ShardFolder],
        task: ShardTask,
        pipeline: StagePipeline,
        token: str,
    ) -> None:
        self._stage, self._inputs, self._task, self._pipeline = stage, inputs, task, pipeline
        self._run, self._token = pipeline.run, token
        self._number, self._quarantine = task["shard"], task["quarantine"]
        self._target = ShardFolder(self._run.root / stage.writes)
        self._keys: set[str] = set()
        #: What the stage remembers from batch to batch.
        self._memory: dict[str, Any] = {}
        #: Batches in flight, oldest first.
        self._ahead: deque[_Batch] = deque()
        self.started = self._checked_at = time.monotonic()

    def map(self) -> None:
        """Run a map stage over the shard."""
        pipeline, batches = self._pipeline, self._batches()
        with ExitStack() as reading, ExitStack() as writing:
            reading.enter_context(pipeline.reading)
            writing.callback(self._release_budget)
            more = self._read_ahead(batches)
            # As the shard before releases budget, this one reads further ahead.
            while not pipeline.writing.acquire(timeout=_POLL_SECONDS):
                self._check()
                more = more and self._read_ahead(batches)
            writing.callback(pipeline.writing.release)
            if not more:
                reading.close()
            self.started = time.monotonic()
            writer = writing.enter_context(self._writer())
            while self._ahead:
                self._check()
                self._write(writer)
                more = more and self._read_ahead(batches)
                if not more:
                    reading.close()
            self._finish(writer, self._keys)

    def _write(self, writer: ShardWriter) -> None:
        """Write the oldest batch in flight."""
        out = [row for made in self._ahead[0].finished.result() for row in made.result()]
        writer.add(out)
        rows = len(self._ahead.popleft().rows)
        self._pipeline.budget.release()
        self._pipeline.advance(self._task, rows, Counter(row["status"] for row in out))

    def _read_ahead(self, batches: Iterator[list[Row]]) -> bool:
        """Submit as many batches as the budget allows; return whether any are left."""
        # Wait for budget only with no batch in flight; otherwise write those first.
        while self._pipeline.budget.acquire(blocking=not self._ahead):
            try:
                self._check()
                rows = next(batches, None)
                if rows is not None:
                    self._ahead.append(self._submit_batch(rows))
                    continue
            except BaseException:  # release the budget, whatever ends this
                self._pipeline.budget.release()
                raise
            self._pipeline.budget.release()
            return False
        return True

    def _submit_batch(self, rows: list[Row]) -> _Batch:
        submit, stage = self._pipeline.pool.submit, self._stage
        kept = [self._settled.of(row) if self._settled else None for row in rows]
        if self._quarantine:
            broken = SampleError("quarantined")
            items = [
                (one or broken) if row["status"] == "ok" else None
                for row, one in zip(rows, kept, strict=True)
            ]
            nothing = [None] * len(rows)
            made = self._pipeline.computer.submit(self._finish_batch, rows, items, nothing)
            return _Batch(rows, [], made)
        pairs = list(zip(rows, kept, strict=True))
        stage.expect([row for row, one in pairs if one is None and row["status"] == "ok"])
        futures = [submit(prepare_row, stage, *pair) for pair in pairs]
        return _Batch(
            rows, futures, self._pipeline.computer.submit(self._compute_batch, rows, futures)
        )

    def _compute_batch(
        self, rows: list[Row], futures: list[Future[Any]]
    ) -> list[Future[list[Row]]]:
        items = [future.result() for future in futures]
        futures.clear()  # prepared images are large, and the batch is kept until it is written
        return self._finish_batch(rows, items, relate(self._stage, rows, items, self._memory))

    def _finish_batch(self, *columns: Sequence[Any]) -> list[Future[list[Row]]]:
        submit, stage = self._pipeline.pool.submit, self._stage
        return [submit(finish_row, stage, *row) for row in zip(*columns, strict=True)]

    def _batches(self) -> Iterator[list[Row]]:
        # A shard that an earlier run had only half put in place proves nothing.
        keep_settled = self._task["keep_settled"] and self._target.record(self._number) is not None
        shard = self._target.shard(self._number)
        self._settled = SettledRows(shard, self._stage.name) if keep_settled else None
        for rows in read_batches(self._inputs[0], self._number, self._stage.batch_size):
            self._keys.update(row["parent_key"] for row in rows)
            yield rows

    def _release_budget(self) -> None:
        """Release the budget of batches that are given up, once no thread works on them."""
        for batch in self._ahead:
            for future in (batch.finished, *batch.prepared):
                future.cancel()
        for batch in self._ahead:
            wait([batch.finished, *batch.prepared])
            if not batch.finished.cancelled() and batch.finished.exception() is None:
                wait(batch.finished.result())
            self._pipeline.budget.release()

    def _check(self) -> None:
        if self._pipeline.stopped.is_set():
            raise Interrupted("stopped")
        if time.monotonic() - self._checked_at >= _CHECK_SECONDS:
            self._checked_at = time.monotonic()
            if not self._run.is_active(self._token):
                raise RunOver("the shard was taken over, or dropped")

    def _writer(self) -> ShardWriter:
        written = self._run.shard(self._token)
        return ShardWriter(self._target, self._number, self._stage.schema, written)

    def _finish(self, writer: ShardWriter, keys: set[str] | None) -> None:
        record = writer.finish(self._task["fingerprint"], keys, self._quarantine or None)
        self._run.finish(self._token, record)

    def join(self) -> None:
        """Run a join stage over the shard."""
        inputs = [self._table(folder) for folder in self._inputs]
        with self._pipeline.writing, self._writer() as writer:
            for table in self._stage.join(self._number, inputs):
                self._check()
                writer.add_table(table)
            self._finish(writer, None)

    def _table(self, folder: ShardFolder) -> pa.Table:
        """Return the wanted columns of a shard; a missing shard (a partial dataset) has no rows."""
        wanted = None if self._stage.columns is None else list(self._stage.columns)
        if folder.record(self._number) is not None:
            return folder.read(self._number, wanted)
        template = next(iter(folder.records()), None)
        if template is None:
            raise OutputError(
                f"{self._stage.name} reads {folder.path}, which has no finished shard: run that "
                "variant first"
            )
        return folder.read(template, wanted).slice(0, 0)
