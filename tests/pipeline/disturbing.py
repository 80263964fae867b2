"""Disturbs commands that write into a job's folder, lets them be finished, and compares.

Every run is a fork: libraries are imported once, so that the instants fall into the work and not
into imports. The parent starts no thread.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from normpipe.pipeline.care.verify import verify

from .faults import CUTS, Faults
from .living import digests


@dataclass(frozen=True)
class Scenario:
    """A command and the folder that it starts from.

    Attributes:
        run: the command, given the folder; runs in a fork, ends by returning or by SystemExit.
        base: the folder before it; None: there is none.
        finish: what is run after a disturbance, given the folder and the number of the disturbance;
            None: the same command.
        workers: shards of one stage that may be in writing at once.
        digests: path → digest of all that must be equal in the end.
    """

    name: str
    run: Callable[[Path], None]
    base: Path | None = None
    finish: Callable[[Path, int], None] | None = None
    workers: int = 1
    digests: Callable[[Path], dict[str, str]] = digests

    def lay(self, root: Path) -> Path:
        """Put the folder into the state before the command."""
        shutil.rmtree(root, ignore_errors=True)
        if self.base is not None:
            shutil.copytree(self.base, root)
        return root


@dataclass
class Tally:
    """What disturbing a command came to.

    Attributes:
        ended: processes ended.
        midway: of them those that had committed a part of the shards, and not all.
        states: states of the folder that were finished; those that occurred before are the same.
        again: shards that were committed before the disturbance and were written again.
        in_writing: the most shards of one stage whose writing was cut off.
        differing: one line for all that is not as it is after an undisturbed run.
    """

    scenario: str
    how: str
    ended: int = 0
    midway: int = 0
    states: int = 0
    again: int = 0
    in_writing: int = 0
    differing: list[str] = field(default_factory=lambda: list[str]())
    counts: dict[str, int] = field(default_factory=lambda: dict[str, int]())


def start(work: Callable[[], None], log: Path) -> int:
    """Begin something in a fork that leads its own group of processes; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Return how a fork ended, as ``waitstatus_to_exitcode`` says."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def must(work: Callable[[], None], log: Path) -> float:
    """Do something in a fork that nobody disturbs; return seconds."""
    began = time.monotonic()
    code = wait(start(work, log))
    if code != 0:
        raise SystemExit(f"a step that nobody disturbed ended with {code}: {tail(log)}")
    return time.monotonic() - began


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""


def sound(root: Path) -> None:
    """Exit where ``verify`` finds anything."""
    found = verify(root).differences
    if found:
        raise SystemExit("; ".join(found[:3]))


class Bench:
    """A folder to disturb one scenario in, and what comes of it undisturbed."""

    def __init__(self, scenario: Scenario, workdir: Path) -> None:
        self.scenario = scenario
        self.place = workdir
        self.log = workdir / "log.txt"
        workdir.mkdir(parents=True)
        whole = scenario.lay(workdir / "undisturbed")

        def first() -> None:
            try:
                scenario.run(whole)
            finally:  # a command ends by SystemExit
                (workdir / "modules.json").write_text(json.dumps(sorted(sys.modules)))

        must(first, self.log)
        for name in json.loads((workdir / "modules.json").read_bytes()):
            with suppress(Exception):
                import_module(name)
        must(lambda: sound(whole), self.log)
        self.expected = scenario.digests(whole)
        self._seen: dict[str, bool] = {}

    def end_at_every_change(self, cuts: bool = True, first: int = 1, step: int = 1) -> Tally:
        """End the process before change ``first``, and so on, until one runs to its end.

        ``cuts``: finish also what power cuts would leave there.
        """
        tally = Tally(self.scenario.name, "every change" if step == 1 else f"1 of {step} changes")
        root, beside = self.place / "ended", self.place / "cut"
        number = first
        while True:
            self.scenario.lay(root)
            shutil.rmtree(beside, ignore_errors=True)

            def dying(number: int = number) -> None:
                faults = Faults(root, number, beside if cuts else None)
                faults.install()
                try:
                    self.scenario.run(root)
                finally:
                    (self.place / "counts.json").write_text(json.dumps(faults.counts))

            code = wait(start(dying, self.log))
            if code == 0:
                tally.counts = json.loads((self.place / "counts.json").read_bytes())
                return tally
            if code != -signal.SIGKILL:
                tally.differing.append(f"change {number}: ended with {code}: {tail(self.log)}")
                return tally
            self._count(tally, root)
            kept = set(self._committed(root))
            for state in (root, *(beside / cut for cut in CUTS if cuts)):
                what = f"change {number}, {'killed' if state == root else 'power cut'}"
                if state.name == "nothing":
                    tally.differing += _lost(what, kept - set(self._committed(state)))
                self._finish(tally, state, number, what)
            number += step

    def kill_at_random(self, kills: int, seed: int) -> Tally:
        """Kill ``kills`` processes; one that was through before its instant does not count."""
        tally = Tally(self.scenario.name, "random instants")
        root = self.place / "killed"
        self.scenario.lay(root)
        # The first run warmed the caches; this one says how long a run takes.
        seconds = must(lambda: self.scenario.run(root), self.log)
        if self.scenario.digests(root) != self.expected:
            tally.differing.append("two undisturbed runs differ")
        draw = random.Random(seed)
        for number in range(3 * kills):
            if tally.ended == kills:
                break
            self.scenario.lay(root)
            pid = start(lambda: self.scenario.run(root), self.log)
            time.sleep(draw.uniform(0.0, seconds))
            # The process alone, whose helpers must then end by themselves; or all of its group.
            (os.kill if number % 2 else _kill_group)(pid, signal.SIGKILL)
            if wait(pid) != -signal.SIGKILL:
                continue
            if not _group_ends(pid):
                tally.differing.append(f"kill {number}: helpers of the killed process live on")
            self._count(tally, root)
            self._finish(tally, root, number, f"kill {number}", always=True)
        return tally

    def _count(self, tally: Tally, root: Path) -> None:
        tally.ended += 1
        there = sum("records/" in name for name in self._committed(root))
        all_of_them = sum("records/" in name for name in self.expected)
        tally.midway += 0 < there < all_of_them
        for name, writing in Counter(in_writing(root)).items():
            tally.in_writing = max(tally.in_writing, writing)
            if writing > self.scenario.workers:
                tally.differing.append(f"{writing} shards of {name} were in writing")

    def _committed(self, root: Path) -> dict[str, Path]:
        """Return record → shard, of those that are as the undisturbed run has them."""
        found = self.scenario.digests(root) if root.exists() else {}
        records = [n for n in found if "records/" in n and found[n] == self.expected.get(n)]
        shards = {name: shard_of(name) for name in records}
        return {n: root / s for n, s in shards.items() if found.get(s) == self.expected[s]}

    def _finish(
        self, tally: Tally, root: Path, number: int, what: str, always: bool = False
    ) -> None:
        """Run the command again over a state, unless it was seen before, and compare."""
        found = digests(root) if root.exists() else {}
        key = json.dumps(found, sort_keys=True)
        if not always and key in self._seen:
            return
        self._seen[key] = True
        tally.states += 1
        tally.differing += [f"{what}: {line}" for line in _lies(root)]
        before = {path: _marks(path) for path in self._committed(root).values()}
        finish = self.scenario.finish

        def run() -> None:
            finish(root, number) if finish else self.scenario.run(root)

        code = wait(start(run, self.log))
        if code != 0:
            tally.differing.append(f"{what}: ended with {code} when run again: {tail(self.log)}")
            return
        after = self.scenario.digests(root)
        tally.differing += [
            f"{what}: {name}"
            for name in sorted({*after, *self.expected})
            if after.get(name) != self.expected.get(name)
        ]
        tally.again += sum(_marks(path) != marks for path, marks in before.items())


def shard_of(record: str) -> str:
    """Return the shard of a record, both relative to the job's folder.

    ``made/records/shard-0.json`` or ``_made/records/shard-0.json`` is of ``made/shard-0.parquet``.
    """
    path = Path(record)
    beside = path.parent.parent
    return (beside.with_name(beside.name.removeprefix("_")) / f"{path.stem}.parquet").as_posix()


def in_writing(root: Path) -> Iterator[str]:
    """Yield, for each shard that is begun and not whole, the name of its dataset or stage."""
    yield from (path.parent.name for path in root.rglob("shard-*.parquet*.tmp"))
    # Under a name of its own, ``<stage>-<shard>-<token>``; its record says that it is whole.
    for shard in root.glob(".making/*/made/*.parquet"):
        if not shard.with_suffix(".json").exists():
            yield shard.name.rsplit("-", 2)[0]


def _marks(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written again, though its bytes are the same."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _lies(root: Path) -> Iterator[str]:
    """Yield records that speak of a shard which is not so: what is committed must be readable."""
    found = digests(root) if root.exists() else {}
    for name in found:
        if "/records/" not in name or not name.endswith(".json"):
            continue
        try:
            record = json.loads((root / name).read_bytes())
        except ValueError:  # torn, which a run notices
            continue
        shard = shard_of(name)
        if shard in found and found[shard] != record["sha256"]:
            yield f"{name} speaks of another shard"


def _lost(what: str, records: set[str]) -> Iterator[str]:
    """Yield datasets of which a power cut took more than the shard that was being committed."""
    folders = [name.partition("records/")[0] for name in records]
    for folder in sorted({f for f in folders if folders.count(f) > 1}):
        yield f"{what}: took {folders.count(folder)} committed shards of {folder}"


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it had not become a group yet
        os.kill(pid, number)


def _group_ends(pid: int, seconds: float = 20.0) -> bool:
    """Wait until a group has no process any more; say whether that came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    return False
