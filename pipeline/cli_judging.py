"""Commands that judge normalizers. Part of the command line."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from .cli import app, handled, start_logging
from .cli_training import JobFile, Settings
from .config import load_job
from .errors import InputError


@functools.cache
def _configs() -> dict[str, type[BaseModel]]:
    # Imported on use: torch takes seconds, which no other command should pay.
    from ..stages.fit_reader import FitReaderConfig

    return {"fit_reader": FitReaderConfig}


@handled
def fit_reader(
    job_file: JobFile = None,
    data: Annotated[list[Path] | None, typer.Option(help="synthesized folder, repeatable")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for weights and scores")] = None,
    set: Settings = None,
) -> None:
    """Train the reader that judges normalizers, on exact renders of the target face."""
    from ..stages import fit_reader as training

    start_logging(False)
    job = load_job(job_file, {"output": output}, list(set or []), _configs())
    if not data:
        raise InputError("no data: give --data DIR, the output of normpipe synthesize")
    config: Any = job.stage("fit_reader")
    fitted = training.fit_reader(config, data, job.output)
    typer.echo(f"weights: {fitted.weights}")
    typer.echo(f"scores: {fitted.weights.with_suffix('.json')}")


def register() -> None:
    """Add these commands to the command line."""
    app.command("fit-reader")(fit_reader)
