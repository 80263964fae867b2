"""The engine, driven with toy stages."""

import errno
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from normpipe.pipeline.care.status import refuse_quarantined, status, table
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError, Interrupted, NormpipeError, OutputError
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Stage
from normpipe.pipeline.store.shards import ShardFolder

from .conftest import small_disk
from .toys import SecondMap, ToyConfig, ToyJoin, ToyMap, ToySource, stop_after_commit

NAMES = [f"n{i}" for i in range(23)] + ["noface90", "cut91", "twins92", "n93"]


def run(
    root: Path,
    stages: Sequence[Stage],
    *,
    threads: int = 2,
    prefetch: int = 2,
    retries: int = 2,
    max_rejected: float = 1.0,
    **options: Any,
) -> None:
    settings = RunConfig(
        threads=threads, prefetch=prefetch, retries=retries, max_rejected=max_rejected
    )
    wanted = Options(identity={"dataset": "toy", "input": "here"}, **options)
    Runner(root, stages, settings, wanted, Progress(bars=False)).run(stages)


def flow(names: list[str] = NAMES, factor: int = 1) -> list[Stage]:
    return [
        ToySource(names),
        ToyMap(ToyConfig(factor=factor)),
        SecondMap(reads="made", writes="second"),
        ToyJoin(),
    ]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".normpipe.lock"
    }


def rows(root: Path, dataset: str) -> list[dict[str, Any]]:
    folder = ShardFolder(root / dataset)
    return [row for n in folder.records() for row in pq.read_table(folder.shard(n)).to_pylist()]


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
    assert record.why == "it broke 3 times (RuntimeError: broken at n12)"
    assert made["quarantined"] == {1: record.why}
    assert f"toy-map: shard 1 quarantined: {record.why}" in table(state)
    run(tmp_path / "out", flow(), retry_failed=True)
    refuse_quarantined(status(tmp_path / "out"))
    assert digests(tmp_path / "good") == digests(tmp_path / "out")


def test_three_quarantines_in_a_row_stop_the_job(tmp_path: Path) -> None:
    stages = flow([f"n{i}" for i in range(60)])
    assert isinstance(stages[1], ToyMap)
    stages[1].breaks = {f"n{i}": 99 for i in range(60)}
    with pytest.raises(NormpipeError, match="3 shards in a row broke"):
        run(tmp_path / "out", stages, retries=0)


def test_new_inputs_make_new_shards_and_leave_old_ones_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(NAMES[:15]))
    before = {k: v for k, v in digests(out).items() if "shard-" in k}
    stages = flow(["a5", *NAMES])
    run(out, stages)
    after = digests(out)
    assert all(after[name] == value for name, value in before.items())
    assert len(rows(out, "made")) == len(NAMES) + 2
    assert isinstance(stages[1], ToyMap)
    assert "n3" not in stages[1].processed and "a5" in stages[1].processed
    assert verify(out).differences == []


def test_changed_input_is_refused_then_redone_on_request(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    stages = flow()
    assert isinstance(stages[0], ToySource)
    stages[0].sizes = {"n3": 7}
    with pytest.raises(InputError, match=r"1 inputs were changed .*toy/n3"):
        run(out, stages)
    stages = flow()
    assert isinstance(stages[0], ToySource) and isinstance(stages[1], ToyMap)
    stages[0].sizes = {"n3": 7}
    run(out, stages, overwrite=True)
    assert set(stages[1].processed) == {f"n{i}" for i in range(10)}
    assert verify(out).differences == []


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
    with small_disk(60_000, code), pytest.raises(OutputError, match="make room"):
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
    with FileLock(tmp_path / "out/.normpipe.lock"), pytest.raises(OutputError, match="at work"):
        run(tmp_path / "out", flow())


def test_stage_without_its_input_says_what_to_run(tmp_path: Path) -> None:
    source, first, second, _ = flow()
    run(tmp_path / "out", [source])
    with pytest.raises(OutputError, match="earlier stages first"):
        run(tmp_path / "out", [second])
    run(tmp_path / "out", [first])
    run(tmp_path / "out", [second])
    assert len(rows(tmp_path / "out", "second")) == len(NAMES) + 1


def test_verify_finds_every_kind_of_damage(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    shard = out / "made/shard-00001.parquet"
    good = shard.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 40)):
        shard.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        found = verify(out).differences
        assert len(found) == 1 and "made/shard-00001.parquet" in found[0]
    shard.write_bytes(good[:-1])
    assert "bytes, recorded" in verify(out).differences[0]
    shard.write_bytes(good)
    record = ShardFolder(out / "made").record_path(1)
    text = record.read_text()
    wrong = json.loads(text)
    wrong["rows"] += 1
    record.write_text(json.dumps(wrong))
    assert any("rows, recorded" in line for line in verify(out).differences)
    record.unlink()
    assert any("no record" in line for line in verify(out).differences)
    record.write_text(text)
    assert verify(out).differences == []
    (out / "second/shard-00000.parquet").unlink()
    assert any("has no shard" in line for line in verify(out).differences)


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


def test_status_counts_what_is_left(tmp_path: Path) -> None:
    source, first, second, join = flow()
    settings = Options(identity={"dataset": "toy", "input": "here"})
    Runner(tmp_path / "out", [source, first, second, join], RunConfig(), settings).run([source])
    state = status(tmp_path / "out")
    assert [s["inputs_left"] for s in state["stages"]] == [0, len(NAMES), len(NAMES), len(NAMES)]
    with pytest.raises(InputError, match="holds no normpipe job"):
        status(tmp_path)
