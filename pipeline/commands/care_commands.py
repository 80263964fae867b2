"""Commands that look after a dataset: verify it, remove a person, leave rows out, free space.

Part of the command line.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..care import clean as cleaning
from ..care import exclude as excluding
from ..care import verify as verifying
from ..care import withdraw as withdrawing
from ..errors import InputError, first_few, printable
from ..store.storage import location
from .handling import DIFFERENCES, complain, handled, start_logging
from .options import READ_FILE, AsJson, OutputArgument


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
def exclude(
    output: OutputArgument,
    list_file: Annotated[
        Path | None,
        typer.Argument(metavar="[LIST]", help="CSV with a column key, or one key a line"),
        READ_FILE,
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help='on columns: "sharpness < 20"')
    ] = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="kept with the rows", show_default=False)
    ] = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="take them in again; without a list: all")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="print what is excluded, as CSV")] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="pass over keys that are not in the job")
    ] = False,
) -> None:
    """Leave rows out where a job is read.

    Nothing is made again, no shard changes, and --undo takes them in again. A
    photograph's key leaves out all of its faces.
    """
    start_logging()
    root = location(output)
    if show:
        if list_file is not None or where is not None or undo:
            raise InputError("--show prints what is excluded: give it alone")
        for line in excluding.exclusion_lines(root):
            typer.echo(line)
        return
    if list_file is not None and where is not None:
        raise InputError("give a list or --where, not both")
    given = where if list_file is None else excluding.read_key_list(list_file)
    if undo:
        done = excluding.include(root, given, allow_unknown)
        typer.echo(f"taken in again: {done.changed} keys; {done.excluded} stay excluded")
    elif given is None:
        raise InputError("nothing to exclude: give a list or --where; --show prints what is")
    else:
        done = excluding.exclude(root, given, reason, allow_unknown)
        typer.echo(
            f"excluded: {done.changed} keys, and {done.same} that were already; now "
            f"{done.excluded} in all"
        )
    if done.unknown:
        complain(f"passed over, as unknown: {first_few(done.unknown)}")
    if done.changed:
        typer.echo(
            "no shard was changed; what was trained, scored or exported before stays as it is"
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
