"""Tries at a shard: each under a token of its own, so that none can reach another's, or the job."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from normpipe.manifests.schema import schema
from normpipe.pipeline.run.tries import MAKING_FOLDER, RunFolder, RunOver, clear, stage_of
from normpipe.pipeline.store import commit
from normpipe.pipeline.store.shards import ShardFolder, ShardRecord, ShardWriter

from ..clusters import laid

SCHEMA = schema([("number", pa.int64())])


@pytest.fixture
def there(tmp_path: Path) -> RunFolder:
    return laid(tmp_path)


def write(writer: ShardWriter, number: int) -> ShardRecord:
    row = {"key": "d/1", "parent_key": "d/1", "status": "ok", "decided_by": "t", "number": number}
    with writer:
        writer.add([row])
        return writer.finish("f", {"d/1"})


def made(there: RunFolder, folder: ShardFolder, number: int) -> tuple[str, ShardRecord]:
    token = there.begin("toy-map", 7)
    record = write(ShardWriter(folder, 7, SCHEMA, there.shard(token)), number)
    there.finish(token, record)
    return token, record


def test_marks_count_the_tries_at_one_shard_of_one_stage(there: RunFolder) -> None:
    tokens = [there.begin("toy-map", 7) for _ in range(3)]
    others = [there.begin("toy", 7), there.begin("toy-map", 70), there.begin("toy-map-7", 7)]
    assert sorted(there.active("toy-map", 7)) == sorted(tokens)
    assert there.active("toy") == others[:1]
    assert {stage_of(token) for token in there.active("toy-map")} == {
        ("toy-map", 7),
        ("toy-map", 70),
    }
    there.end(*tokens[:2], "never-00001-begun")
    assert there.active("toy-map", 7) == tokens[2:]
    assert there.is_active(tokens[2]) and not there.is_active(tokens[0])


def test_nothing_is_written_once_the_run_is_over(there: RunFolder, tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "made")
    late, record = made(there, folder, 1)
    unfinished = there.begin("toy-map", 8)
    writer = ShardWriter(folder, 8, SCHEMA, there.shard(unfinished))
    clear(tmp_path)
    assert not (tmp_path / MAKING_FOLDER).exists()
    with pytest.raises(RunOver):
        there.begin("toy-map", 9)
    with pytest.raises(RunOver):
        there.finish(unfinished, write(writer, 1))
    with pytest.raises(FileNotFoundError):
        folder.put_in_place(record, there.shard(late))
        there.forget(late)
    assert not (tmp_path / MAKING_FOLDER).exists()
    assert folder.records() == {} and not list(tmp_path.rglob("*.parquet"))


def test_who_leaves_removes_its_own_run_alone(there: RunFolder, tmp_path: Path) -> None:
    """Not that of a job which took over while it was frozen."""
    other = laid(tmp_path)
    token = other.begin("toy-map", 7)
    there.close()
    assert not there.path.exists() and other.is_active(token)
    other.close()
    assert not (tmp_path / MAKING_FOLDER).exists()


def test_what_release_0_1_0_left_of_a_run_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / ".cluster/0123/leases/made/shard-00003/1").mkdir(parents=True)
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_of_the_same_shard_never_meet(there: RunFolder, tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "made")
    first, second = made(there, folder, 1), made(there, folder, 2)
    assert folder.records() == {}
    assert sorted(there.finished("toy-map", 7)) == sorted([first[0], second[0]])
    folder.put_in_place(second[1], there.shard(second[0]))
    there.forget(second[0])
    assert folder.read(7)["number"].to_pylist() == [2]
    assert there.record(first[0]) == first[1].to_json() and there.finished("toy-map", 7) == [
        first[0]
    ]


@pytest.mark.parametrize("before", [False, True])
def test_a_shard_is_put_in_place_on_another_disk(
    there: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """As where ``OUT/normalized`` is a link to a larger disk."""
    folder = ShardFolder(tmp_path / "made")
    if before:
        token, record = made(there, folder, 1)
        folder.put_in_place(record, there.shard(token))
        there.forget(token)
    replace = Path.replace

    def far(self: Path, target: Path) -> Path:
        if self.parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(self, target)

    monkeypatch.setattr(commit.Path, "replace", far)
    token, record = made(there, folder, 2)
    folder.put_in_place(record, there.shard(token))
    there.forget(token)
    assert folder.record(7) == record and folder.read(7)["number"].to_pylist() == [2]
    assert sorted(path.name for path in folder.path.iterdir()) == ["shard-00007.parquet"]
    assert not there.shard(token).exists()
