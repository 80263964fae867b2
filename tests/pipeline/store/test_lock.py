"""One job at a time, in a folder and in a store."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.store import lock, storage
from normpipe.pipeline.store.lock import StoreLock, locked
from normpipe.pipeline.store.storage import location, put


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "DEAD_AFTER_SECONDS", 1.5)


def test_a_second_job_is_told_of_the_first(address: str, quick: None) -> None:
    root = location(address)
    first = StoreLock(root / ".lock", root)
    first.acquire()
    with pytest.raises(OutputError, match=r"another normpipe is running .* process \d+"):
        StoreLock(root / ".lock", root).acquire()
    first.release()
    third = StoreLock(root / ".lock", root)
    began = time.monotonic()
    third.acquire()
    assert time.monotonic() - began < 1  # nobody had to be watched
    third.release()


def test_a_job_that_was_stopped_for_long_writes_nothing_when_it_wakes(
    address: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = location(address)
    asleep = StoreLock(root / ".lock", root)
    monkeypatch.setattr(asleep, "_beating", _Silent())
    asleep.acquire()
    other = StoreLock(root / ".lock", root)
    began = time.monotonic()
    other.acquire()
    assert time.monotonic() - began >= 1.5
    put(root / "mine", b"other's")
    for _ in range(2):  # also when the other is through
        with storage.fenced(root, asleep.check), pytest.raises(OutputError, match=r"took over"):
            put(root / "mine", b"asleep's")
        other.release()
    assert (root / "mine").read_bytes() == b"other's"


class _Silent:
    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


def test_a_store_that_overwrites_is_refused(
    address: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(path: Path, data: bytes) -> bool:
        put(path, data)
        return True

    monkeypatch.setattr(lock, "create", careless)
    root = location(address)
    with pytest.raises(OutputError, match="conditional writes"):
        StoreLock(root / ".lock", root).acquire()


# --- a folder


def test_a_folder_is_held_by_one_and_free_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "a/out"
    code = f"""
from pathlib import Path
from normpipe.pipeline.store.lock import locked
with locked(Path({str(folder)!r})):
    print("held")
"""

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return done.stdout + done.stderr

    with pytest.raises(ZeroDivisionError), locked(folder):
        assert f"OutputError: another normpipe is running in {folder}" in other()
        raise ZeroDivisionError
    assert other() == "held\n"
