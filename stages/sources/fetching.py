"""Reads the inputs that a manifest names: a file or object below the root, a member of an archive,
a row of pixels or of a Parquet file, or an address; and nothing outside the dataset's root.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...manifests.vocabularies import SampleError
from ...pipeline.stage import Row
from ...pipeline.store.storage import is_store
from .containers.addresses import fetch_url, is_url
from .containers.nested import Nested
from .containers.objects import read_object
from .files_inside import open_descriptor, open_source


class SourceReader:
    """Reads the bytes of manifest rows. Safe to use from several threads once it is open."""

    def __init__(self, root: Path, max_bytes: int, fetch_seconds: float, allow_urls: bool) -> None:
        """``root``: the folder or store that paths are relative to, the archive, or the table."""
        self._root = root.resolve()
        self._max_bytes = max_bytes
        self._fetch_seconds = fetch_seconds
        self._allow_urls = allow_urls
        self._nested: Nested | None = None

    def open(self) -> None:
        """Open an archive, a Parquet file or a table of pixels.

        Raises InputError if it cannot be read.
        """
        if self._nested is None and not is_store(self._root):
            self._nested = Nested(self._root)
            if self._root.is_file():
                self._nested.open("")

    def close(self) -> None:
        """Close archives and Parquet files; ``open`` opens them again."""
        if self._nested is not None:
            self._nested.close()
            self._nested = None

    def read(self, row: Row) -> bytes:
        """Return the bytes that a row refers to.

        Raises:
            SampleError: as ``read_source``, ``read_object``, ``Nested.read`` and ``fetch_url``.
            OSError, OutputError: an error that is not this input's fault.
        """
        path: str = row["path"]
        seen = {"size_bytes": row.get("size_bytes"), "modified_ns": row.get("modified_ns")}
        place = self._nested.find(path) if self._nested is not None else None
        if self._nested is not None and place is not None:
            return self._nested.read(place, self._max_bytes, **seen)
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
        if is_store(self._root) or self._root.is_file():
            raise SampleError("not_a_file", row["path"])
        seen = {"size_bytes": row.get("size_bytes"), "modified_ns": row.get("modified_ns")}
        return open_descriptor(self._root, row["path"], **seen)


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
    with open_source(
        root, relative, max_bytes, size_bytes=size_bytes, modified_ns=modified_ns
    ) as file:
        status = os.fstat(file.fileno())
        # One more than allowed, to notice a file that grows while it is read.
        data = file.read(max_bytes + 1)
    if len(data) != status.st_size:
        raise SampleError("changed_since_ingest", relative)
    return data
