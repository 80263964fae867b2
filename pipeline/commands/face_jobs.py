"""Making faces of photographs for other commands, as ``normpipe run`` makes them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...stages import CONFIGS, build_flow
from ..config import Job, load_job
from ..run.runner import Options
from .app import execute
from .jobs import identity, select


def align_faces(
    images: Path, labels: Path, output: Path, settings: Sequence[str] = (), overwrite: bool = False
) -> Path:
    """Align the faces that a list names; what is done is not done again.

    Args:
        images: the folder that the list's paths count from.
        labels: list (.csv or .parquet). Columns are found under their usual names (``image``,
            ``identity`` or ``subject``, ``emotion``, ``part`` or ``split``; ``source`` and others
            are kept); others are named by ``ingest.path_column=…`` and ``ingest.columns=…``.
        output: the job's folder.
        settings: ``stage.key=value``, as of ``normpipe run --set``: ``align.detector=…``.
        overwrite: redo what was made with other settings.

    Returns:
        ``output``, which ``stages.judging.real.load_real`` reads.

    Raises:
        InputError: files or settings that cannot be used.
    """
    overrides = [f"ingest.root={images}", *settings]
    given = {"input": labels, "output": output, "dataset": "faces"}
    job = load_job(None, given, overrides, CONFIGS)
    run_until(job, "align", Options(overwrite))
    return output


def run_until(
    job: Job, last: str, options: Options, accept: Callable[[str], None] | None = None
) -> None:
    """Run a job's stages up to ``last``; what is done is not done again.

    Args:
        options: all but whose job it is, and its settings.
        accept: is given the sha256 of the normalizer's weights, where one is to run, before
            anything does; what it raises ends the run.
    """
    flow = build_flow(job)
    selected = [stage for stage in flow if stage.name in select(None, None, last)]
    for stage in selected:
        if stage.name == "normalize" and accept is not None:
            stage.open()
            accept(stage.digests()["weights"])
    execute(
        job, flow, selected, replace(options, identity=identity(job, flow), settings=job.stages)
    )
