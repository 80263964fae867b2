"""What the loop decides, with a place that answers as it is told; real ones: test_cluster."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import NormpipeError
from normpipe.pipeline.run import loop as module
from normpipe.pipeline.run.loop import Lane, Loop, Shutdown
from normpipe.pipeline.run.making import ShardTask, TaskOutcome
from normpipe.pipeline.run.places import StageThreads
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.stage import Stage
from normpipe.pipeline.store.shards import ShardFolder, ShardRecord

from ..clusters import laid
from ..toys import NAMES, flow, run

Answer = Callable[["Told", ShardTask, "Future[Any]"], None]


class Told:
    """A place whose tasks end as a test says; what makes shards is real."""

    in_order = False

    def __init__(self, host: StageThreads, *answers: Answer) -> None:
        self.host, self.answers = host, list(answers)
        self.sent: list[ShardTask] = []
        self.silent: set[Any] = set()

    def capacity(self, _stage: Stage) -> int:
        return 8

    def submit(self, _stage: Stage, task: ShardTask) -> "Future[Any]":
        self.sent.append(ShardTask(**task))
        future: Future[Any] = Future()
        answer = self.answers.pop(0) if self.answers else made
        answer(self, task, future)
        return future

    def outcome(self, future: "Future[Any]") -> TaskOutcome | None:
        return future.result()

    def stuck(self, future: "Future[Any]") -> str:
        return "silent" if future in self.silent else ""

    def cancel(self, _future: "Future[Any]") -> None:
        pass

    def check_workers(self, _stage: Stage) -> None:
        pass


def made(place: Told, task: ShardTask, future: "Future[Any]") -> None:
    future.set_result(place.host.make(task))


def lost(_place: Told, _task: ShardTask, future: "Future[Any]") -> None:
    future.set_result(None)


def died(place: Told, task: ShardTask, future: "Future[Any]") -> None:
    place.host.run.begin(task["stage"], task["shard"])
    future.set_result(None)


def mute(place: Told, task: ShardTask, future: "Future[Any]") -> None:
    """Make the shard, and die before it is said."""
    place.host.make(task)
    future.set_result(None)


def broken(_place: Told, _task: ShardTask, future: "Future[Any]") -> None:
    future.set_result(TaskOutcome("failed", "it broke"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run(tmp_path / "out", flow()[:1])
    return tmp_path / "out"


@pytest.fixture
def host(root: Path) -> Iterator[StageThreads]:
    there = StageThreads(laid(root), [flow()[1]], RunConfig(threads=1))
    yield there
    there.close()


def walk(host: StageThreads, place: Any, retries: int = 2) -> list[ShardRecord]:
    """Run one stage to its end; return the records in the order in which they were put in place."""
    done: list[ShardRecord] = []

    def task(stage: Stage, number: int) -> ShardTask:
        return ShardTask(
            stage=stage.name,
            shard=number,
            fingerprint="f",
            keep_settled=False,
            quarantine="",
        )

    loop = Loop(
        host.run,
        RunConfig(retries=retries),
        Progress(bars=False),
        Shutdown(),
        task,
        lambda _stage, record: done.append(record),
    )
    loop.run([Lane(host.stages["toy-map"], place, host.run.root)], len(NAMES))
    return done


def test_who_comes_late_is_not_put_in_place(
    host: StageThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    held: list[tuple[ShardTask, Future[Any]]] = []
    placed: list[str] = []

    def waits(_place: Told, task: ShardTask, future: "Future[Any]") -> None:
        held.append((task, future))

    def falls_silent(place: Told, task: ShardTask, future: "Future[Any]") -> None:
        place.silent.add(future)
        held.append((task, future))

    def takes_over(place: Told, task: ShardTask, future: "Future[Any]") -> None:
        """Then the one that was silent ends, too, and only then the run's last shard."""

        def end() -> None:
            for one, its in ((task, future), *held):
                made(place, one, its)

        threading.Timer(0.2, end).start()

    put_in_place = ShardFolder.put_in_place

    def noted(folder: ShardFolder, record: ShardRecord, written: Path) -> None:
        placed.append(written.stem)
        put_in_place(folder, record, written)

    monkeypatch.setattr(ShardFolder, "put_in_place", noted)
    records = walk(host, Told(host, falls_silent, waits, made, takes_over))
    assert sorted(record.shard for record in records) == [0, 1, 2]
    assert len(placed) == 3
    late = host.run.finished("toy-map", 0)
    assert len(late) == 1 and not {*late} & {*placed}


def test_what_was_whole_when_its_maker_died_is_not_made_again(host: StageThreads) -> None:
    place = Told(host, mute)
    assert {record.shard for record in walk(host, place)} == {0, 1, 2}
    assert len(place.sent) == 3


def test_three_deaths_set_a_shard_aside_and_no_other(host: StageThreads) -> None:
    place = Told(host, died, made, made, died, died)
    records = {record.shard: record for record in walk(host, place)}
    assert {n for n, record in records.items() if record.quarantined} == {0}
    assert records[0].why == "it was started 3 times and its worker died or went silent"
    assert [task["shard"] for task in place.sent] == [0, 1, 2, 0, 0, 0]
    assert [bool(task["quarantine"]) for task in place.sent] == [False] * 5 + [True]


def test_each_shard_has_its_own_tries(host: StageThreads) -> None:
    """Not three in all: what breaks twice is tried a third time, whatever else broke meanwhile."""
    place = Told(host, broken, broken, broken, broken, broken, made)
    records = {record.shard: record for record in walk(host, place)}
    sent = Counter(task["shard"] for task in place.sent)
    assert sent == {0: 3, 1: 3, 2: 2} and not any(r.quarantined for r in records.values())


def test_a_shard_is_set_aside_after_its_tries_with_the_reason(host: StageThreads) -> None:
    place = Told(host, made, broken, made, broken)
    records = {record.shard: record for record in walk(host, place, retries=1)}
    assert records[1].quarantined and records[1].why == "it failed 2 times (it broke)"
    assert not records[0].quarantined and records[0].why == ""


def test_a_task_that_is_always_lost_ends_the_run(host: StageThreads) -> None:
    with pytest.raises(NormpipeError, match="shard 2 is lost each time it is sent"):
        walk(host, Told(host, made, made, *[lost] * 99))


def test_a_shard_of_another_making_is_never_put_in_place(host: StageThreads, root: Path) -> None:
    def other(place: Told, task: ShardTask, future: "Future[Any]") -> None:
        future.set_result(place.host.make(task | {"fingerprint": "g"}))  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="is not shard 0 as requested"):
        walk(host, Told(host, other))
    assert ShardFolder(root / "made").records() == {}


def test_when_a_worker_began_is_seen_before_anybody_asks_the_run_to_end(
    host: StageThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a shard which is nearly through when a signal comes is not taken for a new one."""
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    seen: list[float | None] = []

    def begins(place: Told, task: ShardTask, future: "Future[Any]") -> None:
        token = place.host.run.begin(task["stage"], task["shard"])

        def end() -> None:
            seen.append(lanes[0].pending[task["shard"]].started_at)
            place.host.run.end(token)
            made(place, task, future)

        threading.Timer(0.5, end).start()

    lanes: list[Lane] = []

    def noted(self: Lane, *given: Any) -> None:
        original(self, *given)
        lanes.append(self)

    original = Lane.__init__
    monkeypatch.setattr(Lane, "__init__", noted)
    walk(host, Told(host, begins))
    assert len(seen) == 1 and seen[0] is not None
