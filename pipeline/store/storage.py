"""Where data is stored: in a folder, or in an object store that fsspec reaches (``s3://bucket/out``).

An address becomes a ``UPath``, which has every method of ``Path`` that this package uses, so the
code for both is the same. The differences are here: a store has no renames, no fsync and no locks,
but an object appears complete or not at all, and can be created only if it does not exist.
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

# As a Path, an address loses a slash. One letter is a drive.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
#: Bytes of a part of an upload; stores take 10,000 parts of an object.
_PART = 16 << 20


def is_address(text: str) -> bool:
    """Return whether a text is an address such as ``s3://bucket/out``, not a path."""
    return _ADDRESS.fullmatch(text) is not None


def location(text: str | Path) -> Path:
    """Return the location of a path or an address: a ``Path``, or a ``UPath``.

    Raises:
        InputError: no installed package reaches such an address.
        OutputError: the store does not answer, or denies access.
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

    # No cached listings: files that other processes write must be seen.
    address = f"{protocol}://{rest.rstrip('/')}"
    path = cast(Path, UPath(address, use_listings_cache=False))
    with store_errors(path):
        path.exists()  # wrong credentials show now, not in the middle of a run
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
            f"{text}: fsspec knows no storage '{protocol}'; give a folder, or an address such as "
            "s3://bucket/out"
        ) from None


# A port is not a password.
_CREDENTIALS = re.compile(r"[^/@:]*:(?!\d{1,5}/)[^@]*@(?:[^/@]*@)*")


def without_credentials(text: str) -> str:
    """Return an address without ``user:password@``; any other text as it is."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return text
    login = _CREDENTIALS.match(found[2])
    return text[: found.start(2)] + found[2][login.end() if login else 0 :]


def refuse_address(text: str | Path) -> None:
    """Raise InputError for an address, which, as a path, would be a folder named ``s3:``."""
    if is_store(text) or is_address(str(text)):
        raise InputError(
            f"{text} is an address, but this must be a folder (it may be on a mounted or shared "
            "file system); stores are for input and output of normpipe run: docs/cluster.md, "
            "Object stores"
        )


def is_store(path: object) -> bool:
    """Return whether a location is in an object store."""
    return not isinstance(path, str | PurePath)


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a location is ``folder``, or below it."""
    if is_store(path) or is_store(folder):
        return f"{path}/".startswith(f"{folder}/")
    return path.resolve().is_relative_to(folder.resolve())


def _store(path: Path) -> tuple[Any, str]:
    """Return the file system and the key of an object."""
    there: Any = path
    return there.fs, there.path


def reopened(path: Path) -> Path:
    """Return a location for use in a forked process: a store's client does not survive a fork."""
    if not is_store(path):
        return path
    there: Any = path
    return type(there)(str(path), **there.storage_options)


@contextmanager
def store_errors(path: Path) -> Generator[None, None, None]:
    """Turn errors of a store's client into a one-line OutputError; for a folder, change nothing.

    A missing object, or one that exists already, is not an error of the store and is re-raised.
    """
    try:
        yield
    except (NormpipeError, SampleError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # each store's client has errors of its own
        if not is_store(path):
            raise
        raise OutputError(f"{path}: {_advice(error)}") from error


def _advice(error: Exception) -> str:
    line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"{line}; check address, credentials and network, and run the same command again: what is "
        "committed is kept"
    )


#: Packages whose errors come from a store, wherever they are raised.
_CLIENTS = frozenset(
    {"botocore", "aiobotocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "aiohttp", "fsspec"}
)


def store_error_line(error: Exception) -> str | None:
    """Return the message for a store client's error that ``store_errors`` missed, else None."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return _advice(error) if kinds & _CLIENTS else None


# ---------------------------------------------------------------- reading


def parquet_file(path: Path, memory_map: bool = False) -> pq.ParquetFile:
    """Open a Parquet file. From a store, only the ranges that are read are fetched."""
    try:
        if not is_store(path):
            return pq.ParquetFile(path, memory_map=memory_map)
        files, key = _store(path)
        with store_errors(path):
            return pq.ParquetFile(key, filesystem=files, pre_buffer=True)
    except UnicodeDecodeError as error:  # a damaged footer
        raise pa.ArrowInvalid(f"a name in it is not valid text ({error})") from None


def read_files(paths: Sequence[Path]) -> list[bytes | None]:
    """Return the bytes of small files, None for missing ones; from a store, read in parallel.

    All are in the same folder or store.
    """
    if not paths:
        return []
    if is_store(paths[0]):
        files, _ = _store(paths[0])
        keys = [_store(path)[1] for path in paths]
        with store_errors(paths[0]):
            # Unlike ``cat``, this does not first check whether each exists.
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
    """Return name → bytes of the files directly in a folder; none if the folder is missing."""
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
        raise InputError(f"cannot list {folder}: {error.strerror}; fix its permissions") from None


def folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; none if the folder is missing."""
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

#: Root of a locked job → check that raises if the lock is lost: nothing may be written then.
_fences: dict[str, Callable[[], None]] = {}


@contextmanager
def fenced(root: Path, check: Callable[[], None]) -> Generator[None, None, None]:
    """Call ``check``, which may raise, before this process changes anything below ``root``."""
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
    """Write an object, replacing an existing one."""
    with _writing(path) as (files, key):
        files.pipe_file(key, data)


def create(path: Path, data: bytes) -> bool:
    """Write an object if there is none; otherwise do nothing and return False."""
    try:
        with _writing(path) as (files, key):
            files.pipe_file(key, data, mode="create")
    except FileExistsError:
        return False
    return True


def upload(stream: IO[bytes], path: Path) -> None:
    """Write a file's content as an object. It appears once the last part is uploaded."""
    with _writing(path) as (files, key):
        stream.seek(0)
        with files.open(key, "wb", block_size=_PART) as sink:
            shutil.copyfileobj(stream, sink, _PART)


def copy(source: Path, target: Path) -> None:
    """Copy an object within its store; its bytes do not pass through this machine."""
    with _writing(target) as (files, key):
        files.cp_file(_store(source)[1], key)


def remove(path: Path) -> None:
    """Remove an object; a missing one is no error."""
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
