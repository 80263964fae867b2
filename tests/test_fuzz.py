"""The fuzz, for a moment: ``python tests/fuzz.py --minutes 30`` goes on for longer."""

import subprocess
import sys
from pathlib import Path

import pytest

from .fuzz import TARGETS

SECONDS = 8


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_reasons_and_lines(target: str, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--target", target]
    done = subprocess.run(
        [*command, "--seconds", str(SECONDS), "--keep", str(tmp_path / "findings")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"findings": 0' in done.stdout and '"tries": 0' not in done.stdout
