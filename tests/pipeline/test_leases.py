"""Leases: an owner that was stopped at any instant commits nothing once another has the shard."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from normpipe.manifests.schema import schema
from normpipe.pipeline import leases
from normpipe.pipeline.commit import write_bytes
from normpipe.pipeline.leases import CLUSTER_FOLDER, LeasedFolder, LeaseLost, claim, clear
from normpipe.pipeline.shards import ShardFolder, ShardRecord, ShardWriter

from .clusters import digests

SCHEMA = schema([("number", pa.int64())])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / CLUSTER_FOLDER / "run"
    leases.leases_of(folder).mkdir(parents=True)
    return folder


def write(folder: ShardFolder, number: int, fingerprint: str = "f") -> ShardRecord:
    rows = [
        {
            "key": f"d/{i}",
            "parent_key": f"d/{i}",
            "status": "ok",
            "decided_by": "t",
            "number": number,
        }
        for i in range(3)
    ]
    with ShardWriter(folder, 7, SCHEMA) as writer:
        writer.add(rows)
        return writer.commit(fingerprint, {row["key"] for row in rows})


def leased(run: Path) -> LeasedFolder:
    return LeasedFolder(run.parent.parent / "made", claim(run, "made", 7))


def test_the_last_claim_owns_the_shard_and_counts(run: Path) -> None:
    first = claim(run, "normalized/compact", 7)
    assert first.number == 1 and first.held()
    second = claim(run, "normalized/compact", 7)
    assert second.number == 2 and second.held() and not first.held()
    with pytest.raises(LeaseLost):
        first.check()
    assert claim(run, "normalized/compact", 8).number == 1
    second.release()
    assert not second.held()
    assert claim(run, "normalized/compact", 7).number == 1


def test_an_old_owner_writes_nothing(run: Path) -> None:
    old = leased(run)
    new = leased(run)
    with pytest.raises((LeaseLost, FileNotFoundError)):
        write(old, 1)
    record = write(new, 2)
    assert ShardFolder(old.path).record(7) == record


def test_nothing_is_committed_once_the_run_is_over(run: Path, tmp_path: Path) -> None:
    late = leased(run)
    clear(tmp_path)
    assert not (tmp_path / CLUSTER_FOLDER).exists()
    with pytest.raises((LeaseLost, FileNotFoundError)):
        write(late, 1)
    with pytest.raises(LeaseLost):
        claim(run, "made", 8)
    assert not (tmp_path / CLUSTER_FOLDER).exists()
    assert ShardFolder(tmp_path / "made").records() == {}


def steps(patch: pytest.MonkeyPatch, before: Callable[[int], None]) -> Iterator[int]:
    """Call ``before`` ahead of each change to the file system, numbered from 0."""
    count = iter(range(1000))
    for name in ("rename", "replace", "unlink", "mkdir", "fsync", "open"):
        original = getattr(os, name)

        def step(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            before(next(count))
            return original(*args, **kwargs)

        patch.setattr(os, name, step)
    return count


@pytest.mark.parametrize("before", [False, True], ids=["new", "replaces"])
def test_stopped_at_any_instant_the_old_owner_changes_nothing(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead of each step of the old owner's commit, another claims, commits and gives back."""
    taken: set[bool] = set()
    for instant in range(1000):
        root = tmp_path / str(instant)
        run = root / CLUSTER_FOLDER / "run"
        leases.leases_of(run).mkdir(parents=True)
        if before:
            write(ShardFolder(root / "made"), 0, "older")
        old = leased(run)
        after: dict[str, str] = {}
        inside = False

        def take_over(
            step: int, instant: int = instant, run: Path = run, after: dict[str, str] = after
        ) -> None:
            nonlocal inside
            if step != instant or inside:
                return
            inside = True
            new = leased(run)
            write(new, 2)
            new.lease.release()
            after.update(digests(run.parent.parent / "made"))
            inside = False

        with monkeypatch.context() as patch:
            steps(patch, take_over)
            try:
                write(old, 1)
                lost = False
            except (LeaseLost, FileNotFoundError):
                lost = True
        if not after:  # the old owner was through before this instant came
            assert not lost
            break
        found = ShardFolder(root / "made")
        record = found.record(7)
        assert record is not None
        assert digests(root / "made") == after, f"step {instant}"
        assert found.read(7)["number"].to_pylist() == [2, 2, 2]
        taken.add(lost)
    assert instant > 6 and True in taken


def test_a_full_disk_is_no_lost_lease(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normpipe.pipeline.errors import OutputError

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    folder = leased(run)
    monkeypatch.setattr(leases, "commit_file", full)
    with pytest.raises(OutputError, match="make room"):
        write(folder, 1)


def test_claims_survive_files_of_others(run: Path) -> None:
    leased(run)
    stray = leases.leases_of(run) / "made" / "shard-00007" / "notes.txt"
    write_bytes(stray, b"")
    assert claim(run, "made", 7).number == 2
