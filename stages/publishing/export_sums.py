"""A finished export as it lies in its folder: what it is, and whether its files are unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...pipeline.errors import InputError
from ...pipeline.stage import sha256_file
from ...pipeline.store.lock import LOCK_FILE

#: In the folder of an export: what it is, and the sha256 of every other file.
ABOUT_FILE, SUMS_FILE = "export.json", "SHA256SUMS"


def saved_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_sums(target: Path) -> dict[str, str]:
    """Return path → sha256 of a finished export's files.

    Raises InputError if the folder is not one.
    """
    about = read_about(target)
    try:
        lines = (target / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    if not lines or "normpipe_export" not in about:
        raise InputError(
            f"{target} is no finished export: make it with normpipe export OUT --to {target}"
        )
    return {line[66:]: line[:64] for line in lines}


def read_about(target: Path) -> dict[str, Any]:
    """Return the content of a finished export's ``export.json``; empty if there is none."""
    return saved_object(target / ABOUT_FILE) or {}


def changed_files(target: Path) -> list[str]:
    """Return what differs in a finished export: files changed, missing, or not of it.

    Raises InputError if the folder is not one.
    """
    sums = read_sums(target)
    found = [
        f"{name} ({'changed' if (target / name).is_file() else 'missing'})"
        for name, digest in sums.items()
        if not (target / name).is_file() or sha256_file(target / name) != digest
    ]
    own = {*sums, SUMS_FILE, LOCK_FILE}
    extra = (p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir())
    return [*found, *(f"{name} (not of the export)" for name in sorted(extra) if name not in own)]
