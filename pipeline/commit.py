"""Writing that survives a kill at any instant: temporary name, fsync, rename, fsync the folder."""

import errno
import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import OutputError

#: Suffix of what is being written; such a file is never read and is removed at the next start.
TEMPORARY = ".tmp"

#: Held by the process that writes into a folder.
LOCK_FILE = ".normpipe.lock"

_FULL = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
}


@contextmanager
def storage_errors(path: Path) -> Generator[None, None, None]:
    """Turn a full, read-only or forbidden disk into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        what = os.strerror(error.errno or 0)
        raise OutputError(
            f"cannot write {path}: {what}; make room (or mend the permissions) and run the same "
            "command again: what is committed is kept"
        ) from error


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold a folder for this process alone, making it where it is missing.

    Raises:
        OutputError: another process holds it, or it cannot be written.
    """
    with storage_errors(folder):
        make_folder(folder)
    lock = FileLock(folder / LOCK_FILE)
    try:
        with storage_errors(folder):
            lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"another normpipe is at work in {folder}: wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()


def temporary(path: Path) -> Path:
    """Return the name under which ``path`` is written before its commit."""
    return path.with_name(path.name + TEMPORARY)


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably: a power cut would take all that is in them."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # a folder that may be written to, but not read
        fsync_folder(folder.parent)


def commit_file(path: Path, written: Path | None = None) -> None:
    """Give what was ``written`` (``temporary(path)``), flushed and fsynced, its name, durably."""
    (written or temporary(path)).replace(path)
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    with storage_errors(path):
        make_folder(path.parent)
        with temporary(path).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        commit_file(path)


def json_bytes(value: Any) -> bytes:
    """Return JSON with sorted keys."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_bytes(path, json_bytes(value))


def write_if_changed(path: Path, data: bytes) -> None:
    """Write a derived file unless it already holds these bytes."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed run left unfinished, for good: a face may be in it."""
    if not folder.is_dir():
        return
    found = [path for path in sorted(folder.rglob("*" + TEMPORARY)) if path.is_file()]
    with storage_errors(folder):
        for path in found:
            path.unlink()
        for parent in {path.parent for path in found}:
            fsync_folder(parent)
