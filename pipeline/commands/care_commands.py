"""Commands that look after a dataset: verify it, remove a person, free space.

Part of the command line.
"""

import json
import os
from typing import Annotated

import typer

from ..care import clean as cleaning
from ..care import verify as verifying
from ..care import withdraw as withdrawing
from ..errors import InputError, printable
from ..store.storage import location
from .handling import DIFFERENCES, complain, handled, start_logging
from .options import AsJson, OutputArgument


@handled
def verify(output: OutputArgument, as_json: AsJson = False) -> None:
    """Check every shard against its record.

    Rows are counted and bytes hashed again. Exits with 1 where anything differs.
    """
    report = verifying.verify(location(output), os.cpu_count() or 1)
    if as_json:
        typer.echo(json.dumps(vars(report), indent=2))
    else:
        for line in report.differences:
            typer.echo(printable(line))
        verdict = f"{len(report.differences)} differences"
        typer.echo(
            f"{report.shards} shards, {report.rows} rows, {report.bytes:,} bytes: "
            + (verdict if report.differences else "all as recorded")
        )
    if report.differences:
        raise typer.Exit(DIFFERENCES)


@handled
def withdraw(
    output: OutputArgument,
    subject: Annotated[
        list[str] | None, typer.Option(help="subject in the labels; repeatable")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="key of an input; repeatable")] = None,
) -> None:
    """Remove a person from every dataset, for good.

    If it is killed, the same command finishes it.
    """
    start_logging()
    done = withdrawing.withdraw(location(output), subject or [], key or [])
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
            complain(line)
    typer.echo(
        "normpipe changes no file of the input folder, and cannot reach copies, exports and "
        "backups: remove their pictures there yourself"
    )


@handled
def clean(
    output: OutputArgument,
    stage: Annotated[
        str,
        typer.Option(metavar="STAGE", help="stage whose dataset to free, or the folder itself"),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="really remove it")] = False,
) -> None:
    """Free a dataset that the next run can make again.

    It comes back byte for byte. Without --yes, this only says what would be
    freed, and what making it again costs.
    """
    start_logging()
    root = location(output)
    for line in cleaning.plan_cleaning(root, stage).lines():
        typer.echo(line)
    if not yes:
        raise InputError("nothing was removed: add --yes to remove it")
    freed = cleaning.clean(root, stage)
    typer.echo(f"freed {freed.bytes:,} bytes: {root / freed.dataset}")
