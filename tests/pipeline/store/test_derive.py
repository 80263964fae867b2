"""Index, manifest and card say what the shards hold."""

import hashlib
import json
import os
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import INDEX
from normpipe.pipeline.store.commit import json_bytes
from normpipe.pipeline.store.derive import derive, derive_again, manifest_of, totals
from normpipe.pipeline.store.shards import ShardFolder

from ..living import digests
from ..toys import ToyMap, flow, run


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("derived") / "out"
    run(out, flow([f"n{i}" for i in range(75)] + ["noface90", "cut91", "twins92"]))
    return out


def shards_of(job: Path) -> str:
    return f"read_parquet('{job}/made/shard-*.parquet', filename = true, file_row_number = true)"


def test_the_index_leads_to_every_row(job: Path) -> None:
    folder = ShardFolder(job / "made")
    index = pq.read_table(folder.index_path)
    assert index.schema.equals(INDEX)
    for row in index.to_pylist():
        with pq.ParquetFile(folder.shard(row["shard"])) as file:
            there = file.read_row_group(row["row_group"]).slice(row["row"], 1).to_pylist()[0]
        for name in ("key", "parent_key", "status", "reason", "decided_by", "image_sha256"):
            assert there[name] == row[name]
    keys = duckdb.sql(f"select key from {shards_of(job)} order by filename, file_row_number")
    assert [(key,) for key in index["key"].to_pylist()] == keys.fetchall()


def test_the_manifest_counts_what_other_tools_count(job: Path) -> None:
    folder = ShardFolder(job / "made")
    manifest = json.loads(folder.manifest_path.read_bytes())
    count = f"select count(*), count(distinct parent_key) from {shards_of(job)}"
    rows, inputs = duckdb.sql(count).fetchall()[0]
    statuses = f"select status, count(*) from {shards_of(job)} group by status"
    files = sorted((job / "made").iterdir())
    assert manifest["totals"] == {
        "rows": rows,
        "inputs": inputs,
        "shards": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "statuses": dict(duckdb.sql(statuses).fetchall()),
        "reasons": {"toy-map:no_face": 1, "toy-map:truncated": 1},
    }
    assert (rows, inputs) == (79, 78)
    for path, shard in zip(files, manifest["shards"], strict=True):
        record = job / "_made/records" / f"{path.stem}.json"
        assert shard["file"] == path.name
        assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert shard["record_sha256"] == hashlib.sha256(record.read_bytes()).hexdigest()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((job / "_made" / name).read_bytes()).hexdigest() == digest
    assert {*manifest["files"]} == {"index.parquet", "README.md"}
    assert manifest["made_by"] == json.loads(folder.stage_path.read_bytes())


def test_the_card_says_it_in_words(job: Path) -> None:
    card = (job / "_made/README.md").read_text()
    assert "79 rows from 78 inputs in 8 shards" in card and "| ok | 77 |" in card
    assert (
        "| toy-map | no_face | 1 | no face was found |" in card or "| toy-map | no_face |" in card
    )
    assert 'load_dataset("made", split="train")' in card
    second = (job / "_second/README.md").read_text()
    assert second.startswith("---\n") and "# second\n" in second


def test_sums_of_nothing_are_zero() -> None:
    zeros = dict.fromkeys(("shards", "rows", "inputs", "bytes"), 0)
    assert totals({}) == {**zeros, "statuses": {}, "reasons": {}}


def test_what_is_as_it_should_be_is_not_written_again(tmp_path: Path) -> None:
    run(tmp_path, flow())
    folder, before = ShardFolder(tmp_path / "made"), digests(tmp_path)
    derived = [folder.index_path, folder.manifest_path, folder.card_path]
    for path in derived:
        os.utime(path, ns=(1, 1))
    derive(tmp_path, ToyMap())
    assert [path.stat().st_mtime_ns for path in derived] == [1, 1, 1]
    # An index is believed where the manifest is of these very shards, and else made anew.
    folder.index_path.write_bytes(b"of other shards")
    changed = json.loads(folder.manifest_path.read_bytes())
    changed["totals"]["rows"] += 1
    folder.manifest_path.write_bytes(json_bytes(changed, ascii_only=False))
    derive(tmp_path, ToyMap())
    assert digests(tmp_path) == before
    folder.manifest_path.unlink()
    folder.index_path.write_bytes(b"of other shards")
    folder.cleaned_path.write_text("{}")
    derive(tmp_path, ToyMap())
    assert digests(tmp_path) == before  # and the dataset counts as freed no more


def test_without_its_stage_the_old_card_gives_its_words(tmp_path: Path) -> None:
    stages = flow()
    stages[1].description = "Numbers, squared."
    run(tmp_path, stages)
    folder, before = ShardFolder(tmp_path / "made"), digests(tmp_path)
    assert "\nNumbers, squared.\n" in folder.card_path.read_text()
    folder.manifest_path.unlink()
    folder.index_path.unlink()
    derive_again(tmp_path, "made")
    assert digests(tmp_path) == before
    folder.card_path.unlink()
    derive_again(tmp_path, "made")
    assert "squared" not in folder.card_path.read_text()
    derive_again(tmp_path, "nothing")
    assert not (tmp_path / "_nothing").exists()


def test_the_lists_beside_a_source_are_vouched_for(tmp_path: Path) -> None:
    run(tmp_path, flow()[:1])
    (tmp_path / "labels.parquet").write_bytes(b"labels")
    derive_again(tmp_path, "manifest")
    manifest = json.loads((tmp_path / "_manifest/manifest.json").read_bytes())
    digest = hashlib.sha256(b"labels").hexdigest()
    assert (
        manifest["files"]["labels.parquet"] == digest and "index.parquet" not in manifest["files"]
    )
    assert manifest_of(ShardFolder(tmp_path / "none"), {})["made_by"] == {}


def test_json_keeps_letters() -> None:
    assert (
        json_bytes({"é": 1, "a": [None]}, ascii_only=False)
        == '{\n  "a": [\n    null\n  ],\n  "é": 1\n}\n'.encode()
    )
