"""predict: applies a classifier to unlabelled faces.

Reads pairs, or aligned faces if originals are enough. Writes one table, Parquet or CSV, with a row
for each face and for each input without one, and a card that records model, data and settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from tqdm import tqdm

from ...manifests.arrays import Floats, Mask
from ...pipeline.read.reading import map_ahead
from ...pipeline.stage import StageConfig
from ...pipeline.store.result_tables import ResultTable
from ..networks.devices import resolve_device
from .classifiers import TrainedClassifier, check_normalizer, predict_faces
from .listing import Listing, counted_statuses, input_paths, list_rows, rows_digest
from .scores.scoring import predicted_columns
from .tasks import Task
from .views import PLANS, ViewData, ViewPool, normalizer_weights

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

#: The option that accepts faces of another normalizer.
ANY_NORMALIZER = "--any-normalizer"

# Rows that are decoded together, and how many such chunks wait for the network (of 224 px in
# colour, two views: 80 MB each).
_CHUNK, _AHEAD = 256, 3


class PredictConfig(StageConfig):
    """Settings of predictions."""

    variant: str = Field("", description="which normalized faces; empty: the only ones")
    any_normalizer: bool = Field(
        False, description="accept faces normalized by other weights than the model was trained on"
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="an action unit occurs above this probability"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(64, ge=1, description="faces shown to the network at once")
    threads: int = Field(1, ge=1, description="threads that decode pictures and, on a CPU, compute")


@dataclass(frozen=True)
class Predicted:
    """The written table and how many of its rows have each status."""

    output: Path
    statuses: dict[str, int]

    def summary(self) -> str:
        """Return one line."""
        counts = counted_statuses(self.statuses)
        return f"predictions: {sum(self.statuses.values())} rows, {counts}: {self.output}"


def predict(
    config: PredictConfig,
    model: TrainedClassifier,
    model_sha256: str,
    data: ShardDataset,
    output: Path,
    overwrite: bool = False,
) -> Predicted:
    """Predict all faces of a dataset, unless that is already done.

    Args:
        data: pairs, or aligned faces if the model needs no other views, opened as ``list_rows``
            requires.
        output: the table, in the format of its suffix; the card is ``<name>.json`` next to it.
        overwrite: replace a file that normpipe predict did not write.

    Raises:
        InputError: faces without the model's views, or a device that does not exist.
        OutputError: the output exists and is something else.
    """
    table = ResultTable(output, "predict")
    table.check_path()
    device = str(resolve_device(config.device, "--device"))
    listing = list_rows(data, PLANS[model.views].reads, config.variant)
    weights = normalizer_weights(model.views, listing, model.normalizer)
    if not config.any_normalizer:
        check_normalizer(model, weights, ANY_NORMALIZER)
    paths = input_paths(listing)
    about = {
        "model_sha256": model_sha256,
        "data_sha256": rows_digest(listing),
        "normalized_by": [*(weights or ())],
        "variant": config.variant,
        "views": model.views,
        "task": model.task.kind,
        "names": [*model.task.names],
        "threshold": config.threshold,
    }
    statuses = Counter(listing.column("status"))
    if table.finished(about, overwrite):
        return Predicted(output, statuses)
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # its own threads would compete with ours
    tables = _tables(config, model, listing, paths, device)
    table.write(schema_of(model.task), tables, about, {"statuses": statuses})
    return Predicted(output, statuses)


def schema_of(task: Task) -> pa.Schema:
    """Return the columns of a table of predictions."""
    common = [(name, pa.string()) for name in ("key", "parent_key", "path", "status", "reason")]
    decided: list[tuple[str, pa.DataType]] = []
    if task.kind == "emotion":
        decided = [("emotion", pa.string())]
    elif task.kind == "action_units":
        decided = [(name, pa.int8()) for name in task.names]
    values = [(name, pa.float32()) for name in predicted_columns(task)]
    return pa.schema([*common, *decided, *values])


class _Chunk(NamedTuple):
    """Some rows, their inputs' paths, which are usable, and the views of those."""

    faces: Listing
    paths: pa.Array
    usable: Mask
    data: ViewData | None


def _tables(
    config: PredictConfig, model: TrainedClassifier, listing: Listing, paths: pa.Array, device: str
) -> Iterator[pa.Table]:
    """Yield predictions in the order of the rows, holding a few chunks of pictures at a time."""

    def read(start: int) -> _Chunk:
        faces = listing.take(np.arange(start, min(start + _CHUNK, len(listing))))
        usable = faces.usable
        rows = np.flatnonzero(usable)
        data = None
        if len(rows):
            pool = ViewPool(faces, rows, np.inf, 1)
            data = ViewData(pool, rows, model.views, model.network, model.normalizer)
        return _Chunk(faces, paths.slice(start, len(faces)), usable, data)

    labels = len(model.task.names)
    with (
        ThreadPoolExecutor(config.threads, "predict") as pool,
        tqdm(total=len(listing), unit="rows", leave=False, disable=None) as bar,
    ):
        for chunk in map_ahead(pool, read, range(0, len(listing), _CHUNK), _AHEAD):
            values = np.zeros((len(chunk.faces), labels), np.float32)
            if chunk.data is not None:
                predictions = predict_faces(model, chunk.data, device, config.batch_size)
                values[chunk.usable] = predictions.values
            yield _table(model.task, chunk, values, config.threshold)
            bar.update(len(chunk.faces))


def _table(task: Task, chunk: _Chunk, values: Floats, threshold: float) -> pa.Table:
    """Return a chunk's rows; (N, L) values are null in unusable rows."""
    labels, mask = chunk.faces.labels, ~chunk.usable
    columns: dict[str, Any] = {
        name: labels[name] for name in ("key", "parent_key", "status", "reason")
    }
    columns["path"] = chunk.paths
    if task.kind == "emotion":
        names = np.asarray(task.names, object)[values.argmax(1)]
        columns["emotion"] = pa.array(names, pa.string(), mask=mask)
    elif task.kind == "action_units":
        for place, name in enumerate(task.names):
            occurs = (values[:, place] > threshold).astype(np.int8)
            columns[name] = pa.array(occurs, pa.int8(), mask=mask)
    for place, name in enumerate(predicted_columns(task)):
        columns[name] = pa.array(values[:, place], pa.float32(), mask=mask)
    schema = schema_of(task)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
