"""Rows come out of a shard as they went in, are counted, and are there at once or not at all."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from normpipe.manifests.schema import ALIGNED, IMAGE, schema
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.store.shards import (
    ShardFolder,
    ShardRecord,
    ShardWriter,
    is_newer,
    parse_record,
    require_dataset,
    write_table,
)

from .ends import ends

PICTURED = schema([("image", IMAGE), ("score", pa.float32()), ("points", pa.list_(pa.int64()))])
VERDICTS = [("ok", None, "align"), ("rejected", "no_face", "align"), ("failed", "x", "ingest")]

rows_of_shards = st.lists(
    st.tuples(
        st.sampled_from(VERDICTS),
        st.integers(0, 3),  # whose face it is
        st.none() | st.binary(max_size=5),
        st.none() | st.floats(width=32, allow_nan=False),
        st.none() | st.lists(st.integers(-9, 9), max_size=3),
    ),
    max_size=150,
)


def named(values: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "key": f"d/{i // 4}#face{i}",
            "parent_key": f"d/{i // 4 * 4 + parent}",
            "status": status,
            "reason": reason,
            "decided_by": stage,
            "image": None if data is None else {"bytes": data, "path": f"{i}.png"},
            "score": score,
            "points": points,
        }
        for i, ((status, reason, stage), parent, data, score, points) in enumerate(values)
    ]


def write(
    folder: ShardFolder, number: int, rows: list[dict[str, Any]], mark: str = "f"
) -> ShardRecord:
    with ShardWriter(folder, number, PICTURED) as writer:
        writer.add(rows)
        return writer.commit(mark, None)


def few(count: int, name: str = "d") -> list[dict[str, Any]]:
    rows = named([(VERDICTS[0], 0, b"x", 0.5, [1])] * count)
    return [{**row, "key": f"{name}/{i}"} for i, row in enumerate(rows)]


@settings(max_examples=25, deadline=None)
@given(values=rows_of_shards, pieces=st.integers(1, 70))
@example(values=[(VERDICTS[i % 3], i % 4, b"x", 0.5, None) for i in range(150)], pieces=150)
def test_rows_come_back_with_their_places_and_are_counted(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], pieces: int
) -> None:
    rows = named(values)
    folder = ShardFolder(tmp_path_factory.mktemp("shards") / "made")
    with ShardWriter(folder, 3, PICTURED) as writer:
        for i in range(0, len(rows), pieces):
            writer.add(rows[i : i + pieces])
        record = writer.commit("print", {row["parent_key"] for row in rows})
    table = folder.read(3)
    assert table.select(PICTURED.names).to_pylist() == rows
    assert folder.schema(3).metadata == PICTURED.metadata
    assert folder.schema_names(3) == PICTURED.names
    # Where pyarrow alone finds each row.
    with pq.ParquetFile(folder.shard(3)) as file:
        for row in folder.read(3, ["key"]).to_pylist()[::17]:
            group = file.read_row_group(row["row_group"], ["key"])
            assert group["key"][row["row"]].as_py() == row["key"] and row["shard"] == 3
            assert group.num_rows <= 64
    data = folder.shard(3).read_bytes()
    assert record == folder.record(3)
    assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (record.rows, record.inputs) == (len(rows), len({row["parent_key"] for row in rows}))
    assert record.statuses == Counter(row["status"] for row in rows)
    decided = (f"{r['decided_by']}:{r['reason']}" for r in rows if r["status"] != "ok")
    assert record.reasons == Counter(decided)


def test_pictures_lie_plain_and_the_rest_is_packed(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    with ShardWriter(folder, 0, ALIGNED) as writer:
        writer.add([{**few(1)[0], "landmarks": [[1.0, 2.0]]} | {"score": None}])
        writer.commit("f", None)
    with pq.ParquetFile(folder.shard(0)) as file:
        group = file.metadata.row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
    packed = {one.path_in_schema: one.compression for one in columns}
    assert packed.pop("image.bytes") == packed.pop("image.path") == "UNCOMPRESSED"
    assert {*packed.values()} == {"ZSTD"} and "landmarks.list.element.list.element" in packed
    pictures = next(one for one in columns if one.path_in_schema == "image.bytes")
    assert not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & {*pictures.encodings}


def test_a_record_speaks_of_the_shard_beside_it_wherever_a_commit_ends(tmp_path: Path) -> None:
    """Also where another shard and its record stood there before."""

    def before(root: Path) -> None:
        write(ShardFolder(root / "made"), 0, few(5, "old"))

    def work(root: Path) -> None:
        write(ShardFolder(root / "made"), 0, few(70, "new"), "g")

    found: list[list[str | None]] = []
    for roots in ends(tmp_path, work, before):
        found.append([])
        for folder in (ShardFolder(root / "made") for root in roots):
            record = folder.record(0)
            found[-1].append(record and record.fingerprint)
            if record is not None:
                data = folder.shard(0).read_bytes()
                assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert {one for some in found for one in some} == {"f", None, "g"}
    assert {*found[-1]} == {"g"}


def test_lost_rows_and_keys_given_twice_make_no_shard(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "made")
    with ShardWriter(folder, 0, PICTURED) as writer:
        writer.add(few(2))
        with pytest.raises(AssertionError, match=r"lost or invented .*\['d/lost'\]"):
            writer.commit("f", {"d/0", "d/lost"})
    with ShardWriter(folder, 0, PICTURED) as writer:
        writer.add(few(2) + few(1))
        with pytest.raises(AssertionError, match="two rows with the key d/0"):
            writer.commit("f", None)
    assert [*folder.path.iterdir()] == [] and folder.records() == {}


def test_a_writer_keeps_what_is_finished_and_drops_the_rest(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "made")
    with ShardWriter(folder, 0, PICTURED, tmp_path / "whole") as writer:
        writer.add(few(3))
        record = writer.finish("f", None, quarantined="broken at 2")
    with ShardWriter(folder, 1, PICTURED, tmp_path / "half") as writer:
        writer.add(few(65))
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (record.quarantined, record.why) == (True, "broken at 2")
    folder.put_in_place(record, tmp_path / "whole")
    assert folder.read(0, ["key"])["key"].to_pylist() == ["d/0", "d/1", "d/2"]


def test_a_shard_is_committed_where_both_files_are_there_and_whole(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "made")
    records = {number: write(folder, number, few(number + 1)) for number in range(5)}
    assert folder.records() == folder.stored_records() == records
    folder.shard(0).unlink()
    folder.record_path(1).unlink()
    folder.record_path(2).write_bytes(records[2].to_json()[:-5])
    folder.record_path(3).write_bytes(records[4].to_json())  # another's
    (folder.records_path / "notes.json").write_text("{}")
    assert folder.records() == {4: records[4]} and [*folder.stored_records()] == [0, 4]
    assert (folder.record(0), folder.stored_record(0)) == (None, records[0])
    assert [folder.record(n) for n in (1, 2, 3, 4)] == [None, None, None, records[4]]
    assert folder.recorded_numbers() == [0, 2, 3, 4] and [*folder.shard_sizes()] == [1, 2, 3, 4]
    folder.remove(4)
    assert folder.recorded_numbers() == [0, 2, 3] and [*folder.shard_sizes()] == [1, 2, 3]
    with pytest.raises(OutputError, match=r"align reads .*/made, which has no finished shard"):
        require_dataset(folder, "align")


def test_a_record_is_read_back_and_keeps_quiet_where_nothing_broke(tmp_path: Path) -> None:
    record = write(ShardFolder(tmp_path / "made"), 0, few(1))
    assert parse_record(record.to_json()) == record and "why" not in json.loads(record.to_json())
    broken = record.model_copy(update={"quarantined": True, "why": "broken at é"})
    assert parse_record(broken.to_json()) == broken
    assert parse_record(b'{"shard": 0}') is None and parse_record(b"") is None


def test_the_record_of_a_newer_release_is_no_damage(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "made")
    newer = {**json.loads(write(folder, 0, few(1)).to_json()), "schema_version": 2, "more": 1}
    folder.record_path(0).write_text(json.dumps(newer))
    with pytest.raises(InputError, match="upgrade normpipe"):
        folder.records()
    assert not is_newer(b"{}") and not is_newer(b"[") and not is_newer(b'{"schema_version": 1}')


def test_a_table_is_written_where_it_differs(tmp_path: Path) -> None:
    path, table = tmp_path / "labels.parquet", pa.table({"key": ["a", "b"], "fold": [1, 2]})
    write_table(path, table)
    assert pq.read_table(path).equals(table)
    os.utime(path, ns=(1, 1))
    write_table(path, pa.table({"key": ["a", "b"], "fold": [1, 2]}))
    assert path.stat().st_mtime_ns == 1
    write_table(path, table.slice(1))
    assert pq.read_table(path)["key"].to_pylist() == ["b"]
