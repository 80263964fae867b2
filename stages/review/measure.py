"""measure: reads expression, action units, head pose and gaze off aligned faces.

Reads ``aligned``. Writes one table, Parquet or CSV, with a row for each face and for each input
without one, and a card that says what read it, what the columns mean, and how good the readings
are. Nothing is trained: the readings are those of a normalizer's encoder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from tqdm import tqdm

from ... import __version__
from ...manifests.arrays import Floats, Mask, Pixels
from ...manifests.vocabularies import SampleError, status_of
from ...pipeline.errors import InputError, missing_resource
from ...pipeline.read.reading import map_ahead
from ...pipeline.stage import StageConfig
from ...pipeline.store.result_tables import ResultTable
from ..classification.listing import Listing, counted_statuses, input_paths, list_rows, rows_digest
from ..faces.geometry import head_rolls
from ..faces.pixels import Limits, decode
from .face_reader import FAIR, GOOD, FaceReader, FaceReadings

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

_CORNERS = ("x1", "y1", "x2", "y2")
_POINTS = tuple(f"lm{point}_{axis}" for point in range(5) for axis in "xy")
_QUALITY = ("detection_score", "face_size_px", "sharpness", "brightness")
_ANGLES = ("yaw_deg", "pitch_deg", "roll_deg")
#: What a dataset of aligned faces must offer.
_NEEDED = ("image", "bbox_xyxy", "landmarks", "transform", "faces_found", *_QUALITY)


class MeasureConfig(StageConfig):
    """Settings of measurements."""

    batch_size: int = Field(64, ge=1, description="faces shown to the network at once")
    threads: int = Field(1, ge=1, description="threads that decode pictures and, on a CPU, compute")


@dataclass(frozen=True)
class Measured:
    """The written table, how many of its rows have each status, and how good its readings are."""

    output: Path
    statuses: dict[str, int]
    quality: list[str]

    def summary(self) -> str:
        """Return a few lines, the last one with the counts."""
        counts = counted_statuses(self.statuses)
        rows = f"measured: {sum(self.statuses.values())} rows, {counts}: {self.output}"
        return "\n".join([*self.quality, rows])


def measure(
    config: MeasureConfig,
    reader: FaceReader,
    data: ShardDataset,
    output: Path,
    overwrite: bool = False,
) -> Measured:
    """Measure all faces of a dataset, unless that is already done.

    Args:
        reader: of ``open_face_reader``.
        data: aligned faces, opened with ``status="all", decode=False``.
        output: the table, in the format of its suffix; the card is ``<name>.json`` next to it.
        overwrite: replace a file that normpipe measure did not write.

    Raises:
        InputError: no aligned faces, or too little memory for a batch.
        OutputError: the output exists and is something else.
    """
    table = ResultTable(output, "measure")
    table.check_path()
    missing = [name for name in _NEEDED if name not in data.opened.offered]
    if missing:
        raise InputError(
            f"{data.opened.path} holds no aligned faces (no column '{missing[0]}'): give "
            "photographs, or the output of normpipe run"
        )
    listing = list_rows(data, ["original"])
    paths = input_paths(listing)
    about = {
        **reader.weights,
        "normpipe": __version__,
        "device": reader.device.type,
        "data_sha256": rows_digest(listing),
        "batch_size": config.batch_size,
    }
    known = table.finished(about, overwrite)
    if known is not None:
        return Measured(output, known["statuses"], quality_lines(reader))
    statuses = Counter[str]()
    tables = _tables(config, reader, listing, paths, statuses)
    more = {"statuses": statuses, "quality": quality(reader), "columns": meanings(reader)}
    table.write(measured_schema(reader), tables, about, more)
    return Measured(output, statuses, quality_lines(reader))


def measured_schema(reader: FaceReader) -> pa.Schema:
    """Return the columns of a table of measurements.

    Its metadata ``normpipe_measure`` (JSON) names version and weights, and how good they read.
    """
    texts = ("key", "parent_key", "path", "status", "reason")
    numbers = (*_CORNERS, *_POINTS, *_QUALITY, *_read_columns(reader))
    about = {"normpipe": __version__, **reader.weights, "quality": quality(reader)}
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("faces_found", pa.int32()),
            *((name, pa.float32()) for name in numbers),
        ],
        metadata={"normpipe_measure": json.dumps(about, sort_keys=True)},
    )


def meanings(reader: FaceReader) -> dict[str, str]:
    """Return what the columns mean, with units; names that share a meaning are one entry."""
    upright = "in pixels of the upright original"
    return {
        "x1, y1, x2, y2": f"box of the face, left, top, right, bottom, {upright}",
        "lm0_x ... lm4_y": f"eye, eye, tip of the nose, mouth corner, mouth corner, {upright}",
        "detection_score": "0 to 1; empty if the detector has no score",
        "face_size_px": "original pixels that the aligned crop's side spans",
        "sharpness": "variance of the Laplacian of the crop's middle; for crops of one size",
        "brightness": "mean luma of the crop's middle, 0 to 1",
        "yaw_deg": "degrees the head is turned to the person's left",
        "pitch_deg": "degrees the head looks up",
        "roll_deg": "degrees the head leans clockwise as seen; empty without landmarks",
        "gaze_yaw_deg": "degrees the eyes are turned in the head, to the person's left",
        "gaze_pitch_deg": "degrees the eyes are turned in the head, up",
        "AU1 ...": "coefficients of the shapes that perform the action unit, 0 to 1; no FACS "
        "intensity",
        f"{reader.names[0]} ...": "coefficient of a shape of ICT-FaceKit, 0 (rest) to 1 (a scanned "
        "actor's full movement)",
    }


def quality(reader: FaceReader) -> dict[str, Any]:
    """Return how good the readings are, ready for JSON; without what the weights' card lacks."""
    scores = reader.scores.model_dump(mode="json", exclude_none=True)
    return {
        "r2_on_renders": reader.scores.r2(reader.units, reader.names),
        "auc_on_photographs": scores["photographs"],
        "error_on_renders_deg": scores["angles"],
    }


def quality_lines(reader: FaceReader) -> list[str]:
    """Return how good the readings are, in a line or two."""
    known = reader.scores.r2(reader.units, reader.names)
    r2 = {unit: known[unit]["clean"] for unit in reader.units if "clean" in known.get(unit, {})}
    if not r2 and not reader.scores.photographs:
        return ["nothing is known of how good these readings are: the weights have no card"]
    good = [unit for unit, value in r2.items() if value >= GOOD]
    poor = [unit for unit, value in r2.items() if value < FAIR]
    fair = [unit for unit in r2 if unit not in good and unit not in poor]
    parts = (f"good ({GOOD} or more)", good), ("fair", fair), (f"poor (below {FAIR})", poor)
    words = "; ".join(f"{word} {', '.join(units)}" for word, units in parts if units)
    lines = [f"R² on rendered people: {words}"]
    told = [one.words(shapes) for shapes, ones in reader.scores.photographs.items() for one in ones]
    return [*(lines if r2 else []), *([f"AUC on photographs: {', '.join(told)}"] if told else [])]


def _read_columns(reader: FaceReader) -> tuple[str, ...]:
    """Return the columns that the network fills, in the order of ``_Batches._measures``."""
    return (*_ANGLES, *reader.gaze, *reader.units, *reader.names)


def _tables(
    config: MeasureConfig,
    reader: FaceReader,
    listing: Listing,
    paths: pa.Array,
    statuses: Counter[str],
) -> Iterator[pa.Table]:
    """Yield the rows in order, a batch at a time; count their statuses."""
    # Cut by place: a face's neighbours in its batch do not depend on threads.
    size = min(config.batch_size, max(1, len(listing)))
    batches = _Batches(reader, listing, paths, size)
    before = torch.get_num_threads()
    try:
        with (
            # Each computes its batches alone: sums would depend on how many share a batch.
            ThreadPoolExecutor(config.threads, "measure", torch.set_num_threads, (1,)) as pool,
            tqdm(total=len(listing), unit="faces", leave=False, disable=None) as bar,
        ):
            starts = range(0, len(listing), size)
            for table in map_ahead(pool, batches.table, starts, config.threads):
                statuses.update(table["status"].to_pylist())
                yield table
                bar.update(table.num_rows)
    finally:
        torch.set_num_threads(before)


class _Batches:
    """Reads rows of aligned faces and measures them; used by several threads."""

    def __init__(self, reader: FaceReader, listing: Listing, paths: pa.Array, size: int) -> None:
        self._reader = reader
        self._listing = listing
        self._paths = paths
        self._size = size
        self._schema = measured_schema(reader)
        self._dataset = listing.dataset.select(_NEEDED)

    def table(self, start: int) -> pa.Table:
        """Return the rows from ``start`` on. Raises InputError if memory is too small for them."""
        try:
            return self._table(start)
        except (MemoryError, RuntimeError) as error:
            what = missing_resource(error)
            if not what:
                raise
            raise InputError(
                f"{what} to read {self._size} faces at once: give a smaller --batch-size, or fewer "
                "threads (--set run.threads=1)"
            ) from error

    def _table(self, start: int) -> pa.Table:
        stop = min(start + self._size, len(self._listing))
        items = self._dataset.__getitems__(self._listing.items[start:stop].tolist())
        labels = self._listing.labels.slice(start, stop - start)
        status, reason = labels["status"].to_pylist(), labels["reason"].to_pylist()

        def refuse(row: int, why: str) -> None:
            status[row], reason[row] = status_of(why), why

        crops: dict[int, Pixels] = {}
        for row, item in enumerate(items):
            if status[row] == "ok":
                try:
                    crops[row] = decode(item["image"] or b"", Limits())
                except SampleError as error:
                    refuse(row, error.reason)
        values = self._values(items, crops)
        # A roll may be unknown; then it is NaN, too.
        certain = np.delete(values, _ANGLES.index("roll_deg"), 1)
        for row in crops:
            if not np.isfinite(certain[row]).all():
                refuse(row, "not_finite_output")
        ok = np.array([one == "ok" for one in status])
        columns: dict[str, Any] = {
            "key": labels["key"],
            "parent_key": labels["parent_key"],
            "path": self._paths.slice(start, stop - start),
            "status": status,
            "reason": reason,
            "faces_found": [item["faces_found"] for item in items],
        }
        for name in _QUALITY:
            columns[name] = [item[name] for item in items]
        columns |= _coordinates(_CORNERS, [item["bbox_xyxy"] for item in items])
        columns |= _coordinates(_POINTS, [item["landmarks"] for item in items])
        for place, name in enumerate(_read_columns(self._reader)):
            column = values[:, place]
            # An array of NaN and one that is not ok are both empty.
            columns[name] = pa.array(column, pa.float32(), mask=~ok | np.isnan(column))
        return pa.table({name: columns[name] for name in self._schema.names}, self._schema)

    def _values(self, items: list[dict[str, Any]], crops: dict[int, Pixels]) -> Floats:
        """Return (N, C) values, in the order of ``_read_columns``; NaN where there is no crop."""
        values = np.full((len(items), len(_read_columns(self._reader))), np.nan, np.float32)
        # One shape, unless a dataset was aligned at two sizes.
        for shape in dict.fromkeys(crop.shape for crop in crops.values()):
            rows = [row for row, crop in crops.items() if crop.shape == shape]
            # Padded: kernels are chosen by shape, so every batch must have the same one.
            batch = np.zeros((self._size, *shape), np.uint8)
            batch[rows] = [crops[row] for row in rows]
            readings = FaceReadings(*(part[rows] for part in self._reader.read(batch)))
            values[rows] = self._measures([items[row] for row in rows], readings)
        return values

    def _measures(self, items: list[dict[str, Any]], readings: FaceReadings) -> Floats:
        """Return (N, C) values of faces that were read."""
        reader = self._reader
        # Without landmarks, the crop is upright in the original, and nothing says how the head is.
        found: Mask = np.array([bool(item["landmarks"] and item["transform"]) for item in items])
        upright = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        transforms = [item["transform"] or upright for item in items]
        roll = head_rolls(transforms, readings.yaw_deg, readings.pitch_deg)
        columns = [
            readings.yaw_deg[:, None],
            readings.pitch_deg[:, None],
            np.where(found, roll, np.nan)[:, None],
            reader.gaze_deg(readings.coefficients),
            reader.action_units(readings.coefficients),
            readings.coefficients,
        ]
        return np.concatenate(columns, 1).astype(np.float32)


def _coordinates(names: tuple[str, ...], values: list[Any]) -> dict[str, pa.Array]:
    """Return a column of numbers for each name; null in the rows without a value."""
    rows = [None if value is None else np.ravel(value).tolist() for value in values]
    return {
        name: pa.array([None if row is None else row[place] for row in rows], pa.float32())
        for place, name in enumerate(names)
    }
