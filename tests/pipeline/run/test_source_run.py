"""A source's rows become shards once; later inputs become further shards."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.plan import describe
from normpipe.pipeline.run.source_run import run_source
from normpipe.pipeline.stage import Scan
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter
from normpipe.pipeline.store.tombstones import Withdrawal, Withdrawn, new_salt

from ..living import digests
from ..toys import NAMES, ToyConfig, ToyMap, ToySource, flow, rows, run


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


class Scanned(ToySource):
    """A source of which a scan can be shaped: labels, files passed over, a limit."""

    labels: pa.Table | None = None
    complete = True

    def scan(self) -> Scan:
        return Scan(super().scan().rows, self.labels, {".txt": 2, ".db": 1}, self.complete)


def ingest(root: Path, names: list[str], **changes: Any) -> list[list[str]]:
    """Run a source; return the names in each shard."""
    stage = Scanned(names, ToyConfig(shard_rows=3))
    for name, value in changes.items():
        setattr(stage, name, value)
    run_source(stage, root, describe(stage), False)
    folder = ShardFolder(root / "manifest")
    keys = (folder.read(n, ["key"])["key"].to_pylist() for n in folder.records())
    return [[key.removeprefix("toy/") for key in some] for some in keys]


def test_shards_are_cut_once_and_keep_their_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert ingest(tmp_path, [*"bcde"]) == [["b", "c", "d"], ["e"]]
    assert "2 files ignored (.txt)" in caplog.text and "1 files ignored (.db)" in caplog.text
    assert "4 inputs, 4 of them new, in 2 shards" in caplog.text
    # Before, between and behind: what is new comes last, in the order of the scan.
    assert ingest(tmp_path, [*"abcxdefg"])[2:] == [["a", "x", "f"], ["g"]]
    before = digests(tmp_path)
    assert ingest(tmp_path, [*"gfedxcba"]) == [["b", "c", "d"], ["e"], ["a", "x", "f"], ["g"]]
    assert digests(tmp_path) == before
    assert "no longer there" not in caplog.text


def test_inputs_that_are_gone_are_counted_and_their_rows_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(tmp_path, [*"abcdef"])
    before = digests(tmp_path)
    assert ingest(tmp_path, ["b", "f"]) == [["a", "b", "c"], ["d", "e", "f"]]
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1 and "4 ingested inputs are no longer there" in warned[0]
    assert digests(tmp_path) == before
    ingest(tmp_path, ["b"], complete=False)  # a limited scan did not look for the others
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_people_who_left_are_not_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ingest(tmp_path, [*"abc"])
    folder = ShardFolder(tmp_path / "manifest")
    rows = pq.read_table(folder.shard(0)).to_pylist()
    neutral = {"key": "toy/withdrawn1", "parent_key": "toy/withdrawn1", "status": "rejected"}
    rows[1] |= {**neutral, "reason": "withdrawn", "decided_by": "withdraw"}
    record = folder.record(0)
    assert record is not None
    with ShardWriter(folder, 0, Scanned.schema) as writer:
        writer.add(rows)
        writer.commit(record.fingerprint, None)
    ingest(tmp_path, ["a", "c"])
    assert "no longer there" not in caplog.text
    ingest(tmp_path, ["a"])
    assert "1 ingested inputs are no longer there" in caplog.text


def test_labels_that_a_limited_scan_did_not_look_at_stay(tmp_path: Path) -> None:
    def labels(**subjects: str) -> pa.Table:
        keys = [f"toy/{name}" for name in subjects]
        return pa.table({"key": keys, "subject": [*subjects.values()]})

    def written() -> dict[str, str]:
        found = pq.read_table(tmp_path / "labels.parquet").to_pylist()
        return {row["key"]: row["subject"] for row in found}

    ingest(tmp_path, [*"abc"], labels=labels(a="anna", b="bea", c="cleo"))
    ingest(tmp_path, ["a"], labels=labels(a="ann"), complete=False)
    assert written() == {"toy/a": "ann", "toy/b": "bea", "toy/c": "cleo"}
    ingest(tmp_path, [*"abc"], labels=labels(a="ann"))
    assert written() == {"toy/a": "ann"}


def test_a_number_that_was_lost_is_given_again_and_a_whole_shard_is_believed(
    tmp_path: Path,
) -> None:
    ingest(tmp_path, [*"abcdefg"])
    good, folder = digests(tmp_path), ShardFolder(tmp_path / "manifest")
    folder.record_path(1).unlink()  # a kill between the shard and its record
    ingest(tmp_path, [*"abcdefg"])
    assert digests(tmp_path) == good
    folder.record_path(1).unlink()
    assert ingest(tmp_path, [*"0abcdefg"])[1:] == [["d", "e", "f"], ["g"], ["0"]]
    folder.remove(3)
    folder.record_path(1).unlink()
    folder.shard(1).write_bytes(b"torn")
    assert ingest(tmp_path, [*"abcdefg"]) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert digests(tmp_path) == good


def test_people_who_left_stay_out_of_a_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gone = Withdrawal(on="2026-11-25", by=("key",), inputs=1, rows=1)
    withdrawn = Withdrawn(salt=new_salt()).adding(["toy/b"], ["anna"], gone)
    (tmp_path / "withdrawn.json").write_text(withdrawn.model_dump_json())
    assert ingest(tmp_path, [*"abc"]) == [["a", "c"]]
    assert "1 inputs of withdrawn people are left out" in caplog.text
    labels = pa.table({"key": ["toy/a", "toy/d"], "subject": ["anna", "anna"]})
    assert ingest(tmp_path, [*"abcd"], labels=labels) == [["a", "c"]]
    assert "1 inputs are now listed under a withdrawn subject" in caplog.text


def test_with_overwrite_other_settings_cut_the_source_anew(tmp_path: Path) -> None:
    ingest(tmp_path, [*"abcdefg"])
    (ShardFolder(tmp_path / "manifest").stage_path).write_text("{}")
    stage = Scanned([*"abcdefg"], ToyConfig(shard_rows=5))
    run_source(stage, tmp_path, describe(stage), True)
    folder = ShardFolder(tmp_path / "manifest")
    assert [r.rows for r in folder.records().values()] == [5, 2]
    assert [*folder.shard_sizes()] == folder.recorded_numbers() == [0, 1]


def test_a_withdrawn_subject_whose_name_means_unknown_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Withdrawal(on="2026-11-25", by=("subject",), inputs=1, rows=1)
    withdrawn = Withdrawn(salt=new_salt()).adding(["toy/b"], ["NA"], gone)
    (tmp_path / "withdrawn.json").write_text(withdrawn.model_dump_json())
    none = pa.array([None], pa.string())
    assert ingest(tmp_path, [*"ab"], labels=pa.table({"key": ["toy/b"], "subject": none})) == [
        ["a"]
    ]
    assert "is called" not in caplog.text  # known by its key
    ingest(tmp_path, [*"abc"], labels=pa.table({"key": ["toy/c"], "subject": none}))
    assert "1 new inputs have no subject, and a withdrawn one is called 'NA'" in caplog.text
