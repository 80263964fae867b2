"""Carry out a withdrawal whose intent is on disk. Killed at any point, it can be repeated.

``withdrawing.json`` is committed first and removed last. It says, by position, which rows of which
shards become which neutral rows, and contains no key of the person. Every step can be repeated: a
shard that was rewritten already is recognized by its sha256, and one that was cut off in between
(its record is gone) is rewritten from either state.
"""

import base64
import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ...manifests.vocabularies import status_of
from ..errors import InputError
from ..read.exclusions import strike_withdrawn
from ..run.plan import fingerprint, input_digests
from ..store.commit import (
    fsync_folder,
    json_bytes,
    remove_file,
    remove_temporaries,
    write_bytes,
    write_if_changed,
)
from ..store.derive import derive_again
from ..store.labels import LABELS_FILE, labels_digest, read_labels
from ..store.layout import CARD_FILE
from ..store.lock import LOCK_FILE
from ..store.shards import ShardFolder, ShardWriter, write_table
from ..store.storage import is_store, parquet_file
from ..store.tombstones import (
    DECIDED_BY,
    INTENT_FILE,
    WITHDRAWN,
    WITHDRAWN_FILE,
    Withdrawn,
    without,
)
from .job_card import write_job_card

#: Removed by every withdrawal: it shows faces and names.
SHEET_FILE = "contact_sheet.jpg"
#: The same of the pages that ``normpipe report`` writes there, also if it was killed.
REPORT_FOLDER = "report"
_REPORTS = (REPORT_FOLDER, f"{REPORT_FOLDER}.tmp", f"{REPORT_FOLDER}.old.tmp")
#: In such a folder: no folder of the user's has them.
_OF_REPORTS = ("report.json", "pictures", LOCK_FILE)
#: What a neutral row keeps besides the common columns: readers of pairs need the variant.
_KEPT = frozenset({"variant"})


class ShardStep(BaseModel):
    """The change of one shard.

    Attributes:
        sha256: before the change.
        fingerprint: to keep, if the shard was not current; None: computed from its new input.
        rows: position in the shard → neutral key and parent_key. None: only the record changes,
            because the input or the labels do.
        why: the reason for a quarantine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    shard: int
    sha256: str
    fingerprint: str | None
    quarantined: bool
    rows: dict[int, tuple[str, str]]
    why: str = ""


class Intent(BaseModel):
    """A withdrawal that is decided and not finished.

    Attributes:
        after: the new ``withdrawn.json``.
        steps: in the order of the flow: a shard's input comes first.
        relabelled: datasets whose shards contain labels, so that the labels' digest counts.
        derived: datasets whose index and manifest are rewritten.
        files: to remove, because they show or name the person.
        remains: messages to the user about what normpipe leaves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    after: Withdrawn
    steps: tuple[ShardStep, ...]
    relabelled: tuple[str, ...]
    derived: tuple[str, ...]
    files: tuple[str, ...]
    remains: tuple[str, ...]


def read_intent(root: Path) -> Intent | None:
    """Return the withdrawal that was not finished, or None."""
    path = root / INTENT_FILE
    try:
        return Intent.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise InputError(
            f"{path} cannot be read (damaged, or from a newer normpipe): restore it, or remove it "
            "and withdraw again"
        ) from None


def carry_out(root: Path) -> Intent | None:
    """Finish the withdrawal whose intent is in a locked job's folder, if any; return it."""
    intent = read_intent(root)
    if intent is None:
        return None
    remove_temporaries(root)
    write_if_changed(
        root / WITHDRAWN_FILE, json_bytes(intent.after.model_dump(mode="json"), ascii_only=False)
    )
    _strike_labels(root / LABELS_FILE, intent.after)
    strike_withdrawn(root, intent.after)
    for name in intent.relabelled:
        _relabel(root, name)
    for step in intent.steps:
        _carry_out_step(root, step)
    for name in intent.derived:
        derive_again(root, name)
    if (root / CARD_FILE).is_file():
        write_job_card(root)
    for name in {*intent.files, SHEET_FILE}:  # a sheet may have been drawn since
        remove_file(root / name)
        if (root / name).parent.is_dir():
            fsync_folder((root / name).parent)
    _remove_reports(root)
    remove_file(root / INTENT_FILE)
    fsync_folder(root)
    return intent


def _remove_reports(root: Path) -> None:
    """Remove the pages of reports: they show faces and names."""
    for folder in (root / name for name in _REPORTS if not is_store(root)):
        if any((folder / name).exists() for name in _OF_REPORTS):
            shutil.rmtree(folder)


def _strike_labels(path: Path, withdrawn: Withdrawn) -> None:
    if not path.is_file():
        return
    labels = read_labels(path)
    gone = withdrawn.found(labels["key"].to_pylist(), withdrawn.keys)
    if gone:
        write_table(path, without(labels, gone))


def _relabel(root: Path, name: str) -> None:
    """Update the description of a dataset that contains labels to the remaining labels."""
    folder = ShardFolder(root / name)
    made = folder.description() or {}
    made["digests"] = {
        **made.get("digests", {}),
        "labels": labels_digest(read_labels(root / LABELS_FILE)),
    }
    write_if_changed(folder.stage_path, json_bytes(made, ascii_only=False))


def _carry_out_step(root: Path, step: ShardStep) -> None:
    folder = ShardFolder(root / step.dataset)
    if not folder.shard(step.shard).is_file():
        return  # removed since; the next run makes it from the neutral rows
    mark = step.fingerprint
    if mark is None:
        made = folder.description() or {}
        mark = fingerprint(made, input_digests(root, made.get("reads", []), step.shard))
    record = folder.record(step.shard)
    if record is None or (record.sha256 == step.sha256 and step.rows):
        _rewrite(folder, step, mark)
    elif record.fingerprint != mark:
        changed = record.model_copy(update={"fingerprint": mark})
        write_bytes(folder.record_path(step.shard), changed.to_json())


def _rewrite(folder: ShardFolder, step: ShardStep, mark: str) -> None:
    """Rewrite a shard, row group by row group, in the same order."""
    with (
        parquet_file(folder.shard(step.shard)) as file,
        ShardWriter(folder, step.shard, _schema(file)) as writer,
    ):
        start = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).cast(_schema(file))
            writer.add_table(neutral(table, start, step.rows))
            start += table.num_rows
        writer.commit(mark, None, step.why if step.quarantined else None)


def _schema(file: pq.ParquetFile) -> pa.Schema:
    """Return a shard's schema as it was written: Parquet renames the items of lists."""
    text: bytes = file.metadata.metadata[b"ARROW:schema"]
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def neutral(table: pa.Table, start: int, rows: dict[int, tuple[str, str]]) -> pa.Table:
    """Return a table in which some rows only say that someone was withdrawn.

    Args:
        start: position of the table's first row in the shard.
        rows: position in the shard → key and parent_key. All other rows stay unchanged.
    """
    here = range(start, start + table.num_rows)
    if not any(place in rows for place in here):
        return table
    places = pa.array([None if p in rows else p - start for p in here], pa.int64())
    fixed = {"status": status_of(WITHDRAWN), "reason": WITHDRAWN, "decided_by": DECIDED_BY}
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in table.schema:
        column = table[field.name]
        if field.name in ("key", "parent_key"):
            part = 0 if field.name == "key" else 1
            old = column.to_pylist()
            values = [rows[p][part] if p in rows else old[p - start] for p in here]
            column = pa.array(values, field.type)
        elif field.name in fixed:
            old = column.to_pylist()
            values = [fixed[field.name] if p in rows else old[p - start] for p in here]
            column = pa.array(values, field.type)
        elif field.name not in _KEPT:
            column = column.take(places)  # null for a null position
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=table.schema)
