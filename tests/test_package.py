"""What people install: the wheel holds what it must and nothing else, and runs from anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Copied for the build, so that it leaves nothing in the repository.
PARTS = ("manifests", "pipeline", "stages", "__init__.py", "py.typed", "pyproject.toml",
         "README.md", "LICENSE", "NOTICE")  # fmt: skip

pytestmark = pytest.mark.slow


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return what it prints; its errors fail the test with its words."""
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of the working tree, without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, source)
    (built,) = out.glob("normpipe-*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_all_modules_and_data_are_inside(names: set[str]) -> None:
    for room in ("manifests", "pipeline", "stages"):
        for path in (ROOT / room).rglob("*.py"):
            assert f"normpipe/{path.relative_to(ROOT).as_posix()}" in names
    assert {"normpipe/py.typed", "normpipe/stages/samples/labels.csv"} <= names
    assert "normpipe/stages/networks/weights/compact.safetensors" in names
    for path in (ROOT / "stages/samples").iterdir():
        assert f"normpipe/stages/samples/{path.name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_nothing_else_is_inside(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"normpipe"}
    others = ("tests", "benchmarks", "docs", "examples")
    assert not [n for n in names if n.startswith(tuple(f"normpipe/{o}/" for o in others))]


def test_the_shipped_weights_are_small() -> None:
    size = (ROOT / "stages/networks/weights/compact.safetensors").stat().st_size
    assert size <= 16 * 2**20


def test_it_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    where = run(
        sys.executable, "-c", "import normpipe; print(normpipe.__file__)",
        cwd=elsewhere, env=environment,
    )  # fmt: skip
    assert Path(where.strip()).is_relative_to(target)
    command = target / "bin" / "normpipe"
    assert "run" in run(sys.executable, command, "--help", cwd=elsewhere, env=environment)
    done = run(sys.executable, command, "demo", cwd=elsewhere, env=environment)
    assert "normalized dataset: demo-out" in done
    assert (elsewhere / "demo-out/job/contact_sheet.jpg").is_file()
    assert "all as recorded" in run(
        sys.executable, command, "verify", "demo-out/job", cwd=elsewhere, env=environment
    )
