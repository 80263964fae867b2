"""Ending when asked to: SIGTERM and Ctrl-C, and the time that a batch system gives."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from .runner import Runner

#: Shares of the grace time: after the first, shards in hand are dropped; after the second the
#: process ends as it is, which harms nothing (what a kill leaves, the next run removes).
DROP_AT, LEAVE_AT = 0.75, 0.9


@contextmanager
def ending_in_time(
    runner: "Runner", grace_seconds: float, status: int
) -> Generator[None, None, None]:
    """Let the first SIGTERM or Ctrl-C end a run within its grace time, the second at once.

    Args:
        runner: told to finish what it can.
        grace_seconds: from the signal to the end of the process; 0 drops what is in hand.
        status: to exit with where the run has not ended in time.
    """
    timer = threading.Timer(grace_seconds * LEAVE_AT, _leave, (status,))
    timer.daemon = True

    def on_signal(number: int, _frame: Any) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, lambda *_: os._exit(128 + number))
        if grace_seconds > 0:
            timer.start()
            runner.drain(grace_seconds * DROP_AT)
            words = f"finishing what will be through within {grace_seconds:g} s"
        else:
            runner.stop()
            words = "stopping"
        _say(f"normpipe: {words}; once more to stop at once")

    before = {kind: signal.signal(kind, on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        timer.cancel()
        for kind, handler in before.items():
            signal.signal(kind, handler)


def leave(status: int) -> NoReturn:
    """End the process with all that Python does at its end, but for taking itself apart.

    Arrow's threads may still drop Python objects then, and the process would abort with its work
    done (https://github.com/apache/arrow/issues/34314; seen in one of some dozen runs of the demo).
    """
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as Python does first
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it may have gone
            stream.flush()
    os._exit(status)


def _leave(status: int) -> None:
    _say("normpipe: out of time; what is finished is kept. Run the same command to continue.")
    os._exit(status)


def _say(line: str) -> None:
    # Not by way of a buffered stream: the signal may have come while it was being written to.
    os.write(2, f"{own_line(sys.stderr)}{line}\n".encode())


def own_line(stream: TextIO) -> str:
    """Return what clears the line of a terminal, with its ``^C`` or bar, and all below it."""
    return "\r\x1b[J" if stream.isatty() else ""


@contextmanager
def terminable() -> Generator[None, None, None]:
    """Let SIGTERM end a command as Ctrl-C does, where nobody else has a say in it."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def on_signal(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
