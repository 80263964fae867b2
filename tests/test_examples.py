"""The examples: batch systems (syntax, times, exit statuses), the notebook, and the API page."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import normpipe
from normpipe.pipeline.config import RunConfig

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SLURM, SERVICE = EXAMPLES / "slurm.sh", EXAMPLES / "normpipe.service"


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def start(
    tmp_path: Path, normpipe: str, *arguments: str, **variables: str
) -> subprocess.Popen[str]:
    """Start the SLURM example with stand-ins for normpipe and scontrol."""
    program(tmp_path / "bin/normpipe", normpipe)
    program(tmp_path / "bin/scontrol", f'echo "$@" >> "{tmp_path}/requeued"')
    environment = {
        **os.environ, **variables, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3",
        "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", str(SLURM), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def requeued(tmp_path: Path) -> bool:
    path = tmp_path / "requeued"
    return path.is_file() and path.read_text() == "requeue 7\n"


def test_slurm_example_is_bash() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    assert os.access(SLURM, os.X_OK)


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_slurm_example_queues_again_on_3_alone(tmp_path: Path, status: int) -> None:
    process = start(tmp_path, f'echo "$@"; exit {status}', "run", "job.toml")
    assert process.communicate(timeout=20)[0] == "run job.toml --set run.threads=3\n"
    assert process.returncode == status
    assert requeued(tmp_path) == (status == 3)


def test_slurm_example_tries_no_more_than_so_often(tmp_path: Path) -> None:
    process = start(tmp_path, 'echo "$@"; exit 3', "verify", "OUT", SLURM_RESTART_COUNT="50")
    assert process.communicate(timeout=20)[0] == "verify OUT\n"
    assert process.returncode == 3 and not requeued(tmp_path)


@pytest.mark.parametrize(
    ("on_signal", "status", "again"),
    [("sleep 0.5; exit 3", 3, True), ("exit 0", 0, False), ("exit 2", 2, False)],
)
def test_slurm_example_passes_the_signal_on_and_waits(
    tmp_path: Path, on_signal: str, status: int, again: bool
) -> None:
    busy = "while true; do sleep 0.05; done"
    process = start(tmp_path, f"trap '{on_signal}' TERM; touch '{tmp_path}/ready'; {busy}", "run")
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == status
    assert requeued(tmp_path) == again


def test_times_of_the_examples_are_longer_than_the_grace_time() -> None:
    grace = RunConfig().grace_seconds
    for path, pattern in ((SLURM, r"TERM@(\d+)"), (SERVICE, r"TimeoutStopSec=(\d+)")):
        match = re.search(pattern, path.read_text())
        assert match and int(match[1]) > grace


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    program(tmp_path / "normpipe/.venv/bin/normpipe", "exit 0")
    unit = tmp_path / SERVICE.name
    unit.write_text(SERVICE.read_text().replace("%h", str(tmp_path)))
    command = ["systemd-analyze", "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and SERVICE.name not in done.stderr, done.stderr


def test_the_notebook_runs(tmp_path: Path) -> None:
    """In an empty folder, to its end, with the results that it was saved with."""
    saved = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    fresh = nbformat.from_dict(saved)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources=resources).execute()
    results = [
        [one["data"]["text/plain"] for one in cell.outputs if one.output_type == "execute_result"]
        for notebook in (saved, fresh)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    half = len(results) // 2
    named = [place for place, one in enumerate(results[:half]) if one and "mouth" in one[0]]
    for place in range(half):
        if place not in named:  # coefficients may differ in the last digit
            assert results[half + place] == results[place]
    assert (tmp_path / "out/pairs").is_dir()
    text = (EXAMPLES / "first_steps.ipynb").read_text()
    assert str(Path.home()) not in text and "/tmp/" not in text


def test_the_api_page_is_that_of_the_docstrings() -> None:
    path = EXAMPLES / "make_api_page.py"
    spec = importlib.util.spec_from_file_location("make_api_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (EXAMPLES.parent / "docs/api.md").read_text()
    assert module.page() == page, "run: python examples/make_api_page.py"
    missing = [name for name in normpipe.__all__ if f"## `{name}`" not in page]
    assert missing == ["__version__"]
