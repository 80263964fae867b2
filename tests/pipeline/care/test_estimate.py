"""What a job would do, and how long it would take, from a few of its inputs."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normpipe.pipeline.care import estimate as module
from normpipe.pipeline.care.estimate import SAMPLE, Estimate, estimate, estimate_table
from normpipe.pipeline.stage import Row

from ..toys import ToyConfig, ToyJoin, ToyMap, ToySource, flow, run


class Timed(ToyMap):
    """Takes 10 ms around the network for each row, and 50 ms in it for a batch."""

    now = 0.0

    def prepare(self, row: Row) -> Any:
        self.now += 0.004
        return super().prepare(row)

    def compute(self, items: list[Any]) -> Sequence[Any]:
        self.now += 0.05
        return super().compute(items)

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        self.now += 0.006
        return [{"image": {"bytes": bytes(1000), "path": ""}, "number": 1}]


def test_a_sample_stands_for_all_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{i}" for i in range(320)]
    timed = Timed(ToyConfig(batch=16))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: timed.now))
    lines = estimate(tmp_path / "out", [ToySource(names), timed, ToyJoin()], threads=2)
    assert not (tmp_path / "out").exists()
    assert [line.stage for line in lines] == ["toy-source", "toy-map", "toy-join"]
    for line in lines:
        assert (line.inputs, line.shards_done, line.shards_todo) == (320, 0, 32)
    # 32 of 320, from the whole of it; the first once more before, for what loads on first use.
    assert timed.processed == ["n0", *names[::10]] and SAMPLE == 32
    # Two batches of 50 ms, and 32 times 10 ms in two threads; ten times as many inputs.
    assert lines[1].seconds == pytest.approx(10 * (2 * 0.05 + 32 * 0.01 / 2))
    assert lines[1].bytes == 320 * 1000
    assert (lines[2].seconds, lines[2].bytes) == (0, 0)


def test_what_is_done_costs_nothing(tmp_path: Path) -> None:
    stages = flow([f"n{i}" for i in range(30)])
    run(tmp_path, stages[:2])
    more = [f"n{i}" for i in range(60)]
    source, made, second = estimate(tmp_path, flow(more)[:3], threads=1)
    assert (source.inputs, source.shards_done, source.shards_todo) == (60, 3, 3)
    # The source's new shards are not there, so what reads them does not know of them.
    assert (made.shards_done, made.shards_todo, made.seconds, made.bytes) == (3, 0, 0.0, 0)
    assert (second.shards_done, second.shards_todo) == (0, 3)
    # Without its source, a stage is tried on what lies there.
    (alone,) = estimate(tmp_path, stages[1:2], threads=1)
    assert (alone.inputs, alone.shards_done, alone.shards_todo) == (30, 3, 0)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "~0 s"), (89.4, "~89 s"), (90, "~2 min"), (5399, "~90 min"), (5400, "~1.5 h")],
)
def test_times_are_told_as_people_do(seconds: float, shown: str) -> None:
    lines = estimate_table([Estimate("align", 1234, 5, 6, seconds, 7_890_000)]).splitlines()
    assert lines[0].split() == ["stage", "inputs", "shards", "done", "to", "do", "time", "disk"]
    assert lines[1].split() == ["align", "1234", "5", "6", *shown.split(), "7.9", "MB"]
    assert len(lines[0]) == len(lines[1])


class Noting(ToyMap):
    """Notes the columns of what it reads."""

    def prepare(self, row: Row) -> Any:
        self.columns = {*row}
        return super().prepare(row)


def test_a_stage_is_estimated_on_what_it_reads(tmp_path: Path) -> None:
    branch, after = Noting(writes="branch"), Noting(reads="made", writes="after")
    estimate(tmp_path, [ToySource(["n0", "n1"]), ToyMap(), branch, after], 1)
    assert "path" in branch.columns and "number" not in branch.columns
    assert "number" in after.columns and "path" not in after.columns
