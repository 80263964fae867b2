"""What beside the datasets still speaks of people who left."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from normpipe.pipeline.care.traces import find_traces

GONE = {"d/anna é.jpg", 'd/a"b.jpg'}


def table(path: Path, **columns: list[str | None]) -> str:
    """Write a table; return its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns}), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tables_of_theirs_go_with_what_vouches_for_them(tmp_path: Path) -> None:
    theirs = table(tmp_path / "a/scores.parquet", key=["d/x", "d/anna é.jpg"])
    table(tmp_path / "a/by_parent.parquet", key=["d/face"], parent_key=['d/a"b.jpg'])
    others = table(tmp_path / "a/others.parquet", key=["d/x", None], parent_key=[None, "d/x"])
    table(tmp_path / "a/without_keys.parquet", name=["d/anna é.jpg"])
    (tmp_path / "a/scores.json").write_text(json.dumps({"of": theirs}))
    (tmp_path / "a/others.json").write_text(json.dumps({"of": others}))
    (tmp_path / "elsewhere.json").write_text(json.dumps({"of": theirs}))
    remove, remains = find_traces(tmp_path, [], GONE)
    assert remove == ["a/by_parent.parquet", "a/scores.parquet", "a/scores.json"]
    assert remains == []


def test_shards_indexes_and_labels_are_not_looked_at(tmp_path: Path) -> None:
    """The withdrawal itself rewrites those."""
    for name in ("made/shard-00000.parquet", "_made/index.parquet", "labels.parquet"):
        table(tmp_path / name, key=["d/anna é.jpg"])
    (tmp_path / ".normpipe.locks").mkdir()
    (tmp_path / ".normpipe.locks/00000001.json").write_text("d/anna é.jpg")
    assert find_traces(tmp_path, ["made"], GONE) == ([], [])
    # A dataset that is not one of the job's is a table like any other.
    assert find_traces(tmp_path, [], GONE)[0] == ["_made/index.parquet", "made/shard-00000.parquet"]


def test_texts_that_name_them_are_the_user_s_however_they_are_written(tmp_path: Path) -> None:
    for name, text in {
        "plain.csv": "key\nd/anna é.jpg\n",
        "ascii.json": json.dumps(["d/anna é.jpg"]),  # \u00e9
        "quoted.toml": 'input = "d/a\\"b.jpg"',
        "fourth.txt": "d/anna é.jpg",
        "others.csv": "key\nd/anna.jpg\n",
        "picture.jpg": "d/anna é.jpg",  # no text
    }.items():
        (tmp_path / name).write_text(text)
    remove, remains = find_traces(tmp_path, [], GONE)
    assert remove == [] and len(remains) == 1
    assert remains[0].startswith("ascii.json, fourth.txt, plain.csv and 1 more still name them")


def test_a_job_models_and_what_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('input = "d/anna é.jpg"')
    (tmp_path / "classify").mkdir()
    (tmp_path / "classify/model.safetensors").write_bytes(b"learnt")
    (tmp_path / "face.onnx").write_bytes(b"learnt")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    remove, remains = find_traces(tmp_path, [], GONE)
    assert remove == []
    job, unreadable, models = remains
    assert job.startswith("job.toml still names them")
    assert unreadable.startswith("torn.parquet cannot be read")
    assert "what they learnt: classify/model.safetensors, face.onnx;" in models
