"""A quick slice of what docs/durability.md promises; all of it: make durability."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def disturb(place: Path, *options: str) -> list[dict[str, Any]]:
    """Disturb in a process of its own, which starts no thread; return the tallies."""
    command = [sys.executable, "-m", "tests.pipeline.durability", "--json", str(place / "told")]
    done = subprocess.run(
        [*command, "--output", str(place / "work"), *options],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tallies = json.loads((place / "told").read_bytes())
    assert all(one["differing"] == [] and one["again"] == 0 for one in tallies)
    return tallies


@pytest.mark.slow
def test_ended_at_changes_of_the_disk_every_command_is_finished_by_itself(tmp_path: Path) -> None:
    # Five or six changes make a commit: with steps of 9 every kind of them is met.
    tallies = disturb(tmp_path, "--toys", "--kills", "0", "--step", "9")
    assert [one["scenario"] for one in tallies] == [
        "first run", "new photographs", "run --retry-failed", "run --overwrite", "withdraw",
    ]  # fmt: skip
    for one in tallies:
        assert one["ended"] > 10 and one["midway"] > 3, one
        # Power cuts leave other states than kills do.
        assert one["states"] > 1.2 * one["ended"], one
        assert {"write", "fsync", "rename", "fsync folder"} <= one["counts"].keys()
    assert sum(one["counts"].get("remove", 0) for one in tallies) > 20
    assert tallies[0]["counts"]["mkdir"] >= 9


@pytest.mark.slow
def test_so_is_one_in_a_folder_of_the_old_layout(tmp_path: Path) -> None:
    names = ("new photographs", "run --overwrite", "withdraw")
    only = [word for name in names for word in ("--only", name)]
    tallies = disturb(tmp_path, "--toys", "--kills", "0", "--step", "23", "--old-layout", *only)
    assert [one["scenario"] for one in tallies] == [*names]
    assert all(one["ended"] > 3 and one["midway"] > 1 for one in tallies), tallies
    assert not list((tmp_path / "work").glob("*/bench/undisturbed/_*"))


@pytest.mark.slow
def test_the_real_job_is_killed_and_finished(tmp_path: Path) -> None:
    # Steps of 47: a change of each dataset.
    kills, changes = disturb(tmp_path, "--kills", "9", "--step", "47", "--only", "first run")
    assert kills["ended"] == 5
    # They must have fallen into the work, or nothing was shown.
    assert changes["ended"] >= 5 and changes["midway"] >= 2
