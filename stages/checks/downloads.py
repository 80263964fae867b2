"""Downloads one file: resumed after an interruption, verified, complete or not at all."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from ...pipeline.store.commit import fsync_folder

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60


def partial_path(path: Path) -> Path:
    """Return where a file is while it is downloaded; the next attempt resumes from it."""
    return path.with_name(path.name + ".part")


def fetch(url: str, path: Path, sha256: str = "") -> str:
    """Download a file and return its sha256. One process at a time: the caller holds a lock.

    Args:
        url: http or https.
        path: where to put the file; its folder must exist.
        sha256: the expected digest; empty: not known.

    Raises:
        InputError: the server refuses, the connection broke (the part is kept), or the digest is
            not the expected one (the part is removed).
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url} cannot be downloaded: give an address with http:// or https://")
    part = partial_path(path)
    try:
        _complete(url, part)
    except urllib.error.HTTPError as error:
        raise InputError(
            f"{url} cannot be downloaded: {error.code} {error.reason}; check the address "
            "(--url gives another)"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url} cannot be downloaded: {getattr(error, 'reason', None) or error}; run the same "
            "command again to resume"
        ) from None
    digest = sha256_file(part)
    if sha256 and digest != sha256:
        part.unlink()
        raise InputError(
            f"{url} gave a file with sha256 {digest}, not {sha256}: removed. Check that the digest "
            "is that of this pack, and do not use that file"
        )
    part.replace(path)
    fsync_folder(path.parent)
    return digest


def _complete(url: str, part: Path) -> None:
    """Download the missing rest of ``part``."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response: Any = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing is missing, or the part belongs to another file: then start over.
        if error.headers.get("Content-Range") != f"bytes */{have}":
            part.unlink()
            _complete(url, part)
        return
    with response:
        resumed = _begins_at(response.headers, response.status, have)
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        whole = start + int(length) if length else None
        with part.open("ab" if resumed else "wb") as stream:
            _copy(response, stream, start, whole, part.stem)
    size = part.stat().st_size
    if whole is not None and size < whole:
        raise OSError(f"the connection broke after {size:,} of {whole:,} bytes")


def _begins_at(headers: Mapping[str, str], status: int, start: int) -> bool:
    """Return whether a response continues at ``start``; a server may also send the whole file."""
    partial = status == http.HTTPStatus.PARTIAL_CONTENT
    return partial and headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _copy(response: Any, stream: Any, start: int, whole: int | None, name: str) -> None:
    # disable=None: shows a bar on a terminal only.
    with tqdm(
        total=whole, initial=start, unit="B", unit_scale=True, desc=name, disable=None
    ) as bar:
        while chunk := response.read(_CHUNK):
            stream.write(chunk)
            bar.update(len(chunk))
    stream.flush()
    os.fsync(stream.fileno())
