"""Images below an address in an object store: listed at once, fetched one by one."""

import posixpath
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ....manifests.keys import sample_id
from ....manifests.vocabularies import SampleError
from ....pipeline.errors import InputError
from ....pipeline.store.storage import store_errors
from ..files import FileFacts, Walk, path_order
from ..files_inside import refuse_changed

#: Keys under which the various stores give an object's modification time.
_TIMES = ("LastModified", "last_modified", "updated", "modified", "mtime", "created")


def list_objects(root: Path, extensions: frozenset[str]) -> tuple[Walk, dict[str, FileFacts]]:
    """Return the images below an address in natural order, and what the store says about each.

    Hidden names and other extensions are skipped and counted, as in folders.

    Raises:
        InputError: there is nothing at that address.
        OutputError: the store does not respond.
    """
    there: Any = root
    prefix = there.path.rstrip("/") + "/"
    with store_errors(root):
        listed: dict[str, dict[str, Any]] = there.fs.find(there.path, detail=True)
    found, facts = Walk(), dict[str, FileFacts]()
    for name, info in listed.items():
        path = name.removeprefix(prefix)
        if any(part.startswith(".") for part in path.split("/")):
            found.ignored["hidden file"] += 1
            continue
        extension = posixpath.splitext(path)[1].lower()
        if extension not in extensions:
            found.ignored[sample_id(extension) or "no extension"] += 1
            continue
        found.paths.append(path)
        reason = "empty_file" if not info["size"] else None
        facts[path] = FileFacts(info["size"], _modified_ns(info), reason)
    if not listed:
        raise InputError(f"there is nothing at {root}: check the bucket and the path")
    found.paths.sort(key=path_order)
    return found, facts


def read_object(
    root: Path,
    relative: str,
    max_bytes: int,
    *,
    size_bytes: int | None = None,
    modified_ns: int | None = None,
) -> bytes:
    """Return the bytes of an object; arguments and errors as for ``read_source``.

    An error that is not the object's fault is an OutputError: the store does not respond.
    """
    there: Any = root
    if ".." in relative.split("/"):  # an ordinary name to a store, but not to every client
        raise SampleError("outside_root", relative)
    key = f"{there.path.rstrip('/')}/{relative}"
    try:
        with store_errors(root):
            info: dict[str, Any] = there.fs.info(key)
            _refuse(relative, info, max_bytes, size_bytes, modified_ns)
            data: bytes = there.fs.cat_file(key)
    except FileNotFoundError as error:
        raise SampleError("missing_file", f"{relative}: {error}") from None
    except PermissionError as error:
        raise SampleError("unreadable", f"{relative}: {error}") from None
    if len(data) != info["size"]:
        raise SampleError("changed_since_ingest", relative)
    return data


def _refuse(
    relative: str,
    info: Mapping[str, Any],
    max_bytes: int,
    size_bytes: int | None,
    modified_ns: int | None,
) -> None:
    if info["type"] != "file":
        raise SampleError("not_a_file", relative)
    if not info["size"]:
        raise SampleError("empty_file", relative)
    if info["size"] > max_bytes:
        raise SampleError("too_many_bytes", f"{relative}: {info['size']} > {max_bytes}")
    now = _modified_ns(info)  # None in a store without times
    now = modified_ns if now is None else now
    refuse_changed(relative, (size_bytes, modified_ns), (info["size"], now))


def _modified_ns(info: Mapping[str, Any]) -> int | None:
    """Return an object's modification time, rounded down to seconds.

    Listings and single queries differ in the fraction.
    """
    for name in _TIMES:
        time = info.get(name)
        if isinstance(time, datetime):
            return int(time.timestamp()) * 10**9
        if isinstance(time, int | float):
            return int(time) * 10**9
    return None
