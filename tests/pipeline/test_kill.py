"""SIGKILL at random instants, SIGTERM and Ctrl-C, over the real job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("kill_harness.py")


@pytest.mark.slow
def test_killed_at_20_random_instants_the_result_is_the_same(
    tmp_path: Path, settings: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), "20", "1", *settings],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["differing"] == []
    # The instants must have fallen into the work, or nothing was shown.
    assert result["killed"] == 20
    assert result["partial"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly_and_says_how_to_go_on(
    tmp_path: Path, settings: list[str], number: signal.Signals
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-c", "from normpipe.pipeline.cli import main; main()", "run"]
    command += [*settings, "--output", str(output), "--set", "ingest.shard_rows=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(output.glob("aligned/records/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "Run the same command to go on" in stderr
    assert "Traceback" not in stderr + stdout
    assert not list(output.rglob("*.tmp"))
    assert list(output.glob("aligned/records/*.json"))
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
