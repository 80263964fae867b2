"""The command line: the table of commands. Each is imported only when it is called."""

from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from ... import __version__
from ..errors import DISK_FULL
from ..run.stopping import leave


class Command(NamedTuple):
    """Where a command is implemented, and how ``normpipe --help`` lists it."""

    module: str
    function: str
    #: The help panel that lists it.
    panel: str
    #: First line of the function's docstring.
    help: str


#: All commands, in the order of the help.
COMMANDS: dict[str, Command] = {
    "run": Command(
        "run_commands", "run", "Run", "Run a job: ingest, align, normalize, pair, classify."
    ),
    "demo": Command("run_commands", "demo", "Run", "Run a whole job on the built-in sample faces."),
    "measure": Command(
        "run_commands", "measure", "Run", "Measure expression, head pose, gaze and quality."
    ),
    "import-variant": Command(
        "run_commands", "import_variant", "Run", "Take normalized faces that others made."
    ),
    "init": Command("run_commands", "init", "Run", "Write a job file that states every setting."),
    "status": Command(
        "look_commands", "status", "Look", "Show what is done, left, rejected and failed."
    ),
    "sheet": Command(
        "look_commands", "sheet", "Look", "Draw a contact sheet: original, aligned, normalized."
    ),
    "report": Command(
        "look_commands",
        "report",
        "Look",
        "Write pages to look through the faces of a job.",
    ),
    "releases": Command(
        "look_commands",
        "releases",
        "Look",
        "List the releases that can be read as they are.",
    ),
    "doctor": Command(
        "look_commands", "doctor", "Look", "Check that everything a job needs is installed."
    ),
    "models": Command(
        "look_commands", "models", "Look", "List weights and model packs; download a pack."
    ),
    "verify": Command("care_commands", "verify", "Care", "Check every shard against its record."),
    "withdraw": Command(
        "care_commands", "withdraw", "Care", "Remove a person from every dataset, for good."
    ),
    "exclude": Command(
        "care_commands",
        "exclude",
        "Care",
        "Leave rows out where a job is read.",
    ),
    "clean": Command(
        "care_commands", "clean", "Care", "Free a dataset that the next run can make again."
    ),
    "export": Command(
        "publish_commands",
        "export",
        "Publish",
        "Write the normalized faces for others to use.",
    ),
    "push": Command(
        "publish_commands",
        "push",
        "Publish",
        "Upload an export to the Hugging Face Hub.",
    ),
    "synthesize": Command(
        "train_commands", "synthesize", "Train", "Render paired faces with exact labels."
    ),
    "pack-facekit": Command(
        "train_commands", "pack_facekit", "Train", "Pack ICT-FaceKit Light into one file."
    ),
    "fit-normalizer": Command(
        "train_commands", "fit_normalizer", "Train", "Train a normalizer on renders and real faces."
    ),
    "fit-landmarks": Command(
        "train_commands", "fit_landmarks", "Train", "Train the default detector's landmark network."
    ),
    "pretrain-encoder": Command(
        "train_commands", "pretrain_encoder", "Train", "Pretrain an encoder on masked faces."
    ),
    "export-normalizer": Command(
        "train_commands", "export_normalizer", "Train", "Write a normalizer as an ONNX file."
    ),
    "judge-normalizer": Command(
        "judge_commands", "judge_normalizer", "Judge", "Measure what a normalizer keeps and hides."
    ),
    "fit-reader": Command(
        "judge_commands", "fit_reader", "Judge", "Train the reader that judges normalizers."
    ),
    "classify": Command(
        "classify_commands", "classify", "Classify", "Train a classifier on labelled faces."
    ),
    "evaluate": Command(
        "classify_commands", "evaluate", "Classify", "Score a classifier on another dataset."
    ),
    "predict": Command(
        "classify_commands", "predict", "Classify", "Classify new photographs or shards."
    ),
    "ablate": Command(
        "classify_commands",
        "ablate",
        "Classify",
        "Train with and without normalizing, and compare.",
    ),
    "compare": Command(
        "classify_commands", "compare", "Classify", "Compare scores, with intervals over people."
    ),
}


class _LazyGroup(TyperGroup):
    """A group whose commands are only names and help texts until one is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command and its arguments; import the command's module."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _loaded(command.name or ""), rest


def _loaded(name: str) -> Any:
    """Return a command with its options."""
    row = COMMANDS[name]
    # By name: importing all commands also imports torch, pyarrow and half of the stages, which
    # takes seconds. Neither --help nor another command should pay for that.
    function = getattr(import_module(f".{row.module}", __package__), row.function)
    alone = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    alone.command(name)(function)
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=_LazyGroup,
    help="Turn any face dataset into an identity-normalized one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _not_loaded() -> None:
    """Stand in for a command that is not imported yet."""


for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.help, rich_help_panel=_command.panel)(_not_loaded)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"normpipe {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Handle the options before a command."""
    del version


def main() -> None:
    """Run the command line and end the process."""
    try:
        app(prog_name="normpipe")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        from .handling import USER, complain

        complain(f"cannot print: {error.strerror}")  # stdout is a file
        leave(USER)
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
