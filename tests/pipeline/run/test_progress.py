"""Bars on a terminal, log lines in a pipe."""

import logging
import sys
import time

import pytest

from normpipe.pipeline.commands.handling import start_logging
from normpipe.pipeline.run.progress import Progress

from ..terminal import screen


def test_a_pipe_gets_plain_lines_with_rate_time_left_and_verdicts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "normpipe")
    progress = Progress(log_seconds=0.000001, bars=False)
    progress.begin("align", 10)
    progress.skip("align", 4)
    progress.advance("align", 3, {"ok": 1, "rejected": 2})
    progress.advance("align", 2, {"failed": 2})
    progress.advance("align", -2, {"failed": -2})
    progress.finish("align")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("align: 7/10 inputs, ")
    assert "/s, " in lines[0] and " s left, rejected 2, failed 0" in lines[0]
    assert "failed 2" in lines[1]
    assert lines[-1].startswith("align: 7/10") and lines[-1].endswith("failed 0, finished")


def test_a_terminal_gets_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    progress = Progress(bars=True)
    progress.begin("normalize", 10)
    time.sleep(0.15)  # tqdm draws no faster
    progress.advance("normalize", 10, {"ok": 9, "rejected": 1})
    shown = capsys.readouterr().err
    assert "normalize" in shown and "10/10" in shown and "img/s" in shown
    assert "rejected 1, failed 0" in shown
    progress.finish("normalize")
    assert not "".join(screen(shown + capsys.readouterr().err, 100)).strip()


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_bars_side_by_side_leave_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    start_logging()
    progress = Progress(bars=True)
    for name in "ab":
        progress.begin(name, 10)
    time.sleep(0.15)
    for name in order:
        progress.advance(name, 10, {"ok": 10})
        progress.finish(name)
    print("behind it", file=sys.stderr)
    shown = screen(capsys.readouterr().err)
    assert [line[:9] for line in shown] == [*(f"{name}: 10/10 "[:9] for name in order), "behind it"]


def test_bars_that_are_given_up_leave_the_cursor_at_the_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    progress = Progress(bars=True)
    for name in "abc":
        progress.begin(name, 10)
    progress.close()
    print("behind it", file=sys.stderr)
    assert "".join(screen(capsys.readouterr().err)) == "behind it"
