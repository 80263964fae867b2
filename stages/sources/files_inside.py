"""Opens files from strangers: regular ones, and only those within a folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ...manifests.vocabularies import SampleError

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


def open_inside(root: Path, relative: str) -> BinaryIO:
    """Open ``root / relative`` to read it.

    Links are followed only if they stay inside the root. Devices, pipes and folders are never
    opened, whatever their name.

    Args:
        root: a folder, already resolved.
        relative: path below it.

    Raises:
        SampleError: ``missing_file``, ``not_a_file``, ``outside_root``, ``unreadable``.
        OSError: an error that is not this file's fault.
    """
    try:
        path = (root / relative).resolve(strict=True)
        if not path.is_relative_to(root):
            raise SampleError("outside_root", f"{relative} leads out of {root}")
        # A pipe without a writer would block the open itself.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        descriptor = os.open(path, flags)
    except (OSError, RuntimeError, ValueError) as error:
        raise _as_sample_error(error, relative) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SampleError("not_a_file", relative)
    if not _is_inside(root, descriptor):
        os.close(descriptor)
        raise SampleError("outside_root", f"{relative} now leads out of {root}")
    return os.fdopen(descriptor, "rb")


def open_source(
    root: Path,
    relative: str,
    max_bytes: int | None = None,
    *,
    size_bytes: int | None = None,
    modified_ns: int | None = None,
) -> BinaryIO:
    """Open ``root / relative``, for files too large to be read at once.

    Args:
        root: the dataset's root, already resolved.
        relative: path below it, as the manifest has it.
        max_bytes: files larger than this are not read; None for any size.
        size_bytes, modified_ns: what ingest saw; None skips the comparison.

    Raises:
        SampleError: as ``open_inside``, and ``empty_file``, ``too_many_bytes``,
            ``changed_since_ingest``.
        OSError: an error that is not this file's fault.
    """
    file = open_inside(root, relative)
    try:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            raise SampleError("empty_file", relative)
        if max_bytes is not None and status.st_size > max_bytes:
            raise SampleError("too_many_bytes", f"{relative}: {status.st_size} > {max_bytes}")
        now = (status.st_size, status.st_mtime_ns)
        refuse_changed(relative, (size_bytes, modified_ns), now)
    except SampleError:
        file.close()
        raise
    return file


def open_descriptor(
    root: Path,
    relative: str,
    *,
    size_bytes: int | None = None,
    modified_ns: int | None = None,
) -> int:
    """Return a descriptor of an open file of any size, for another process; the caller closes it.

    Arguments and errors as of ``open_source``.
    """
    with open_source(root, relative, size_bytes=size_bytes, modified_ns=modified_ns) as file:
        return os.dup(file.fileno())


def refuse_changed(
    path: str, seen: tuple[int | None, int | None], now: tuple[int | None, int | None]
) -> None:
    """Raise SampleError ``changed_since_ingest`` for another size or time than ingest saw.

    Args:
        path: for the message.
        seen: bytes, and ns since 1970; None where ingest recorded nothing.
        now: the same of the input that is there.
    """
    if any(before is not None and before != after for before, after in zip(seen, now, strict=True)):
        raise SampleError("changed_since_ingest", path)


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
