"""One job at a time: a locked file in a folder; in a store, which has no locks, numbered objects.

Who makes the next number holds the job, and rewrites that object every few seconds. Who finds one
held watches it: if it does not change for long, its holder is dead or cut off, and the next number
may be made. The clocks of the machines are not compared. The last number stays when the job ends,
marked free, so that a holder that was stopped and wakes up later always finds a higher one.
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
from .storage import create, fenced, is_store, put, read_all, remove, sizes

log = logging.getLogger("normpipe")

#: Held by the process that writes into a folder; in a store, a prefix of numbered objects. Other
#: names, so that a dataset may be copied from one to the other.
LOCK_FILE = ".normpipe.lock"
STORE_LOCK = ".normpipe.locks"

#: Seconds between signs of life of a holder, and without any until it counts as dead.
BEAT_SECONDS = 5.0
DEAD_SECONDS = 30.0


class StoreLock:
    """Holds a job's address for this process."""

    def __init__(self, folder: Path, root: Path) -> None:
        """``folder``: where the numbers lie; ``root``: of the job."""
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
                f"{self._root}: this store does not keep to 'only where there is none' "
                "(conditional writes), without which two jobs could write at once: use another, or "
                "a folder"
            )
        self._number = number
        for lower in self._numbers():
            if lower < number:
                remove(self._path(lower))
        self._beating.start()

    def _taken(self, by: str = "") -> OutputError:
        return OutputError(
            f"another normpipe is at work in {self._root}{by}: wait for it, or stop it first"
        )

    def _wait_for(self, number: int) -> None:
        """Return when a number is free or its holder dead; raise where it shows signs of life."""
        first = self._read(number)
        if not first.get("held", True):
            return
        by = f" ({first.get('host')}, process {first.get('pid')})"
        log.info(
            "%s is held by %s: looking for %g s whether that is still at work",
            self._root,
            by.strip(" ()"),
            DEAD_SECONDS,
        )
        until = time.monotonic() + DEAD_SECONDS
        while time.monotonic() < until:
            time.sleep(BEAT_SECONDS / 5)
            now = self._read(number)
            if now != first:
                if not now.get("held", True):
                    return
                raise self._taken(by)

    def _read(self, number: int) -> dict[str, Any]:
        (data,) = read_all([self._path(number)])
        if data is None:  # whoever made a higher number removed it
            raise self._taken()
        try:
            return json.loads(data)
        except ValueError:
            return {}

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._beats += 1
            # Lost or not, its own number is nobody else's. A store that does not answer may again.
            with contextlib.suppress(NormpipeError):
                put(self._path(self._number), self._state(True))

    def check(self) -> None:
        """Raise where another process took the job."""
        if self._last() != self._number:
            raise OutputError(
                f"another normpipe took {self._root} over, for this one gave no sign of life for "
                f"{DEAD_SECONDS:g} s: nothing more is written"
            )

    def release(self) -> None:
        """Let the next one in without waiting."""
        self._over.set()
        self._beating.join()  # or its last sign of life would follow
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
    """Hold a folder for this process alone, making it where it is missing.

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
            f"another normpipe is at work in {folder}: wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()
