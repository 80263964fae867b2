"""A machine that lacks memory, threads or files breaks no shard: the run stops, and goes on."""

import errno
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import typer

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.commands.handling import handled
from normpipe.pipeline.errors import InputError, Interrupted, NormpipeError, missing_resource
from normpipe.pipeline.store.shards import ShardFolder

from .disturbing import start, tail, wait
from .living import digests
from .toy_scenarios import job
from .toys import flow, run

NOBODY = 65534


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (MemoryError(), "memory"),
        (pa.lib.ArrowMemoryError("malloc of size 64 failed"), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "threads"),
        (OSError(errno.EMFILE, "Too many open files"), "open files"),
        (RuntimeError("can't start new thread"), "threads"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "memory"),
        (RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"), "memory"),
        (OSError("Unknown error: Failed to launch worker thread: Resource temporarily"), "threads"),
        (RuntimeError("broken at n3"), ""),
        (OSError(errno.EIO, "Input/output error"), ""),
        (ValueError("allocate"), ""),
        # What quotes names and data.
        (FileNotFoundError(errno.ENOENT, "No such file", "out of memory/1.jpg"), ""),
        (AssertionError("two rows with the key d/Not enough memory.jpg"), ""),
        (InputError("no such folder: out of memory study"), ""),
        (RuntimeError("The allocated shape does not fit in memory layout"), ""),
        (ImportError("x.so: cannot allocate memory in static TLS block"), ""),
        (RuntimeError("CUDA error: device-side assert triggered"), ""),
    ],
)
def test_what_says_that_something_lacks(error: Exception, lack: str) -> None:
    assert lack in missing_resource(error) and bool(missing_resource(error)) == bool(lack)


def test_a_cause_counts_and_what_was_dealt_with_does_not() -> None:
    def raised(dealt_with: bool) -> Exception:
        try:
            try:
                raise MemoryError
            except MemoryError as error:
                if dealt_with:
                    raise ValueError("other") from None
                raise ValueError("because of it") from error
        except ValueError as error:
            return error

    assert missing_resource(raised(False)) == "not enough memory"
    assert missing_resource(raised(True)) == ""


def test_a_spoilt_gpu_context_ends_the_run_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = flow()

    def asserts(*_: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(stages[1], "compute", asserts)
    with pytest.raises(NormpipeError, match="can no longer use its GPU") as error:
        run(tmp_path / "out", stages)
    assert not isinstance(error.value, Interrupted)
    assert ShardFolder(tmp_path / "out/made").records() == {}


def test_opencv_and_onnxruntime_are_understood() -> None:
    import cv2

    assert missing_resource(
        cv2.error("alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate")
    )
    assert missing_resource(RuntimeError("Exception during initialization: std::bad_alloc"))


@pytest.mark.parametrize("step", ["prepare", "compute", "finish"])
def test_a_lack_counts_no_try_and_the_same_command_goes_on(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stages = flow()

    def lacks(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(stages[1], step, lacks)
    for _ in range(2):
        with pytest.raises(Interrupted, match=r"toy-map: shard \d: not enough memory .* free some"):
            run(out, stages, retries=0)
    assert ShardFolder(out / "made").records() == {}
    run(out, flow())
    run(tmp_path / "good", flow())
    assert digests(out) == digests(tmp_path / "good")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may reach, as those of pytest's may not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def limited(root: Path, log: Path, *limits: tuple[int, int]) -> int:
    """Run the toy job in a fork with limits, as a user without rights; return its exit status."""
    os.chown(root.parent, NOBODY, NOBODY)

    def work() -> None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not pytest's: the log
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        for kind, limit in limits:
            resource.setrlimit(kind, (limit, limit))
        _handled(lambda: job()(root))()

    return wait(start(work, log))


def _handled(work: Callable[[], None]) -> Callable[[], None]:
    def main() -> None:
        try:
            handled(work)()
        except typer.Exit as end:
            sys.exit(end.exit_code)

    return main


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's limits")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become a user whose limits count")
@pytest.mark.parametrize("kind", ["threads", "open files"])
def test_under_limits_a_run_stops_with_3_and_nothing_is_quarantined(
    open_folder: Path, kind: str
) -> None:
    """``ulimit -u``, ``ulimit -n``: from what lets nothing begin to what is enough."""
    tmp_path = open_folder
    job()(tmp_path / "good" / "out")
    seen: set[int] = set()
    for limit in range(1, 40):
        place = tmp_path / f"{kind}-{limit}"
        place.mkdir()
        root, log = place / "out", tmp_path / f"{kind}-{limit}.log"
        log.touch(mode=0o666)
        log.chmod(0o666)
        number = resource.RLIMIT_NPROC if kind == "threads" else resource.RLIMIT_NOFILE
        status = limited(root, log, (number, limit))
        seen.add(status)
        said = tail(log)
        assert status in (0, 3), f"{kind}, {limit}: {status}: {said}"
        assert "Traceback" not in said and "quarantined" not in said
        if status == 0:
            break
        assert re.search("not enough (processes or )?threads|not enough open files", said), said
    assert seen == {0, 3}
    assert digests(root) == digests(tmp_path / "good" / "out")
    assert verify(root).differences == []
