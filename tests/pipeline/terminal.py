"""A terminal for tests: commands run on a pseudo-terminal, and what its screen shows in the end."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence

COLUMNS, ROWS = 80, 40


def screen(output: str, columns: int = COLUMNS) -> list[str]:
    """Return the lines that a terminal shows after some output, without blanks at their ends.

    It knows what tqdm and normpipe use: line feed, carriage return, up, and erasing of what follows
    in a line or on the screen.
    """
    lines: dict[int, list[str]] = {}
    row = column = 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", output, re.DOTALL):
        if token == "\n":
            row, column = row + 1, 0
        elif token == "\r":
            column = 0
        elif token == "\x1b[A":
            row -= 1
        elif token in ("\x1b[K", "\x1b[J"):
            lines[row] = lines.get(row, [])[:column]
            if token == "\x1b[J":
                lines = {number: text for number, text in lines.items() if number <= row}
        elif token.startswith("\x1b"):
            raise AssertionError(f"unknown to this terminal: {token!r}")
        else:
            if column == columns:
                row, column = row + 1, 0
            line = lines.setdefault(row, [])
            line += [" "] * (column + 1 - len(line))
            line[column] = token
            column += 1
    return ["".join(lines.get(number, "")).rstrip() for number in range(max(lines, default=-1) + 1)]


def on_terminal(
    command: Sequence[object], keys: str = "", when: Callable[[str], object] = bool
) -> tuple[int, str]:
    """Run a command on a terminal of its own, as a shell does.

    Args:
        command: program and arguments.
        keys: typed once ``when`` is true of the output so far.
        when: see ``keys``.

    Returns:
        Its exit status, and all that it wrote.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_as_a_shell_does,
        env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
    )
    os.close(theirs)
    output, deadline = b"", time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                found = os.read(ours, 65536)
            except OSError:  # nobody has it open any more
                break
            output += found
            if keys and when(output.decode(errors="replace")):
                os.write(ours, keys.encode())
                keys = ""
        return process.wait(timeout=60), output.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _as_a_shell_does() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in what a script runs behind itself
