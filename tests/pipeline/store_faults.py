"""Ends a process at a change of a store; finishes the job; compares with the undisturbed one.

A store has no power cuts and no half-written objects: what was answered is there, what was not is
there or not. So a process is ended before each request that changes something, and by turns behind
it: what was answered, and what would have been, are the same state.
"""

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from normpipe.pipeline.store import lock, storage
from normpipe.pipeline.store.storage import location, reopened

from . import living
from .disturbing import Tally, must, sound, start, tail, wait
from .stores import digests
from .toy_scenarios import NAMES, finish_withdrawal, job, withdraw
from .toys import ToyConfig

Command = Callable[[Path], None]


def _quick_lock(beat: float) -> None:
    # A dead holder is found out in no time; with a long beat there is no sign of life to count.
    lock.HEARTBEAT_SECONDS, lock.DEAD_AFTER_SECONDS = beat, 0.3


def _end_at(fatal: int, counted: Path | None = None) -> None:
    """End this process before the change numbered ``fatal``; of even ones, behind it."""
    real = storage._writing
    count = 0

    @contextmanager
    def writing(path: Path) -> Generator[Any, None, None]:
        nonlocal count
        count += 1
        if counted is not None:
            counted.write_text(str(count))
        if count == fatal and fatal % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with real(path) as there:
            yield there
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    storage._writing = writing


class Case(NamedTuple):
    """A command that is ended, and what finishes it."""

    command: Command
    finish: Callable[[Path, int], None]
    #: Makes what it begins with, in a folder.
    before: Command | None


def cases() -> dict[str, Case]:
    again = job(config=ToyConfig(factor=3, shard_rows=20), overwrite=True)
    out = withdraw("anna")
    return {
        "first run": Case(job(), lambda root, _: job()(root), None),
        "run --overwrite": Case(again, lambda root, _: again(root), job()),
        "withdraw": Case(
            out, finish_withdrawal(out, job()), lambda root: living.make(root, list(NAMES))
        ),
    }


def disturb(address: str, place: Path, step: int) -> list[Tally]:
    """End every command at every ``step``-th change of the store; return what came of it.

    ``place``: a folder for what is told, and for what is copied to the store.
    """
    return [
        _disturb(f"{address}/{i}", place / str(i), name, case, step)
        for i, (name, case) in enumerate(cases().items())
    ]


def _disturb(address: str, place: Path, name: str, case: Case, step: int) -> Tally:
    place.mkdir()
    base, log = place / "base", place / "log.txt"
    if case.before is not None:
        must(partial(case.before, base), log)

    def lay(part: str) -> Path:
        root = location(f"{address}/{part}")
        there: Any = root
        if case.before is not None:
            there.fs.put(f"{base}/", there.path, recursive=True)
        return root

    counted = log.with_name("count")
    whole = lay("whole")

    def undisturbed() -> None:
        _quick_lock(1000)
        _end_at(0, counted)
        case.command(reopened(whole))

    must(undisturbed, log)
    wanted = digests(whole)
    tally = Tally(name, "every change in a store")
    for number in range(1, int(counted.read_text()) + 1, step):
        root = lay(str(number))
        tally.ended += wait(start(partial(_dying, case, root, number), log)) == -signal.SIGKILL
        before = digests(root)
        tally.midway += _records(before) > 0 and before != wanted
        tally.states += 1
        if wait(start(partial(_finishing, case, root, number), log)) != 0:
            tally.differing.append(f"{name}, change {number}: {tail(log)}")
        elif digests(root) != wanted:
            tally.differing.append(f"{name}, change {number}: other bytes")
    return tally


def _records(found: dict[str, str]) -> int:
    return sum("records/" in name for name in found)


def _dying(case: Case, root: Path, number: int) -> None:
    _quick_lock(1000)
    _end_at(number)
    case.command(reopened(root))


def _finishing(case: Case, root: Path, number: int) -> None:
    _quick_lock(0.05)
    root = reopened(root)
    case.finish(root, number)
    sound(root)
