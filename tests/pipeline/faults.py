"""Ends a process at a change of the disk, and takes from the disk what a power cut would.

All changes of a folder that Python code asks for are counted: making a file or a folder, each
write, fsync, rename and removal. Before the change with a given number (within it, where it is a
write: half of the bytes are written) the process is ended with SIGKILL. That leaves the folder as
the process left it. Beside it can be laid what a power cut might leave: of what was not yet fsynced

- ``nothing``: neither names nor bytes are there;
- ``names``: new names are there and old ones gone, but the bytes behind them are zeros;
- ``some``: each folder has got a part of the way, each by itself (drawn; the order within a folder
  stays, as journals keep it), and bytes are zeros.

Arrow, torch and the like write through Python's files here, so nothing passes by.
"""

import errno
import io
import os
import random
import shutil
import signal
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CUTS = ("nothing", "names", "some")
Kind = Literal["create", "remove", "rename", "mkdir"]


@dataclass
class _Written:
    """A file that was made: where it is, and how many of its bytes are safe."""

    path: Path
    safe: int = 0


@dataclass
class _Change:
    """A change of a folder's names that the folder's fsync has not made safe yet.

    A rename from one folder to another is of the folder that it leads to: a file system makes both
    ends of it safe at once.
    """

    kind: Kind
    path: Path
    #: What was there before, if anything.
    old: bytes | None = None
    #: Of a rename: the name before.
    source: Path | None = None


@dataclass
class Faults:
    """Counts changes below ``root``; ends the process before the one numbered ``fatal``.

    Attributes:
        beside: folder for what power cuts would leave, one folder each; None: none is laid there.
        fail: instead of ending the process, raise an OSError with this number from ``fatal`` on.
        counts: changes by kind.
    """

    root: Path
    fatal: int = 0
    beside: Path | None = None
    fail: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict[str, int]())

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._off = threading.local()
        self._count = 0
        self._changes: list[_Change] = []
        self._files: dict[int, _Written] = {}
        self._real = {
            name: getattr(os, name) for name in ("fsync", "replace", "unlink", "mkdir")
        } | {"open": io.open}

    def install(self) -> None:
        """Take the place of Python's functions, for the rest of the process."""
        io.open = self._open  # type: ignore[assignment]
        os.fsync = self._fsync
        os.replace = os.rename = self._rename  # type: ignore[assignment]
        os.unlink = os.remove = self._remove  # type: ignore[assignment]
        os.mkdir = self._mkdir  # type: ignore[assignment]

    def change(self, kind: str, within: Callable[[], None] | None = None) -> None:
        """Count a change that is about to happen, and be its end where it is the fatal one."""
        self._count += 1
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if not self.fatal or self._count < self.fatal:
            return
        if self.fail == errno.ENOSPC and kind == "remove":  # a full disk lets go of files
            return
        if self.fail:
            raise OSError(self.fail, os.strerror(self.fail))
        if within is not None:
            within()
        if self.beside is not None:
            self._cut_power(self.beside)
        os.kill(os.getpid(), signal.SIGKILL)

    def _ours(self, path: Any) -> Path | None:
        if getattr(self._off, "on", False) or not isinstance(path, str | os.PathLike):
            return None
        found = Path(os.path.abspath(os.fspath(path)))  # noqa: PTH100 - no look at the disk
        return found if found.is_relative_to(self.root) else None

    def _open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        path = self._ours(file)
        if path is None or not set(mode) & set("wxa+"):
            return self._real["open"](file, mode, *args, **kwargs)
        assert mode == "wb", f"{path} is opened in a way that is not followed: {mode}"
        with self._lock:
            self.change("create")
            old = path.read_bytes() if path.exists() else None
            raw = _CountedFile(path, self)
            written = _Written(path)
            self._files[os.fstat(raw.fileno()).st_ino] = written
            self._changes.append(_Change("create", path, old))
        return io.BufferedWriter(raw)

    def _fsync(self, handle: int) -> None:
        with self._lock:
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                self.change("fsync folder")
                self._changes = [
                    one for one in self._changes if not _is_folder(one.path.parent, found.st_ino)
                ]
            else:
                self.change("fsync")
                if found.st_ino in self._files:
                    self._files[found.st_ino].safe = found.st_size
            # A kill loses nothing that was written: the call counts, the waiting goes.

    def _rename(self, source: Any, target: Any, **kwargs: Any) -> None:
        old, new = self._ours(source), self._ours(target)
        if old is None or new is None:
            return self._real["replace"](source, target, **kwargs)
        with self._lock:
            self.change("rename")
            before = new.read_bytes() if new.exists() else None
            self._changes.append(_Change("rename", new, before, old))
            self._forget(new)
            for written in self._files.values():
                written.path = new if written.path == old else written.path
            return self._real["replace"](source, target, **kwargs)

    def _remove(self, target: Any, **kwargs: Any) -> None:
        path = self._ours(target)
        if path is None or not path.is_file():
            return self._real["unlink"](target, **kwargs)
        with self._lock:
            self.change("remove")
            self._changes.append(_Change("remove", path, path.read_bytes()))
            self._forget(path)
            return self._real["unlink"](target, **kwargs)

    def _mkdir(self, target: Any, *args: Any, **kwargs: Any) -> None:
        path = self._ours(target)
        if path is None or path.exists() or not path.parent.is_dir():
            return self._real["mkdir"](target, *args, **kwargs)
        with self._lock:
            self.change("mkdir")
            self._changes.append(_Change("mkdir", path))
            return self._real["mkdir"](target, *args, **kwargs)

    def _forget(self, path: Path) -> None:
        self._files = {i: one for i, one in self._files.items() if one.path != path}

    def _cut_power(self, beside: Path) -> None:
        self._off.on = True  # other threads wait for the lock until the end comes
        draw = random.Random(self._count)
        for cut in CUTS:
            place = beside / cut
            if self.root.exists():
                shutil.copytree(self.root, place)
            elif cut != CUTS[0]:
                continue
            kept: dict[Path, int] = {}
            for folder in {one.path.parent for one in self._changes}:
                here = sum(one.path.parent == folder for one in self._changes)
                kept[folder] = {"nothing": 0, "names": here}.get(cut, draw.randint(0, here))
            self._lose_bytes(place)
            self._lose_names(place, kept)

    def _lose_bytes(self, place: Path) -> None:
        for written in self._files.values():
            path = self._moved(place, written.path)
            if path.is_file():
                data = path.read_bytes()
                path.write_bytes(data[: written.safe] + bytes(len(data) - written.safe))

    def _lose_names(self, place: Path, kept: dict[Path, int]) -> None:
        """Undo changes, the last one first, but for the first ones of each folder."""
        lost: list[_Change] = []
        for one in self._changes:
            kept[one.path.parent] -= 1
            if kept[one.path.parent] < 0:
                lost.append(one)
        for one in reversed(lost):
            path = self._moved(place, one.path)
            if one.kind == "mkdir":
                shutil.rmtree(path, ignore_errors=True)
                continue
            if not path.parent.is_dir():  # it is gone itself
                continue
            if one.source is not None and path.exists():
                self._move_back(path, self._moved(place, one.source))
            elif one.kind == "create":
                path.unlink(missing_ok=True)
            if one.old is not None:
                path.write_bytes(one.old)

    @staticmethod
    def _move_back(path: Path, source: Path) -> None:
        """Undo a rename; where the folder that it came from is lost, too, the file is."""
        if source.parent.is_dir():
            path.rename(source)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _moved(self, place: Path, path: Path) -> Path:
        return place / path.relative_to(self.root)


class _CountedFile(io.FileIO):
    """A file whose every write is a change."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path, "wb")
        self._faults = faults

    def write(self, data: Any) -> int:
        write = super().write
        view = memoryview(data)
        with self._faults._lock:
            self._faults.change("write", lambda: (write(view[: len(view) // 2]), None)[1])
            return write(view)


def _is_folder(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except OSError as error:
        assert error.errno == errno.ENOENT
        return False
