"""SIGTERM and the grace time, measured on real processes; which shards are in time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normpipe.pipeline.run.loop import Lane, Pending
from normpipe.pipeline.run.stopping import sigterm_as_interrupt
from normpipe.pipeline.store.shards import ShardFolder

from ..disturbing import in_writing
from ..toys import SecondMap

HARNESS = Path(__file__).parents[1] / "grace_harness.py"


def start(output: Path, grace: float, shard_rows: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(HARNESS), output, grace, shard_rows, seconds]
    return subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def end(process: subprocess.Popen[str], when: Callable[[], object]) -> tuple[float, str, str]:
    """Send SIGTERM once ``when``; return the seconds from then to the end, stdout and stderr."""
    deadline = time.monotonic() + 60
    while not when() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    return time.monotonic() - began, stdout, stderr


def test_shards_in_hand_are_finished_where_there_is_time(tmp_path: Path) -> None:
    out, grace = tmp_path / "out", 30.0
    made = ShardFolder(out / "made")
    process = start(out, grace, 10, 0.1)
    seconds, stdout, stderr = end(process, lambda: len(made.records()) >= 2)
    assert process.returncode == 3, stderr
    assert seconds < grace
    assert "within 30 s" in stderr and "dropped" not in stderr
    assert "Run the same command to continue" in stderr and "Traceback" not in stderr
    assert "what follows" not in stdout
    # More than were there at the signal, by what was in hand: one being written, one being read.
    assert 3 <= len(made.records()) <= 5
    assert not [*in_writing(out)]
    again = start(out, grace, 10, 0)
    stdout, stderr = again.communicate(timeout=60)
    assert again.returncode == 0 and "what follows" in stdout, stderr
    assert sum(record.rows for record in made.records().values()) == 60


def test_shards_that_would_come_too_late_are_dropped_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process, began = start(out, 12, 60, 0.5), ShardFolder(out / "made")
    seconds, _, stderr = end(process, lambda: {"made", "toy-map"} & {*in_writing(out)})
    assert process.returncode == 3, stderr
    assert seconds < 6  # half a minute's work in hand, and nobody waits for the grace time
    assert "shard 0 dropped" in stderr
    assert not began.records() and not [*in_writing(out)]


@pytest.mark.parametrize("grace", [4.0, 2.0])
def test_the_grace_time_is_never_exceeded(tmp_path: Path, grace: float) -> None:
    """A batch that takes a minute and cannot be stopped."""
    process = start(tmp_path / "out", grace, 10, 30)
    seconds, _, stderr = end(process, (tmp_path / "computing").exists)
    assert process.returncode == 3, stderr
    assert seconds < grace
    assert "out of time" in stderr
    assert not ShardFolder(tmp_path / "out/made").records()


def test_no_grace_drops_what_is_in_hand(tmp_path: Path) -> None:
    made = ShardFolder(tmp_path / "out/made")
    process = start(tmp_path / "out", 0, 10, 0.1)
    _, _, stderr = end(process, lambda: bool(made.records()))
    assert process.returncode == 3 and "stopping; once more" in stderr
    assert len(made.records()) <= 2


def lane(in_order: bool, *begun: float | None) -> Lane:
    """A lane with shards of 100 rows that were begun at some times, of 10 rows a second."""
    place: Any = SimpleNamespace(in_order=in_order)
    found = Lane(SecondMap(reads="made", writes="second"), place, Path())
    found.rows, found.seconds = 1000, 100.0
    task: Any = {}
    found.pending = {n: Pending(task, 100, started_at=at) for n, at in enumerate(begun)}
    return found


def test_in_order_older_shards_count_before_younger_ones() -> None:
    here = lane(True, 0.0, 1.0)
    here.rows, here.seconds = 0, 0.0
    here.pending[0].written = 50
    # At 5 s its own rows are the pace: 5 s for the rest of the first, 10 s for the second.
    assert here.late(15, 5.0) == []
    assert here.late(14, 5.0) == [1]
    assert here.late(4, 5.0) == [0, 1]


def test_side_by_side_each_shard_counts_by_itself() -> None:
    far = lane(False, 0.0, 6.0, None)
    assert far.late(6, 8.0) == [1, 2]  # 2 s left, 8 s left, and nobody has begun it
    assert far.late(8, 8.0) == [2]
    far.pending[2].started_at = 8.0
    assert far.late(8, 8.0) == [2]  # begun just now: 10 s left
    assert far.late(10, 8.0) == []


def test_without_a_pace_everything_is_late() -> None:
    for one in (lane(True, 0.0, 0.0), lane(False, 0.0, 0.0)):
        one.rows, one.seconds = 0, 0.0
        assert one.late(1e9, 1.0) == [0, 1]


def test_idle_time_is_not_in_the_pace() -> None:
    here = lane(True, 900.0)
    here.last_commit = 10.0
    assert here.elapsed(here.pending[0], 903.0) == 3.0
    here.last_commit = 901.0  # it was read ahead until then
    assert here.elapsed(here.pending[0], 903.0) == 2.0


def test_sigterm_ends_any_command_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before
    seen: list[object] = []

    def elsewhere() -> None:
        with sigterm_as_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_process_ends_with_its_status_and_all_said() -> None:
    code = """
import atexit, sys, threading, time
from normpipe.pipeline.run.stopping import leave
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
sys.stdout.write("unfinished line ")
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and done.stderr == ""
    assert done.stdout == "unfinished line thread\nregistered\n"
