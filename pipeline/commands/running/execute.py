"""Runs the stages of a job and reports the result.

Part of the command line.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ....manifests.vocabularies import REASONS
from ....stages import CONFIGS, FLOW, build_flow
from ...care import status as status_module
from ...care.job_card import write_job_card
from ...config import Job, load_job
from ...errors import InputError, OutputError, nearest
from ...run.places import Remote
from ...run.runner import Options, Runner
from ...run.stopping import stop_in_time, stop_when_interrupted
from ...stage import Stage
from ...store.labels import LABELS_FILE
from ...store.shards import ShardFolder
from ...store.tombstones import WITHDRAWN
from ..handling import AGAIN, stopped_in_time

if TYPE_CHECKING:
    from ....stages.classification.protocol_run import ProtocolResult
    from ...read.dataset import ShardDataset

#: What to do about a run in which most inputs have a reason and none is ok.
_ADVICE = {
    "no_face": "Faces that are cut out already: --overwrite --set align.detector=none. Else an "
    "insightface pack finds more: 'normpipe models' says how to get one",
    "low_score": "Run again with --overwrite and a lower --set align.threshold",
    "face_too_small": "Run again with --overwrite and a lower --set align.min_face_px",
    "not_an_image": "Convert the files to JPEG or PNG, and run again with --retry-failed",
    "heic_not_installed": "Install it, and run again with --retry-failed",
    "unknown_range": "Run again with --overwrite --set align.white=4095 (12 bits stored in 16), "
    "65535 (dark pictures of 16 bits) or 1 (floating point)",
    "unknown_colours": "Convert the files to RGB, and run again with --retry-failed",
    "url_not_allowed": "Run again with --allow-urls --retry-failed",
    **dict.fromkeys(
        ("missing_file", "unreadable", "truncated", "empty_file", "url_failed"),
        "Put the files right, and run again with --retry-failed",
    ),
    "changed_since_ingest": "Run again with --retry-failed",
    **dict.fromkeys(
        ("black_output", "saturated_output", "flat_output", "not_finite_output"),
        "The weights are to blame: run again with --overwrite and other normalize.weights",
    ),
}
#: Seconds between checks of the deadline while stages run.
_GLANCE_SECONDS = 0.1


def identity(job: Job, flow: list[Stage]) -> dict[str, str]:
    """Return what identifies the job that an output folder belongs to."""
    root, source = getattr(flow[0], "root", ""), job.input
    if source is not None and source.is_symlink() and not source.is_dir():
        # For a link to a list, its folder and file type are the link's own.
        source = source.parent.resolve() / source.name
    elif source is not None:
        source = source.resolve()
    return {
        "dataset": job.dataset,
        "input": str(source or ""),
        "input_root": str(root),
    }


def select(only: str | None, first: str | None, until: str | None) -> list[str]:
    """Return the names of the stages to run. Raises InputError for unknown or conflicting names."""
    names = list(FLOW)
    if only is not None and (first is not None or until is not None):
        raise InputError("--stage cannot be combined with --from or --until")
    for name in (only, first, until):
        if name is not None and name not in names:
            raise InputError(f"unknown stage '{name}'{nearest(name, names)}")
    start = names.index(only or first or names[0])
    end = names.index(only or until or names[-1])
    if end < start:
        raise InputError(
            f"--until {until} comes before --from {first}: the order is {', '.join(names)}"
        )
    return names[start : end + 1]


def execute(
    job: Job,
    flow: Sequence[Stage],
    selected: Sequence[Stage],
    options: Options,
    deadline: Callable[[], bool] | None = None,
    remote: Remote | None = None,
    called: bool = False,
) -> None:
    """Run stages, handling signals: the first stops within the grace time, the second at once.

    Args:
        deadline: returns True when to stop, dropping shards in flight.
        remote: how workers build the stages.
        called: from Python, so that a signal must not end the process.

    Raises:
        Interrupted: it was stopped.
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
        stopping = stop_in_time(runner, job.run.grace_seconds, AGAIN)
        with stop_when_interrupted(runner) if called else stopping:
            runner.run(selected)
    finally:
        through.set()
    write_job_card(job.output)


def _stop_at(deadline: Callable[[], bool], runner: Runner, through: threading.Event) -> None:
    while not through.wait(_GLANCE_SECONDS):
        if deadline():
            return runner.stop()
    return None


def align_faces(
    images: Path, labels: Path, output: Path, align: Mapping[str, Any] | None = None
) -> Path:
    """Align the faces of a list; finished shards are kept.

    Args:
        images: the folder that the list's paths count from.
        labels: list (.csv or .parquet). Columns are found under their usual names: ``image``,
            ``identity`` or ``subject``, ``emotion``, ``part`` or ``split``; ``source`` and others
            are kept.
        output: the job's folder.
        align: settings of that stage.

    Returns:
        ``output``, which ``stages.judging.labelled_faces.load_real`` reads.

    Raises:
        InputError: files or settings that cannot be used.
    """
    given = {
        "input": labels,
        "output": output,
        "dataset": "faces",
        "ingest": {"root": images},
        "align": align or {},
    }
    run_until(load_job(None, given, [], CONFIGS), "align", Options())
    return output


def run_until(
    job: Job, last: str, options: Options, accept: Callable[[str], None] | None = None
) -> None:
    """Run a job's stages up to ``last``; finished shards are kept.

    Args:
        options: without the job's identity and settings, which are added.
        accept: is given the sha256 of the normalizer's weights, where one is to run, before
            anything does; what it raises ends the run.
    """
    flow = build_flow(job)
    selected = [stage for stage in flow if stage.name in select(None, None, last)]
    for stage in selected:
        if stage.name == "normalize" and accept is not None:
            stage.open()
            accept(stage.digests()["weights"])
    execute(job, flow, selected, _for_job(options, job, flow))


def _for_job(options: Options, job: Job, flow: list[Stage]) -> Options:
    """Return options with the job's identity and settings."""
    return replace(options, identity=identity(job, flow), settings=job.stages)


def opened(data: Path) -> "ShardDataset":
    """Open all rows of a dataset, with encoded pictures, as classifiers read it."""
    # Imported here: torch takes seconds to import.
    from ...read.dataset import open_dataset

    return open_dataset(data, status="all", decode=False)


def report_run(job: Job, stages: Sequence[str] = FLOW) -> None:
    """Print where the results are and the status of every input; ``stages``: those that ran.

    Raises OutputError as ``refuse_unusable``.
    """
    from ....stages.review.advice import face_advice

    state = status_module.status(job.output)
    typer.echo(status_module.status_table(state))
    for line in face_advice(job.output, job.stage("align")):
        typer.echo(f"advice: {line}")
    normalized = job.output / f"normalized/{job.stage('normalize').variant_name}"
    if ShardFolder(normalized).manifest_path.is_file():
        typer.echo(f"normalized dataset: {normalized}")
    refuse_unusable(state, stages)


def refuse_unusable(state: Mapping[str, Any], stages: Sequence[str]) -> None:
    """Raise if shards were quarantined, or if no row of a stage that ran is ok.

    Args:
        state: of the job, as ``status`` returns it.
        stages: names of those that ran.

    Raises:
        OutputError: names the most frequent reason, and says what to do.
    """
    status_module.refuse_quarantined(dict(state))
    usable = {stage["stage"] for stage in state["stages"] if stage["ok"]}
    for stage in state["stages"]:
        counts = Counter[str]()
        for reasons in stage["reasons"].values():
            counts.update(reasons)
        counts.pop(WITHDRAWN, None)
        if not counts or stage["stage"] in usable or stage["stage"] not in stages:
            continue
        reason, count = counts.most_common(1)[0]
        meaning = REASONS[reason][1] if reason in REASONS else "of a newer release"
        advice = _ADVICE.get(reason, f"'normpipe status {state['output']}' counts the reasons")
        raise OutputError(
            f"{stage['stage']}: none of {counts.total()} rows is ok; {count} have {reason} "
            f"({meaning}). {advice}"
        )


def refuse_without_faces(statuses: Mapping[str, int], table: Path) -> None:
    """Raise OutputError if no row of a written table is ok; ``statuses``: its rows by status."""
    if not statuses.get("ok"):
        raise OutputError(
            f"{table}: none of {sum(statuses.values())} rows has a face that can be used; the "
            "column 'reason' says why"
        )


def report_scores(outcome: "ProtocolResult", output: Path) -> None:
    """Print the scores and their folder; exit with 3 if training is not finished."""
    if outcome.scores:
        typer.echo(outcome.table())
        typer.echo(f"scores, with a page each: {output}")
    if not outcome.finished:
        stopped_in_time(output)


def run_stages(
    job: Job, names: Sequence[str], options: Options, remote: Remote, called: bool = False
) -> None:
    """Run those of a job's stages that make datasets, here or with the workers of its settings.

    Args:
        names: of the stages to run; classify and evaluate among them are left to ``classify_job``.
        options: without the job's identity and settings, which are added.
        remote: how workers build the stages.
        called: as of ``execute``.
    """
    flow = build_flow(job)
    selected = [stage for stage in flow if stage.name in names]
    if selected:
        options = _for_job(options, job, flow)
        execute(job, flow, selected, options, remote=remote, called=called)


def is_classified(output: Path, sinks: Sequence[str], asked: bool) -> bool:
    """Return whether a run ends with a classifier: there are labels, or it was asked for.

    Before torch is imported, and what draws curves, which opens a socket.

    Args:
        output: the job's folder.
        sinks: which of classify and evaluate are to run.
        asked: whether one of them was named.
    """
    return bool(sinks) and (asked or (output / LABELS_FILE).is_file())
