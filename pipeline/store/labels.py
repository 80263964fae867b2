"""Where a dataset's labels are, and which rows they belong to."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...manifests.arrays import Float32s
from ...manifests.schema import LABEL_COLUMNS
from ...manifests.vocabularies import EMOTIONS, VOTE_COLUMNS, vote_columns
from ..errors import InputError, missing_resource
from .storage import parquet_file

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Schema metadata that names the label columns of shards that contain their labels.
LABELS_METADATA = "normpipe_label_columns"

#: Name of the label table that ingest writes.
LABELS_FILE = "labels.parquet"

#: File names of the saved job, which marks a job's folder: now, and in release 0.1.0.
JOB_FILE = "job.toml"
OLD_JOB_FILE = "job.json"
#: A line that a saved job has and a job file written by a user does not.
_FLOW = b"[[flow]]"

# Levels above a dataset at which its job's folder can be (``OUT/normalized/compact``: two).
_LEVELS = 3


def holds_job(folder: Path) -> bool:
    """Return whether a folder is a job's. A job file that a user put there does not count."""
    return is_saved_job(folder / JOB_FILE) or (folder / OLD_JOB_FILE).is_file()


def is_saved_job(file: Path) -> bool:
    """Return whether a file is a job that normpipe saved."""
    try:
        lines = file.read_bytes().splitlines() if file.is_file() else []
        return any(line.strip() == _FLOW for line in lines)
    except OSError:
        return False


def job_folder(folder: Path) -> Path:
    """Return the job's folder of a dataset; without a job, the dataset's own folder."""
    above = [folder, *folder.resolve().parents[:_LEVELS]]
    return next((path for path in above if holds_job(path)), folder)


def find_labels(folder: Path) -> Path | None:
    """Return a dataset's ``labels.parquet``: its own, else the nearest up to its job's folder."""
    above = [folder, *folder.resolve().parents[:_LEVELS]]
    job = next((i for i, path in enumerate(above) if holds_job(path)), 0)
    found = (path / LABELS_FILE for path in above[: job + 1])
    return next((path for path in found if path.is_file()), None)


def read_labels(path: Path) -> pa.Table:
    """Read a label table. Raises InputError if the file is not one."""
    try:
        with parquet_file(path) as file:
            labels = file.read()
    except (OSError, pa.ArrowException) as error:
        if missing_resource(error):
            raise
        raise InputError(f"cannot read the labels {path}: {str(error).splitlines()[0]}") from None
    if "key" not in labels.column_names:
        raise InputError(f"the labels {path} have no column 'key'")
    return labels


def labels_digest(labels: pa.Table) -> str:
    """Return the hex sha256 of a label table, for the fingerprint of shards that contain labels."""
    sink = pa.BufferOutputStream()
    table = labels.combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def label_rows(keys: pa.Array, parents: pa.Array, labels: pa.Table) -> pa.Array:
    """Return for each row the position of its labels, int64, null if there are none.

    A row's labels are those of its key, else of its ``parent_key``, else of the image that it came
    from: several faces of an image, and everything made from them, share its labels.
    """
    known = labels["key"].combine_chunks().cast(pa.string())
    found = pc.index_in(keys, known)
    # At most face and frame follow an image's name, once from the list and once from align.
    for _ in range(4):
        if not found.null_count:
            break
        found = pc.coalesce(found, pc.index_in(parents, known))
        parents = pc.replace_substring_regex(parents, r"#[^#]*$", "")
    return found.cast(pa.int64())


def own_label_columns(schema: pa.Schema) -> list[str]:
    """Return a shard's label columns: those its metadata names, else those with a known name."""
    listed = (schema.metadata or {}).get(LABELS_METADATA.encode())
    if listed is not None:
        return [str(name) for name in json.loads(listed)]
    known = {name for name, _ in LABEL_COLUMNS if name != "key"} | {*VOTE_COLUMNS}
    return [name for name in schema.names if name in known]


def vote_shares(labels: pa.Table) -> Float32s:
    """Return what share of the raters chose each emotion, of those who chose any.

    A missing column or cell counts as no vote; votes for "unknown" do not count.

    Args:
        labels: a label table, as ``labels.parquet`` or ``open_dataset(…).table``, N rows.

    Returns:
        (N, 8) float32 in the order of ``EMOTIONS``, each row of sum 1; NaN rows where nobody voted
        for an emotion.
    """
    votes = np.zeros((labels.num_rows, len(EMOTIONS)), np.float64)
    offered = {*vote_columns(labels.column_names)}
    for place, column in enumerate(VOTE_COLUMNS[: len(EMOTIONS)]):
        if column in offered:
            found: Any = labels[column].cast(pa.float64())
            votes[:, place] = np.nan_to_num(found.to_numpy())
    total = votes.sum(1, keepdims=True)
    shares = np.divide(votes, total, out=np.full_like(votes, np.nan), where=total > 0)
    return shares.astype(np.float32)
