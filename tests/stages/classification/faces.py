"""Small datasets of labelled pairs, written by the stage that writes real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import ALIGNED, LABEL_COLUMNS, NORMALIZED
from normpipe.pipeline.read import dataset
from normpipe.pipeline.read.dataset import ShardDataset, open_dataset
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter
from normpipe.stages.classification.listing import Listing
from normpipe.stages.faces.pixels import encode
from normpipe.stages.pair import Pair, PairConfig


@dataclass
class Face:
    """One row: its key (``d/a.jpg``, or ``d/a.jpg#1`` of several), labels, and grey pictures."""

    key: str
    labels: dict[str, Any] = field(default_factory=dict)
    status: str = "ok"
    reason: str | None = None
    original: Any = 90
    normalized: Any = 160
    size: float = 100.0
    source: str | None = None


def picture(value: Any, key: str) -> dict[str, Any]:
    """A grey level, or (S, S) pixels, as shards hold pictures."""
    pixels = np.asarray(value, np.uint8)
    if not pixels.ndim:
        pixels = np.full((32, 32), pixels, np.uint8)
    return {"bytes": encode(np.stack([pixels] * 3, -1), "png", 95), "path": key}


def write_faces(
    folder: Path,
    faces: list[Face],
    variants: tuple[str, ...] = ("compact",),
    inside: bool = False,
    origins: bool | None = None,
) -> Path:
    """Write a job's folder: aligned, normalized, pairs, and labels (``inside``: in the pairs)."""
    datasets = [("aligned", "original", ALIGNED)]
    datasets += [(f"normalized/{name}", "normalized", NORMALIZED) for name in variants]
    labels = label_table(faces)
    stage = Pair(PairConfig(variants=variants, materialize=inside, origins=origins), labels)
    inputs = []
    for name, view, schema in datasets:
        rows = [row(face, view, schema) for face in faces]
        inputs.append(write_shard(folder / name, rows, schema))
    wanted = {*stage.columns, "shard", "row_group", "row"}
    read = [table.select([n for n in table.column_names if n in wanted]) for table in inputs]
    tables = stage.join(0, read)
    writer = ShardWriter(ShardFolder(folder / "pairs"), 0, stage.schema)
    for table in tables:
        writer.add_table(table)
    writer.commit("x", None)
    (folder / "job.json").write_text("{}")
    if not inside and labels.num_columns > 1:
        pq.write_table(labels, folder / "labels.parquet")
    return folder


def row(face: Face, view: str, schema: pa.Schema) -> dict[str, Any]:
    good = face.status == "ok"
    found = {
        "key": face.key,
        "parent_key": face.key.partition("#")[0],
        "status": face.status,
        "reason": face.reason,
        "decided_by": "align",
        "image": picture(getattr(face, view), face.key) if good else None,
    }
    more = {
        "face_size_px": face.size,
        "weights_sha256": "w" if good else None,
        "source_sha256": face.source,
    }
    return found | {name: value for name, value in more.items() if name in schema.names}


def write_shard(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    folder = ShardFolder(path)
    writer = ShardWriter(folder, 0, schema)
    writer.add(rows)
    writer.commit("x", None)
    return folder.read(0)


def label_table(faces: list[Face]) -> pa.Table:
    """One row an image, with the columns that a face names."""
    types = dict(LABEL_COLUMNS)
    named = list(dict.fromkeys(name for face in faces for name in face.labels))
    fields = [("key", pa.string()), *((name, types.get(name, pa.float32())) for name in named)]
    images = {face.key.partition("#")[0]: face.labels for face in faces}
    rows = [{"key": key, **labels} for key, labels in images.items()]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def opened(path: Path) -> ShardDataset:
    """A dataset as classifiers read it."""
    return open_dataset(path, status="all", decode=False)


def count_openings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that every dataset opened from now on is noted in."""
    found: list[Path] = []
    real = dataset.open_rows

    def noted(path: Path, *more: Any) -> Any:
        found.append(path)
        return real(path, *more)

    monkeypatch.setattr(dataset, "open_rows", noted)
    return found


def listed(labels: list[dict[str, Any]], statuses: list[str] | None = None) -> Listing:
    """A listing without pictures."""
    faces = [Face(f"d/{n}.jpg", found) for n, found in enumerate(labels)]
    table = label_table(faces)
    table = table.append_column("parent_key", table["key"])
    status = pa.array(statuses or ["ok"] * len(labels), pa.string())
    table = table.append_column("status", status)
    return Listing(Path("d"), None, table, np.arange(len(labels)), ())  # type: ignore[arg-type]
