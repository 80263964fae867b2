"""Makes one shard: reads its inputs, runs a stage over them, and writes it where nobody else does.

One thread reads the shard and hands batches on: rows are prepared in a pool, the stage's one thread
for its network computes batch by batch, rows are finished in the pool; and the same thread writes
them in order. The next shard of the stage is read ahead as soon as this one is read, within the
same budget of batches, and written as soon as this one is whole: no border between shards drains
what is on the way. Order and batches are the plan's, so timing never changes a byte.
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
from ..errors import Interrupted, NormpipeError, OutputError, lack_of, one_line, spoils_process
from ..stage import JoinStage, MapStage, Row, Stage
from ..store.shards import ShardFolder, ShardWriter
from ..store.storage import parquet_file, store_errors
from .retrying import Kept, SettledRows
from .tries import RunFolder, RunOver

log = logging.getLogger("normpipe")

#: A shard that was begun so often without a word of its end is not tried again.
DEATHS = 3
#: Seconds between looks at whether a try still counts, and at the shard before.
_LOOK_SECONDS, _GLANCE_SECONDS = 1.0, 0.01


class Ticket(TypedDict):
    """A task: which shard is to be made. References only."""

    stage: str
    shard: int
    fingerprint: str
    #: Rows that the shard in place holds and that did not fail are kept.
    mends: bool
    #: Why its rows become ``failed(quarantined)``; empty: the stage runs.
    quarantine: str


Advance = Callable[[Ticket, int, Counter[str]], None]


class Outcome(NamedTuple):
    """What became of a task.

    Attributes:
        kind: ``made``; ``broken``: this try failed; ``lacking``: the machine lacks something;
            ``deadly``: begun too often; ``stopped``; ``refused``: the user must act; of another
            task, ``description``.
        text: why; of ``made``, the token.
        seconds: from the first row computed to the last one written.
        lines: the worker's warnings.
        error: of ``refused``.
    """

    kind: Literal["made", "broken", "lacking", "deadly", "stopped", "refused", "description"]
    text: str = ""
    seconds: float = 0.0
    lines: tuple[str, ...] = ()
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


# ---------------------------------------------------------------- shards


class Line:
    """What the shards of one stage share in a process: its thread, its budget, and their turns."""

    def __init__(self, run: RunFolder, pool: Executor, prefetch: int, advance: Advance) -> None:
        """``advance`` is told of input rows that are written, with their rows' statuses."""
        self.run, self.pool, self.advance = run, pool, advance
        self.stopped = threading.Event()
        #: Who reads, and who writes; whoever waits has read as far ahead as the budget allows.
        self.reading, self.writing = threading.Lock(), threading.Lock()
        #: Batches on the way: one with the network, one being written, those before and between.
        self.budget = threading.Semaphore(prefetch + 2)
        self.computer = ThreadPoolExecutor(1, "compute")


def make_shard(stage: Stage, inputs: Sequence[ShardFolder], ticket: Ticket, line: Line) -> Outcome:
    """Make one shard of a stage that is open, under a token of its own; nothing is raised."""
    run, number, token = line.run, ticket["shard"], ""
    try:
        # Whoever sends a dead worker's task again need not have told us.
        if not ticket["quarantine"] and len(run.begun(stage.name, number)) >= DEATHS:
            return Outcome("deadly")
        token = run.begin(stage.name, number)
        one = _Try(stage, inputs, ticket, line, token)
        one.join() if isinstance(stage, JoinStage) else one.map()
        return Outcome("made", token, time.monotonic() - one.began)
    except (Interrupted, RunOver) as error:
        return Outcome("stopped", str(error))
    except Exception as error:  # whatever a stage raises becomes the outcome of this try
        log.debug("%s: shard %d", stage.name, number, exc_info=True)
        text = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
        if isinstance(error, FileNotFoundError) and not run.is_begun(token):
            return Outcome("stopped", "the run is over")
        if isinstance(error, NormpipeError):
            return Outcome("refused", str(error), error=error)
        if lack := lack_of(error):
            return Outcome("lacking", f"{lack} ({text})")
        if spoils_process(error):
            return _spoilt(stage.name, text)
        return Outcome("broken", text)
    finally:
        if token:
            run.end(token)


def _spoilt(stage: str, text: str) -> Outcome:
    words = f"{stage}: {text}: this process cannot use its GPU any more; run the same command again"
    return Outcome("refused", words, error=NormpipeError(words))


class _Batch(NamedTuple):
    """Rows on their way: what is prepared of them, and what becomes the output rows of each."""

    rows: list[Row]
    prepared: list[Future[Any]]
    finished: Future[list[Future[list[Row]]]]


class _Try:
    """One try at one shard."""

    def __init__(
        self, stage: Any, inputs: Sequence[ShardFolder], ticket: Ticket, line: Line, token: str
    ) -> None:
        self._stage, self._inputs, self._ticket, self._line = stage, inputs, ticket, line
        self._run, self._token = line.run, token
        self._number, self._quarantine = ticket["shard"], ticket["quarantine"]
        self._target = ShardFolder(self._run.root / stage.writes)
        self._keys: set[str] = set()
        #: Batches on the way, oldest first.
        self._ahead: deque[_Batch] = deque()
        self.began = self._looked = time.monotonic()

    def map(self) -> None:
        """Run a map stage over the shard."""
        line, batches = self._line, self._batches()
        with ExitStack() as reading, ExitStack() as writing:
            reading.enter_context(line.reading)
            writing.callback(self._give_back)
            more = self._read_ahead(batches)
            # What the shard before gives back of the budget is for this one.
            while not line.writing.acquire(timeout=_GLANCE_SECONDS):
                self._check()
                more = more and self._read_ahead(batches)
            writing.callback(line.writing.release)
            if not more:
                reading.close()
            self.began = time.monotonic()
            writer = writing.enter_context(self._writer())
            while self._ahead:
                self._check()
                self._write(writer)
                more = more and self._read_ahead(batches)
                if not more:
                    reading.close()
            self._finish(writer, self._keys)

    def _write(self, writer: ShardWriter) -> None:
        """Write the oldest batch that is on its way."""
        out = [row for made in self._ahead[0].finished.result() for row in made.result()]
        writer.add(out)
        rows = len(self._ahead.popleft().rows)
        self._line.budget.release()
        self._line.advance(self._ticket, rows, Counter(row["status"] for row in out))

    def _read_ahead(self, batches: Iterator[list[Row]]) -> bool:
        """Send batches on their way as far as the budget allows; say whether more are left."""
        # Who has none on the way waits for room; who has some writes those first.
        while self._line.budget.acquire(blocking=not self._ahead):
            try:
                self._check()
                rows = next(batches, None)
                if rows is not None:
                    self._ahead.append(self._sent(rows))
                    continue
            except BaseException:  # the room is given back, whatever ends this
                self._line.budget.release()
                raise
            self._line.budget.release()
            return False
        return True

    def _sent(self, rows: list[Row]) -> _Batch:
        submit, stage = self._line.pool.submit, self._stage
        kept = [self._settled.of(row) if self._settled else None for row in rows]
        if self._quarantine:
            broken = SampleError("quarantined")
            items = [
                (one or broken) if row["status"] == "ok" else None
                for row, one in zip(rows, kept, strict=True)
            ]
            nothing = [None] * len(rows)
            made = self._line.computer.submit(self._finished, rows, items, nothing)
            return _Batch(rows, [], made)
        futures = [submit(prepare, stage, *pair) for pair in zip(rows, kept, strict=True)]
        return _Batch(rows, futures, self._line.computer.submit(self._computed, rows, futures))

    def _computed(self, rows: list[Row], futures: list[Future[Any]]) -> list[Future[list[Row]]]:
        items = [future.result() for future in futures]
        futures.clear()  # prepared pictures are large, and the batch is kept until it is written
        return self._finished(rows, items, compute(self._stage, items))

    def _finished(self, *columns: list[Any]) -> list[Future[list[Row]]]:
        submit, stage = self._line.pool.submit, self._stage
        return [submit(finish, stage, *row) for row in zip(*columns, strict=True)]

    def _batches(self) -> Iterator[list[Row]]:
        # What was half put in place when an earlier run ended vouches for nothing.
        mends = self._ticket["mends"] and self._target.record(self._number) is not None
        shard = self._target.shard(self._number)
        self._settled = SettledRows(shard, self._stage.name) if mends else None
        for rows in read_batches(self._inputs[0], self._number, self._stage.batch_size):
            self._keys.update(row["parent_key"] for row in rows)
            yield rows

    def _give_back(self) -> None:
        """Give back the budget of batches that come to nothing, once nobody works on them."""
        for batch in self._ahead:
            for future in (batch.finished, *batch.prepared):
                future.cancel()
        for batch in self._ahead:
            wait([batch.finished, *batch.prepared])
            if not batch.finished.cancelled() and batch.finished.exception() is None:
                wait(batch.finished.result())
            self._line.budget.release()

    def _check(self) -> None:
        if self._line.stopped.is_set():
            raise Interrupted("stopped")
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            if not self._run.is_begun(self._token):
                raise RunOver("it is another's by now, or too late")

    def _writer(self) -> ShardWriter:
        written = self._run.shard(self._token)
        return ShardWriter(self._target, self._number, self._stage.schema, written)

    def _finish(self, writer: ShardWriter, keys: set[str] | None) -> None:
        record = writer.finish(self._ticket["fingerprint"], keys, self._quarantine or None)
        self._run.finish(self._token, record)

    def join(self) -> None:
        """Run a join stage over the shard."""
        inputs = [self._table(folder) for folder in self._inputs]
        with self._line.writing, self._writer() as writer:
            for table in self._stage.join(self._number, inputs):
                self._check()
                writer.add_table(table)
            self._finish(writer, None)

    def _table(self, folder: ShardFolder) -> pa.Table:
        """Return a shard's wanted columns; an absent shard (a partial dataset) has no rows."""
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
