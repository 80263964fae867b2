"""``--retry-failed`` tries failed rows alone; all else keeps its bytes, whatever happens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.care.status import status
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError, Interrupted, OutputError
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.retrying import SettledRows
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Row
from normpipe.pipeline.store.shards import ShardFolder

from ..living import digests
from ..toys import (
    SecondMap,
    ToyJoin,
    ToyMap,
    ToySource,
    rows,
    run,
    run_only,
    stop_after_commit,
)

NAMES = [f"n{i}" for i in range(23)] + ["noface90", "twins92", "twins93", "n94"]
BAD = {"n3", "n7", "twins92"}


class Flaky(ToyMap):
    """Fails on some names, for no reason of the samples' own."""

    bad: frozenset[str] = frozenset()

    def prepare(self, row: Row) -> Any:
        item = super().prepare(row)
        if row["key"].rpartition("/")[2] in self.bad:
            raise SampleError("truncated")
        return item


def flow(bad: Sequence[str] = (), second_breaks: dict[str, int] | None = None) -> list[Any]:
    first, second = Flaky(), SecondMap(reads="made", writes="second")
    first.bad, second.breaks = frozenset(bad), dict(second_breaks or {})
    return [ToySource(NAMES), first, second, ToyJoin()]


def ok_rows(root: Path, dataset: str) -> list[Row]:
    return [row for row in rows(root, dataset) if row["status"] == "ok"]


def test_only_failed_rows_are_tried_and_the_end_is_an_undisturbed_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tmp_path / "good", flow())
    run(out, flow(BAD))
    untouched = ShardFolder(out / "made").record(1)
    stages = flow()
    run(out, stages, retry_failed=True)
    assert sorted(stages[1].processed) == sorted(BAD)
    assert sum(stages[2].calls) == 4  # n3, n7 and the two faces of twins92
    assert stages[1].calls == [1, 1, 1]
    assert ShardFolder(out / "made").record(1) == untouched
    assert digests(out) == digests(tmp_path / "good")
    assert verify(out).differences == []


def test_what_fails_again_leaves_every_byte_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(BAD))
    before = digests(out)
    stages = flow(BAD)
    run(out, stages, retry_failed=True)
    assert sorted(stages[1].processed) == sorted(BAD) and stages[2].calls == []
    assert digests(out) == before


def test_failures_of_an_earlier_stage_are_not_a_later_one_s_to_try(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(BAD))
    stages = flow()
    run_only(out, stages, stages[2:3], retry_failed=True)
    assert stages[2].calls == []


def test_a_retry_that_breaks_quarantines_the_failed_rows_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(BAD))
    settled = ok_rows(out, "made")
    stages = flow()
    stages[1].breaks = {"n7": 99}
    run(out, stages, retry_failed=True, retries=1)
    by_key = {row["key"]: row for row in rows(out, "made")}
    assert {key for key, row in by_key.items() if row["reason"] == "quarantined"} == {
        "toy/n3",
        "toy/n7",
    }
    assert by_key["toy/twins92#face1"]["status"] == "ok"
    assert all(by_key[row["key"]] == row for row in settled)
    run(out, flow(), retry_failed=True)
    run(tmp_path / "good", flow())
    assert digests(out) == digests(tmp_path / "good")


def test_a_damaged_shard_vouches_for_no_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tmp_path / "good", flow())
    run(out, flow(BAD))
    shard = out / "made/shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    place = data.find(b"toy/n1=1")
    data[place + 7] ^= 1
    shard.write_bytes(data)
    stages = flow()
    run(out, stages, retry_failed=True)
    assert {f"n{i}" for i in range(10)} <= {*stages[1].processed}
    assert digests(out) == digests(tmp_path / "good")


def test_with_overwrite_no_row_of_other_settings_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(BAD))
    stages = flow()
    stages[1].config = stages[1]._config = stages[1].config.model_copy(update={"factor": 3})
    run(out, stages, overwrite=True, retry_failed=True)
    assert [row["number"] for row in rows(out, "second")][:3] == [0, 9, 144]
    assert verify(out).differences == []


def test_a_stopped_retry_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tmp_path / "good", flow())
    run(out, flow(BAD))
    stages = flow()
    wanted = Options(retry_failed=True, identity={"dataset": "toy", "input": "here"})
    runner = Runner(out, stages, RunConfig(threads=1), wanted, Progress(bars=False))
    stop_after_commit(runner)
    with pytest.raises(Interrupted):
        runner.run(stages)
    with pytest.raises(OutputError, match="if a run with --retry-failed was stopped, continue it"):
        run(out, flow())
    run(out, flow(), retry_failed=True)
    assert digests(out) == digests(tmp_path / "good")


def mended(sizes: dict[str, int]) -> list[Any]:
    stages = flow()
    stages[0].sizes = sizes
    return stages


def test_a_failed_input_is_taken_as_it_is_now_and_a_settled_one_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(BAD))
    with pytest.raises(InputError, match=r"1 inputs were changed .*toy/n3"):
        run(out, mended({"n3": 7}))
    stages = mended({"n3": 7})
    run(out, stages, retry_failed=True)
    assert sorted(stages[1].processed) == sorted(BAD)
    run(tmp_path / "good", mended({"n3": 7}))
    assert digests(out) == digests(tmp_path / "good")
    with pytest.raises(InputError, match=r"1 inputs were changed .*toy/n4"):
        run(out, mended({"n3": 7, "n4": 7}), retry_failed=True)


def test_a_source_s_shard_that_a_kill_left_without_record_keeps_its_number(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    before = digests(out)
    ShardFolder(out / "manifest").record_path(1).unlink()
    run(out, flow())
    assert digests(out) == before
    assert status(out)["stages"][0]["inputs_left"] == 0


def test_settled_rows_keep_in_step_with_rows_that_have_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(BAD))
    inputs = rows(out, "manifest")
    settled = SettledRows(out / "made/shard-00000.parquet", "toy-map")
    found = [settled.of(row) for row in inputs[:10]]
    assert [i for i, kept in enumerate(found) if kept is None] == [3, 7]
    other = SettledRows(out / "made/shard-00000.parquet", "toy-map")
    assert other.of({"key": "toy/n", "parent_key": "toy/n"}) is None  # no row of its own
    assert other.of(inputs[0]) is not None
    assert pq.read_metadata(out / "made/shard-00000.parquet").num_rows == 10
