"""Where the labels of a dataset are, and which of its rows they belong to."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ...manifests.schema import LABEL_COLUMNS
from ..errors import InputError, lack_of
from .storage import parquet_file

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Schema metadata that names the label columns of shards which hold their labels themselves.
LABELS_METADATA = "normpipe_label_columns"

#: Name of the label table that ingest writes.
LABELS_FILE = "labels.parquet"

#: Names of the saved job, which marks a job's folder: now, and in folders of release 0.1.0.
JOB_FILE = "job.toml"
OLD_JOB_FILE = "job.json"
#: The line that a saved job has, and a job file that a user wrote has not.
_FLOW = b"[[flow]]"

# Levels above a dataset at which its job's folder can be (``OUT/normalized/compact``: two).
_LEVELS = 3


def holds_job(folder: Path) -> bool:
    """Say whether a folder is a job's. A job file that a user put there makes it none."""
    return is_saved_job(folder / JOB_FILE) or (folder / OLD_JOB_FILE).is_file()


def is_saved_job(file: Path) -> bool:
    """Say whether a file is a job that normpipe saved."""
    try:
        lines = file.read_bytes().splitlines() if file.is_file() else []
        return any(line.strip() == _FLOW for line in lines)
    except OSError:
        return False


def job_folder(folder: Path) -> Path:
    """Return the folder of the job that a dataset is of; the dataset's own where it is of none."""
    above = [folder, *folder.resolve().parents[:_LEVELS]]
    return next((path for path in above if holds_job(path)), folder)


def find_labels(folder: Path) -> Path | None:
    """Return a dataset's ``labels.parquet``: its own, else the nearest up to its job's folder."""
    above = [folder, *folder.resolve().parents[:_LEVELS]]
    job = next((i for i, path in enumerate(above) if holds_job(path)), 0)
    found = (path / LABELS_FILE for path in above[: job + 1])
    return next((path for path in found if path.is_file()), None)


def read_labels(path: Path) -> pa.Table:
    """Read a label table. Raises InputError where it is none."""
    try:
        with parquet_file(path) as file:
            labels = file.read()
    except (OSError, pa.ArrowException) as error:
        if lack_of(error):
            raise
        raise InputError(f"cannot read the labels {path}: {str(error).splitlines()[0]}") from None
    if "key" not in labels.column_names:
        raise InputError(f"the labels {path} have no column 'key'")
    return labels


def labels_digest(labels: pa.Table) -> str:
    """Return the hex sha256 of a label table: what shards that hold their labels were made with."""
    sink = pa.BufferOutputStream()
    table = labels.combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def label_rows(keys: pa.Array, parents: pa.Array, labels: pa.Table) -> pa.Array:
    """Return for each row the position of its labels, int64, null where there are none.

    A row's labels are those of its key, else of its ``parent_key``, else of the image that it came
    from: several faces of an image, and all that is made of them, share its labels.
    """
    known = labels["key"].combine_chunks().cast(pa.string())
    found = pc.index_in(keys, known)
    # At most face and frame stand behind an image's name, once for the list and once for align.
    for _ in range(4):
        if not found.null_count:
            break
        found = pc.coalesce(found, pc.index_in(parents, known))
        parents = pc.replace_substring_regex(parents, r"#[^#]*$", "")
    return found.cast(pa.int64())


def own_label_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a shard that are labels: those it says, else those known by name."""
    said = (schema.metadata or {}).get(LABELS_METADATA.encode())
    if said is not None:
        return [str(name) for name in json.loads(said)]
    known = {name for name, _ in LABEL_COLUMNS if name != "key"}
    return [name for name in schema.names if name in known]
