"""``make gpu-check``: its logic on a CPU, so that on the day of a GPU nothing fails for a typo."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks/gpu_check.py"
#: What a CPU cannot show, and what needs more than the repository.
ELSEWHERE = {"detector", "out_of_memory", "networks_compiled", "cuda_graph", "rendering"}
#: Two minutes in all, so left to ``make gpu-check GPU_CHECK="--device cpu --quick"``: they run
#: commands and scripts that have tests of their own.
LONG = {"onnx_runtime", "two_processes", "classifier", "stages"}


def load():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The checks on a CPU, with small numbers."""
    path = tmp_path_factory.mktemp("gpu") / "found.json"
    names = [name for name in load().CHECKS if name not in LONG]
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--json", str(path)]
    command += ["--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())["checks"], done.stdout


@pytest.mark.slow
def test_checks_run_on_a_cpu(report):
    found, printed = report
    states = {name: one["state"] for name, one in found.items()}
    names = [name for name in load().CHECKS if name not in LONG]
    wanted = {name: "not checked" if name in ELSEWHERE else "passed" for name in names}
    assert states == wanted, printed
    assert all(found[name]["figures"] for name, state in wanted.items() if state == "passed")
    assert all(found[name]["why"] for name, state in wanted.items() if state == "not checked")
    assert (
        f"{len(wanted) - len(ELSEWHERE)} passed, 0 failed, {len(ELSEWHERE)} not checked" in printed
    )


def test_what_fails_is_not_passed(monkeypatch):
    """A check that finds other pixels fails, and without a GPU nothing is passed."""
    module = load()
    options = module.argparse.Namespace(device="cpu")
    shifted = iter((0, 2))
    monkeypatch.setattr(
        module, "_normalized", lambda *_, **__: torch.full((1,), 9 + next(shifted)).numpy()
    )
    found = module.run_one("parity_fp32", options)
    assert found["state"] == "failed" and "'largest': 2" in found["why"]
    if not torch.cuda.is_available():
        found = module.run_one("parity_fp32", module.argparse.Namespace(device="cuda"))
        assert found == {"state": "not checked", "why": "torch sees no GPU"}
        found = module.run_one("environment", module.argparse.Namespace(device="cuda"))
        assert found["state"] == "failed"


def test_missing_packages_are_named_with_a_line_to_bring_them(monkeypatch):
    module = load()
    assert module.missing_packages() == []

    def version(name):
        if name in ("kornia", "insightface"):
            raise module.metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(module.metadata, "version", version)
    missing = module.missing_packages()
    assert [one.split(">")[0] for one in missing] == ["kornia", "insightface"]
    line = module.wheels_line(missing)
    assert line.startswith("python3 -m pip download") and "'kornia>=" in line
