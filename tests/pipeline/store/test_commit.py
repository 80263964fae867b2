"""Files that are there whole or not at all, wherever the process or the power ends."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.store.commit import (
    TEMPORARY,
    PendingFile,
    commit_file,
    json_bytes,
    make_folder,
    remove_temporaries,
    storage_errors,
    temporary,
    write_bytes,
    write_if_changed,
)

from .ends import ends

OLD, NEW = b"old" * 500, b"newer" * 2000


def at_once(path: Path) -> None:
    write_bytes(path, NEW)


def piece_by_piece(path: Path) -> None:
    make_folder(path.parent)
    file = PendingFile(temporary(path))
    for i in range(0, len(NEW), 4000):
        file.write(NEW[i : i + 4000])
        file.flush()
    file.finish()
    commit_file(path)


@pytest.mark.parametrize("work", [at_once, piece_by_piece])
@pytest.mark.parametrize("old", [None, OLD])
def test_a_file_is_as_it_was_or_whole_at_every_end(
    tmp_path: Path, work: Callable[[Path], None], old: bytes | None
) -> None:
    def before(root: Path) -> None:
        if old is not None:
            write_bytes(root / "a/b/file", old)

    found: list[set[bytes | None]] = []
    for left in ends(tmp_path, lambda root: work(root / "a/b/file"), before):
        files = [root / "a/b/file" for root in left]
        found.append({path.read_bytes() if path.is_file() else None for path in files})
    assert len(found) >= 5
    assert set.union(*found) == {old, NEW}
    assert found[-1] == {NEW}  # once it has returned, a power cut takes nothing


def test_what_is_unchanged_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_if_changed(path, OLD)
    os.utime(path, ns=(1, 1))
    write_if_changed(path, OLD)
    assert path.stat().st_mtime_ns == 1
    write_if_changed(path, OLD[:-1] + b"!")
    assert path.read_bytes() == OLD[:-1] + b"!" and path.stat().st_mtime_ns != 1


def test_only_what_is_unfinished_is_removed(tmp_path: Path) -> None:
    kept = {"tmp", "a/file.tmp.json", "a/folder.tmp/file", "shard-00000.parquet"}
    for name in {*kept, "one.tmp", "a/b/shard-00000.parquet.tmp"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a face")
    remove_temporaries(tmp_path)
    found = (path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.relative_to(tmp_path).as_posix() for path in found} == kept
    remove_temporaries(tmp_path / "nowhere")


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=300), max_size=8))
def test_a_file_is_hashed_as_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("pending") / "file"
    file = PendingFile(path)
    assert [file.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
    digest = file.finish()
    whole = b"".join(pieces)
    assert path.read_bytes() == whole and file.closed
    assert (digest, file.size) == (hashlib.sha256(whole).hexdigest(), len(whole))


def test_what_is_dropped_is_gone_and_takes_no_more(tmp_path: Path) -> None:
    file = PendingFile(tmp_path / "file")
    file.write(b"half")
    file.drop()
    assert file.write(b"footer") == 6 and file.size == 4
    file.flush()
    assert file.closed and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_one_line(tmp_path: Path, code: int) -> None:
    with pytest.raises(OutputError) as caught, storage_errors(tmp_path / "file"):
        raise OSError(code, os.strerror(code))
    assert f"cannot write {tmp_path}/file: {os.strerror(code)};" in str(caught.value)


def test_a_disk_that_is_broken_is_no_full_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"), storage_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_json_is_sorted_and_ends_its_line() -> None:
    assert json_bytes({"b": [1], "a": "é"}) == (b'{\n  "a": "\\u00e9",\n  "b": [\n    1\n  ]\n}\n')
    assert TEMPORARY == ".tmp"  # what an older release left is known by it, too
