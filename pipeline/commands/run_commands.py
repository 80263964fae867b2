"""Commands that run a job. Part of the command line."""

from pathlib import Path
from typing import Annotated

import typer

from ...stages import CONFIGS, FLOW, SINKS, build_flow
from ..care.status import status
from ..config import Job, load_job, template, validate_settings
from ..errors import InputError
from ..run.runner import Options
from ..store.result_tables import ResultTable
from ..store.storage import is_store, is_within
from .execute import (
    execute,
    identity,
    opened,
    refuse_unusable,
    refuse_without_faces,
    report,
    report_scores,
    run_until,
    select,
)
from .handling import handled, start_logging
from .jobs import faces_job, job_to_run, keep_settings, say_changes
from .options import (
    READ,
    WRITTEN_FILE,
    WRITTEN_FOLDER,
    AgainOptions,
    DataOptions,
    FacesArgument,
    PlaceOptions,
    SettingOptions,
    Settings,
    StageOptions,
    WorkFolder,
    grouped,
)
from .workers import remote


@handled
@grouped
def run(
    data: DataOptions,
    stages: StageOptions,
    settings: SettingOptions,
    places: PlaceOptions,
    again: AgainOptions,
    job_file: Annotated[
        str | None,
        typer.Argument(help="job file (.toml), or the output of a run to continue"),
        READ,
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan; write nothing")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="log only warnings and errors")] = False,
) -> None:
    """Run a job: ingest, align, normalize, pair, classify.

    With labels, it ends with a classifier and its scores. If it is stopped
    or killed, the same command continues it.
    """
    start_logging(quiet)
    given = {
        "input": data.input,
        "output": data.output,
        "dataset": data.dataset,
        "ingest": {"limit": settings.limit, "allow_urls": settings.allow_urls or None},
        "run": {"max_rejected": settings.max_rejected, **places.settings()},
    }
    job = job_to_run(job_file, given, settings.set or [])
    if job.input is None:
        raise InputError("no input: give --input PHOTOS, or input = '…' in the job file")
    if is_within(job.output, job.input):
        raise InputError(
            f"{job.output} lies inside the input folder, where its pictures would become inputs: "
            "choose an --output beside it"
        )
    flow = build_flow(job)
    names = select(stages.stage, stages.first, stages.until)
    selected = [one for one in flow if one.name in names]
    sinks = [name for name in SINKS if name in names]
    say_changes(job, names)
    if dry_run:
        from ..care.estimate import estimate, estimate_table

        typer.echo(estimate_table(estimate(job.output, selected, job.run.threads)))
        if sinks:
            typer.echo(
                f"then, if there are labels: {', '.join(sinks)} (--until pair leaves it out)"
            )
        return
    if selected:
        options = Options(again.overwrite, again.retry_failed, identity(job, flow), job.stages)
        execute(job, flow, selected, options, remote=remote(job))
    report(job, names)
    asked = any(name in SINKS for name in (stages.stage, stages.first, stages.until))
    _classify(job, sinks, asked, again.overwrite)


@handled
def demo(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="folder for the demo"), WRITTEN_FOLDER
    ] = Path("demo-out"),
) -> None:
    """Run a whole job on the built-in sample faces.

    It downloads nothing and needs no settings.
    """
    from ...stages.review.sheet import draw_sheet
    from ...stages.sources.sample_faces import sample_list

    start_logging()
    given = {
        "input": sample_list(output / "photographs"),
        "output": output / "job",
        "dataset": "samples",
        "ingest": {"au_columns": "intensity"},
        # A short training: two dozen faces are memorized in seconds.
        "classify": {"least_steps": 24, "epochs": 1, "batch_size": 16, "workers": 0},
    }
    job = load_job(None, given, [], CONFIGS)
    flow = build_flow(job)
    execute(job, flow, flow, Options(identity=identity(job, flow), settings=job.stages))
    report(job)
    typer.echo(f"contact sheet: {draw_sheet(job.output, 16, None)}")
    _classify(job, list(SINKS), asked=True)
    typer.echo("(with a handful of faces this shows that it runs, not how well it works)")


@handled
@grouped
def measure(
    input: FacesArgument,
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="measurements: a .parquet or .csv file"),
        WRITTEN_FILE,
    ],
    again: AgainOptions,
    weights: Annotated[
        str,
        typer.Option(metavar="FILE", help="weights of a normalizer, or their shipped name"),
        READ,
    ] = "compact",
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", help="faces per batch")] = 64,
    work: WorkFolder = None,
    set: Settings = None,
) -> None:
    """Measure expression, head pose, gaze and quality.

    One row for each face, nothing is trained. Faces in photographs are
    aligned first, as 'normpipe run' does. If it is stopped or killed, the
    same command continues it.
    """
    from ...stages.classification.listing import faces_folder, holds_dataset
    from ...stages.review import measure as measuring
    from ...stages.review.face_reader import open_face_reader

    start_logging()
    table = ResultTable(output, "measure")
    table.check_path()
    made = holds_dataset(input)
    job = faces_job(input, output, work, set or [], made, select(None, None, "align"))
    table.check_replaceable(again.overwrite)
    chosen = {"batch_size": batch_size, "threads": job.run.threads}
    config = validate_settings(measuring.MeasureConfig, chosen, "measure")
    reader = open_face_reader(weights, device)
    if not made:
        run_until(job, "align", Options(again.overwrite, again.retry_failed))
    data = faces_folder(input if made else job.output, ["original"])
    measured = measuring.measure(config, reader, opened(data), output, again.overwrite)
    typer.echo(measured.summary())
    if not made:
        refuse_unusable(status(job.output), select(None, None, "align"))
    refuse_without_faces(measured.statuses, output)


@handled
def init(
    path: Annotated[Path, typer.Argument(help="where to write it"), WRITTEN_FILE] = Path(
        "job.toml"
    ),
) -> None:
    """Write a job file that states every setting.

    Every setting is there with its default and a comment.
    """
    if path.exists():
        raise InputError(f"{path} exists: choose another name, or remove it first")
    try:
        path.write_text(template({name: CONFIGS[name] for name in FLOW}), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    typer.echo(f"wrote {path}: edit it, then run: normpipe run {path}")


def _classify(job: Job, sinks: list[str], asked: bool, overwrite: bool = False) -> None:
    """Run classify and evaluate as the last stages of a job.

    Args:
        sinks: ``classify``, ``evaluate`` or both. Evaluating only needs a trained model.
        asked: False if they were not requested: unsuitable labels are then reported, and
            are no error.
        overwrite: redo what was made with other settings.
    """
    output = job.output
    if not sinks:
        return
    if is_store(output) and asked:
        raise InputError(f"{output}: classify and evaluate work on folders: copy the job to one")
    if not (output / "labels.parquet").is_file() and not asked:
        return
    if is_store(output):
        typer.echo("classify, evaluate: left out, for they work on folders", err=True)
        return
    from ...stages.classification.classifiers import open_classifier
    from ...stages.classification.protocol_run import run_protocol
    from ...stages.classify import TrainingDataChanged, plan_partitions, settings_match

    config, scoring = settings = job.stage("classify"), job.stage("evaluate")
    if "classify" not in sinks:
        open_classifier(output / "classify")  # says so where there is none
    try:
        planned = plan_partitions(config, opened(output))
    except InputError as error:
        if asked:
            raise
        typer.echo(f"classify: left out: {error}", err=True)
        return
    folder = output / "classify"
    keep_settings(
        output, folder, settings, lambda: overwrite or settings_match(config, planned, folder)
    )
    try:
        outcome = run_protocol(config, scoring, planned, folder, None, overwrite)
    except TrainingDataChanged as error:
        if asked:
            raise
        # New pictures are no reason to replace a trained model without being asked.
        typer.echo(f"classify: left as it was: {error}", err=True)
        return
    report_scores(outcome, folder)
