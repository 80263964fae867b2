"""Writing that survives a kill at any instant: temporary name, fsync, rename, fsync the folder.

In a store an object appears complete or not at all, so it is simply written (``storage``).
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import DISK_FULL, OutputError
from .storage import copy, is_store, put, remove, store_errors, upload

#: Suffix of files being written; they are never read, and are removed at the next start.
TEMPORARY = ".tmp"

_FULL = DISK_FULL | {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def storage_errors(path: Path) -> Generator[None, None, None]:
    """Turn a full, read-only or forbidden disk, or a store's error, into a one-line OutputError."""
    try:
        with store_errors(path):
            yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        what = os.strerror(error.errno or 0)
        raise OutputError(
            f"cannot write {path}: {what}; free some space (or fix the permissions) and run the "
            "same command again: what is committed is kept"
        ) from error


def temporary(path: Path) -> Path:
    """Return the name under which ``path`` is written before it is committed."""
    return path.with_name(path.name + TEMPORARY)


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder durable; in a store, do nothing."""
    if is_store(folder):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably: else a power cut would take everything in them."""
    if is_store(folder) or folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # a folder with write but no read permission
        fsync_folder(folder.parent)


def commit_file(path: Path) -> None:
    """Rename ``temporary(path)``, which is flushed and fsynced, to ``path``, durably."""
    move(temporary(path), path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file, complete or not at all."""
    if is_store(path):
        return put(path, data)
    with storage_errors(path):
        make_folder(path.parent)
        with temporary(path).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        return commit_file(path)


def json_bytes(value: Any, ascii_only: bool = True) -> bytes:
    """Return JSON as all our files have it: indented, with sorted keys.

    ``ascii_only``: other characters are escaped; files that describe a dataset have them as they
    are, so that people can read them.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=ascii_only)
    return (text + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, complete or not at all."""
    write_bytes(path, json_bytes(value))


def write_if_changed(path: Path, data: bytes) -> None:
    """Write a derived file unless it already contains these bytes."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def remove_temporaries(folder: Path) -> None:
    """Remove, durably, the unfinished files of a killed run: a face may be in them.

    A store has such files only if a folder was copied to it.
    """
    if not folder.is_dir():
        return
    found = [path for path in sorted(folder.rglob("*" + TEMPORARY)) if path.is_file()]
    with storage_errors(folder):
        for path in found:
            remove_file(path)
        for parent in {path.parent for path in found}:
            fsync_folder(parent)


def remove_file(path: Path) -> None:
    """Remove a file; a missing one is no error. In a folder, durable after ``fsync_folder``."""
    if is_store(path):
        return remove(path)
    return path.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Rename a complete, fsynced file, replacing an older one, durably.

    In a store the object is copied within the store.
    """
    if is_store(target):
        copy(source, target)
        return remove(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The target is on another disk: a link to where there is space.
        with source.open("rb") as data, temporary(target).open("wb") as stream:
            shutil.copyfileobj(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary(target).replace(target)
        source.unlink()
    return fsync_folder(target.parent)


class PendingFile:
    """A file that is hashed as it is written, and is durable once it is finished.

    For a store it is an unnamed local file, uploaded at the end, so that a killed process leaves
    nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes]
        if is_store(path):
            self._stream = tempfile.TemporaryFile(prefix="normpipe-")  # noqa: SIM115 - closed when it is uploaded
        else:
            self._stream = path.open("wb")
        self._hash = hashlib.sha256()
        self._dropped = False
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append bytes; after ``drop``, do nothing."""
        view = memoryview(data)
        if self._dropped:
            # Arrow writes a footer when it collects a writer that was not closed. An error raised
            # there would be formatted in the middle of whatever Python was doing.
            return view.nbytes
        self._hash.update(view)
        self.size += view.nbytes
        return self._stream.write(view)

    def flush(self) -> None:
        """Hand the written bytes to the operating system."""
        if not self._dropped:
            self._stream.flush()

    @property
    def closed(self) -> bool:
        """Return whether the file is closed."""
        return self._stream.closed

    def finish(self) -> str:
        """Make the file durable and return its hex sha256. Nothing may be written afterwards."""
        self._stream.flush()
        if is_store(self._path):
            upload(self._stream, self._path)
        else:
            os.fsync(self._stream.fileno())
        self._stream.close()
        return self._hash.hexdigest()

    def drop(self) -> None:
        """Close it, and remove it."""
        self._dropped = True
        with suppress(OSError):  # flushing the buffer may fail on a full disk
            self._stream.close()
        if not is_store(self._path):
            self._path.unlink(missing_ok=True)
