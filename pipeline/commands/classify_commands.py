"""Commands that train, test and compare classifiers. Part of the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...stages import CONFIGS, SINKS
from ..care.status import status
from ..config import load_job, validate_settings
from ..run.runner import Options
from ..stage import sha256_file
from ..store.commit import write_json
from ..store.result_tables import ResultTable
from .handling import handled, start_logging
from .options import (
    READ,
    READ_FOLDER,
    WRITTEN_FILE,
    WRITTEN_FOLDER,
    AgainOptions,
    ByLabel,
    DataArgument,
    FaceOptions,
    FacesArgument,
    JobFile,
    Overwrite,
    ProtocolOptions,
    ReadingOptions,
    Settings,
    TestData,
    TestSplit,
    grouped,
)
from .running.execute import (
    opened,
    refuse_unusable,
    refuse_without_faces,
    report_scores,
    run_until,
    select,
)
from .running.jobs import begun_with, faces_job, keep_settings


@handled
@grouped
def classify(
    data: DataArgument,
    protocol: ProtocolOptions,
    job_file: JobFile = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="for model and scores; default: DATA/classify"),
        WRITTEN_FOLDER,
    ] = None,
    by: ByLabel = None,
    set: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a classifier on labelled faces.

    It sees the original and the normalized face, and is scored on faces that
    it was not trained on. If it is stopped or killed, the same command
    continues it.
    """
    from ...stages.classification.protocol_run import run_protocol
    from ...stages.classify import plan_partitions, settings_match

    start_logging()
    test, split = protocol.test, protocol.test_split
    given = {
        "output": output or data / "classify",
        "classify": {
            "task": protocol.task or None,
            "folds": protocol.folds,
            "test_split": None if test else split or None,
            "drop_duplicates": protocol.drop_duplicates or None,
        },
        "evaluate": {"by": by or None},
    }
    saved = _saved(data, job_file, one_split=test is not None)
    job = load_job(job_file, given, set or [], CONFIGS, saved)
    config, scoring = settings = job.stage("classify"), job.stage("evaluate")
    other = (opened(test), split or "") if test else None
    planned = plan_partitions(config, opened(data), other, scoring)
    keep_settings(
        data, job.output, settings, lambda: overwrite or settings_match(config, planned, job.output)
    )
    outcome = run_protocol(config, scoring, planned, job.output, other, overwrite)
    report_scores(outcome, job.output)


@handled
def evaluate(
    model: Annotated[Path, typer.Argument(help="folder that normpipe classify wrote"), READ_FOLDER],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="output of normpipe run, with labels"), READ_FOLDER
    ],
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT", help="score this split; empty: all faces", show_default=False
        ),
    ] = "",
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder for the scores"), WRITTEN_FOLDER
    ] = None,
    by: ByLabel = None,
    set: Settings = None,
) -> None:
    """Score a classifier on another dataset.

    Use a dataset that it was not trained on.
    """
    from ...stages.classification import evaluate as scoring
    from ...stages.classification.classifiers import open_classifier
    from ...stages.classification.protocol_run import ProtocolResult
    from ...stages.classification.scores.score_files import read_scores

    start_logging()
    found = open_classifier(model)
    folder = output or model / f"scores-{data.resolve().name}"
    given = {"output": folder, "evaluate": {"by": by or None}}
    job = load_job(None, given, set or [], CONFIGS, _saved(data))
    listing = scoring.list_for(job.stage("evaluate"), found, opened(data))
    part = scoring.part_elsewhere(job.stage("evaluate"), model, listing, split)
    scoring.evaluate(job.stage("evaluate"), model, listing, part, folder)
    report_scores(ProtocolResult([read_scores(folder)], None, True), folder)


@handled
@grouped
def predict(
    model: Annotated[
        Path, typer.Argument(help="folder or file that normpipe classify wrote"), READ
    ],
    input: FacesArgument,
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="predictions: a .parquet or .csv file"),
        WRITTEN_FILE,
    ],
    faces: FaceOptions,
    reading: ReadingOptions,
    again: AgainOptions,
    set: Settings = None,
) -> None:
    """Classify new photographs or shards.

    Faces in photographs are aligned and normalized first, as 'normpipe run'
    does. If it is stopped or killed, the same command continues it.
    """
    from ...stages.classification import predict as predicting
    from ...stages.classification.classifiers import (
        check_normalizer,
        classifier_file,
        open_classifier,
    )
    from ...stages.classification.listing import faces_folder, holds_dataset
    from ...stages.classification.views import PLANS

    start_logging()
    table = ResultTable(output, "predict")
    table.check_path()
    made = holds_dataset(input)
    stages, defaults = select(None, None, "pair"), {"normalize": {"device": reading.device}}
    job = faces_job(input, output, faces.work, set or [], made, stages, defaults)
    table.check_replaceable(again.overwrite)
    chosen = {
        "variant": faces.variant,
        "any_normalizer": faces.any_normalizer,
        **asdict(reading),
        "threads": job.run.threads,
    }
    config = validate_settings(predicting.PredictConfig, chosen, "predict")
    file = classifier_file(model)
    found = open_classifier(file)
    views = PLANS[found.views].reads

    def accept(weights_sha256: str) -> None:
        if not faces.any_normalizer:
            check_normalizer(found, (weights_sha256,), predicting.ANY_NORMALIZER)

    last = "pair" if "normalized" in views else "align"
    if not made:
        run_until(job, last, Options(again.overwrite, again.retry_failed), accept)
    data = faces_folder(input if made else job.output, views)
    predicted = predicting.predict(
        config, found, sha256_file(file), opened(data), output, again.overwrite
    )
    typer.echo(predicted.summary())
    if not made:
        refuse_unusable(status(job.output), select(None, None, last))
    refuse_without_faces(predicted.statuses, output)


@handled
def ablate(
    data: DataArgument,
    job_file: JobFile = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="for trainings and table; default: DATA/ablate"),
        WRITTEN_FOLDER,
    ] = None,
    test: TestData = None,
    test_split: TestSplit = None,
    set: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Train with and without normalizing, and compare.

    Each is trained with three seeds, unless ablate.seeds says otherwise.
    Trainings are kept: with --test they are scored on another dataset, too.
    """
    from ...stages.classification.ablate import ablate as run_ablation
    from ...stages.classification.settings import AblateConfig

    start_logging()
    known = {**CONFIGS, "ablate": AblateConfig}
    given = {
        "output": output or data / "ablate",
        "classify": {"test_split": None if test else test_split or None},
    }
    saved = _saved(data, job_file, one_split=True)
    job = load_job(job_file, given, set or [], known, saved)
    recipe: Any = job.stage("classify")
    other = (opened(test), test_split or "") if test else None
    config, scoring = job.stage("ablate"), job.stage("evaluate")
    table = run_ablation(config, recipe, opened(data), job.output, overwrite, other, scoring)
    typer.echo(table.text())
    name = job.output / table.name
    typer.echo(f"table: {name}.json, picture: {name}.png")


@handled
def compare(
    scores: Annotated[
        list[Path], typer.Argument(help="folders of scores, the baseline first"), READ_FOLDER
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="write all figures to this file"),
        WRITTEN_FILE,
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=20, metavar="N", help="how often people are drawn")
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="seed of the draws")] = 0,
) -> None:
    """Compare scores, with intervals over people.

    Each is compared with the first.
    """
    # Imported here: torch takes seconds to import.
    from ...stages.classification.scores import compare as comparing

    found = comparing.compare(scores, resamples, seed)
    typer.echo(found.table())
    if json_file is not None:
        write_json(json_file, found.as_json())


def _saved(data: Path, job_file: Path | None = None, one_split: bool = False) -> dict[str, Any]:
    """Return the saved classifier settings of ``data``'s job; none if a job file is given.

    ``one_split``: the command takes no folds, so those of an earlier ``classify`` do not count.
    """
    if job_file:
        return {}
    found = begun_with(data, {name: CONFIGS[name] for name in SINKS})
    if one_split:
        found.get("classify", {}).pop("folds", None)
    return found
