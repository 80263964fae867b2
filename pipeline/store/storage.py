"""Where data lies: in a folder, or in an object store that fsspec reaches (``s3://bucket/out``).

An address becomes a ``UPath``, which answers to all that is asked of a ``Path`` in this room, so
that code for both is the same. What differs is here: a store has no renames, no fsync and no locks,
but an object appears whole or not at all, and may be made only where there is none.
"""

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...manifests.vocabularies import SampleError
from ..errors import InputError, NormpipeError, OutputError

# As a Path, an address has lost a slash. One letter is a drive.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
#: Bytes of a part of an upload; stores take 10,000 parts of an object.
_PART = 16 << 20


def is_address(text: str) -> bool:
    """Say whether a text is an address such as ``s3://bucket/out``, and no path."""
    return _ADDRESS.fullmatch(text) is not None


def location(text: str | Path) -> Path:
    """Return where a path or an address points: a ``Path``, or what answers as one.

    Raises:
        InputError: nothing here reaches such an address.
        OutputError: the store does not answer, or lets nobody in.
    """
    if is_store(text):
        return cast(Path, text)
    found = _ADDRESS.fullmatch(str(text))
    if found is None:
        return Path(text)
    protocol, rest = found[1].lower(), found[2]
    if protocol == "file":
        return Path("/", rest)
    _require(protocol, str(text))
    from upath import UPath

    # What other processes write must be seen, so no listing is remembered.
    address = f"{protocol}://{rest.rstrip('/')}"
    path = cast(Path, UPath(address, use_listings_cache=False))
    with store_errors(path):
        path.exists()  # wrong credentials show now, and not in the middle
    return path


def _require(protocol: str, text: str) -> None:
    import fsspec

    if protocol in ("http", "https"):
        raise InputError(f"{text}: give a folder or an object store, such as s3://bucket/out")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = " (pip install 'normpipe[s3]')" if protocol in ("s3", "s3a") else ""
        raise InputError(f"{text} cannot be reached from here: {error}{extra}") from None
    except ValueError:
        raise InputError(
            f"{text}: '{protocol}' is no kind of storage that fsspec knows; give a folder, or an "
            "address such as s3://bucket/out"
        ) from None


# A port is no password.
_CREDENTIALS = re.compile(r"[^/@:]*:(?!\d{1,5}/)[^@]*@(?:[^/@]*@)*")


def without_credentials(text: str) -> str:
    """Return an address without ``user:password@``; any other text as it is."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return text
    said = _CREDENTIALS.match(found[2])
    return text[: found.start(2)] + found[2][said.end() if said else 0 :]


def refuse_address(text: str | Path) -> None:
    """Raise InputError for an address, which as a path would be a folder named ``s3:``."""
    if is_store(text) or is_address(str(text)):
        raise InputError(
            f"{text} is an address, where only a folder will do (a mounted or shared file system, "
            "say); stores are for input and output of normpipe run: docs/cluster.md, Object stores"
        )


def is_store(path: object) -> bool:
    """Say whether a location is an object store's."""
    return not isinstance(path, str | PurePath)


def lies_in(path: Path, folder: Path) -> bool:
    """Say whether a location is another one, or below it."""
    if is_store(path) or is_store(folder):
        return f"{path}/".startswith(f"{folder}/")
    return path.resolve().is_relative_to(folder.resolve())


def _store(path: Path) -> tuple[Any, str]:
    """Return the file system and the key of an object."""
    there: Any = path
    return there.fs, there.path


def reopened(path: Path) -> Path:
    """Return a location for a process that was forked: no client of a store survives that."""
    if not is_store(path):
        return path
    there: Any = path
    return type(there)(str(path), **there.storage_options)


@contextmanager
def store_errors(path: Path) -> Generator[None, None, None]:
    """Turn what a store's client raises into one line; in a folder, change nothing.

    That an object is missing, or there already, is no error of the store and is let through.
    """
    try:
        yield
    except (NormpipeError, SampleError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # each client of a store has errors of its own
        if not is_store(path):
            raise
        raise OutputError(f"{path}: {_advice(error)}") from error


def _advice(error: Exception) -> str:
    line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"{line}; see that address, credentials and network are right, and run the same command "
        "again: what is committed is kept"
    )


#: Packages whose errors are a store's, wherever they come up.
_CLIENTS = frozenset(
    {"botocore", "aiobotocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "aiohttp", "fsspec"}
)


def said_by_store(error: Exception) -> str | None:
    """Return the line for an error of a store's client that nothing else has turned into one."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return _advice(error) if kinds & _CLIENTS else None


# ---------------------------------------------------------------- reading


def parquet_file(path: Path, memory_map: bool = False) -> pq.ParquetFile:
    """Open a Parquet file. From a store, only the ranges that are asked for are fetched."""
    try:
        if not is_store(path):
            return pq.ParquetFile(path, memory_map=memory_map)
        files, key = _store(path)
        with store_errors(path):
            return pq.ParquetFile(key, filesystem=files, pre_buffer=True)
    except UnicodeDecodeError as error:  # a damaged footer
        raise pa.ArrowInvalid(f"a name in it is no text ({error})") from None


def read_all(paths: Sequence[Path]) -> list[bytes | None]:
    """Return the bytes of small files, None for those that are missing; of a store, side by side.

    All lie in the same folder or store.
    """
    if not paths:
        return []
    if is_store(paths[0]):
        files, _ = _store(paths[0])
        keys = [_store(path)[1] for path in paths]
        with store_errors(paths[0]):
            # Unlike ``cat``, this does not first ask of each whether it is there.
            found: list[Any] = files.cat_ranges(keys, None, None, on_error="return")
            for one in found:
                if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
                    raise one
        return [None if isinstance(one, Exception) else one for one in found]
    return [_read(path) for path in paths]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def sizes(folder: Path) -> dict[str, int]:
    """Return name → bytes of the files in a folder, not in those below; none where it is not."""
    try:
        if is_store(folder):
            files, key = _store(folder)
            with store_errors(folder):
                listed: list[dict[str, Any]] = files.ls(key, detail=True)
            found = (one for one in listed if one["type"] == "file" and one["name"] != key)
            return {one["name"].rpartition("/")[2]: one["size"] for one in found}
        with os.scandir(folder) as entries:
            return _sizes(entries)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise InputError(f"cannot list {folder}: {error.strerror}; mend its permissions") from None


def folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; none where it is not."""
    if is_store(folder):
        files, key = _store(folder)
        with suppress(FileNotFoundError), store_errors(folder):
            listed: list[dict[str, Any]] = files.ls(key, detail=True)
            found = [one["name"] for one in listed if one["type"] == "directory"]
            return [name.rstrip("/").rpartition("/")[2] for name in found]
        return []
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _sizes(entries: Iterable[os.DirEntry[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in entries:
        # What another thread or worker renames meanwhile is no reason to see nothing.
        with suppress(FileNotFoundError):
            if one.is_file():
                found[one.name] = one.stat().st_size
    return found


# ---------------------------------------------------------------- writing

#: Root of a locked job → raises where the lock is lost: nothing may be written then.
_fences: dict[str, Callable[[], None]] = {}


@contextmanager
def fenced(root: Path, check: Callable[[], None]) -> Generator[None, None, None]:
    """Let ``check`` raise before anything below ``root`` is changed by this process."""
    _fences[str(root)] = check
    try:
        yield
    finally:
        _fences.pop(str(root), None)


def _pass_fence(path: Path) -> None:
    for root, check in list(_fences.items()):
        if str(path).startswith(f"{root}/"):
            check()


def put(path: Path, data: bytes) -> None:
    """Write an object, in the place of another where there is one."""
    with _writing(path) as (files, key):
        files.pipe_file(key, data)


def create(path: Path, data: bytes) -> bool:
    """Write an object where there is none; return False, and do nothing, where there is one."""
    try:
        with _writing(path) as (files, key):
            files.pipe_file(key, data, mode="create")
    except FileExistsError:
        return False
    return True


def upload(stream: IO[bytes], path: Path) -> None:
    """Write an object of all that a file holds. It appears when the last part is there."""
    with _writing(path) as (files, key):
        stream.seek(0)
        with files.open(key, "wb", block_size=_PART) as sink:
            shutil.copyfileobj(stream, sink, _PART)


def copy(source: Path, target: Path) -> None:
    """Copy an object within its store; its bytes do not come here."""
    with _writing(target) as (files, key):
        files.cp_file(_store(source)[1], key)


def remove(path: Path) -> None:
    """Remove an object; none there is no error."""
    with _writing(path):
        path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove all objects below a location."""
    _pass_fence(folder / "any")
    with store_errors(folder):
        files, key = _store(folder)
        found: list[str] = files.find(key)
        if found:
            files.rm(found)


@contextmanager
def _writing(path: Path) -> Generator[tuple[Any, str], None, None]:
    _pass_fence(path)
    with store_errors(path):
        try:
            yield _store(path)
        except FileNotFoundError as error:
            raise OutputError(f"cannot write {path}: {error}: make the bucket first") from None
