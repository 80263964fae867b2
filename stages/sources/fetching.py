"""Reads what a manifest names: a file or object below the root, a member of an archive, or an
address.
"""

from pathlib import Path

from ...manifests.vocabularies import SampleError
from ...pipeline.stage import Row
from ...pipeline.store.storage import is_store
from .addresses import fetch_url, is_url
from .archives import Archive
from .objects import read_object
from .source_files import read_source


class SourceReader:
    """Gives the bytes of manifest rows. Safe to use from several threads once it is open."""

    def __init__(self, root: Path, max_bytes: int, fetch_seconds: float, allow_urls: bool) -> None:
        """``root``: the folder or store that paths count from, or the archive."""
        self._root = root.resolve()
        self._max_bytes = max_bytes
        self._fetch_seconds = fetch_seconds
        self._allow_urls = allow_urls
        self._archive: Archive | None = None

    def open(self) -> None:
        """Read an archive's list of members. Raises InputError where it cannot be read."""
        if self._archive is None and not is_store(self._root) and self._root.is_file():
            self._archive = Archive(self._root)

    def close(self) -> None:
        """Close the archive; ``open`` opens it again."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def read(self, row: Row) -> bytes:
        """Return the bytes that a row refers to.

        Raises:
            SampleError: as ``read_source``, ``read_object``, ``Archive.read`` and ``fetch``.
            OSError, OutputError: trouble that is not this input's own.
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
