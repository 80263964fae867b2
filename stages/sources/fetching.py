"""Reads the inputs that a manifest names: a file or object below the root, a member of an archive,
a row of pixels, or an address; and nothing outside the dataset's root.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ...manifests.vocabularies import SampleError
from ...pipeline.stage import Row
from ...pipeline.store.storage import is_store
from .containers.addresses import fetch_url, is_url
from .containers.archives import Archive
from .containers.objects import read_object
from .containers.pixel_tables import PIXEL_SUFFIXES, PixelTable

# Errors of a single file. Anything else (EIO, ENOSPC, EMFILE …) is the machine's fault and must
# stop the shard, or a failing disk would be recorded as a thousand bad photographs.
_REASONS = {
    errno.ENOENT: "missing_file",
    errno.ENOTDIR: "missing_file",
    errno.ENAMETOOLONG: "missing_file",
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",
    errno.ELOOP: "unreadable",
    errno.EACCES: "unreadable",
    errno.EPERM: "unreadable",
}


class SourceReader:
    """Reads the bytes of manifest rows. Safe to use from several threads once it is open."""

    def __init__(self, root: Path, max_bytes: int, fetch_seconds: float, allow_urls: bool) -> None:
        """``root``: the folder or store that paths are relative to, the archive or the pixels."""
        self._root = root.resolve()
        self._max_bytes = max_bytes
        self._fetch_seconds = fetch_seconds
        self._allow_urls = allow_urls
        self._archive: Archive | PixelTable | None = None

    def open(self) -> None:
        """Read an archive's list of members, or the pixels of a table.

        Raises InputError if it cannot be read.
        """
        if self._archive is None and not is_store(self._root) and self._root.is_file():
            pixels = self._root.suffix.lower() in PIXEL_SUFFIXES
            self._archive = PixelTable(self._root) if pixels else Archive(self._root)

    def close(self) -> None:
        """Close the archive; ``open`` opens it again."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def read(self, row: Row) -> bytes:
        """Return the bytes that a row refers to.

        Raises:
            SampleError: as ``read_source``, ``read_object``, ``Archive.read`` and ``fetch_url``.
            OSError, OutputError: an error that is not this input's fault.
        """
        path: str = row["path"]
        seen = {"size_bytes": row.get("size_bytes"), "modified_ns": row.get("modified_ns")}
        if self._archive is not None:
            return self._archive.read(path, self._max_bytes, **seen)
        if is_store(self._root):
            return read_object(self._root, path, self._max_bytes, **seen)
        if not is_url(path):
            return read_source(self._root, path, self._max_bytes, **seen)
        if not self._allow_urls:
            raise SampleError("url_not_allowed", path)
        return fetch_url(path, self._max_bytes, self._fetch_seconds)

    def open_file(self, row: Row) -> int:
        """Return a descriptor of the file that a row refers to, below a folder.

        The caller closes it. Raises as ``open_source``; SampleError ``not_a_file`` if the rows'
        paths are not below a folder.
        """
        if self._archive is not None or is_store(self._root):
            raise SampleError("not_a_file", row["path"])
        seen = {"size_bytes": row.get("size_bytes"), "modified_ns": row.get("modified_ns")}
        return open_source(self._root, row["path"], **seen)


def read_source(
    root: Path,
    relative: str,
    max_bytes: int,
    *,
    size_bytes: int | None = None,
    modified_ns: int | None = None,
) -> bytes:
    """Return the bytes of ``root / relative``.

    Links are followed only if they stay inside the root. Devices, pipes and folders are never
    read, whatever their name.

    Args:
        root: the dataset's root, already resolved.
        relative: path below it, as the manifest has it.
        max_bytes: files larger than this are not read.
        size_bytes, modified_ns: what ingest saw; None skips the comparison.

    Raises:
        SampleError: ``missing_file``, ``not_a_file``, ``outside_root``, ``unreadable``,
            ``empty_file``, ``too_many_bytes``, ``changed_since_ingest``.
        OSError: an error that is not this file's fault.
    """
    descriptor, status = _opened(root, relative)
    with os.fdopen(descriptor, "rb") as file:
        _refuse(relative, status, max_bytes, size_bytes, modified_ns)
        # One more than allowed, to notice a file that grows while it is read.
        data = file.read(max_bytes + 1)
    if len(data) != status.st_size:
        raise SampleError("changed_since_ingest", relative)
    return data


def open_source(
    root: Path,
    relative: str,
    *,
    size_bytes: int | None = None,
    modified_ns: int | None = None,
) -> int:
    """Return a descriptor of ``root / relative``, for files too large to be read at once.

    The caller closes it. Arguments and errors as for ``read_source``.
    """
    descriptor, status = _opened(root, relative)
    try:
        _refuse(relative, status, None, size_bytes, modified_ns)
    except SampleError:
        os.close(descriptor)
        raise
    return descriptor


def _opened(root: Path, relative: str) -> tuple[int, os.stat_result]:
    try:
        path = (root / relative).resolve(strict=True)
        if not path.is_relative_to(root):
            raise SampleError("outside_root", f"{relative} leads out of {root}")
        # A pipe without a writer would block the open itself.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        descriptor = os.open(path, flags)
    except (OSError, RuntimeError, ValueError) as error:
        raise _as_sample_error(error, relative) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SampleError("not_a_file", relative)
    if not _is_inside(root, descriptor):
        os.close(descriptor)
        raise SampleError("outside_root", f"{relative} now leads out of {root}")
    return descriptor, status


def _refuse(
    relative: str,
    status: os.stat_result,
    max_bytes: int | None,
    size_bytes: int | None,
    modified_ns: int | None,
) -> None:
    if status.st_size == 0:
        raise SampleError("empty_file", relative)
    if max_bytes is not None and status.st_size > max_bytes:
        raise SampleError("too_many_bytes", f"{relative}: {status.st_size} > {max_bytes}")
    changed = (size_bytes is not None and status.st_size != size_bytes) or (
        modified_ns is not None and status.st_mtime_ns != modified_ns
    )
    if changed:
        raise SampleError("changed_since_ingest", relative)


def _is_inside(root: Path, descriptor: int) -> bool:
    """Return whether an open file is in the root; a folder may have become a link meanwhile."""
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(root)
    except OSError:  # no /proc: rely on the check before
        return True


def _as_sample_error(error: Exception, relative: str) -> Exception:
    if isinstance(error, RuntimeError):  # what pathlib raises for a loop of links
        return SampleError("unreadable", f"{relative}: {error}")
    if isinstance(error, ValueError):  # a null byte in the name
        return SampleError("missing_file", f"{relative!r}: {error}")
    if isinstance(error, OSError) and error.errno in _REASONS:
        return SampleError(_REASONS[error.errno], f"{relative}: {error.strerror}")
    return error
