"""Commands that make a normalizer: render pairs, train on them. Part of the command line."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import BaseModel

from ..config import Job, load_job
from ..errors import InputError, Interrupted
from ..run.plan import is_whole
from ..run.runner import Options
from .app import AGAIN, app, execute, handled, start_logging
from .jobs import begun_with, say_changes

if TYPE_CHECKING:
    from ...stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig
    from ...stages.training.normalizer.settings import FitNormalizerConfig

JobFile = Annotated[
    Path | None, typer.Argument(help="job file (.toml) with a table for this command")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, repeatable")]


@functools.cache
def _configs() -> dict[str, type[BaseModel]]:
    # Imported on use: torch and Lightning take seconds, which no other command should pay.
    from ...stages.synthesis.synthesize import SynthesizeConfig
    from ...stages.training.normalizer.settings import FitNormalizerConfig
    from ...stages.training.pretrain_encoder import PretrainEncoderConfig

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
    from ..care.status import status, table

    start_logging(False)
    overrides = list(set or [])
    given = {
        "pairs": pairs, "seed": seed, "crossed": crossed, "facekit": facekit,
        "backgrounds": backgrounds, "appearance": appearance, "target": target,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None:
            overrides.append(f"synthesize.{name}={value}")
    known = {"synthesize": _configs()["synthesize"]}
    saved = begun_with(output, known) if output and job_file is None else None
    job = load_job(job_file, {"output": output}, overrides, _configs(), saved)
    say_changes(job, list(known))
    flow = _rendering(job.stage("synthesize"), job)
    renders = flow[1]
    began = time.perf_counter(), time.process_time()
    execute(job, flow, flow, Options(overwrite, identity=_RENDERS))
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
    facekit: Annotated[
        Path | None, typer.Option(help="ICT-FaceKit Light, packed (.npz), for the job's sets")
    ] = None,
    set: Settings = None,
    overwrite: Annotated[
        bool, typer.Option(help="render sets again that were made otherwise")
    ] = False,
) -> None:
    """Train a normalizer on synthesized pairs and real faces. Kill it; the same command goes on.

    Sets that the job file names ([fit_normalizer.sets.NAME]) are rendered before.
    """
    from ...stages.training.normalizer.fit_normalizer import check_settings, end_of_leg, fit

    start_logging(False)
    job = load_job(job_file, {"output": output}, list(set or []), _configs())
    config: FitNormalizerConfig = job.stage("fit_normalizer")
    if not data and not config.sets:
        raise InputError(
            "no data: give --data DIR, the output of normpipe synthesize, or name sets to render "
            "in the job file ([fit_normalizer.sets.NAME])"
        )
    deadline = end_of_leg(config)
    check_settings(config)
    try:
        rendered = _render_sets(job, config, facekit, overwrite, deadline)
    except Interrupted:
        if not deadline():
            raise
        _stopped(job)
    result = fit(config, [*rendered, *(data or [])], job.output, faces, deadline)
    if not result.finished:
        _stopped(job)
    if not result.scores:
        return  # another process than the first
    typer.echo(f"weights: {result.weights}")
    typer.echo(f"scores: {result.weights.with_suffix('.json')}")


def _stopped(job: Job) -> NoReturn:
    typer.echo(f"stopped after its minutes; run the same command again: {job.output}")
    raise typer.Exit(AGAIN)


#: What makes a folder of renders this command's and no other's.
_RENDERS = {"dataset": "synth", "input": "synthesize"}


def _rendering(config: SynthesizeConfig, job: Job) -> tuple[PlanPairs, Synthesize]:
    """The stages that render a set. Raises InputError for a kit or pictures not there."""
    from ...stages.synthesis.synthesize import PlanPairs, Synthesize

    return PlanPairs(config), Synthesize(config, job.run.threads)


def _render_sets(
    job: Job,
    config: FitNormalizerConfig,
    facekit: Path | None,
    overwrite: bool,
    deadline: Callable[[], bool],
) -> list[Path]:
    """Render the sets that the job names, those that are whole apart; return their folders.

    Raises:
        InputError: a set cannot be rendered as asked for, or by this process.
        Interrupted: stopped, by a signal or the deadline; committed shards are kept.
    """
    flows: dict[Path, tuple[PlanPairs, Synthesize]] = {}
    for name, settings in config.sets.items():
        folder = job.output / "sets" / name
        given: dict[str, Any] = {}
        if facekit and not settings.facekit:
            given["facekit"] = str(facekit)
        if settings.device == "auto":
            given["device"] = config.device
        flows[folder] = _rendering(settings.model_copy(update=given), job)
    for folder, flow in flows.items():
        if not is_whole(folder, flow):
            _one_process(config, folder)
            part = job.model_copy(update={"output": folder})
            execute(part, flow, flow, Options(overwrite, identity=_RENDERS), deadline)
    return list(flows)


def _one_process(config: FitNormalizerConfig, folder: Path) -> None:
    """Refuse to render in processes that torchrun started: they would get in each other's way."""
    if config.nodes > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError(
            f"{folder} is not rendered yet, and one process renders: run the command without "
            "torchrun and with fit_normalizer.nodes = 1 until it trains, then go on with them"
        )


@handled
def pack_facekit(
    folder: Annotated[Path, typer.Argument(help="the folder FaceXModel of ICT-FaceKit")],
    output: Annotated[Path, typer.Argument(help="the packed kit to write (.npz)")],
) -> None:
    """Pack ICT-FaceKit Light (MIT licence) into the one file that synthesize reads."""
    from ...stages.synthesis import kit_packing

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
    from ...stages.training.pretrain_encoder import pretrain

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
