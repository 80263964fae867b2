"""Commands that begin or convert networks. Part of the command line."""

from pathlib import Path
from typing import Annotated

import typer

from .cli import app, handled, start_logging


@handled
def export_normalizer(
    model: Annotated[str, typer.Argument(help=".safetensors file, or the name of shipped weights")],
    onnx: Annotated[Path, typer.Option("--onnx", help="the file to write (.onnx)")],
    input_size: Annotated[
        int, typer.Option(min=16, help="side of the aligned faces, in pixels: align.size_px")
    ] = 224,
) -> None:
    """Write a normalizer as an ONNX file; only if its pictures equal the network's within 0.001."""
    from ..stages.export_normalizer import export_onnx

    start_logging(False)
    made = export_onnx(model, onnx, input_size)
    typer.echo(
        f"{made.path}: largest difference {made.difference:.1e} in [0, 1] over {made.faces} faces"
    )


def register() -> None:
    """Add these commands to the command line."""
    app.command("export-normalizer")(export_normalizer)
