"""``run``: a job from Python, as ``normpipe run`` runs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....stages import CONFIGS, SINKS
from ...care.status import status, status_table
from ...errors import InputError, nearest
from ...run.runner import Options
from ..options import DataOptions
from .execute import is_classified, opened, refuse_unusable, run_stages, select
from .jobs import job_to_run, keep_settings, refuse_unusable_input, say_changes, with_release
from .workers import remote

if TYPE_CHECKING:
    from ...read.dataset import ShardDataset

log = logging.getLogger("normpipe")


@dataclass(frozen=True)
class JobResult:
    """What a job has made. ``print(result)`` shows it as a table.

    Attributes:
        output: the job's folder.
        rows: of each dataset (``aligned`` …) the number of rows that are ``ok``, ``rejected`` and
            ``failed``.
        reasons: of the last dataset, the number of rows by the reason why they are not ok.
        scores: of the classifier on all test faces, by name; of several folds, of all together.
            Empty if none was trained.
        left_out: why classify was left out; empty if it was not, or was not wanted.
    """

    output: Path
    rows: Mapping[str, Mapping[str, int]]
    reasons: Mapping[str, int]
    scores: Mapping[str, Any]
    left_out: str
    _text: str

    def dataset(self, **options: Any) -> ShardDataset:
        """Open the job's dataset; ``options`` as of :func:`normpipe.open_dataset`."""
        # Imported here: torch takes seconds to import.
        from ...read.dataset import open_dataset

        return open_dataset(self.output, **options)

    def __str__(self) -> str:
        """Return the table that ``normpipe run`` prints."""
        return self._text


def run(  # noqa: PLR0913 - the options of normpipe run
    job: str | Path | None = None,
    *,
    input: str | Path | None = None,
    output: str | Path | None = None,
    dataset: str | None = None,
    release: str | Path | None = None,
    stage: str | None = None,
    first: str | None = None,
    until: str | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    **settings: Mapping[str, Any],
) -> JobResult:
    """Run a job as ``normpipe run`` does. What is finished is kept, so the same call resumes it.

    ``normpipe.run(input="photos", output="OUT", until="pair", align={"detector": "none"})``

    In a script that uses workers, call it below ``if __name__ == "__main__":``.

    Args:
        job: a job file (.toml), or the output of a run to continue.
        input: a folder of photographs, a list (.csv, .parquet), an archive, or a video.
        output: the job's folder.
        dataset: the first part of every key; by default the name of ``input``.
        release: a known dataset as it was released, or a description (.toml) of one.
        stage: run only this stage.
        first, until: the first and the last stage to run: ingest, align, normalize, pair, classify,
            evaluate.
        overwrite: redo what was made with other settings or from other input.
        retry_failed: process failed rows again.
        settings: tables of settings by name, such as ``align={"size_px": 160}`` or
            ``run={"workers": 2}``; ``normpipe init`` writes a file that names them all.

    Raises:
        InputError: input or settings that cannot be used.
        OutputError: the folder belongs to another job or was made with other settings, or no row
            can be used.
        Interrupted: it was stopped (Ctrl-C, the kernel's stop button); call it again to continue.
    """
    for name in settings:
        if name not in ("run", *CONFIGS):
            raise InputError(f"unknown table '{name}'{nearest(name, ['run', *CONFIGS])}")
    named = DataOptions(release=None if release is None else str(release))
    ingest = {**settings.get("ingest", {}), **named.release_settings()}
    given = {
        **{name: dict(table) for name, table in settings.items()},
        "input": None if input is None else str(input),
        "output": None if output is None else str(output),
        "dataset": dataset,
        "ingest": ingest,
    }
    made = with_release(job_to_run(None if job is None else str(job), given, []))
    refuse_unusable_input(made)
    names = select(stage, first, until)
    say_changes(made, names)
    run_stages(made, names, Options(overwrite, retry_failed), remote(made), called=True)
    state = status(made.output)
    text = [status_table(state)]
    refuse_unusable(state, names)
    sinks = [name for name in SINKS if name in names]
    asked = any(name in SINKS for name in (stage, first, until))
    notes: list[str] = []
    outcome = None
    if is_classified(made.output, sinks, asked):
        # Imported here: torch takes seconds to import.
        from ....stages.classification.protocol_run import classify_job

        chosen = made.stage("classify"), made.stage("evaluate")
        outcome = classify_job(
            chosen, made.output, sinks, asked, overwrite, opened, keep_settings, notes.append
        )
    for note in notes:
        log.warning("%s", note)
    scores: Mapping[str, Any] = {}
    if outcome is not None and (pooled := outcome.pooled or next(iter(outcome.scores), None)):
        scores = pooled.card.scores["full"]
        text.append(outcome.table())
    last = state["stages"][-1]
    return JobResult(
        output=made.output,
        rows={
            one["dataset"]: {name: one[name] for name in ("ok", "rejected", "failed")}
            for one in state["stages"]
        },
        reasons={
            reason: count for found in last["reasons"].values() for reason, count in found.items()
        },
        scores=scores,
        left_out="; ".join(notes),
        _text="\n".join([*text, *notes]),
    )
