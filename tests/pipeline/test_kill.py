"""SIGTERM and Ctrl-C, over the real job."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly_and_says_how_to_go_on(
    tmp_path: Path, settings: list[str], number: signal.Signals
) -> None:
    output = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        "from normpipe.pipeline.commands.app import main; main()",
        "run",
    ]
    command += [*settings, "--output", str(output), "--set", "ingest.shard_rows=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(output.glob("_aligned/records/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "Run the same command to continue" in stderr
    assert "Traceback" not in stderr + stdout
    assert not list(output.rglob("*.tmp"))
    assert list(output.glob("_aligned/records/*.json"))
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
