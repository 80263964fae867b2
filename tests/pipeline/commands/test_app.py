"""The list of commands, and every command's help."""

import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest
from typer.testing import CliRunner

from normpipe import __version__
from normpipe.pipeline.commands.app import COMMANDS, app

from ..calling import call

#: Panels of options, of the commands that have any beside the usual one.
PANELS = {
    "run": {
        "Input and output",
        "Stages",
        "Settings",
        "Where the work is done",
        "Running again",
    },
    "import-variant": {
        "What the pictures are",
        "Which picture belongs to which original",
        "Where the work is done",
        "Running again",
    },
    "export": {"What is exported", "Licence"},
    "synthesize": {"What is rendered"},
    "classify": {"What is learned and how it is tested"},
    "predict": {"Faces of photographs", "Classifying", "Running again"},
    "measure": {"Running again"},
}


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_is_whole_at_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "…" not in done.output and max(map(len, done.output.splitlines())) <= 80
    assert COMMANDS[name].help in done.output
    panels = {*re.findall(r"^╭─ (.+?) ─", done.output, re.MULTILINE)}
    assert panels - {"Arguments", "Options"} == PANELS.get(name, set())
    # Every option and the last word of its help are there.
    function = getattr(import_module(f"normpipe.pipeline.commands.{COMMANDS[name].module}"),
                       COMMANDS[name].function)  # fmt: skip
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", done.output).split())
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        option = parameter.annotation.__metadata__[0]
        for word in option.help.split():
            assert word in shown, f"{parameter.name}: {option.help}"


def test_the_list_of_commands_is_whole_and_in_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    panel, found = "", {}
    for line in shown.splitlines():
        if match := re.match("╭─ (.+?) ─", line):
            panel = match[1]
        elif match := re.match(r"│ ([a-z][a-z-]*) +(.+?) +│$", line):
            found[match[1]] = (panel, match[2])
    assert found == {name: (row.panel, row.help) for name, row in COMMANDS.items()}
    assert [*found] == [*COMMANDS]


@pytest.mark.parametrize("name", [*COMMANDS])
def test_the_table_says_what_the_function_says(name: str) -> None:
    row = COMMANDS[name]
    module = import_module(f"normpipe.pipeline.commands.{row.module}")
    assert inspect.cleandoc(getattr(module, row.function).__doc__).splitlines()[0] == row.help
    assert row.function == name.replace("-", "_")


def test_help_loads_no_command() -> None:
    code = """
import sys
from normpipe.pipeline.commands.app import app
try:
    app(["--help"])
finally:
    loaded = {name.partition(".")[0] for name in sys.modules}
    print("loaded", *(loaded & {"torch", "pyarrow", "numpy", "fsspec"}))
    print(*(name for name in sys.modules if name.startswith("normpipe.stages")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("loaded\n\n"), done.stdout


def test_version() -> None:
    assert call("--version").stdout == f"normpipe {__version__}\n"


def test_a_mistyped_command_names_the_nearest() -> None:
    done = call("stauts")
    assert done.exit_code == 2 and "status" in done.stderr
    assert call("status").exit_code == 2  # its argument is missing


@pytest.mark.parametrize(
    ("words", "offered", "others"),
    [("pre", "predict", "status"), ("run --sch", "--scheduler", "--input")],
)
def test_a_shell_completes_commands_and_options(words: str, offered: str, others: str) -> None:
    env = {
        "_NORMPIPE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"normpipe {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = CliRunner().invoke(app, [], env=env, prog_name="normpipe")
    assert offered in done.stdout.split() and others not in done.stdout.split(), done.output
