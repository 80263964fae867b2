"""One job at a time: a locked file in a folder; in a store, which has no locks, numbered objects.

The process that creates the next number holds the job, and rewrites that object every few seconds
as a heartbeat. A process that finds the job held watches the object: if it does not change for
``DEAD_AFTER_SECONDS``, the holder is dead or disconnected, and the next number may be created. The
clocks of the machines are not compared. When the job ends, the last number stays, marked free, so
that a holder that was stopped and wakes up later always finds a higher number.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import NormpipeError, OutputError
from .commit import make_folder, storage_errors
from .storage import create, fenced, is_store, put, read_files, remove, sizes

log = logging.getLogger("normpipe")

#: Held by the process that writes into a folder; in a store, a prefix of numbered objects. The
#: names differ, so that a dataset may be copied from one to the other.
LOCK_FILE = ".normpipe.lock"
STORE_LOCK = ".normpipe.locks"

#: Seconds between heartbeats of a holder, and without one until it counts as dead.
HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0


class StoreLock:
    """Holds a job's address for this process."""

    def __init__(self, folder: Path, root: Path) -> None:
        """``folder``: of the numbered objects; ``root``: of the job."""
        self._folder = folder
        self._root = root
        self._number = 0
        self._beats = 0
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.json"

    def _numbers(self) -> list[int]:
        return [int(name.removesuffix(".json")) for name in sizes(self._folder)]

    def _last(self) -> int:
        return max(self._numbers(), default=0)

    def _state(self, held: bool) -> bytes:
        about = {"held": held, "host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps({**about, "beat": self._beats}).encode()

    def acquire(self) -> None:
        """Take the job. Raises OutputError where another process has it."""
        last = self._last()
        if last:
            self._wait_for(last)
        number = last + 1
        if not create(self._path(number), self._state(True)):
            raise self._taken()
        if create(self._path(number), self._state(True)):
            remove(self._path(number))
            raise OutputError(
                f"{self._root}: this store does not support conditional writes ('create only if "
                "absent'), without which two jobs could write at once: use another store, or a "
                "folder"
            )
        self._number = number
        for lower in self._numbers():
            if lower < number:
                remove(self._path(lower))
        self._beating.start()

    def _taken(self, by: str = "") -> OutputError:
        return OutputError(
            f"another normpipe is running in {self._root}{by}: wait for it, or stop it first"
        )

    def _wait_for(self, number: int) -> None:
        """Return once a number is free or its holder is dead; raise if it sends a heartbeat."""
        first = self._read(number)
        if not first.get("held", True):
            return
        by = f" ({first.get('host')}, process {first.get('pid')})"
        log.info(
            "%s is held by %s: waiting %g s to see whether that process is alive",
            self._root,
            by.strip(" ()"),
            DEAD_AFTER_SECONDS,
        )
        until = time.monotonic() + DEAD_AFTER_SECONDS
        while time.monotonic() < until:
            time.sleep(HEARTBEAT_SECONDS / 5)
            now = self._read(number)
            if now != first:
                if not now.get("held", True):
                    return
                raise self._taken(by)

    def _read(self, number: int) -> dict[str, Any]:
        (data,) = read_files([self._path(number)])
        if data is None:  # removed by the process that created a higher number
            raise self._taken()
        try:
            return json.loads(data)
        except ValueError:
            return {}

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            self._beats += 1
            # Even if the lock is lost, no other process uses this number. The store may answer
            # again later.
            with contextlib.suppress(NormpipeError):
                put(self._path(self._number), self._state(True))

    def check(self) -> None:
        """Raise OutputError if another process took over the job."""
        if self._last() != self._number:
            raise OutputError(
                f"another normpipe took over {self._root}, because this one sent no heartbeat for "
                f"{DEAD_AFTER_SECONDS:g} s: nothing more is written"
            )

    def release(self) -> None:
        """Release the job, so that the next process need not wait."""
        self._over.set()
        self._beating.join()  # or a last heartbeat would follow
        with contextlib.suppress(NormpipeError):
            put(self._path(self._number), self._state(False))


@contextmanager
def _store_locked(folder: Path, root: Path) -> Generator[None, None, None]:
    """Hold a job's address; nothing below ``root`` is written once it is lost."""
    lock = StoreLock(folder, root)
    lock.acquire()
    try:
        with fenced(root, lock.check):
            yield
    finally:
        lock.release()


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold a folder exclusively for this process; create it if it is missing.

    Raises:
        OutputError: another process holds it, or it cannot be written.
    """
    if is_store(folder):
        with _store_locked(folder / STORE_LOCK, folder):
            yield
        return
    with storage_errors(folder):
        make_folder(folder)
    lock = FileLock(folder / LOCK_FILE)
    try:
        with storage_errors(folder):
            lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"another normpipe is running in {folder}: wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()
