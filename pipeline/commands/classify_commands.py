"""Commands that train, test and compare classifiers. Part of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...manifests.keys import sample_id
from ...stages import CONFIGS, SINKS
from ..care.status import refuse_quarantined, status
from ..config import Job, check, load_job
from ..errors import InputError
from ..run.runner import Options
from ..stage import sha256_file
from ..store.commit import write_json
from ..store.job_file import changes, keep
from ..store.labels import holds_job
from ..store.lock import locked
from ..store.storage import is_store
from .app import AGAIN, app, handled, start_logging
from .face_jobs import run_until
from .jobs import begun_with, say_changes, select
from .train_commands import JobFile, Settings

if TYPE_CHECKING:
    from ...stages.classification.protocol_run import Outcome, Planned
    from ...stages.classification.settings import ClassifyConfig, EvaluateConfig
    from ..read.dataset import ShardDataset

DataOption = Annotated[Path, typer.Argument(help="output of normpipe run, with labels")]


@handled
def classify(
    data: DataOption,
    job_file: JobFile = None,
    output: Annotated[
        Path | None, typer.Option(help="folder for model and scores; default: DATA/classify")
    ] = None,
    task: Annotated[str | None, typer.Option(help="emotion, action_units or intensity")] = None,
    folds: Annotated[
        str | None, typer.Option(help="cross-validate: a number, labels, bp4d or disfa")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="cross-dataset: test on this output of normpipe run")
    ] = None,
    test_split: Annotated[str | None, typer.Option(help="the split that tests")] = None,
    set: Settings = None,
    overwrite: Annotated[bool, typer.Option(help="redo what was made otherwise")] = False,
) -> None:
    """Train a classifier on both views of labelled faces, and score it. Kill it; it goes on."""
    from ...stages.classification.protocol_run import run_protocol
    from ...stages.classify import plan_parts

    start_logging(False)
    overrides = list(set or [])
    given = {"task": task, "folds": folds, "test_split": None if test else test_split}
    overrides += [f"classify.{name}='{value}'" for name, value in given.items() if value]
    folder = {"output": output or data / "classify"}
    job = load_job(job_file, folder, overrides, CONFIGS, _saved(data, job_file))
    settings = job.stage("classify"), job.stage("evaluate")
    other = (_opened(test), test_split or "") if test else None
    planned = plan_parts(settings[0], _opened(data), bool(test))
    _keep(data, job.output, settings, planned, overwrite)
    report(run_protocol(*settings, planned, job.output, other, overwrite), job.output)


@handled
def evaluate(
    model: Annotated[Path, typer.Argument(help="folder that normpipe classify wrote")],
    data: Annotated[Path, typer.Option(help="output of normpipe run, with labels")],
    split: Annotated[str, typer.Option(help="only this split; empty: all labelled faces")] = "",
    output: Annotated[Path | None, typer.Option(help="folder for the scores")] = None,
    set: Settings = None,
) -> None:
    """Score a classifier on a dataset that it was not trained on."""
    from ...stages.classification import evaluate as scoring
    from ...stages.classification.classifiers import open_classifier
    from ...stages.classification.protocol import all_of
    from ...stages.classification.protocol_run import Outcome
    from ...stages.classification.scores.score_files import read_scores

    start_logging(False)
    found = open_classifier(model)
    folder = output or model / f"scores-{data.resolve().name}"
    job = load_job(None, {"output": folder}, list(set or []), CONFIGS, _saved(data))
    listing = scoring.list_for(found, _opened(data), views=job.stage("evaluate").views)
    rows = all_of(listing, found.task, split)
    words = f"split {split} of {listing.name}" if split else f"all of {listing.name}"
    scoring.evaluate(job.stage("evaluate"), model, listing, rows, folder, words)
    report(Outcome([read_scores(folder)], None, True), folder)


@handled
def ablate(
    data: DataOption,
    job_file: JobFile = None,
    output: Annotated[
        Path | None, typer.Option(help="folder for trainings and table; default: DATA/ablate")
    ] = None,
    set: Settings = None,
    overwrite: Annotated[bool, typer.Option(help="redo what was made otherwise")] = False,
) -> None:
    """Does normalizing help? Train with and without, three seeds each, and table the scores."""
    from ...stages.classification.ablate import ablate as run_ablation
    from ...stages.classification.settings import AblateConfig

    start_logging(False)
    known = {**CONFIGS, "ablate": AblateConfig}
    given = {"output": output or data / "ablate"}
    job = load_job(job_file, given, list(set or []), known, _saved(data, job_file))
    recipe: Any = job.stage("classify")
    table = run_ablation(job.stage("ablate"), recipe, _opened(data), job.output, overwrite)
    typer.echo(table.text())
    typer.echo(f"table: {job.output / 'ablation.json'}, picture: {job.output / 'ablation.png'}")


def _opened(data: Path) -> ShardDataset:
    """Open all rows of a dataset, pictures encoded: what classifiers read."""
    # Imported on use: torch takes seconds, which no other command should pay.
    from ..read.dataset import open_dataset

    return open_dataset(data, status="all", decode=False)


def _saved(data: Path, job_file: Path | None = None) -> dict[str, Any]:
    """Return what the job of ``data`` saved of classifying; nothing where a job file states all."""
    return {} if job_file else begun_with(data, {name: CONFIGS[name] for name in SINKS})


def _keep(
    root: Path,
    folder: Path,
    settings: tuple[ClassifyConfig, EvaluateConfig],
    planned: Planned,
    overwrite: bool,
) -> None:
    """Save the settings of a job's own classifier, unless they are going to be refused."""
    from ...stages.classify import agrees

    first = os.environ.get("LOCAL_RANK", "0") == "0"  # Fabric starts the other processes anew
    if not first or folder.resolve() != (root / "classify").resolve() or not holds_job(root):
        return
    tables = dict(zip(SINKS, settings, strict=True))
    if changes(root, tables) and (overwrite or agrees(settings[0], planned, folder)):
        with locked(root):
            keep(root, tables, CONFIGS)


def report(outcome: Outcome, output: Path) -> None:
    """Print scores and where they are; exit 3 where training is to go on."""
    if outcome.scores:
        typer.echo(outcome.table())
        typer.echo(f"scores, with a page each: {output}")
    if not outcome.finished:
        typer.echo(f"stopped after its minutes; run the same command again: {output}")
        raise typer.Exit(AGAIN)


def classify_job(
    output: Path, stages: list[str], settings: tuple[Any, Any], required: bool, overwrite: bool
) -> None:
    """Run classify and evaluate as the last stages of a job.

    Args:
        output: the job's folder.
        stages: ``classify``, ``evaluate`` or both. Evaluating alone needs a trained model.
        settings: of both.
        required: False where nobody asked for them: labels that do not allow it are then said.
        overwrite: redo what was made otherwise.
    """
    if not stages:
        return
    if is_store(output) and required:
        raise InputError(f"{output}: classify and evaluate work on folders: copy the job to one")
    if not (output / "labels.parquet").is_file() and not required:
        return
    if is_store(output):
        typer.echo("classify, evaluate: left out, for they work on folders", err=True)
        return
    from ...stages.classification.classifiers import open_classifier
    from ...stages.classification.protocol_run import run_protocol
    from ...stages.classify import OtherData, plan_parts

    config, scoring = settings
    if "classify" not in stages:
        open_classifier(output / "classify")  # says so where there is none
    try:
        planned = plan_parts(config, _opened(output))
    except InputError as error:
        if required:
            raise
        typer.echo(f"classify: left out: {error}", err=True)
        return
    folder = output / "classify"
    _keep(output, folder, settings, planned, overwrite)
    try:
        outcome = run_protocol(config, scoring, planned, folder, None, overwrite)
    except OtherData as error:
        if required:
            raise
        # New pictures are no reason to throw a trained model away unasked.
        typer.echo(f"classify: left as it was: {error}", err=True)
        return
    report(outcome, folder)


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
    from ...stages.classification.scores import compare as comparing

    found = comparing.compare(scores, resamples, seed)
    typer.echo(found.table())
    if json_file is not None:
        write_json(json_file, found.as_json())


@handled
def predict(
    model: Annotated[Path, typer.Argument(help="folder or file that normpipe classify wrote")],
    input: Annotated[
        Path, typer.Argument(help="photograph, folder or list of them, or output of normpipe run")
    ],
    output: Annotated[Path, typer.Option(help="file for the predictions: .parquet or .csv")],
    work: Annotated[
        Path | None,
        typer.Option(help="folder for the faces of photographs; default: beside the output"),
    ] = None,
    variant: Annotated[str, typer.Option(help="which normalized faces; empty: the only ones")] = "",
    threshold: Annotated[float, typer.Option(help="above it an action unit occurs")] = 0.5,
    device: Annotated[str, typer.Option(help="of both networks: auto, cpu or cuda")] = "auto",
    batch_size: Annotated[int, typer.Option(help="faces shown to the classifier at once")] = 64,
    any_normalizer: Annotated[
        bool, typer.Option("--any-normalizer", help="take faces that other weights normalized")
    ] = False,
    set: Settings = None,
    overwrite: Annotated[bool, typer.Option(help="redo what was made otherwise")] = False,
    retry_failed: Annotated[bool, typer.Option(help="try failed rows again")] = False,
) -> None:
    """Say what a classifier sees in new photographs or shards. Kill it; it goes on."""
    from ...stages.classification import predict as telling
    from ...stages.classification.classifiers import (
        check_normalizer,
        classifier_file,
        open_classifier,
    )
    from ...stages.classification.listing import faces_folder, holds_dataset
    from ...stages.classification.views import PLANS

    start_logging(False)
    telling.check_output(output)
    made = holds_dataset(input)
    job = prediction_job(input, output, work, made, [f"normalize.device={device}", *(set or [])])
    chosen = {
        "variant": variant, "threshold": threshold, "device": device, "batch_size": batch_size,
        "any_normalizer": any_normalizer, "threads": job.run.threads,
    }  # fmt: skip
    config = check(telling.PredictConfig, chosen, "predict")
    file = classifier_file(model)
    found = open_classifier(file)
    views = PLANS[found.views].reads

    def accept(weights_sha256: str) -> None:
        if not any_normalizer:
            check_normalizer(found, (weights_sha256,), telling.ANY_NORMALIZER)

    if not made:
        last = "pair" if "normalized" in views else "align"
        run_until(job, last, Options(overwrite, retry_failed), accept)
    data = faces_folder(input if made else job.output, views)
    told = telling.predict(config, found, sha256_file(file), _opened(data), output, overwrite)
    typer.echo(told.summary())
    if not made:
        refuse_quarantined(status(job.output))


def prediction_job(
    input: Path, output: Path, work: Path | None, made: bool, settings: list[str]
) -> Job:
    """Return the job that makes faces of photographs, as ``normpipe run`` does.

    Args:
        output: file for the predictions.
        work: the job's folder; None: beside the output.
        made: the input holds faces already.
        settings: ``stage.key=value``; the first one is the command's own.

    Raises:
        InputError: settings or paths that cannot be.
    """
    if made and (work or any(not one.startswith("run.") for one in settings[1:])):
        raise InputError(f"--work and --set are for photographs, and {input} holds faces already")
    folder = work or output.with_suffix(".work")
    if output.resolve() == input.resolve():
        raise InputError(f"{output} is the input: choose another --output")
    if not made and folder.resolve().is_relative_to(input.resolve()):
        raise InputError(f"{folder} lies inside the input folder: choose a --work folder beside it")
    dataset = sample_id(input.resolve().stem) or None
    given = {"input": input, "output": folder, "dataset": dataset}
    saved = {} if made else begun_with(folder, CONFIGS)
    job = load_job(None, given, settings, CONFIGS, saved)
    if not made:
        say_changes(job, select(None, None, "pair"))
    return job


def register() -> None:
    """Add these commands to the command line."""
    app.command("classify")(classify)
    app.command("evaluate")(evaluate)
    app.command("ablate")(ablate)
    app.command("compare")(compare)
    app.command("predict")(predict)
