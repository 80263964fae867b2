"""Paths that cannot be what a command needs: one line and status 2, for every option of all."""

import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from typer.models import ArgumentInfo, OptionInfo

from normpipe.pipeline.commands.app import COMMANDS
from normpipe.pipeline.commands.options import PathRule

from ..calling import call, refused

NOBODY = 65534


class Taken(NamedTuple):
    """A path that a command takes, with words that stand before it and all that it needs beside."""

    command: str
    name: str
    rule: PathRule | None
    #: The command line; None where the path belongs.
    words: list[str | None]


def _parameters(command: str) -> dict[str, inspect.Parameter]:
    row = COMMANDS[command]
    module = import_module(f"normpipe.pipeline.commands.{row.module}")
    return {**inspect.signature(getattr(module, row.function), eval_str=True).parameters}


def _is_path(parameter: inspect.Parameter) -> bool:
    return Path in _types(parameter.annotation) or bool(_rule(parameter))


def _types(annotation: Any) -> set[Any]:
    inner = get_args(annotation)
    return set().union(*(_types(one) for one in inner)) if inner else {annotation}


def _rule(parameter: inspect.Parameter) -> PathRule | None:
    return next((o for o in get_args(parameter.annotation) if isinstance(o, PathRule)), None)


def _words(command: str, chosen: str) -> list[str | None]:
    words: list[str | None] = [command]
    for name, parameter in _parameters(command).items():
        info = parameter.annotation.__metadata__[0]
        needed = parameter.default is inspect.Parameter.empty
        value = None if name == chosen else "x.csv"
        if isinstance(info, OptionInfo) and (needed or name == chosen):
            given = (info.default, *(info.param_decls or ()))
            words += [*(o for o in given if isinstance(o, str)), f"--{name.replace('_', '-')}"][:1]
            words.append(value)
        elif isinstance(info, ArgumentInfo) and (needed or name == chosen):
            words.append(value)
    return words


def taken() -> list[Taken]:
    return [
        Taken(command, name, _rule(parameter), _words(command, name))
        for command in COMMANDS
        for name, parameter in _parameters(command).items()
        if _is_path(parameter)
    ]


def _file(folder: Path) -> Path:
    path = folder / "file"
    path.write_text("x")
    return path


def _folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    return path


def _dangling(folder: Path) -> Path:
    path = folder / "link"
    path.symlink_to("gone")
    return path


def _circle(folder: Path) -> Path:
    path = folder / "circle"
    path.symlink_to("circle")
    return path


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a file": (_file, "not a folder"),
    "a folder": (_folder, "a file is needed"),
    "below a file": (lambda folder: _file(folder) / "x", "not a folder"),
    "far below a file": (lambda folder: _file(folder) / "x/y/z.csv", "not a folder"),
    "a dangling link": (_dangling, "which is not there"),
    "below a dangling link": (lambda folder: _dangling(folder) / "x.csv", "which is not there"),
    "a link to itself": (_circle, "symbolic links"),
    "a long name": (lambda folder: folder / ("n" * 300 + ".csv"), "name too long"),
    "a long name far below": (lambda folder: folder / "a" / ("n" * 300) / "x", "name too long"),
    "a NUL": (lambda folder: folder / "a\0b.csv", "NUL"),
}


def test_every_path_has_a_rule() -> None:
    found = {f"{one.command} {one.name}": one.rule for one in taken()}
    assert len(found) > 40 and None not in found.values()


@pytest.mark.parametrize("fault", [*FAULTS])
@pytest.mark.parametrize("path", taken(), ids=lambda one: f"{one.command}-{one.name}")
def test_a_path_that_cannot_be_is_one_line(
    tmp_path: Path, path: Taken, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path.rule is not None
    if (path.rule.file and fault == "a file") or (path.rule.folder and fault == "a folder"):
        return
    monkeypatch.chdir(tmp_path)
    build, why = FAULTS[fault]
    bad = str(build(tmp_path))
    result = call(*(bad if word is None else word for word in path.words))
    if "null byte" in result.stderr:  # Typer's words; no shell can say it
        assert result.exit_code == 2 and fault == "a NUL"
        return
    line = refused(result, why)
    assert bad.replace("\0", "\\x00") in line
    assert {one.name for one in tmp_path.iterdir()} <= {"file", "folder", "link", "circle"}


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that all may reach and none but its owner may change, seen by another."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name in ("secret", "open"):
            (Path(folder) / name).mkdir()
            (Path(folder) / f"{name}.csv").write_text("x")
        (Path(folder) / "secret").chmod(0)
        (Path(folder) / "secret.csv").chmod(0)
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield Path(folder)
        finally:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("path", taken(), ids=lambda one: f"{one.command}-{one.name}")
def test_no_permission_is_one_line(
    as_nobody: Path, path: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path.rule is not None
    monkeypatch.chdir(tempfile.gettempdir())
    bad = [as_nobody / "secret/x.csv"]
    if path.rule.written:
        bad.append(as_nobody / "open/x.csv")
    else:
        bad += [as_nobody / "secret"] * path.rule.folder
        bad += [as_nobody / "secret.csv"] * path.rule.file
    for one in bad:
        line = refused(call(*(str(one) if word is None else word for word in path.words)))
        assert str(one) in line and ("permission" in line.lower() or "may not" in line)


@pytest.mark.parametrize("value", ["FILE/x", "LINK", "DIR", "n" * 300])
@pytest.mark.parametrize(
    "key", ["normalize.weights", "align.model_root", "align.pack", "ingest.root"]
)
def test_paths_in_settings_are_one_line(
    tmp_path: Path, samples: Path, key: str, value: str
) -> None:
    _dangling(tmp_path)
    value = value.replace("FILE", str(_file(tmp_path))).replace("LINK", str(tmp_path / "link"))
    value = value.replace("DIR", str(_folder(tmp_path)))
    more = ("--set", "align.detector=insightface") if key.startswith("align") else ()
    given = ("run", "--input", samples / "labels.csv", "--output", tmp_path / "out")
    refused(call(*given, "--limit", 1, "--set", f"{key}={value}", *more))


def test_a_job_file_with_an_output_below_a_file_is_one_line(tmp_path: Path, samples: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(f'input = "{samples}"\noutput = "{_file(tmp_path)}/x"\n')
    refused(call("run", job), "file")


def test_the_same_in_a_process_of_its_own(tmp_path: Path, samples: Path) -> None:
    code = "from normpipe.pipeline.commands.app import main; main()"
    words = ["run", "--input", samples, "--output", _file(tmp_path) / "x"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("normpipe: ")
