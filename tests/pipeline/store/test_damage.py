"""Shards that are not as recorded, and what is removed of a dataset."""

from pathlib import Path

import pytest

from normpipe.manifests.schema import schema
from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.store.damage import (
    damaged,
    drop_damaged,
    drop_orphans,
    refuse_damaged,
    remove_all,
)
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter

from .ends import ends

ROW = {"key": "d/a", "parent_key": "d/a", "status": "ok", "decided_by": "toy"}


def three_shards(path: Path) -> ShardFolder:
    folder = ShardFolder(path)
    for number in range(3):
        with ShardWriter(folder, number, schema([])) as writer:
            writer.add([ROW])
            writer.commit("f", None)
    (folder.stage_path).write_text("{}")
    return folder


def test_sizes_that_differ_and_shards_that_are_gone_are_found(tmp_path: Path) -> None:
    folder = three_shards(tmp_path / "made")
    assert damaged(folder) == {}
    refuse_damaged(folder, "align")
    size = folder.shard(1).stat().st_size
    folder.shard(1).write_bytes(folder.shard(1).read_bytes()[:-1])
    folder.shard(2).unlink()
    folder.record_path(0).unlink()  # a shard without a record says nothing that could be wrong
    assert damaged(folder) == {
        1: f"{folder.shard(1)} has {size - 1} bytes, recorded {size}",
        2: f"{folder.shard(2)} is gone",
    }
    with pytest.raises(OutputError, match=r"shard-00001.*, and align reads it"):
        refuse_damaged(folder, "align")


def test_a_damaged_shard_goes_with_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = three_shards(tmp_path / "made")
    folder.shard(1).write_bytes(b"")
    drop_damaged(folder)
    assert [*folder.shard_sizes()] == folder.recorded_numbers() == [0, 2]
    assert f"{folder.shard(1)} has 0 bytes" in caplog.text and "making it again" in caplog.text


def test_numbers_that_the_source_has_not_are_removed_everywhere(tmp_path: Path) -> None:
    folders = [three_shards(tmp_path / name) for name in ("made", "normalized/second")]
    folders[1].shard(2).unlink()  # its record is left
    drop_orphans(tmp_path, {0, 7})
    for folder in folders:
        assert [*folder.shard_sizes()] == folder.recorded_numbers() == [0]


def test_no_shard_outlives_its_record_wherever_a_removal_ends(tmp_path: Path) -> None:
    def before(root: Path) -> None:
        three_shards(root / "made")

    left = [
        (folder.shard_sizes().keys(), folder.recorded_numbers())
        for roots in ends(tmp_path, lambda root: remove_all(ShardFolder(root / "made")), before)
        for folder in (ShardFolder(root / "made") for root in roots)
    ]
    assert len(left) > 20
    for shards, records in left:
        assert not shards or records == [0, 1, 2]
    assert all(not shards and not records for shards, records in left[-4:])
