"""Archives as inputs: lists their members and reads one at a time. Nothing is ever extracted."""

from __future__ import annotations

import calendar
import errno
import logging
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ....manifests.vocabularies import SampleError
from ....pipeline.errors import InputError
from ..files import FileFacts
from ..files_inside import refuse_changed

log = logging.getLogger("normpipe")

#: File name endings of archives with random access.
ARCHIVE_SUFFIXES = (".zip", ".tar")
#: Those that can only be read from front to back: a member may need all that comes before it.
SOLID_SUFFIXES = (".tgz", ".tbz2", ".txz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")

# Compression methods of a zip that always need little memory; a member can make LZMA need a lot.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED = 0x1
#: Extended headers of a tar hold names and times. Larger ones are an attack on memory.
_LONGEST_HEADER = 2**20
_EXTENDED = frozenset(
    {
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    }
)
# What zipfile and tarfile raise on damaged archives, their own errors included.
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error),
    *(EOFError, ValueError, NotImplementedError, IndexError, KeyError, OverflowError),
)


@dataclass(frozen=True)
class Member:
    """A member of an archive: its normalized name, and what its header says about it."""

    path: str
    facts: FileFacts
    #: What the archive's module needs to find it again.
    handle: Any


class Archive:
    """A zip or tar file, read in place. Safe to use from several threads."""

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        """Read the list of members; ``file``: the archive, if it is open already.

        Raises InputError if it is not such an archive, or cannot be read.
        """
        self.path = path
        try:
            self.stream = file or path.open("rb")
            self._zip = zipfile.ZipFile(self.stream) if path.suffix.lower() == ".zip" else None
            listed: list[Member] = []
            self._list(listed)
        except _DAMAGE as error:
            raise InputError(
                f"{path} cannot be read as an archive ({error}): repack it as .zip or .tar, or "
                "give the folder that it was made from"
            ) from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        self._members = _by_name(listed)

    def _list(self, listed: list[Member]) -> None:
        try:
            for member in self._zip_members() if self._zip else self._tar_members():
                listed.append(member)
        except tarfile.TarError as error:
            if not listed:
                raise
            log.warning(
                "%s is damaged (%s): only the %d members before the damage are used",
                *(self.path, error, len(listed)),
            )

    @property
    def members(self) -> list[Member]:
        """Return the members that are not folders, one for each name."""
        return list(self._members.values())

    def inspect(self, path: str) -> FileFacts:
        """Return what the archive says about a member."""
        member = self._members.get(path)
        return FileFacts(reason="missing_file") if member is None else member.facts

    def read(
        self,
        path: str,
        max_bytes: int,
        *,
        size_bytes: int | None = None,
        modified_ns: int | None = None,
    ) -> bytes:
        """Return a member's bytes; see ``read_source``.

        Raises:
            SampleError: the reason in its ``facts``, ``missing_file``, ``empty_file``,
                ``too_many_bytes``, ``changed_since_ingest``, ``truncated``.
        """
        member = self._members.get(path)
        if member is None:
            raise SampleError("missing_file", path)
        facts = member.facts
        if facts.reason is not None:
            raise SampleError(facts.reason, path)
        if (facts.size_bytes or 0) > max_bytes:
            raise SampleError("too_many_bytes", f"{path}: {facts.size_bytes} > {max_bytes}")
        refuse_changed(path, (size_bytes, modified_ns), (facts.size_bytes, facts.modified_ns))
        data = self._zip_bytes(member, max_bytes) if self._zip else self._tar_bytes(member)
        if len(data) > max_bytes:
            raise SampleError("too_many_bytes", f"{path}: more than its header says")
        if len(data) != facts.size_bytes:
            raise SampleError("truncated", path)
        return data

    def close(self) -> None:
        """Close the file."""
        self.stream.close()

    def _zip_members(self) -> Iterator[Member]:
        assert self._zip is not None
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            reason = None
            if kind not in (0, stat.S_IFREG):  # a link or a device, as Unix zips have them
                reason = "not_a_file"
            elif info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
                reason = "unsupported_member"
            try:
                seconds = calendar.timegm((*info.date_time, 0, 0, 0))
            except (ValueError, OverflowError):
                seconds = 0
            yield _member(info.filename, info.file_size, seconds, reason, info)

    def _zip_bytes(self, member: Member, max_bytes: int) -> bytes:
        assert self._zip is not None
        try:
            # One more than allowed: a header may understate the size.
            with self._zip.open(member.handle) as stream:
                return stream.read(max_bytes + 1)
        except _DAMAGE as error:
            raise SampleError("truncated", f"{member.path}: {error}") from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # an offset before the start of the file
                raise
            raise SampleError("truncated", f"{member.path}: {error}") from error
        except RuntimeError as error:  # encrypted after all
            raise SampleError("unsupported_member", f"{member.path}: {error}") from error

    def _tar_members(self) -> Iterator[Member]:
        with tarfile.open(fileobj=self.stream, mode="r:", tarinfo=_BoundedInfo) as archive:
            for info in archive:
                if info.isdir():
                    continue
                reason = None if info.isreg() else "not_a_file"
                if info.issparse():
                    reason = "unsupported_member"
                place = (info.offset_data, info.size)
                yield _member(info.name, info.size, int(info.mtime), reason, place)
                # tarfile would keep a second copy of each.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]

    def _tar_bytes(self, member: Member) -> bytes:
        start, size = member.handle
        return os.pread(self.stream.fileno(), size, start)


class _BoundedInfo(tarfile.TarInfo):
    """A tar header; refuses large extended headers, which tarfile would read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _BoundedInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED and info.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info


def _member(name: str, size: int, seconds: int, reason: str | None, handle: Any) -> Member:
    # Both slashes: on Windows either one separates folders.
    steps = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in steps or ":" in steps[0]:
        return Member(name, FileFacts(reason="outside_root"), handle)
    path = posixpath.normpath(name)
    if reason is None and size == 0:
        reason = "empty_file"
    facts = FileFacts(reason=reason) if reason else FileFacts(size, seconds * 10**9)
    return Member(path, facts, handle)


def _by_name(listed: list[Member]) -> dict[str, Member]:
    """Return members by name; a repeated name is unusable, as either could be meant."""
    found: dict[str, Member] = {}
    for member in listed:
        if member.path in found:
            member = Member(member.path, FileFacts(reason="repeated_member"), member.handle)
        found[member.path] = member
    return found
