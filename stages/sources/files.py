"""The files below an input folder: found by walking or by name, checked, never opened."""

# A scan checks millions of names; pathlib would triple its time.
# ruff: noqa: PTH114, PTH116, PTH118, PTH120, PTH122

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...manifests.keys import natural_order, sample_id
from ...pipeline.errors import InputError

# Errors of a single file. Anything else (EIO, ESTALE …) is the machine's fault and ends the scan,
# or a failing disk would be recorded as a thousand missing photographs.
_REASONS = {
    errno.ENOENT: "missing_file",
    errno.ENOTDIR: "missing_file",
    errno.ENAMETOOLONG: "missing_file",
    errno.EACCES: "unreadable",
    errno.EPERM: "unreadable",
    errno.ELOOP: "unreadable",
}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What ``stat`` returns for one file. ``reason`` is None if the file can be used."""

    size_bytes: int | None = None
    modified_ns: int | None = None
    reason: str | None = None


@dataclass
class Walk:
    """What a walk found.

    Attributes:
        paths: images below the root, ``/`` between folders, in natural order. They include folders
            that failed: unreadable ones, and those named like an image but without one.
        reasons: why the walk could not use a path, by path.
        ignored: number of skipped entries, by extension or by kind.
        metadata: files that are named as lists of the images of their folder; not in ``ignored``.
    """

    paths: list[str] = field(default_factory=lambda: list[str]())
    reasons: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    ignored: Counter[str] = field(default_factory=lambda: Counter[str]())
    metadata: list[str] = field(default_factory=lambda: list[str]())


#: Lists that Hugging Face's image folders may have in each folder.
METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})


def path_order(path: str) -> Any:
    """Return the sort key of a path: natural order, then characters (for leading zeros)."""
    return natural_order(path), path


class Root:
    """A folder that bounds what may be read. Inspects files below it; opens none."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._text = os.fspath(self.path)
        self._inside: dict[str, bool] = {}

    def contains(self, real: str) -> bool:
        """Return whether a resolved path is in the root."""
        prefix = self._text if self._text.endswith(os.sep) else self._text + os.sep
        return real == self._text or real.startswith(prefix)

    def inspect(self, relative: str) -> FileFacts:
        """Return size, time and what is wrong with ``root/relative``.

        Links are followed if their target is in the root. Whether the bytes can be read is left to
        the stage that reads them. Raises InputError if the disk itself fails.
        """
        path = os.path.join(self._text, relative)
        try:
            real = self._real(path)
            if not self.contains(real):
                return FileFacts(reason="outside_root")
            facts = os.stat(real)
        except (OSError, ValueError) as error:
            return FileFacts(reason=_reason(error, path))
        if not stat.S_ISREG(facts.st_mode):
            return FileFacts(reason="not_a_file")
        reason = "empty_file" if facts.st_size == 0 else None
        return FileFacts(facts.st_size, facts.st_mtime_ns, reason)

    def _real(self, path: str) -> str:
        """Resolve links; results for folders are cached, as a list repeats them many times."""
        folder, name = os.path.split(path)
        if folder not in self._inside:
            real = os.path.realpath(folder)
            self._inside[folder] = real == folder and self.contains(real)
        if self._inside[folder] and name not in ("", ".", "..") and not os.path.islink(path):
            return path
        return os.path.realpath(path, strict=True)


class _Walker:
    def __init__(self, root: Root, extensions: frozenset[str], follow_symlinks: bool) -> None:
        self.found = Walk()
        self._root = root
        self._extensions = extensions
        self._follow = follow_symlinks
        self._seen = {os.path.realpath(root.path)}

    def folder(self, relative: str) -> None:
        """Walk one folder; ``relative`` is "" for the root, else ends with ``/``."""
        path = os.path.join(self._root.path, relative)
        try:
            with os.scandir(path) as entries:
                listed = list(entries)
        except OSError as error:
            reason = _reason(error, path)
            if not relative:
                raise InputError(
                    f"cannot list the folder {path}: {error.strerror}; fix its permissions"
                ) from None
            self.found.paths.append(relative.rstrip("/"))
            self.found.reasons[relative.rstrip("/")] = reason
            return
        for entry in listed:
            self._entry(entry, relative + entry.name)

    def _entry(self, entry: os.DirEntry[str], relative: str) -> None:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            self.found.ignored["hidden folder" if is_folder else "hidden file"] += 1
        elif is_folder:
            self._subfolder(relative)
        elif entry.is_symlink() and _is_folder(entry):
            self._linked_folder(entry, relative)
        elif self._is_image(entry.name):
            self.found.paths.append(relative)
        elif entry.name in METADATA:
            self.found.metadata.append(relative)
        else:
            extension = os.path.splitext(entry.name)[1].lower()
            self.found.ignored[sample_id(extension) or "no extension"] += 1

    def _subfolder(self, relative: str) -> None:
        before = len(self.found.paths)
        self.folder(relative + "/")
        # A folder with images in it is a folder, whatever its name (``clip.jpg/0001.jpg``).
        if len(self.found.paths) == before and self._is_image(relative):
            self.found.paths.append(relative)

    def _linked_folder(self, entry: os.DirEntry[str], relative: str) -> None:
        real = os.path.realpath(entry.path)
        here = os.path.realpath(os.path.dirname(entry.path))
        if not self._root.contains(real):
            self.found.ignored["folder link out of the input"] += 1
        elif not self._follow:
            self.found.ignored["folder link"] += 1
        elif real in self._seen or (here + os.sep).startswith(real + os.sep):
            self.found.ignored["folder link in a circle or seen before"] += 1
        else:
            self._seen.add(real)
            self._subfolder(relative)

    def _is_image(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self._extensions


def walk(root: Root, extensions: frozenset[str], follow_symlinks: bool) -> Walk:
    """Find the images below a root.

    Hidden files and folders, other extensions and links to folders are skipped and counted. With
    ``follow_symlinks``, links to folders inside the root are walked, each target once.
    """
    walker = _Walker(root, extensions, follow_symlinks)
    walker.folder("")
    walker.found.paths.sort(key=path_order)
    walker.found.metadata.sort(key=path_order)
    return walker.found


def is_utf8(path: str) -> bool:
    """Return whether a path can be written as text (no undecodable bytes in its name)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, ValueError):  # a null byte in the name
        return "missing_file"
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    raise InputError(
        f"cannot read {sample_id(path)}: {error}; fix the disk and run the same command again"
    ) from error
