"""Random access to rows of shards: one row group at a time; only the last few are cached."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ...manifests.schema import IMAGE, SCHEMA_VERSION
from ..errors import InputError
from ..store.shards import ShardFolder
from ..store.storage import parquet_file, reopened

# Open files and row groups that one process keeps for a dataset. 64 crops of 224 px make about
# 1 MB as JPEG and 6 MB as PNG.
_FILES_KEPT = 64
GROUPS_KEPT = 8


Item = TypeVar("Item")
Found = TypeVar("Found")


def map_ahead(
    pool: Executor, work: Callable[[Item], Found], items: Iterable[Item], count: int
) -> Iterator[Found]:
    """Yield ``work(item)`` for each item, in order, while a pool computes the next ``count``."""
    waiting: deque[Future[Found]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Place(NamedTuple):
    """The position of a row; ``row`` counts within the row group."""

    shard: int
    group: int
    row: int


def require_readable(path: Path, schema: pa.Schema) -> None:
    """Raise InputError for a file with a newer schema than this release knows."""
    written = (schema.metadata or {}).get(b"normpipe_schema_version", b"0")
    if not written.isdigit():
        raise InputError(f"{path} is damaged (its schema's version): see 'normpipe verify'")
    if int(written) > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema {int(written)}, and this release of normpipe reads up to "
            f"{SCHEMA_VERSION}: upgrade normpipe"
        )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a shard or index. Raises InputError if it is not one, or newer than this release."""
    try:
        file = parquet_file(path, memory_map=True)
    except FileNotFoundError:
        raise InputError(f"{path} is gone: open the dataset again") from None
    except (OSError, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"cannot read {path}: {line}; see 'normpipe verify'") from None
    require_readable(path, file.schema_arrow)
    return file


@contextmanager
def damage_errors(path: Path) -> Generator[None, None, None]:
    """Turn Arrow's errors on a damaged file into a one-line InputError."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged ({line}): see 'normpipe verify'") from None


class RowReader:
    """Reads rows of one dataset by position.

    May be pickled, forked and shared by threads: each process opens files when it first needs them.

    Args:
        folder: the dataset.
        columns: what to read besides ``key``. Images are returned as encoded bytes.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self._folder = ShardFolder(folder)
        self._columns = list(dict.fromkeys(["key", *columns]))
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], dict[str, pa.Array]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_columns": self._columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def rows(self, places: Sequence[Place], keys: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows at some places, in that order; each row group is read once.

        ``keys``: the keys that the rows must have. Raises InputError if they have others, because
        the dataset was rewritten since it was opened.
        """
        if os.getpid() != self._process:  # forked: file positions must not be shared
            self._forget()
            self._folder = ShardFolder(reopened(self._folder.path))
        found: list[dict[str, Any]] = [{} for _ in places]
        with self._lock:
            for i in sorted(range(len(places)), key=lambda i: places[i]):
                place = places[i]
                group = self._group(place.shard, place.group)
                here = place.row < len(group["key"])
                if not here or group["key"][place.row].as_py() != keys[i]:
                    raise InputError(
                        f"{self._folder.path} was changed since it was opened: open it again"
                    )
                found[i] = {name: _value(array, place.row) for name, array in group.items()}
        return found

    def _group(self, shard: int, number: int) -> dict[str, pa.Array]:
        place = (shard, number)
        if place in self._groups:
            self._groups.move_to_end(place)
            return self._groups[place]
        file = self._file(shard)
        if number >= file.num_row_groups:
            raise InputError(f"{self._folder.path} was changed since it was opened: open it again")
        with damage_errors(self._folder.shard(shard)):
            # One thread: a group is small, and pools of threads do not survive a fork.
            table = file.read_row_group(number, columns=self._columns, use_threads=False)
        group = {name: _plain(table[name]) for name in self._columns}
        self._groups[place] = group
        while len(self._groups) > GROUPS_KEPT:
            self._groups.popitem(last=False)
        return group

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= _FILES_KEPT:
            self._files.popitem(last=False)[1].close()
        self._files[shard] = open_parquet(self._folder.shard(shard))
        return self._files[shard]


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; of an image, its bytes."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.flatten()[0] if array.type == IMAGE else array


def _value(array: pa.Array, row: int) -> Any:
    """Return one value; bytes as a buffer that refers to the row group, without a copy."""
    value = array[row]
    if pa.types.is_binary(array.type):
        return value.as_buffer()
    return value.as_py()
