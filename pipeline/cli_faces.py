"""Aligning real faces for the judge: ingest and align, as ``normpipe run`` does them."""

from collections.abc import Sequence
from pathlib import Path

from ..stages import CONFIGS, build_flow
from .cli import execute, identity, select
from .config import load_job
from .runner import Options


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
    flow = build_flow(job)
    selected = [stage for stage in flow if stage.name in select(None, None, "align")]
    execute(job, flow, selected, Options(overwrite, identity=identity(job, flow)))
    return output
