"""Commands for a dataset that lives on: people leave, space is freed. Part of the command line."""

from typing import Annotated

import typer

from ..care.clean import clean as free
from ..care.clean import plan_cleaning
from ..care.withdraw import withdraw as take_out
from ..errors import InputError
from ..store.storage import location
from .app import OutputArgument, app, handled, start_logging


@handled
def withdraw(
    output: OutputArgument,
    subject: Annotated[
        list[str] | None, typer.Option(help="subject in the labels, repeatable")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="key of an input, repeatable")] = None,
) -> None:
    """Take a person out of every dataset, for good. Kill it; the same command finishes."""
    start_logging(False)
    done = take_out(location(output), subject or [], key or [])
    if not done:
        typer.echo("nothing to do: withdrawn already")
    for intent in done:
        last = intent.after.withdrawals[-1]
        typer.echo(
            f"withdrawn: {last.inputs} inputs; their {last.rows} rows in all datasets hold no "
            "picture, label or name any more"
        )
        if intent.files:
            typer.echo(f"removed: {', '.join(intent.files)}")
        for line in intent.remains:
            typer.echo(f"normpipe: {line}", err=True)
    typer.echo(
        "normpipe changes no file of the input folder, and cannot reach copies, exports and "
        "backups: remove their pictures there yourself"
    )


@handled
def clean(
    output: OutputArgument,
    stage: Annotated[
        str, typer.Option(help="whose dataset to free, or its folder: normalized/compact")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="do it")] = False,
) -> None:
    """Free a dataset that the next run makes again, byte for byte; says first what it costs."""
    start_logging(False)
    root = location(output)
    for line in plan_cleaning(root, stage).lines():
        typer.echo(line)
    if not yes:
        raise InputError("nothing was removed: say --yes to do it")
    freed = free(root, stage)
    typer.echo(f"freed {freed.bytes:,} bytes: {root / freed.dataset}")


def register() -> None:
    """Add these commands to the command line."""
    app.command("withdraw")(withdraw)
    app.command("clean")(clean)
