"""Commands about the machine that jobs run on. Part of the command line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .cli import USER, app, handled


@handled
def doctor(
    output: Annotated[Path, typer.Option(help="folder where the job is to write")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what a job needs and whether it is here; exit 2 where something is to be mended."""
    from ..stages.doctor import examine, summary

    findings = examine(output)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        for one in findings:
            typer.echo(one.line())
        typer.echo(summary(findings))
    if any(one.verdict == "no" for one in findings):
        raise typer.Exit(USER)


def register() -> None:
    """Add these commands to the command line."""
    app.command("doctor")(doctor)
