"""Commands that begin or convert networks. Part of the command line."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from ..config import load_job
from ..errors import InputError
from .app import app, handled, start_logging
from .train_commands import JobFile, Settings


@functools.cache
def _configs() -> dict[str, type[BaseModel]]:
    # Imported on use: torch takes seconds, which no other command should pay.
    from ...stages.training.landmarks.fit_landmarks import FitLandmarksConfig

    return {"fit_landmarks": FitLandmarksConfig}


@handled
def fit_landmarks(
    job_file: JobFile = None,
    data: Annotated[list[Path] | None, typer.Option(help="synthesized folder, repeatable")] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(help="synthesized heads that fit_landmarks.pack marks, repeatable"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for weights and scores")] = None,
    set: Settings = None,
) -> None:
    """Train the default detector's landmark network on renders. Kill it; it goes on."""
    from ...stages.training.landmarks import fit_landmarks as training

    start_logging(False)
    job = load_job(job_file, {"output": output}, list(set or []), _configs())
    if not data:
        raise InputError("no data: give --data DIR, the output of normpipe synthesize")
    config: Any = job.stage("fit_landmarks")
    fitted = training.fit_landmarks(config, data, job.output, list(heads or []))
    typer.echo(f"weights: {fitted.weights}")
    typer.echo(f"scores: {fitted.scores}")


@handled
def export_normalizer(
    model: Annotated[str, typer.Argument(help=".safetensors file, or the name of shipped weights")],
    onnx: Annotated[Path, typer.Option("--onnx", help="the file to write (.onnx)")],
    input_size: Annotated[
        int, typer.Option(min=16, help="side of the aligned faces, in pixels: align.size_px")
    ] = 224,
) -> None:
    """Write a normalizer as an ONNX file; only if its pictures equal the network's within 0.001."""
    from ...stages.publishing.export_normalizer import export_onnx

    start_logging(False)
    made = export_onnx(model, onnx, input_size)
    typer.echo(
        f"{made.path}: largest difference {made.difference:.1e} in [0, 1] over {made.faces} faces"
    )


def register() -> None:
    """Add these commands to the command line."""
    app.command("export-normalizer")(export_normalizer)
    app.command("fit-landmarks")(fit_landmarks)
