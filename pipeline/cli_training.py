"""Commands that make a normalizer: render pairs, train on them. Part of the command line."""

import functools
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from .cli import AGAIN, app, execute, handled, start_logging
from .config import load_job
from .errors import InputError
from .runner import Options

JobFile = Annotated[
    Path | None, typer.Argument(help="job file (.toml) with a table for this command")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, repeatable")]


@functools.cache
def _configs() -> dict[str, type[BaseModel]]:
    # Imported on use: torch and Lightning take seconds, which no other command should pay.
    from ..stages.fit_normalizer import FitNormalizerConfig
    from ..stages.pretrain_encoder import PretrainEncoderConfig
    from ..stages.synthesize import SynthesizeConfig

    return {
        "synthesize": SynthesizeConfig,
        "fit_normalizer": FitNormalizerConfig,
        "pretrain_encoder": PretrainEncoderConfig,
    }


@handled
def synthesize(
    job_file: JobFile = None,
    output: Annotated[Path | None, typer.Option(help="output folder")] = None,
    facekit: Annotated[Path | None, typer.Option(help="ICT-FaceKit Light, packed (.npz)")] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="pairs to render")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="other people, other pictures")] = None,
    crossed: Annotated[
        str | None, typer.Option(metavar="KxM", help="K people who all make the same M expressions")
    ] = None,
    backgrounds: Annotated[
        Path | None, typer.Option(help="folder of pictures to stand behind the heads")
    ] = None,
    appearance: Annotated[
        Path | None, typer.Option(help="photographs whose skin drawn people wear")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="mean, an identity's number, or the photograph of a face")
    ] = None,
    set: Settings = None,
    overwrite: Annotated[bool, typer.Option(help="redo what was made otherwise")] = False,
) -> None:
    """Render paired faces with exact labels. Kill it at any time; the same command goes on."""
    from ..stages.synthesize import PlanPairs, Synthesize
    from .status import status, table

    start_logging(False)
    overrides = list(set or [])
    given = {
        "pairs": pairs, "seed": seed, "crossed": crossed, "facekit": facekit,
        "backgrounds": backgrounds, "appearance": appearance, "target": target,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None:
            overrides.append(f"synthesize.{name}={value}")
    job = load_job(job_file, {"output": output}, overrides, _configs())
    config: Any = job.stage("synthesize")
    renders = Synthesize(config, job.run.threads)
    flow = [PlanPairs(config), renders]
    began = time.perf_counter(), time.process_time()
    execute(
        job, flow, flow, Options(overwrite, identity={"dataset": "synth", "input": "synthesize"})
    )
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    typer.echo(table(status(job.output)))
    if renders.rendered:
        typer.echo(
            f"rate: {renders.rendered / wall:.1f} pairs/s on {renders.device_class}, "
            f"{renders.rendered / cpu:.1f} per CPU core at work"
        )
    typer.echo(f"pairs: {job.output / 'pairs'}")


@handled
def fit_normalizer(
    job_file: JobFile = None,
    data: Annotated[list[Path] | None, typer.Option(help="synthesized folder, repeatable")] = None,
    faces: Annotated[
        list[Path] | None,
        typer.Option(help="aligned real faces to mix in, without labels; repeatable"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for weights, scores, sheets")] = None,
    set: Settings = None,
) -> None:
    """Train a normalizer on synthesized pairs and real faces. Kill it; the same command goes on."""
    from ..stages.fit_normalizer import fit

    start_logging(False)
    job = load_job(job_file, {"output": output}, list(set or []), _configs())
    if not data:
        raise InputError("no data: give --data DIR, the output of normpipe synthesize")
    result = fit(job.stage("fit_normalizer"), data, job.output, faces)
    if not result.finished:
        typer.echo(f"stopped after its minutes; run the same command again: {job.output}")
        raise typer.Exit(AGAIN)
    if not result.scores:
        return  # another process than the first
    typer.echo(f"weights: {result.weights}")
    typer.echo(f"scores: {result.weights.with_suffix('.json')}")


@handled
def pack_facekit(
    folder: Annotated[Path, typer.Argument(help="the folder FaceXModel of ICT-FaceKit")],
    output: Annotated[Path, typer.Argument(help="the packed kit to write (.npz)")],
) -> None:
    """Pack ICT-FaceKit Light (MIT licence) into the one file that synthesize reads."""
    from ..stages.faces import kit_packing

    digest = kit_packing.pack_facekit(folder, output)
    typer.echo(f"{output}: sha256 {digest}")


@handled
def pretrain_encoder(
    job_file: JobFile = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="folder of shards with pictures, repeatable")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for encoder, scores, sheet")] = None,
    set: Settings = None,
) -> None:
    """Train an encoder to see faces by painting hidden patches. Kill it; it goes on."""
    from ..stages.pretrain_encoder import pretrain

    start_logging(False)
    job = load_job(job_file, {"output": output}, list(set or []), _configs())
    if not data:
        raise InputError("no data: give --data DIR, a folder of shards with pictures")
    result = pretrain(job.stage("pretrain_encoder"), data, job.output)
    typer.echo(f"encoder: {result.encoder}")
    typer.echo(f"held-out loss: {result.loss} (a blank patch: 1)")


def register() -> None:
    """Add these commands to the command line."""
    app.command("synthesize")(synthesize)
    app.command("fit-normalizer")(fit_normalizer)
    app.command("pretrain-encoder")(pretrain_encoder)
    app.command("pack-facekit")(pack_facekit)
