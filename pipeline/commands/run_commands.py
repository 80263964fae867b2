"""Commands that run a job. Part of the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...stages import CONFIGS, FLOW, SINKS, build_flow
from ..care.status import refuse_quarantined, status
from ..config import Job, load_job, template, validate_settings
from ..errors import InputError, printable
from ..run.runner import Options
from ..store.commit import write_if_changed
from ..store.derive import totals
from ..store.job_file import read_job
from ..store.lock import locked
from ..store.result_tables import ResultTable
from ..store.shards import ShardFolder
from ..store.storage import location
from ..store.tombstones import WITHDRAWN_FILE
from .handling import handled, start_logging
from .options import (
    READ,
    WRITTEN_FILE,
    WRITTEN_FOLDER,
    AgainOptions,
    DataOptions,
    FacesArgument,
    MatchOptions,
    OutputArgument,
    PlaceOptions,
    SettingOptions,
    Settings,
    StageOptions,
    VariantOptions,
    WorkFolder,
    grouped,
)
from .running.execute import (
    execute,
    is_classified,
    opened,
    refuse_unusable,
    refuse_without_faces,
    report_run,
    report_scores,
    run_stages,
    run_until,
    select,
)
from .running.jobs import (
    faces_job,
    job_to_run,
    keep_settings,
    options_to_pair,
    refuse_unusable_input,
    say_changes,
    with_release,
)
from .running.workers import remote

if TYPE_CHECKING:
    from ...stages.importing.import_plan import ImportPlan


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
        "ingest": {
            "limit": settings.limit,
            "every": settings.every,
            "fps": settings.fps,
            "allow_urls": settings.allow_urls or None,
            **data.release_settings(),
        },
        "run": {"max_rejected": settings.max_rejected, **places.settings()},
    }
    job = with_release(job_to_run(job_file, given, settings.set or []))
    refuse_unusable_input(job)
    names = select(stages.stage, stages.first, stages.until)
    sinks = [name for name in SINKS if name in names]
    say_changes(job, names)
    if dry_run:
        from ..care.estimate import estimate, estimate_table

        selected = [one for one in build_flow(job) if one.name in names]
        typer.echo(estimate_table(estimate(job.output, selected, job.run.threads)))
        if sinks:
            typer.echo(
                f"then, if there are labels: {', '.join(sinks)} (--until pair leaves it out)"
            )
        return
    run_stages(job, names, Options(again.overwrite, again.retry_failed), remote(job))
    report_run(job, names)
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
    run_stages(job, FLOW, Options(), remote(job))
    report_run(job)
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


@handled
@grouped
def import_variant(
    output: OutputArgument,
    folder: Annotated[
        Path, typer.Argument(help="folder, .zip or .tar of the normalized pictures"), READ
    ],
    about: VariantOptions,
    match: MatchOptions,
    places: PlaceOptions,
    again: AgainOptions,
    set: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print who has a picture; write nothing")
    ] = False,
) -> None:
    """Take normalized faces that others made.

    They become a variant of a job whose faces are aligned, matched by name,
    by patterns or by a list. If it is stopped or killed, the same command
    continues it.
    """
    from ...stages.importing.import_plan import ImportConfig
    from ...stages.importing.import_variant import ImportVariant, plan_variant
    from .running.workers import import_remote

    start_logging()
    root, table = location(output), ImportVariant.name
    saved = read_job(root)
    if str(folder.resolve()) == saved.get("input_root"):
        raise InputError(f"{folder} holds the job's photographs: give that of the normalized faces")
    given: dict[str, Any] = {
        **match.settings(),
        "variant": about.variant,
        "normalizer": about.normalizer or None,
        "source": about.source or None,
        "size_px": about.size,
        "resize": True if about.size else None,
        "endings": saved.get("ingest", {}).get("extensions"),
    }
    options = {"output": root, "run": places.settings(), table: given}
    job = load_job(None, options, set or [], {table: ImportConfig})
    plan = plan_variant(job.stage(table), root, folder, saved["flow"], again.overwrite)
    for line in plan.lines():
        typer.echo(printable(line))
    if dry_run:
        return
    stage = ImportVariant(plan.config, root, folder, plan)
    remote_import = import_remote(root, folder, plan.config)
    execute(
        job, [stage], [stage], Options(again.overwrite, again.retry_failed), remote=remote_import
    )
    _report_import(root, stage.writes, plan)


def _report_import(root: Path, dataset: str, plan: "ImportPlan") -> None:
    """Write what was left over beside the variant, and say what is next."""
    from ...stages.importing.import_variant import ImportVariant

    made = ShardFolder(root / dataset)
    left = made.metadata_folder / "unmatched.csv"
    # A withdrawn person's pictures have no original any more, and their names may say who it is.
    withdrawn = (root / WITHDRAWN_FILE).is_file()
    with locked(root):
        write_if_changed(left, plan.table(name_pictures=not withdrawn))
    sums = totals(made.records())
    counts = ", ".join(f"{count} {name}" for name, count in sums["statuses"].items())
    typer.echo(f"{made.path}: {counts}; what has no counterpart: {left}")
    odd, size = sums["reasons"].get(f"{ImportVariant.name}:other_size"), plan.config.size_px
    if odd and plan.config.resize:
        typer.echo(f"{odd} pictures are not square")
    elif odd:
        typer.echo(
            f"{odd} pictures are not {size}x{size}: --size {size} --overwrite resizes those that "
            "are square"
        )
    wanted = options_to_pair(root, plan.config.variant, ImportVariant.name)
    typer.echo(f"next: normpipe run {root} --from pair{wanted}")
    refuse_quarantined(status(root))


def _classify(job: Job, sinks: list[str], asked: bool, overwrite: bool = False) -> None:
    """Run the last stages as ``classify_job`` does, and print what comes of it."""
    if not is_classified(job.output, sinks, asked):
        return
    from ...stages.classification.protocol_run import classify_job

    settings = job.stage("classify"), job.stage("evaluate")

    def say(line: str) -> None:
        typer.echo(line, err=True)

    outcome = classify_job(
        settings, job.output, sinks, asked, overwrite, opened, keep_settings, say
    )
    if outcome is not None:
        report_scores(outcome, job.output / "classify")
