"""Commands that train, test and compare classifiers. Part of the command line."""

from pathlib import Path
from typing import Annotated

import typer

from .cli import app, handled
from .commit import write_json


@handled
def compare(
    scores: Annotated[list[Path], typer.Argument(help="folders of scores, the baseline first")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write all figures to this file")
    ] = None,
    resamples: Annotated[int, typer.Option(min=20, help="draws of people")] = 1000,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
) -> None:
    """Table scores with intervals over people, and their differences from the first."""
    # Imported on use: torch takes seconds, which no other command should pay.
    from ..stages import compare as comparing

    found = comparing.compare(scores, resamples, seed)
    typer.echo(found.table())
    if json_file is not None:
        write_json(json_file, found.as_json())


def register() -> None:
    """Add these commands to the command line."""
    app.command("compare")(compare)
