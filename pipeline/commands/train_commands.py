"""Commands that render, train and export networks. Part of the command line."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from ..care.status import status, status_table
from ..config import Job, load_job
from ..errors import InputError, Interrupted
from ..run.plan import is_complete
from ..run.runner import Options
from .handling import handled, start_logging, stopped_in_time
from .options import (
    READ,
    READ_FOLDER,
    WRITTEN_FILE,
    WRITTEN_FOLDER,
    FacekitOption,
    JobFile,
    Overwrite,
    RenderOptions,
    Settings,
    SynthesizedOption,
    TrainingFolder,
    grouped,
)
from .running.execute import align_faces, execute
from .running.jobs import begun_with, say_changes

if TYPE_CHECKING:
    from ...stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig
    from ...stages.training.normalizer.fit_settings import FitNormalizerConfig

#: Identifies the folders of renders that this command made.
_RENDERS = {"dataset": "synth", "input": "synthesize"}


@functools.cache
def _configs() -> dict[str, type[BaseModel]]:
    # Imported here: torch and Lightning take seconds, which packing a kit should not need.
    from ...stages.synthesis.synthesize import SynthesizeConfig
    from ...stages.training.landmarks.fit_landmarks import FitLandmarksConfig
    from ...stages.training.normalizer.fit_normalizer import FitNormalizerConfig
    from ...stages.training.pretrain_encoder import PretrainEncoderConfig

    return {
        "synthesize": SynthesizeConfig,
        "fit_normalizer": FitNormalizerConfig,
        "fit_landmarks": FitLandmarksConfig,
        "pretrain_encoder": PretrainEncoderConfig,
    }


@handled
@grouped
def synthesize(
    renders: RenderOptions,
    job_file: JobFile = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="output folder"), WRITTEN_FOLDER
    ] = None,
    facekit: FacekitOption = None,
    set: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Render paired faces with exact labels.

    If it is stopped or killed, the same command continues it.
    """
    start_logging()
    given = {
        name: str(one) if isinstance(one, Path) else one for name, one in asdict(renders).items()
    }
    given["facekit"] = None if facekit is None else str(facekit)
    known = {"synthesize": _configs()["synthesize"]}
    saved = begun_with(output, known) if output and job_file is None else None
    job = load_job(job_file, {"output": output, "synthesize": given}, set or [], _configs(), saved)
    say_changes(job, list(known))
    flow = _rendering(job.stage("synthesize"), job)
    stage = flow[1]
    began = time.perf_counter(), time.process_time()
    execute(job, flow, flow, Options(overwrite, identity=_RENDERS))
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    typer.echo(status_table(status(job.output)))
    if stage.rendered:
        typer.echo(
            f"rate: {stage.rendered / wall:.1f} pairs/s on {stage.device_class}, "
            f"{stage.rendered / cpu:.1f} per CPU core at work"
        )
    typer.echo(f"pairs: {job.output / 'pairs'}")


@handled
def fit_normalizer(
    job_file: JobFile = None,
    data: SynthesizedOption = None,
    faces: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="real faces: output of run, or pictures (with --labels)"),
        READ_FOLDER,
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="labels of the faces: their list, or output of run"),
        READ,
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="folder for weights, scores, sheets"),
        WRITTEN_FOLDER,
    ] = None,
    facekit: FacekitOption = None,
    set: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a normalizer on renders and real faces.

    Sets that the job file names, in tables such as fit_normalizer.sets.NAME,
    are rendered first. If it is stopped or killed, the same command continues
    it.
    """
    from ...stages.training.normalizer.fit_normalizer import check_settings, fit, make_deadline

    start_logging()
    job = load_job(job_file, {"output": output}, set or [], _configs())
    config: FitNormalizerConfig = job.stage("fit_normalizer")
    if labels and not faces:
        raise InputError("--labels goes with --faces DIR, the aligned faces that they are for")
    if not data and not config.sets:
        raise InputError(
            "no data: give --data DIR, the output of normpipe synthesize, or name sets to render "
            "in the job file ([fit_normalizer.sets.NAME])"
        )
    deadline = make_deadline(config)
    check_settings(config)
    try:
        rendered = _render_sets(job, config, facekit, overwrite, deadline)
    except Interrupted:
        if not deadline():
            raise
        stopped_in_time(job.output)
    aligned = [_aligned(one, number, labels, job.output) for number, one in enumerate(faces or [])]
    result = fit(config, [*rendered, *(data or [])], job.output, aligned, labels, deadline)
    if not result.finished:
        stopped_in_time(job.output)
    if not result.scores:
        return  # not the first process
    typer.echo(f"weights: {result.weights}")
    typer.echo(f"scores: {result.weights.with_suffix('.json')}")


def _aligned(faces: Path, number: int, labels: list[Path] | None, output: Path) -> Path:
    """Return the folder of aligned faces: as given, or aligned below ``output`` by their list.

    Raises InputError for pictures with several lists.
    """
    made = any((faces / inner).is_dir() for inner in ("aligned", "_aligned"))
    if made or not labels or any(faces.glob("shard-*.parquet")):
        return faces
    if len(labels) > 1:
        raise InputError(
            f"no aligned faces in {faces}: give the output of normpipe run --until align, or one "
            "--labels FILE, the list of the pictures in it"
        )
    return align_faces(faces, labels[0], output / "faces" / str(number))


def _rendering(config: SynthesizeConfig, job: Job) -> tuple[PlanPairs, Synthesize]:
    """Return the stages that render a set. Raises InputError for a missing kit or pictures."""
    from ...stages.synthesis.synthesize import PlanPairs, Synthesize

    return PlanPairs(config), Synthesize(config, job.run.threads)


def _render_sets(
    job: Job,
    config: FitNormalizerConfig,
    facekit: Path | None,
    overwrite: bool,
    deadline: Callable[[], bool],
) -> list[Path]:
    """Render the job's sets that are not complete; return the folders of all sets.

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
        if not is_complete(folder, flow):
            _one_process(config, folder)
            part = job.model_copy(update={"output": folder})
            execute(part, flow, flow, Options(overwrite, identity=_RENDERS), deadline)
    return list(flows)


def _one_process(config: FitNormalizerConfig, folder: Path) -> None:
    """Refuse to render in processes started by torchrun: they would all write the same folder."""
    if config.nodes > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError(
            f"{folder} is not rendered yet, and one process renders: run the command without "
            "torchrun and with fit_normalizer.nodes = 1 until training begins, then use them again"
        )


@handled
def fit_landmarks(
    job_file: JobFile = None,
    data: SynthesizedOption = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="rendered heads for fit_landmarks.pack to mark; repeatable"
        ),
        READ_FOLDER,
    ] = None,
    output: TrainingFolder = None,
    set: Settings = None,
) -> None:
    """Train the default detector's landmark network.

    It learns from renders. If it is stopped or killed, the same command
    continues it.
    """
    from ...stages.training.landmarks import fit_landmarks as training

    start_logging()
    job = load_job(job_file, {"output": output}, set or [], _configs())
    if not data:
        raise InputError("no data: give --data DIR, the output of normpipe synthesize")
    config: Any = job.stage("fit_landmarks")
    fitted = training.fit_landmarks(config, data, job.output, heads or [])
    typer.echo(f"weights: {fitted.weights}")
    typer.echo(f"scores: {fitted.scores}")


@handled
def pretrain_encoder(
    job_file: JobFile = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="folder of shards with pictures; repeatable"),
        READ_FOLDER,
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="folder for encoder, scores, sheet"),
        WRITTEN_FOLDER,
    ] = None,
    set: Settings = None,
) -> None:
    """Pretrain an encoder on masked faces.

    It learns to see faces by painting their hidden patches. If it is stopped
    or killed, the same command continues it.
    """
    from ...stages.training.pretrain_encoder import pretrain

    start_logging()
    job = load_job(job_file, {"output": output}, set or [], _configs())
    if not data:
        raise InputError("no data: give --data DIR, a folder of shards with pictures")
    result = pretrain(job.stage("pretrain_encoder"), data, job.output)
    typer.echo(f"encoder: {result.encoder}")
    typer.echo(f"held-out loss: {result.loss} (a blank patch: 1)")


@handled
def pack_facekit(
    folder: Annotated[
        Path, typer.Argument(help="the folder FaceXModel of ICT-FaceKit"), READ_FOLDER
    ],
    output: Annotated[Path, typer.Argument(help="the packed kit to write (.npz)"), WRITTEN_FILE],
) -> None:
    """Pack ICT-FaceKit Light into one file.

    The kit has the MIT licence; 'normpipe synthesize' reads the file.
    """
    from ...stages.synthesis import kit_packing

    digest = kit_packing.pack_facekit(folder, output)
    typer.echo(f"{output}: sha256 {digest}")


@handled
def export_normalizer(
    model: Annotated[
        str, typer.Argument(help=".safetensors file, or the name of shipped weights"), READ
    ],
    onnx: Annotated[
        Path, typer.Option("--onnx", metavar="FILE", help="the .onnx file to write"), WRITTEN_FILE
    ],
    input_size: Annotated[
        int, typer.Option(min=16, metavar="PIXELS", help="side of the aligned faces")
    ] = 224,
) -> None:
    """Write a normalizer as an ONNX file.

    Only if its pictures equal the network's within 0.001. The side of the
    faces is that of align.size_px.
    """
    from ...stages.publishing.export_normalizer import export_onnx

    start_logging()
    made = export_onnx(model, onnx, input_size)
    typer.echo(
        f"{made.path}: largest difference {made.difference:.1e} in [0, 1] over {made.faces} faces"
    )
