"""Keys and names as salted hashes, so that an export says nothing of file names or people.

A hash is ``HMAC-SHA256(salt, text)``, its first 32 hex digits. The salt stays at home: whoever has
it can compute the hash of a key again, and nobody else can.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ...pipeline.errors import InputError
from ...pipeline.store.commit import fsync_folder, make_folder, storage_errors, temporary
from ...pipeline.store.storage import is_store

#: The salt of an output folder.
SALT_FILE = "export-salt.txt"
_SALT_BYTES, _DIGITS = 32, 32


def read_salt(file: Path) -> bytes:
    """Return the salt in a file; make the file, for its owner alone, if it is missing.

    Raises InputError if it holds no salt, if others can read it, or if it is in a store.
    """
    if is_store(file):
        raise InputError(f"{file}: a salt must be kept in a file of yours: add --salt FILE")
    with storage_errors(file):
        if not file.exists():
            _make(file)
        text = file.read_text(encoding="ascii", errors="replace").strip()
        mode = file.stat().st_mode
    if mode & 0o077:
        raise InputError(f"{file} can be read by other users: chmod 600 {file}")
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) < _SALT_BYTES:
        raise InputError(
            f"{file} is no salt ({2 * _SALT_BYTES} hex digits are): restore it, or choose another"
        )
    return salt


def _make(file: Path) -> None:
    """Write a new salt, complete or not at all; another process may be first."""
    make_folder(file.parent)
    place = temporary(file)
    place = place.with_name(f"{place.stem}.{os.getpid()}{place.suffix}")
    with _private(place) as stream:
        stream.write(secrets.token_hex(_SALT_BYTES) + "\n")
    with suppress(FileExistsError):
        os.link(place, file)
    place.unlink()
    fsync_folder(file.parent)


@contextmanager
def _private(file: Path) -> Generator[TextIO]:
    """Yield a new file, UTF-8 without translated newlines, that only its owner can read.

    It is on the disk when it is closed.
    """
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def hash_text(salt: bytes, text: str) -> str:
    """Return the hash that stands for a key or a name: 32 hex digits."""
    return hmac.digest(salt, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:_DIGITS]


def write_key_map(file: Path, salt: bytes, keys: Iterable[str]) -> None:
    """Write which hash stands for which key, a CSV that only its owner can read."""
    import csv

    with storage_errors(file):
        make_folder(file.parent)
        place = temporary(file)
        place.unlink(missing_ok=True)
        with _private(place) as stream:
            writer = csv.writer(stream)
            writer.writerow(["key", "hash"])
            writer.writerows([key, hash_text(salt, key)] for key in keys)
        place.replace(file)
        fsync_folder(file.parent)
