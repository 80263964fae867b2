"""The command line. The only place that knows both the engine and the stages."""

import functools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from tqdm.contrib.logging import logging_redirect_tqdm

from ...stages import CONFIGS, FLOW, SINKS, build_flow
from ..care import status as status_module
from ..config import Job, load_job, template
from ..errors import InputError, Interrupted, NormpipeError
from ..run.places import Remote
from ..run.runner import Options, Runner
from ..run.stopping import ending_in_time, leave, terminable
from ..stage import Stage
from ..store.shards import ShardFolder
from ..store.storage import lies_in, location, refuse_address, said_by_store
from .jobs import identity, job_to_run, place, say_changes, select

log = logging.getLogger("normpipe")
app = typer.Typer(
    help="Turn any face dataset into an identity-normalized one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Command = TypeVar("Command", bound=Callable[..., Any])

#: Exit statuses: 0 done, 1 verify found differences, 2 the user must act, 3 run it again.
DIFFERENCES, USER, AGAIN = 1, 2, 3
#: Between looks at the clock while stages run.
_GLANCE_SECONDS = 0.1


def handled(command: Command) -> Command:
    """Give errors that a user can mend as one line, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            for value in kwargs.values():
                for path in value if isinstance(value, list) else [value]:
                    if isinstance(path, Path):
                        refuse_address(path)
            with terminable():
                return command(*args, **kwargs)
        except (Interrupted, KeyboardInterrupt) as error:
            why = str(error) or "stopped"
            typer.echo(
                f"normpipe: {why}; what is finished is kept. Run the same command to go on.",
                err=True,
            )
            raise typer.Exit(AGAIN) from None
        except NormpipeError as error:
            typer.echo(f"normpipe: {error}", err=True)
            raise typer.Exit(USER) from None
        except Exception as error:  # a store's client raises errors of its own
            line = said_by_store(error)
            if line is None:
                raise
            typer.echo(f"normpipe: {line}", err=True)
            raise typer.Exit(USER) from None

    return wrapper  # type: ignore[return-value]


OutputArgument = Annotated[
    str, typer.Argument(help="output of a run: a folder, or an address such as s3://bucket/out")
]


@app.command()
@handled
def run(
    job_file: Annotated[
        str | None, typer.Argument(help="job file (.toml), or the output of a run to go on with")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(help="images: a folder, s3://bucket/in, .zip/.tar, or .csv/.parquet list"),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="output folder, or an address such as s3://bucket/out")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="first part of every key")] = None,
    stage: Annotated[str | None, typer.Option(help="run this stage alone")] = None,
    first: Annotated[str | None, typer.Option("--from", help="first stage to run")] = None,
    until: Annotated[str | None, typer.Option(help="last stage to run")] = None,
    set: Annotated[list[str] | None, typer.Option(help="stage.key=value, repeatable")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="take the first N inputs")] = None,
    max_rejected: Annotated[
        float | None, typer.Option(help="stop when this share is rejected or failed")
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="fetch the http(s) addresses of a list")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan; write nothing")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="redo what was made otherwise")] = False,
    retry_failed: Annotated[bool, typer.Option(help="try failed rows again")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="warnings and errors only")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes of this machine that share the work")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs of this machine, one worker for each: 0,1")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="a running Dask cluster: tcp://host:8786")
    ] = None,
) -> None:
    """Run the job: ingest, align, normalize, pair; with labels, classify and evaluate.

    Killed, the same command goes on.
    """
    start_logging(quiet)
    overrides = list(set or [])
    if limit is not None:
        overrides.append(f"ingest.limit={limit}")
    if allow_urls:
        overrides.append("ingest.allow_urls=true")
    if max_rejected is not None:
        overrides.append(f"run.max_rejected={max_rejected}")
    overrides += place(workers, gpus, scheduler)
    given = {"input": input, "output": output, "dataset": dataset}
    job = job_to_run(job_file, given, overrides)
    if job.input is None:
        raise InputError("no input: give --input PHOTOS, or input = '…' in the job file")
    if lies_in(job.output, job.input):
        raise InputError(
            f"{job.output} lies inside the input folder, where its pictures would become inputs: "
            "choose an --output beside it"
        )
    flow = build_flow(job)
    names = select(stage, first, until)
    selected = [one for one in flow if one.name in names]
    sinks = [name for name in SINKS if name in names]
    say_changes(job, names)
    if dry_run:
        from ..care import estimate

        typer.echo(estimate.table(estimate.estimate(job.output, selected, job.run.threads)))
        if sinks:
            typer.echo(
                f"then, if there are labels: {', '.join(sinks)} (--until pair leaves it out)"
            )
        return
    if selected:
        from .workers import remote

        options = Options(overwrite, retry_failed, identity(job, flow), job.stages)
        execute(job, flow, selected, options, remote=remote(job))
    finish(job)
    asked = any(name in SINKS for name in (stage, first, until))
    classify_sinks(job, sinks, asked, overwrite)


def classify_sinks(job: Job, sinks: list[str], asked: bool, overwrite: bool = False) -> None:
    """Run the stages that need labels, if there are any or they were asked for."""
    from .classify_commands import classify_job

    settings = job.stage("classify"), job.stage("evaluate")
    classify_job(job.output, sinks, settings, asked, overwrite)


def execute(
    job: Job,
    flow: Sequence[Stage],
    selected: Sequence[Stage],
    options: Options,
    deadline: Callable[[], bool] | None = None,
    remote: Remote | None = None,
) -> None:
    """Run stages with signals handled: the first ends them in the grace time, a second at once.

    ``deadline`` says when to stop, dropping what is in hand; ``remote``, how workers build the
    stages. Raises Interrupted where stopped.
    """
    if job.run.distributed and remote is None:
        raise InputError(
            "run.workers, run.gpus and run.scheduler are for normpipe run: leave them out here"
        )
    runner = Runner(
        job.output, flow, job.run, options, remote=remote if job.run.distributed else None
    )
    through = threading.Event()
    if deadline is not None:
        threading.Thread(target=_stop_at, args=(deadline, runner, through), daemon=True).start()
    try:
        with ending_in_time(runner, job.run.grace_seconds, AGAIN), logging_redirect_tqdm([log]):
            runner.run(selected)
    finally:
        through.set()


def _stop_at(deadline: Callable[[], bool], runner: Runner, through: threading.Event) -> None:
    while not through.wait(_GLANCE_SECONDS):
        if deadline():
            return runner.stop()
    return None


def finish(job: Job) -> None:
    """Print where things are and what became of every input."""
    state = status_module.status(job.output)
    typer.echo(status_module.table(state))
    normalized = job.output / f"normalized/{job.stage('normalize').variant_name}"
    if ShardFolder(normalized).manifest_path.is_file():
        typer.echo(f"normalized dataset: {normalized}")
    status_module.refuse_quarantined(state)


@app.command()
@handled
def status(
    output: OutputArgument,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what is done, left, rejected and failed, by stage and reason."""
    state = status_module.status(location(output))
    typer.echo(json.dumps(state, indent=2) if as_json else status_module.table(state))


@app.command()
@handled
def verify(
    output: OutputArgument,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Recount rows and rehash shards; exit 1 where anything differs from the records."""
    from ..care.verify import verify as check

    report = check(location(output), os.cpu_count() or 1)
    if as_json:
        typer.echo(json.dumps(vars(report), indent=2))
    else:
        for line in report.differences:
            typer.echo(line)
        typer.echo(
            f"{report.shards} shards, {report.rows} rows, {report.bytes:,} bytes: "
            + (
                f"{len(report.differences)} differences"
                if report.differences
                else "all as recorded"
            )
        )
    if report.differences:
        raise typer.Exit(DIFFERENCES)


@app.command()
@handled
def init(
    path: Annotated[Path, typer.Argument(help="where to write it")] = Path("job.toml"),
) -> None:
    """Write a commented job file that states every setting with its default."""
    if path.exists():
        raise InputError(f"{path} exists: choose another name, or remove it first")
    try:
        path.write_text(template({name: CONFIGS[name] for name in FLOW}), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    typer.echo(f"wrote {path}: edit it, then run: normpipe run {path}")


@app.command()
@handled
def sheet(
    output: OutputArgument,
    rows: Annotated[int, typer.Option(min=1, help="faces on the sheet")] = 16,
    variant: Annotated[str | None, typer.Option(help="normalized variant")] = None,
) -> None:
    """Draw a contact sheet: original | aligned | normalized."""
    from ...stages.review.sheet import draw_sheet

    typer.echo(f"contact sheet: {draw_sheet(location(output), rows, variant)}")


@app.command()
@handled
def demo(
    output: Annotated[Path, typer.Option(help="folder for the demo")] = Path("demo-out"),
) -> None:
    """Run the whole job on the sample set inside the package: no downloads, no settings."""
    from ...stages.review.sheet import draw_sheet
    from ...stages.sources.sample_faces import sample_list

    start_logging(False)
    photographs = sample_list(output / "photographs")
    job = load_job(
        None,
        {"input": photographs, "output": output / "job", "dataset": "samples"},
        # A short training: it learns two dozen faces by heart in no time.
        [
            "ingest.au_columns=intensity",
            "classify.least_steps=80",
            "classify.epochs=1",
            "classify.batch_size=16",
            "classify.workers=0",
        ],
        CONFIGS,
    )
    flow = build_flow(job)
    execute(job, flow, flow, Options(identity=identity(job, flow), settings=job.stages))
    finish(job)
    typer.echo(f"contact sheet: {draw_sheet(job.output, 16, None)}")
    classify_sinks(job, list(SINKS), asked=True)
    typer.echo("(a handful of faces: this shows that it runs, not how well)")


def start_logging(quiet: bool) -> None:
    """Log plain lines to stderr."""
    # Made anew, for stderr may be another than at the last call (in tests, in notebooks).
    log.handlers[:] = [logging.StreamHandler(sys.stderr)]
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def register_commands() -> None:
    """Add the commands of all modules to the command line."""
    from . import care_commands as cli_living
    from . import classify_commands as cli_classifying
    from . import judge_commands as cli_judging
    from . import look_commands as cli_machine
    from . import network_commands as cli_networks
    from . import train_commands as cli_training

    cli_training.register()
    cli_networks.register()
    cli_judging.register()
    cli_classifying.register()
    cli_machine.register()
    cli_living.register()


def main() -> None:
    """Run the command line and end the process."""
    register_commands()
    try:
        app(prog_name="normpipe")
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
