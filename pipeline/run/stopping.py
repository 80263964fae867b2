"""Graceful shutdown on SIGTERM and Ctrl-C, within the time that a batch system gives."""

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

#: Shares of the grace time: after the first, shards in flight are dropped; after the second the
#: process exits as it is, which is safe (the next run removes what a kill leaves behind).
DROP_AT, EXIT_AT = 0.75, 0.9


@contextmanager
def stop_in_time(
    runner: "Runner", grace_seconds: float, status: int
) -> Generator[None, None, None]:
    """End a run within its grace time at the first SIGTERM or Ctrl-C, at once at the second.

    Args:
        runner: asked to finish what it can.
        grace_seconds: from the signal to the end of the process; 0 drops all shards in flight.
        status: exit status if the run has not ended in time.
    """
    timer = threading.Timer(grace_seconds * EXIT_AT, _leave, (status,))
    timer.daemon = True

    def on_signal(number: int, _frame: Any) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, lambda *_: os._exit(128 + number))
        if grace_seconds > 0:
            timer.start()
            runner.drain(grace_seconds * DROP_AT)
            message = f"finishing what can be done within {grace_seconds:g} s"
        else:
            runner.stop()
            message = "stopping"
        _print(f"normpipe: {message}; once more to stop at once")

    before = {kind: signal.signal(kind, on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        timer.cancel()
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def stop_when_interrupted(runner: "Runner") -> Generator[None, None, None]:
    """Stop a run at the first Ctrl-C; the caller's process goes on. The second one interrupts.

    For runs from Python. Does nothing outside the main thread, which no signal reaches.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        runner.stop()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave(status: int) -> NoReturn:
    """Exit as Python does, but without finalizing the interpreter.

    Arrow's threads may still drop Python objects then, and the process would abort with its work
    done (https://github.com/apache/arrow/issues/34314; seen once in a few dozen runs of the demo).
    """
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as Python does first
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader may be gone
            stream.flush()
    os._exit(status)


def _leave(status: int) -> None:
    _print("normpipe: out of time; what is finished is kept. Run the same command to continue.")
    os._exit(status)


def _print(line: str) -> None:
    # Not through a buffered stream: the signal may have come while it was being written to.
    os.write(2, f"{clear_line(sys.stderr)}{line}\n".encode())


def clear_line(stream: TextIO) -> str:
    """Return the codes that clear a terminal's line, with its ``^C`` or bar, and all below it."""
    return "\r\x1b[J" if stream.isatty() else ""


@contextmanager
def sigterm_as_interrupt() -> Generator[None, None, None]:
    """Let SIGTERM end a command as Ctrl-C does, unless it already has another handler."""
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
