"""Kills withdrawals with SIGKILL before each change they make to the disk. Prints JSON.

Every step runs in a fork, and the parent uses no library that starts threads.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normpipe.pipeline import withdraw as module
from normpipe.pipeline.verify import verify
from normpipe.pipeline.withdrawal import INTENT_FILE
from tests.pipeline import living

#: Two shards, the second without her.
NAMES = [*(f"n{i}" for i in range(9)), "twins35", "n41", "n42"]
# A kill loses nothing that was written, only a power cut does: the calls count, the waiting goes.
os.fsync = lambda _: None  # type: ignore[assignment]


def forked(work: Callable[[], Any]) -> int:
    """Do something in a child; returns how it ended, as ``waitstatus_to_exitcode`` says."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def must(work: Callable[[], Any]) -> None:
    if forked(work) != 0:
        raise SystemExit("a step that nobody killed failed")


def withdraw(root: Path, fatal: int = 0) -> None:
    """Withdraw Anna; before the change of the disk numbered ``fatal``, die."""
    module.new_salt = lambda: "00" * 16
    module.today = lambda: "2000-01-01"
    count = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return wrapper

    if fatal:
        os.fsync = dying(os.fsync)
        Path.replace = dying(Path.replace)  # type: ignore[method-assign]
        Path.unlink = dying(Path.unlink)  # type: ignore[method-assign]
    module.withdraw(root, ["anna"], [])


def sound(root: Path) -> None:
    found = verify(root).differences
    assert found == [], found


def main(workdir: Path) -> None:
    base, whole = workdir / "base", workdir / "whole"
    must(lambda: living.make(base, NAMES))
    shutil.copytree(base, whole)
    must(lambda: withdraw(whole))
    expected = living.digests(whole)
    differing: list[str] = []
    states = {"nothing": 0, "intent": 0, "done": 0}
    fatal = 1
    while True:
        root = workdir / "killed"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base, root)
        if forked(lambda root=root, fatal=fatal: withdraw(root, fatal)) == 0:
            break
        intended = (root / INTENT_FILE).is_file()
        after = living.digests(root)
        states["intent" if intended else "done" if after == expected else "nothing"] += 1
        # Either of the two commands finishes what was begun.
        if intended and fatal % 2:
            must(lambda root=root: living.run(root, NAMES))
        else:
            must(lambda root=root: withdraw(root))
        after = living.digests(root)
        differing += [
            f"kill {fatal}: {name}"
            for name in sorted({*after, *expected})
            if after.get(name) != expected.get(name)
        ]
        must(lambda root=root: sound(root))
        fatal += 1
    print(json.dumps({"kills": fatal - 1, "states": states, "differing": differing}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
