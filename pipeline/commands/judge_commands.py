"""Commands that judge normalizers. Part of the command line."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from ..config import load_job
from ..errors import InputError
from .handling import handled, start_logging
from .options import (
    READ,
    READ_FILE,
    READ_FOLDER,
    WRITTEN_FOLDER,
    JobFile,
    Settings,
    SynthesizedOption,
    TrainingFolder,
)
from .running.execute import align_faces


@functools.cache
def _configs() -> dict[str, type[BaseModel]]:
    from ...stages.judging.fit_reader import FitReaderConfig
    from ...stages.judging.judge_normalizer import JudgeConfig

    return {"fit_reader": FitReaderConfig, "judge": JudgeConfig}


@handled
def judge_normalizer(
    model: Annotated[
        str, typer.Argument(help="weights (.safetensors), a shipped name, or an .onnx file"), READ
    ],
    renders: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="output of synthesize with a test split; repeatable"),
        READ_FOLDER,
    ] = None,
    crossed: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="output of synthesize --crossed; repeatable"),
        READ_FOLDER,
    ] = None,
    faces: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="photographs (with --labels), or output of normpipe run"),
        READ_FOLDER,
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="list: image, emotion, part; identity, source, votes"),
        READ_FILE,
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="insightface pack: detection and recognition"),
        READ,
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="folder for the page and the JSON"), WRITTEN_FOLDER
    ] = Path("judged"),
    set: Settings = None,
) -> None:
    """Measure what a normalizer keeps and hides.

    It also measures what it makes constant, and writes a page and a JSON
    file.
    """
    from ...stages.judging import judge_normalizer as judging
    from ...stages.training.synthesized import synthesized_shards

    start_logging()
    job = load_job(None, {"output": output}, set or [], _configs())
    judged = judging.open_judged_model(model)
    if labels is not None and faces is None:
        raise InputError("--labels goes with --faces DIR, the folder that the pictures are in")
    # Check the folders of renders before minutes of aligning.
    synthesized_shards([*(renders or ()), *(crossed or ())])
    if faces is not None and labels is not None:
        align = {} if pack is None else {"detector": "insightface", "pack": str(pack)}
        faces = align_faces(faces, labels, output / "faces", align)
    inputs = judging.JudgeInputs(renders or [], crossed or [], faces, pack)
    report = judging.judge(job.stage("judge"), judged, inputs)
    report.write(output)
    typer.echo(report.table())
    typer.echo(f"{judging.goals_summary(report.figures)}: {output / 'index.html'}")


@handled
def fit_reader(
    job_file: JobFile = None,
    data: SynthesizedOption = None,
    output: TrainingFolder = None,
    set: Settings = None,
) -> None:
    """Train the reader that judges normalizers.

    It learns from exact renders of the target face.
    """
    from ...stages.judging import fit_reader as training

    start_logging()
    job = load_job(job_file, {"output": output}, set or [], _configs())
    if not data:
        raise InputError("no data: give --data DIR, the output of normpipe synthesize")
    config: Any = job.stage("fit_reader")
    fitted = training.fit_reader(config, data, job.output)
    typer.echo(f"weights: {fitted.weights}")
    typer.echo(f"scores: {fitted.weights.with_suffix('.json')}")
