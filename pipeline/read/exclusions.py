"""``excluded.parquet``: rows of a job that are left out where it is read; its shards keep them."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ...manifests.arrays import Mask
from ..errors import InputError
from ..store.commit import remove_file, write_if_changed
from ..store.labels import holds_job, job_folder, labels_digest
from ..store.layout import DatasetFiles
from ..store.storage import parquet_file
from ..store.tombstones import EXCLUDED_FILE, Withdrawn

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

#: ``status`` of an excluded row that would be ok, and its ``decided_by``.
EXCLUDED, DECIDED_BY = "excluded", "exclude"
#: A key, the reason that the user gave, and the day.
SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string()), ("excluded_on", pa.string())])
_DIGEST = b"normpipe_sha256"


def read_exclusions(root: Path) -> pa.Table:
    """Return the excluded keys of a job's folder, as ``SCHEMA``, each once; mostly no rows.

    Raises InputError for a damaged file: its rows would be back, or others gone.
    """
    path = root / EXCLUDED_FILE
    if not path.is_file():
        return SCHEMA.empty_table()
    try:
        with parquet_file(path) as file:
            table = file.read()
        digest = (table.schema.metadata or {}).get(_DIGEST, b"").decode(errors="replace")
        table = table.replace_schema_metadata(None)
        if table.schema.equals(SCHEMA) and labels_digest(table) == digest:
            return table
    except (OSError, pa.ArrowException, ValueError):
        pass
    raise InputError(
        f"{path} is damaged, or from a newer normpipe: restore it; or remove it, which brings its "
        "rows back, and exclude them again"
    )


def write_exclusions(root: Path, table: pa.Table) -> None:
    """Write the excluded keys of a locked job's folder; no file if there are none."""
    path = root / EXCLUDED_FILE
    if not table.num_rows:
        return remove_file(path)
    table = table.select(SCHEMA.names).cast(SCHEMA).sort_by("key").combine_chunks()
    digest = labels_digest(table)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_DIGEST: digest}), sink, compression="ZSTD")
    return write_if_changed(path, sink.getvalue().to_pybytes())


def strike_withdrawn(root: Path, withdrawn: Withdrawn) -> None:
    """Remove the keys of withdrawn people: a reason may say more of them than the key."""
    table = read_exclusions(root)
    gone = withdrawn.found(table["key"].to_pylist(), withdrawn.keys)
    if gone:
        kept = pa.array([key not in gone for key in table["key"].to_pylist()], pa.bool_())
        write_exclusions(root, table.filter(kept))


def exclusions_of(folder: Path) -> pa.Table:
    """Return the excluded keys of the job that a dataset belongs to, as ``SCHEMA``.

    A dataset that was copied without its job does not know them; if some of its rows were
    excluded, a warning says so.
    """
    job = job_folder(folder)
    if holds_job(job):
        return read_exclusions(job)
    try:
        listed = json.loads(DatasetFiles(folder).manifest_path.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        listed = {}
    if EXCLUDED_FILE in listed:
        log.warning(
            "%s: rows were excluded from the job that it was copied from; without that job's "
            "folder they are not known, and are among these rows",
            folder,
        )
    return SCHEMA.empty_table()


def mark_excluded(rows: pa.Table, exclusions: pa.Table) -> pa.Table:
    """Return rows in which those that are ok and excluded have that status, and its reason.

    A key excludes its own row, and the rows that were made from it: a photograph's key those of
    all its faces, a face's key those of all its variants.

    Args:
        rows: with ``key``, ``parent_key``, ``status``, ``reason`` and ``decided_by``, and maybe
            ``_source``, the key without the name of a variant.
        exclusions: as ``read_exclusions`` returns them.
    """
    if not exclusions.num_rows:
        return rows
    keys = exclusions["key"].combine_chunks()
    found = None
    for name in ("key", "_source", "parent_key"):
        if name in rows.column_names:
            place = pc.index_in(rows[name], keys)
            found = place if found is None else pc.coalesce(found, place)
    left_out = pc.and_(pc.is_valid(found), pc.equal(rows["status"], "ok"))
    reasons = exclusions["reason"].combine_chunks().take(pc.fill_null(found, 0).combine_chunks())
    changed = {"status": EXCLUDED, "reason": reasons, "decided_by": DECIDED_BY}
    for name, value in changed.items():
        column = pc.if_else(left_out, value, rows[name])
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def is_excluded(exclusions: pa.Table, rows: pa.Table) -> Mask:
    """Return (N,) which rows are left out, whatever their status.

    Args:
        exclusions: of ``exclusions_of`` the dataset's folder.
        rows: N rows, with ``key``, and mostly ``parent_key``.
    """
    found = np.zeros(rows.num_rows, np.bool_)
    keys = exclusions["key"].combine_chunks()
    for name in ("key", "parent_key") if len(keys) else ():
        if name in rows.column_names:
            found |= np.asarray(pc.is_in(rows[name], value_set=keys), np.bool_)
    return found


def excluded_digest(rows: pa.Table) -> str:
    """Return the sha256 of the keys of excluded rows; empty without any.

    Args:
        rows: with ``key`` and ``status``, as ``mark_excluded`` returns them.
    """
    keys = rows.filter(pc.equal(rows["status"], EXCLUDED))["key"].to_pylist()
    return hashlib.sha256("\n".join(keys).encode()).hexdigest() if keys else ""
