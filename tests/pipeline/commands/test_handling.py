"""What a person sees: no bar stays behind, and messages have lines of their own."""

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from normpipe.pipeline.commands.handling import handled, start_logging

from ..terminal import on_terminal, screen

HARNESS = Path(__file__).parents[1] / "grace_harness.py"


def test_no_bar_is_left_when_a_job_has_ended(tmp_path: Path) -> None:
    status, output = on_terminal([sys.executable, HARNESS, tmp_path / "out", 30, 10, 0.02])
    assert status == 0, output
    assert "img/s" in output  # there was one
    shown = screen(output)
    assert not [line for line in shown if "%|" in line], shown
    ends = [line for line in shown if line.endswith("finished")]
    assert [line.split("/")[0] for line in ends] == ["toy-map: 60"], shown
    assert shown[-1].startswith("through: what follows")


@pytest.mark.parametrize("grace", [30, 0])
def test_what_ctrl_c_says_begins_a_line(tmp_path: Path, grace: int) -> None:
    command = [sys.executable, HARNESS, tmp_path / "out", grace, 10, 0.1]
    status, output = on_terminal(command, "\x03", lambda output: "10/60" in output)
    assert status == 3, output
    shown = screen(output)
    said = [line for line in shown if "normpipe:" in line]
    assert len(said) == 2 and all(line.startswith("normpipe: ") for line in said), shown
    assert "once more" in said[0] and "same command" in said[1]
    assert not [line for line in shown if "%|" in line or "^C" in line], shown


def test_ctrl_c_in_a_command_without_a_bar_begins_a_line() -> None:
    code = """
import time
from normpipe.pipeline.commands.handling import handled
@handled
def command():
    print("at work", flush=True)
    time.sleep(60)
command()
"""
    command = [sys.executable, "-c", code]
    _, output = on_terminal(command, "\x03", lambda output: "at work" in output)
    assert any(line.startswith("normpipe: stopped") for line in screen(output)), output


def test_warnings_are_as_harmless_as_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / "a\x1b[31mb\nc.jpg"
    start_logging()
    log = logging.getLogger("normpipe")
    log.warning("left out: %s", name)
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        log.exception("%s", name)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"left out: {tmp_path}/a\\x1b[31mb c.jpg"
    assert lines[1].endswith("a\\x1b[31mb c.jpg") and lines[2].startswith("Traceback")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["models"]])
def test_a_full_disk_under_stdout_is_one_line(arguments: list[str]) -> None:
    code = "from normpipe.pipeline.commands.app import main; main()"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr


def test_only_a_full_disk_is_said_without_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    @handled
    def command(error: OSError) -> None:
        raise error

    with pytest.raises(typer.Exit):
        command(error=OSError(errno.ENOSPC, "No space left on device"))
    assert "make room" in capsys.readouterr().err
    with pytest.raises(PermissionError):  # of which nobody knows what to do about it
        command(error=OSError(errno.EACCES, "Permission denied"))
