"""The engine, driven with toy stages."""

import errno
from pathlib import Path

import pytest
from filelock import FileLock

from normpipe.pipeline.care.status import refuse_quarantined, status, status_table
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import Interrupted, NormpipeError, OutputError
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.store.shards import ShardFolder

from ..conftest import small_disk
from ..living import digests
from ..toys import (
    NAMES,
    ToyMap,
    ToySource,
    flow,
    rows,
    run,
    stop_after_commit,
)


def test_every_input_ends_as_a_row_at_every_stage(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    for dataset in ("made", "second", "joined"):
        found = rows(tmp_path / "out", dataset)
        assert {row["parent_key"] for row in found} == {f"toy/{name}" for name in NAMES}
        by_key = {row["key"]: row for row in found}
        assert by_key["toy/noface90"]["status"] == "rejected"
        assert by_key["toy/noface90"]["reason"] == "no_face"
        assert by_key["toy/noface90"]["decided_by"] == "toy-map"
        assert by_key["toy/cut91"]["status"] == "failed"
        assert by_key["toy/twins92#face1"]["parent_key"] == "toy/twins92"
    assert [r["number"] for r in rows(tmp_path / "out", "second")][:4] == [0, 1, 16, 81]
    assert verify(tmp_path / "out").differences == []


def test_same_bytes_for_any_threads_and_prefetch(tmp_path: Path) -> None:
    run(tmp_path / "a", flow(), threads=1, prefetch=1)
    run(tmp_path / "b", flow(), threads=8, prefetch=5)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_batches_are_cut_within_shards(tmp_path: Path) -> None:
    source, stage = ToySource([f"n{i}" for i in range(23)]), ToyMap()
    run(tmp_path / "out", [source, stage])
    assert sorted(stage.calls) == sorted([4, 4, 2, 4, 4, 2, 3])


def test_second_run_does_nothing(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    before = digests(tmp_path / "out")
    stages = flow()
    run(tmp_path / "out", stages)
    assert isinstance(stages[1], ToyMap)
    assert stages[1].processed == []
    assert digests(tmp_path / "out") == before


def test_a_broken_shard_is_tried_again_and_equals_an_unbroken_one(tmp_path: Path) -> None:
    run(tmp_path / "good", flow())
    stages = flow()
    assert isinstance(stages[1], ToyMap)
    stages[1].breaks = {"n3": 1, "n12": 2}
    run(tmp_path / "out", stages)
    assert digests(tmp_path / "good") == digests(tmp_path / "out")


def test_quarantine_keeps_the_run_going_and_retry_failed_mends_it(tmp_path: Path) -> None:
    run(tmp_path / "good", flow())
    stages = flow()
    assert isinstance(stages[1], ToyMap)
    stages[1].breaks = {"n12": 99}
    run(tmp_path / "out", stages)
    state = status(tmp_path / "out")
    made = state["stages"][1]
    assert made["reasons"]["toy-map"]["quarantined"] == 10
    assert made["inputs_left"] == 0
    with pytest.raises(OutputError, match=r"10 of toy-map; .* --retry-failed"):
        refuse_quarantined(state)
    record = ShardFolder(tmp_path / "out/made").record(1)
    assert record is not None and record.quarantined
    assert record.why == "it failed 3 times (RuntimeError: broken at n12)"
    assert made["quarantined"] == {1: record.why}
    assert f"toy-map: shard 1 quarantined: {record.why}" in status_table(state)
    run(tmp_path / "out", flow(), retry_failed=True)
    refuse_quarantined(status(tmp_path / "out"))
    assert digests(tmp_path / "good") == digests(tmp_path / "out")


def test_three_quarantines_in_a_row_stop_the_job(tmp_path: Path) -> None:
    stages = flow([f"n{i}" for i in range(60)])
    assert isinstance(stages[1], ToyMap)
    stages[1].breaks = {f"n{i}": 99 for i in range(60)}
    with pytest.raises(NormpipeError, match="3 shards in a row failed"):
        run(tmp_path / "out", stages, retries=0)


def test_other_settings_are_refused_naming_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    before = digests(out)
    with pytest.raises(OutputError, match=r"toy-map\.factor: 1 → 3.*--overwrite"):
        run(out, flow(factor=3))
    assert digests(out) == before
    run(out, flow(factor=3), overwrite=True)
    assert [r["number"] for r in rows(out, "made")][:3] == [0, 3, 12]
    fresh = tmp_path / "fresh"
    run(fresh, flow(factor=3))
    assert digests(out) == digests(fresh)


def test_interrupted_overwrite_is_noticed(tmp_path: Path) -> None:
    """Old shards must not pass for new ones when an --overwrite run was killed."""
    out = tmp_path / "out"
    run(out, flow())
    stages = flow(factor=3)
    assert isinstance(stages[1], ToyMap)
    stages[1].breaks = {f"n{i}": 99 for i in range(10, 23)}
    runner = Runner(
        out,
        stages,
        RunConfig(threads=1, retries=0),
        Options(overwrite=True, identity={"dataset": "toy", "input": "here"}),
        Progress(bars=False),
    )
    stop_after_commit(runner)
    with pytest.raises(Interrupted):
        runner.run(stages)
    with pytest.raises(OutputError, match="--overwrite"):
        run(out, flow(factor=3))
    run(out, flow(factor=3), overwrite=True)
    run(tmp_path / "fresh", flow(factor=3))
    assert digests(out) == digests(tmp_path / "fresh")


def test_stop_keeps_what_is_committed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stages = flow([f"n{i}" for i in range(200)])
    runner = Runner(
        out,
        stages,
        RunConfig(threads=1),
        Options(identity={"dataset": "toy", "input": "here"}),
        Progress(bars=False),
    )
    stop_after_commit(runner)
    with pytest.raises(Interrupted):
        runner.run(stages)
    assert not list(out.rglob("*.tmp"))
    assert ShardFolder(out / "made").records()
    run(out, flow([f"n{i}" for i in range(200)]))
    run(tmp_path / "fresh", flow([f"n{i}" for i in range(200)]))
    assert digests(out) == digests(tmp_path / "fresh")


def test_rejections_past_the_share_stop_the_job(tmp_path: Path) -> None:
    names = [f"n{i}" if i % 3 else f"noface{i}" for i in range(300)]
    with pytest.raises(NormpipeError, match=r"rows of toy-map are rejected.*--max-rejected 0.2"):
        run(tmp_path / "out", flow(names), max_rejected=0.2)
    done = len(rows(tmp_path / "out", "made"))
    assert 100 <= done < 300
    run(tmp_path / "out", flow(names), max_rejected=0.5)
    with pytest.raises(NormpipeError, match="--max-rejected"):
        run(tmp_path / "small", flow(names[:9]), max_rejected=0.2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_full_disk_is_one_line_and_leaves_nothing_half(tmp_path: Path, code: int) -> None:
    out = tmp_path / "out"
    names = [f"n{i}" for i in range(400)]
    with small_disk(60_000, code), pytest.raises(OutputError, match="free some space"):
        run(out, flow(names))
    assert not list(out.rglob("*.tmp"))
    run(out, flow(names))
    run(tmp_path / "fresh", flow(names))
    assert digests(out) == digests(tmp_path / "fresh")


def test_folder_of_another_job_and_foreign_folder_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    other = Options(identity={"dataset": "other", "input": "here"})
    with pytest.raises(OutputError, match=r"belongs to another job \(dataset: toy, here other\)"):
        Runner(tmp_path / "out", flow(), RunConfig(), other).run(flow())
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="holds no normpipe job"):
        run(foreign, flow())
    assert sorted(p.name for p in foreign.iterdir()) == ["thesis.tex"]


def test_a_second_start_says_that_one_is_at_work(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    with FileLock(tmp_path / "out/.normpipe.lock"), pytest.raises(OutputError, match="running in"):
        run(tmp_path / "out", flow())


def test_stage_without_its_input_says_what_to_run(tmp_path: Path) -> None:
    source, first, second, _ = flow()
    run(tmp_path / "out", [source])
    with pytest.raises(OutputError, match="earlier stages first"):
        run(tmp_path / "out", [second])
    run(tmp_path / "out", [first])
    run(tmp_path / "out", [second])
    assert len(rows(tmp_path / "out", "second")) == len(NAMES) + 1


def test_torn_states_heal(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    good = digests(out)
    (out / "made/shard-00000.parquet").unlink()
    ShardFolder(out / "made").record_path(1).write_text("{")
    ShardFolder(out / "second").record_path(2).write_bytes(b"")
    ShardFolder(out / "made").index_path.unlink()
    (out / "second/shard-00000.parquet.tmp").write_bytes(b"half")
    run(out, flow())
    assert digests(out) == good


def test_a_dataset_may_be_a_link_to_another_place(tmp_path: Path) -> None:
    """What a kill left there, while a shard was copied to that disk, goes as well."""
    out, far = tmp_path / "out", tmp_path / "far"
    far.mkdir()
    out.mkdir()
    (out / "made").symlink_to(far)
    (out / "job.json").write_text("{}")
    (far / "shard-00000.parquet.tmp").write_bytes(b"half")
    run(out, flow())
    run(tmp_path / "good", flow())
    assert not list(far.glob("*.tmp")) and (out / "made").is_symlink()
    shards = [path.name for path in sorted((tmp_path / "good/made").iterdir())]
    assert [path.name for path in sorted(far.iterdir())] == shards
    for name in shards:
        assert (far / name).read_bytes() == (tmp_path / "good/made" / name).read_bytes()
    run(out, flow())
    assert verify(out).differences == []
