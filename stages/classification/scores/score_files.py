"""The score file: ``scores.json``, the score with its origin, and all predictions."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from natsort import natsort_keygen
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ....pipeline.errors import InputError
from ....pipeline.store.commit import write_bytes, write_json
from ..tasks import Kind, Task
from .scoring import HEADLINE, Figures, check_predictions

log = logging.getLogger(__name__)
natsort_key: Any = natsort_keygen()

#: Incremented with every incompatible change; readers refuse a newer one. 2: ``reliability``,
#: ``groups`` and more figures, which older files lack.
SCHEMA_VERSION = 2
SCORES, PREDICTIONS = "scores.json", "predictions.parquet"

Parts = dict[Literal["full", "kept"], Figures]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Coverage(_Frozen):
    """How much of the test set the model itself predicted.

    Attributes:
        test_rows: rows of the test set.
        kept: of these, rows that the model predicted.
        without_truth: rows without a known truth, which no figure includes.
        by_reason: counts of the other rows, by the reason for their fallback prediction.
        unknown_classes: rows of classes that the model does not know, which count as wrong.
        trained: rows whose picture also trained the model, as far as that can be checked.
        left_out: inputs of the test part that are not in the test set, by class or
            ``without a label``.
        excluded: inputs of the dataset that normpipe exclude left out; of all its parts together.
    """

    test_rows: int
    kept: int
    without_truth: int = 0
    by_reason: dict[str, int] = {}
    unknown_classes: dict[str, int] = {}
    trained: int = 0
    left_out: dict[str, int] = {}
    excluded: int = 0


class FoldSummary(_Frozen):
    """The headline over folds.

    Attributes:
        pooled: of all folds' rows together.
        mean_of_folds: mean of the folds' figures.
        each: of each fold, by fold.
    """

    pooled: float | None
    mean_of_folds: float | None
    each: dict[int, float | None]


class ReliabilityBins(_Frozen):
    """A reliability diagram: bins of equal width from 0 to 1.

    Attributes:
        counts: predictions in each bin.
        confidence: their mean probability; None in an empty bin.
        observed: the share of them that happened; None in an empty bin.
    """

    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    observed: tuple[float | None, ...]


class GroupScores(_Frozen):
    """The figures of the rows that have one value of a label.

    Attributes:
        rows: of the test set.
        kept: of these, rows that the model predicted.
        people: subjects among them; None if unknown.
        scores: as on the card.
    """

    rows: int
    kept: int
    people: int | None
    scores: Parts


class ScoreCard(_Frozen):
    """One score and its origin.

    Attributes:
        schema_version: of this file.
        kind, names: the task, as ``classification.tasks.Task``.
        train_dataset, test_dataset: names of the datasets.
        split: which rows were tested: ``split test``, ``fold 1 of 3``, ``cross-dataset``.
        fold: the tested fold; None without folds.
        camera: of the test pictures, where a dataset has several.
        seed: of training; None where folds with several seeds were pooled.
        epoch_rule: how the epoch of the tested weights was chosen.
        threshold: an action unit counts as detected above it.
        views: ``original``, ``normalized``, ``original+normalized`` …
        head: ``mixture`` or ``dense``.
        variant: of the normalized dataset; None if only originals are used.
        model_sha256: of the weights; for pooled folds, of the folds' digests.
        data_sha256: of the test data.
        coverage: how much of the test set the model predicted.
        fallback: the prediction for the other rows, in words.
        scores: by name, on the ``full`` test set and on the ``kept`` rows; None if undefined.
        per_label: the same for each class or action unit.
        confusion: truth → prediction → rows of the full set; emotions only.
        reliability: of the full set: of the predicted class, or of each action unit; empty for
            intensities.
        groups: label → value → figures of these rows; empty unless asked for.
        warnings: caveats for readers of the figures.
        folds: the headline over folds, where several were pooled.
        paper_style: figures that were chosen on the test set (best epoch, tuned threshold), as in
            some publications. Never mixed with ``scores``.
        predictions_sha256: of the predictions file; ``write_scores`` sets it.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    names: tuple[str, ...]
    train_dataset: str
    test_dataset: str
    split: str
    fold: int | None = None
    camera: str | None = None
    seed: int | None
    epoch_rule: str = "last"
    threshold: float = 0.5
    views: str
    head: str
    variant: str | None = None
    model_sha256: str
    data_sha256: str
    coverage: Coverage
    fallback: str
    scores: Parts
    per_label: dict[Literal["full", "kept"], dict[str, Figures]]
    confusion: dict[str, dict[str, int]] | None = None
    reliability: dict[str, ReliabilityBins] = {}
    groups: dict[str, dict[str, GroupScores]] = {}
    warnings: tuple[str, ...] = ()
    folds: dict[Literal["full", "kept"], FoldSummary] | None = None
    paper_style: dict[str, float | str | None] | None = None
    predictions_sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, found: Any) -> Any:
        """Restore the order of names, which JSON with sorted keys has lost: AU2 before AU10."""
        if not isinstance(found, dict) or not isinstance(found.get("names"), list | tuple):
            return found
        places = {name: place for place, name in enumerate(found["names"])}

        def ordered(values: Any) -> Any:
            if not isinstance(values, dict):
                return values
            last = len(places)
            known = sorted(values, key=lambda name: (places.get(name, last), natsort_key(name)))
            return {name: ordered(values[name]) for name in known}

        named = ("per_label", "confusion", "reliability", "groups")
        return {**found, **{name: ordered(found[name]) for name in named if name in found}}

    @property
    def task(self) -> Task:
        """Return the task that was scored."""
        return Task(self.kind, self.names)

    @property
    def headline(self) -> str:
        """Return the name of the figure that is reported first."""
        return HEADLINE[self.kind]


@dataclass(frozen=True)
class ScoreFile:
    """A score file: the card, and a prediction for each row of the test set."""

    card: ScoreCard
    predictions: pa.Table


def write_scores(folder: Path, card: ScoreCard, predictions: pa.Table) -> ScoreCard:
    """Write a score file; the card last, so that its presence marks the file as complete.

    Returns:
        The card as it was written, with the digest of the predictions.

    Raises:
        ValueError: the predictions are not of this task, or not as many as the card counts.
    """
    check_predictions(card.task, predictions)
    if predictions.num_rows != card.coverage.test_rows:
        raise ValueError(
            f"{predictions.num_rows} predictions, {card.coverage.test_rows} on the card"
        )
    buffer = io.BytesIO()
    pq.write_table(predictions, buffer, compression="zstd")
    data = buffer.getvalue()
    written = card.model_copy(update={"predictions_sha256": hashlib.sha256(data).hexdigest()})
    write_bytes(folder / PREDICTIONS, data)
    write_json(folder / SCORES, written.model_dump(mode="json"))
    return written


def read_scores(folder: Path) -> ScoreFile:
    """Read a score file.

    Raises:
        InputError: it is missing, of a newer release, damaged, or something else.
    """
    path = folder / SCORES
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"no {SCORES} in {folder}: give a folder of scores") from None
    except ValueError:
        raise InputError(f"{path} is not JSON: make the scores again") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int):
        raise InputError(
            f"{path} is not a score file: give a folder that normpipe wrote scores into"
        )
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema {version}, and this release of normpipe reads up to "
            f"{SCHEMA_VERSION}: upgrade normpipe"
        )
    try:
        card = ScoreCard.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is not a valid score file: '{where}': {first['msg']}; make the scores again"
        ) from None
    if version < SCHEMA_VERSION:
        log.info("%s is of an older release: it lacks calibration, precision and groups", path)
    return ScoreFile(card, _read_predictions(folder / PREDICTIONS, card))


def _read_predictions(path: Path, card: ScoreCard) -> pa.Table:
    try:
        data = path.read_bytes()
    except OSError:
        raise InputError(f"{path} is missing: make the scores again") from None
    if hashlib.sha256(data).hexdigest() != card.predictions_sha256:
        raise InputError(f"{path} does not match {SCORES}: make the scores again")
    try:
        predictions = pq.read_table(io.BytesIO(data))
        check_predictions(card.task, predictions)
    except (pa.ArrowException, ValueError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{path}: {line}; make the scores again") from None
    return predictions
