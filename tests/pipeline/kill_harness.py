"""Runs the real job in forked processes and kills them with SIGKILL. Prints JSON.

Libraries are imported once and each run is a fork, so that the instants fall into the job and not
into the import of torch. The parent starts no thread before it forks.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import cv2
import torch

from normpipe.pipeline import cli
from normpipe.pipeline.verify import verify
from normpipe.stages.networks import compact as _compact  # noqa: F401 - imported before the fork


def start(arguments: list[str], log: Path) -> int:
    """Fork a run of the command line; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        cli.app(arguments, prog_name="normpipe", standalone_mode=True)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


def finish(arguments: list[str], log: Path) -> float:
    """Run to the end; returns seconds. The run must succeed."""
    began = time.monotonic()
    _, status = os.waitpid(start(arguments, log), 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"run failed: {log.read_text()[-2000:]}")
    return time.monotonic() - began


def digests(root: Path) -> dict[str, str]:
    """Return path → sha256 of everything in a folder but the lock."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".normpipe.lock"
    }


def main(workdir: Path, kills: int, seed: int, *settings: str) -> None:
    """Kill ``kills`` runs at random instants and finish each; print what differed.

    A run that was through before its instant came does not count, and another is started.
    """
    log = workdir / "log.txt"

    def arguments(output: Path) -> list[str]:
        return ["run", *settings, "--output", str(output)]

    whole = workdir / "undisturbed"
    finish(arguments(whole), log)
    expected = digests(whole)
    # The first run also warms caches; the second says how long a run takes.
    seconds = finish(arguments(workdir / "second"), log)
    differing = [] if digests(workdir / "second") == expected else ["a second undisturbed run"]
    generator = random.Random(seed)
    killed = partial = 0
    for i in range(3 * kills):
        if killed == kills:
            break
        output = workdir / f"killed-{i}"
        pid = start(arguments(output), log)
        time.sleep(generator.uniform(0.02, seconds))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        before = (
            {n: d for n, d in digests(output).items() if n.endswith(".json") and "records/" in n}
            if output.exists()
            else {}
        )
        partial += 0 < len(before) < sum("records/" in name for name in expected)
        # A record is a promise: what it speaks of must be there, and stay as it is.
        wrong = [n for n, d in before.items() if expected.get(n) != d]
        finish(arguments(output), log)
        after = digests(output)
        wrong += [n for n in sorted({*after, *expected}) if after.get(n) != expected.get(n)]
        wrong += verify(output).differences
        differing += [f"kill {i}: {name}" for name in wrong]
    print(
        json.dumps(
            {"seconds": seconds, "killed": killed, "partial": partial, "differing": differing}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
