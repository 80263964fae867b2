"""Archives and Parquet files below a folder, or one alone: opened when needed, never extracted."""

from __future__ import annotations

import os
import posixpath
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ....manifests.vocabularies import SampleError
from ....pipeline.errors import InputError
from ..files import FileFacts, Root
from ..files_inside import open_inside
from ..lists.table import SYNONYMS
from .archives import ARCHIVE_SUFFIXES, Archive
from .picture_tables import TABLE_SUFFIXES, PictureTable, chosen_column, picture_columns
from .pixel_tables import PIXEL_SUFFIXES, PixelTable

Container = Archive | PictureTable | PixelTable
#: File name endings of what can contain inputs.
CONTAINER_SUFFIXES = (*ARCHIVE_SUFFIXES, *TABLE_SUFFIXES)
#: Containers of a folder that are open at the same time.
_MOST_OPEN = 8


class InnerPlace(NamedTuple):
    """A container's path below the root, empty if it is the root, and a path inside it."""

    container: str
    inner: str


class Nested:
    """Finds and reads inputs in containers. Safe to use from several threads.

    A path goes on inside a container: ``shard-000000.tar/000001.jpg``.
    """

    def __init__(self, root: Path) -> None:
        """``root``: a folder, or a container, resolved."""
        self.root = root
        self._alone = root.is_file()
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Container] = OrderedDict()
        self._is_container: dict[str, bool] = {}
        self._files = None if self._alone else Root(root)

    def find(self, path: str) -> InnerPlace | None:
        """Return where a path goes on inside a container, None for an ordinary file."""
        if self._alone:
            return InnerPlace("", path)
        parts = path.split("/")
        for count in range(1, len(parts)):
            if posixpath.splitext(parts[count - 1])[1].lower() not in CONTAINER_SUFFIXES:
                continue
            name = "/".join(parts[:count])
            if name not in self._is_container:
                self._is_container[name] = os.path.isfile(self.root / name)  # noqa: PTH113
            if self._is_container[name]:
                return InnerPlace(name, "/".join(parts[count:]))
        return None

    def open(self, name: str) -> Container:
        """Return a container; those used last stay open.

        Raises:
            InputError: it is none, or damaged.
            SampleError: as ``open_inside``.
        """
        with self._lock:
            if name not in self._open:
                path = self.root / name if name else self.root
                self._open[name] = self._opened(path, name)
                while len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]

    def _opened(self, path: Path, name: str) -> Container:
        suffix = path.suffix.lower()
        if self._alone and suffix in PIXEL_SUFFIXES:
            return PixelTable(path)
        file = None if self._alone else open_inside(self.root, name)
        made = PictureTable(path, file) if suffix in TABLE_SUFFIXES else Archive(path, file)
        # Not when it is put aside: other threads may be reading it.
        weakref.finalize(made, made.stream.close)
        return made

    def inspect(self, path: str) -> FileFacts:
        """Return what is known of an input, in a container or an ordinary file."""
        place = self.find(path)
        if place is None:
            assert self._files is not None
            return self._files.inspect(path)
        try:
            return self.open(place.container).inspect(place.inner)
        except SampleError as error:
            return FileFacts(reason=error.reason)
        except InputError:
            return FileFacts(reason="unreadable")

    def read(
        self,
        place: InnerPlace,
        max_bytes: int,
        *,
        size_bytes: int | None = None,
        modified_ns: int | None = None,
    ) -> bytes:
        """Return the bytes of an input in a container; see ``read_source``.

        Raises:
            SampleError: as ``open_inside``, ``Archive.read`` and ``PictureTable.read``;
                ``unreadable`` if the container is damaged.
        """
        try:
            container = self.open(place.container)
        except InputError as error:
            raise SampleError("unreadable", str(error)) from error
        return container.read(
            place.inner, max_bytes, size_bytes=size_bytes, modified_ns=modified_ns
        )

    def close(self) -> None:
        """Close all containers; ``open`` opens them again."""
        with self._lock:
            for container in self._open.values():
                container.close()
            self._open.clear()


def is_container(path: Path, path_column: str | None) -> bool:
    """Return whether a path is an archive, or a Parquet file to take pictures from.

    A Parquet file with paths of files that are there is a list, unless ``path_column`` names a
    column of pictures. ``path_column`` None: Parquet files are lists.
    """
    suffix = path.suffix.lower()
    if suffix not in CONTAINER_SUFFIXES or not path.is_file():
        return False
    if suffix in ARCHIVE_SUFFIXES:
        return True
    if path_column is None:
        return False
    try:
        table = PictureTable(path)
        pictures = picture_columns(table.schema)
        listed = pictures and path_column not in pictures and _names_files(table, path_column)
    except InputError:
        return False  # reading it as a list says why
    return not listed and chosen_column(path, table.schema, path_column) is not None


def _names_files(table: PictureTable, path_column: str) -> bool:
    """Return whether a column of paths names any file that is there."""
    texts = {field.name for field in table.schema if pa.types.is_string(field.type)}
    name = next((one for one in (path_column, *SYNONYMS["path"]) if one in texts), None)
    paths = [] if name is None else table.labels()[name].to_pylist()
    folder = table.path.parent
    return any(path and "\0" not in path and os.path.lexists(folder / path) for path in paths)


def outermost(path: Path) -> tuple[Path, str]:
    """Return the archive that a path goes on inside, and where; else the path itself and ''."""
    for one in (path, *path.parents):
        if one.suffix.lower() in ARCHIVE_SUFFIXES and one.is_file():
            inner = path.relative_to(one).as_posix()
            return one, "" if inner == "." else inner
    return path, ""


def folder_with(root: Path, path: str) -> Path | None:
    """Return a folder in a folder or archive that has this file in it, None if there is none."""
    if not root.is_file():
        folders = sorted(one for one in root.iterdir() if one.is_dir())
        return next((one for one in folders if (one / path).is_file()), None)
    archive = Archive(root)
    archive.close()
    ends = (one.path for one in archive.members if one.path.endswith(f"/{path}"))
    found = next(ends, None)
    return None if found is None else root / found.removesuffix(f"/{path}")
