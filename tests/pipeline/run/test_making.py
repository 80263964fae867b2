"""One shard, made by hand: its token, its tries, and what it shares with the next one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run import making
from normpipe.pipeline.run.making import MAX_DEATHS, ShardTask, make_shard
from normpipe.pipeline.run.places import StageThreads
from normpipe.pipeline.stage import Row
from normpipe.pipeline.store.shards import ShardFolder, parse_record

from ..clusters import laid
from ..disturbing import in_writing
from ..toys import ToyConfig, ToyMap, ToySource, flow, run


@pytest.fixture
def host(tmp_path: Path) -> Any:
    stages = flow()
    run(tmp_path, stages[:1])
    there = laid(tmp_path)
    host = StageThreads(there, [stages[1]], RunConfig(threads=2))
    yield host
    host.close()


def task(host: StageThreads, **changes: Any) -> ShardTask:
    plain = ShardTask(
        stage="toy-map",
        shard=1,
        fingerprint="f",
        keep_settled=False,
        quarantine="",
    )
    return plain | changes  # type: ignore[return-value]


def test_the_same_ticket_twice_draws_two_tokens(host: StageThreads) -> None:
    """A scheduler runs a dead worker's task again, with the same arguments."""
    outcomes = [host.make(task(host)) for _ in range(2)]
    assert [one.kind for one in outcomes] == ["made", "made"]
    tokens = [one.text for one in outcomes]
    assert sorted(host.run.finished("toy-map", 1)) == sorted({*tokens}) and len({*tokens}) == 2
    assert host.run.shard(tokens[0]).read_bytes() == host.run.shard(tokens[1]).read_bytes()
    assert host.run.active("toy-map") == []


def test_a_shard_begun_three_times_is_left_to_the_coordinator(host: StageThreads) -> None:
    for _ in range(MAX_DEATHS):
        assert host.make(task(host, shard=2)).kind == "made"  # whose end is known counts nothing
        host.run.begin("toy-map", 1)  # by one that died
    assert host.make(task(host)).kind == "too_many_deaths"
    outcome = host.make(task(host, quarantine="deadly"))
    record = parse_record(host.run.record(outcome.text) or b"")
    assert record is not None and record.quarantined and record.why == "deadly"
    assert record.statuses == {"failed": 10} and record.reasons == {"toy-map:quarantined": 10}


def test_a_try_that_nobody_wants_any_more_stops(
    host: StageThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_CHECK_SECONDS", 0.0)
    stage = host.stages["toy-map"]
    assert isinstance(stage, ToyMap)

    class Given(list[Any]):
        """Takes the mark away while the first batch is computed."""

        def append(self, item: Any) -> None:
            super().append(item)
            host.run.end(*host.run.active("toy-map"))

    stage.calls = Given()
    outcome = host.make(task(host))
    assert outcome.kind == "stopped" and "taken over" in outcome.text
    assert host.run.finished("toy-map", 1) == [] and not list(host.run.path.glob("made/*.parquet"))
    stage.calls = []
    assert host.make(task(host)).kind == "made"  # nothing of the budget is lost


def test_whatever_breaks_gives_its_budget_back(host: StageThreads) -> None:
    stage = host.stages["toy-map"]
    assert isinstance(stage, ToyMap)
    for name in ("n10", "n13", "n17", "n19"):
        stage.breaks = {name: 99}  # rows that were sent on their way before it broke come, too
        outcome = host.make(task(host))
        assert outcome.kind == "failed" and outcome.text == f"RuntimeError: broken at {name}"
    stage.breaks = {}
    assert host.make(task(host)).kind == "made"
    assert make_shard(
        stage, [ShardFolder(Path("nowhere"))], task(host), host._pipelines["toy-map"]
    )[0] in ("failed", "refused")
    assert host.make(task(host)).kind == "made"


# --- borders between shards


class Watched(ToyMap):
    """Waits with the last batch of a shard until of the next one some batches are prepared."""

    def __init__(self, root: Path, rows: int, batches: int) -> None:
        super().__init__(ToyConfig(batch=4))
        self.root, self.rows, self.wanted = root, rows, 4 * batches
        self.ahead = 0
        self.next_read = threading.Event()
        self.prepared: dict[int, int] = {}
        self.most_ahead = self.most_writing = self.done = 0
        self.count = threading.Lock()

    def prepare(self, row: Row) -> Any:
        number = super().prepare(row)
        with self.count:
            self.most_ahead = max(self.most_ahead, len(self.processed) - self.done)
            self.ahead += number >= self.rows
            if self.ahead >= self.wanted:
                self.next_read.set()
        return number

    def compute(self, items: list[Any]) -> Any:
        if items[-1] == self.rows - 1:  # the last batch of the first shard
            assert self.next_read.wait(20), "the next shard was not read ahead"
        return super().compute(items)

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        self.most_writing = max(self.most_writing, len([*in_writing(self.root)]))
        return super().finish(row, item, result)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_the_next_shard_is_read_ahead_and_written_only_when_the_last_is_whole(
    tmp_path: Path, prefetch: int
) -> None:
    rows = 40
    run(tmp_path, [ToySource([f"n{i}" for i in range(3 * rows)], ToyConfig(shard_rows=rows))])
    stage = Watched(tmp_path, rows, prefetch)
    host = StageThreads(laid(tmp_path), [stage], RunConfig(threads=2, prefetch=prefetch))

    def advance(_task: ShardTask, written: int, _statuses: Any) -> None:
        with stage.count:
            stage.done += written

    host._pipelines["toy-map"].advance = advance
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(host.make, task(host, shard=0))]
        while not host.run.active("toy-map", 0):
            pass
        tasks.append(pool.submit(host.make, task(host, shard=1)))
        assert [task.result(30).kind for task in tasks] == ["made", "made"]
    host.close()
    assert stage.most_writing == 1
    # Both shards together: one batch with the network, one being written, ``prefetch`` others.
    assert stage.most_ahead <= 4 * (prefetch + 2)
