"""Run a source: cut its rows into shards, once; later inputs become new shards."""

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ...manifests.vocabularies import UNKNOWN_WORDS
from ..errors import InputError
from ..read.reading import map_ahead
from ..stage import Scan, SourceStage
from ..store.damage import drop_orphans, remove_all
from ..store.labels import LABELS_FILE, read_labels
from ..store.shards import ShardFolder, ShardWriter, write_table
from ..store.storage import parquet_file
from ..store.tombstones import WITHDRAWN, Withdrawn, exclude_withdrawn, read_withdrawn
from .plan import Retry, fingerprint

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute
# Positions in a scan.
_Places = NDArray[np.integer[Any]]

log = logging.getLogger("normpipe")

#: Rows of a row group in a shard of references.
_GROUP = 1024
#: Shards of known inputs to read ahead while others are compared.
_AHEAD = 2


def run_source(
    stage: SourceStage,
    root: Path,
    description: dict[str, Any],
    overwrite: bool,
    retry: Retry | None = None,
) -> None:
    """Scan, and append new inputs as shards; committed shards keep their numbers.

    Raises InputError if an input was changed since its shard was written (with ``overwrite``,
    rewrites those shards instead). With ``retry``, inputs that failed are read again.
    """
    folder = ShardFolder(root / stage.writes)
    mark = fingerprint(description, [])
    if overwrite and _has_other_settings(folder, mark):
        remove_all(folder)
    _commit_again(stage, folder, mark)
    scan = _without_withdrawn(stage, root, folder)
    for suffix, count in sorted(scan.ignored.items()):
        log.info("%s: %d files ignored (%s)", stage.name, count, suffix)
    records = folder.records()
    rows = scan.rows
    if records:
        if retry is not None:
            _reread_failed(stage, folder, scan, mark, retry)
        rows = _new_rows(stage, folder, scan, list(records), mark, overwrite)
    # A free number below the last one belonged to a shard whose record was lost.
    free = (number for number in itertools.count() if number not in records)
    for i, number in zip(range(0, rows.num_rows, stage.shard_rows), free, strict=False):
        _write(stage, folder, number, rows.slice(i, stage.shard_rows), mark)
    if overwrite:
        drop_orphans(root, folder.records().keys())
    if scan.labels is not None:
        write_table(root / LABELS_FILE, _all_labels(root / LABELS_FILE, scan))
    log.info(
        "%s: %d inputs, %d of them new, in %d shards",
        stage.name,
        scan.rows.num_rows,
        rows.num_rows,
        len(folder.records()),
    )


def _has_other_settings(folder: ShardFolder, mark: str) -> bool:
    """Return whether any record is of other settings, whether or not its shard is there."""
    stored = (folder.stored_record(number) for number in folder.recorded_numbers())
    return any(record is not None and record.fingerprint != mark for record in stored)


def _without_withdrawn(stage: SourceStage, root: Path, folder: ShardFolder) -> Scan:
    """Scan, leaving out withdrawn people, whose files may still be there."""
    scan, withdrawn = stage.scan(), read_withdrawn(root)
    if withdrawn is None:
        return scan
    known = {key for n in folder.records() for key in folder.read(n, ["key"])["key"].to_pylist()}
    scan, out, named = exclude_withdrawn(scan, withdrawn, known)
    if out:
        log.info("%s: %d inputs of withdrawn people are left out", stage.name, len(out))
    if named:
        log.warning(
            "%s: %d inputs are now listed under a withdrawn subject: take them out with "
            "normpipe withdraw %s --subject NAME",
            stage.name,
            len(named),
            root,
        )
    _warn_of_unnamed(stage, scan, withdrawn, known)
    return scan


def _warn_of_unnamed(stage: SourceStage, scan: Scan, withdrawn: Withdrawn, known: set[str]) -> None:
    """Warn of new inputs without a subject if a withdrawn one has a name that means "unknown"."""
    labels = scan.labels
    if labels is None or "subject" not in labels.column_names:
        return
    forms = (str.lower, str.upper, str.title)
    words = withdrawn.found(
        {form(word) for word in UNKNOWN_WORDS for form in forms}, withdrawn.subjects
    )
    unnamed = labels.filter(pc.is_null(labels["subject"]))["key"].to_pylist()
    count = len({*unnamed} - known)
    if words and count:
        log.warning(
            "%s: %d new inputs have no subject, and a withdrawn one is called '%s', which may be "
            "read as unknown: if they show that person, take it out of ingest.unknown_words",
            *(stage.name, count, min(words)),
        )


def _write(stage: SourceStage, folder: ShardFolder, number: int, rows: pa.Table, mark: str) -> None:
    with ShardWriter(folder, number, stage.schema) as writer:
        for i in range(0, rows.num_rows, _GROUP):
            writer.add_table(rows.slice(i, _GROUP).cast(stage.schema))
        writer.commit(mark, None)


def _commit_again(stage: SourceStage, folder: ShardFolder, mark: str) -> None:
    """Commit shards that a kill left without their record: complete files, old or new.

    Their rows would otherwise come back as new inputs, in a shard with another number.
    """
    records = folder.records()
    for number in folder.shard_sizes():
        if number in records:
            continue
        try:
            rows = folder.read(number, stage.schema.names).select(stage.schema.names)
        except (pa.ArrowException, OSError):  # damaged
            continue
        _write(stage, folder, number, rows, mark)


def _reread_failed(
    stage: SourceStage, folder: ShardFolder, scan: Scan, mark: str, retry: Retry
) -> None:
    """Rewrite the rows of inputs that failed, here or in the next dataset, from the new scan."""
    place = {key: i for i, key in enumerate(scan.rows["key"].to_pylist())}
    for number in folder.records():
        failed = retry.failed_inputs(stage.writes, number)
        table = folder.read(number, stage.schema.names).select(stage.schema.names)
        keys = table["key"].to_pylist()
        rows = [i for i, key in enumerate(keys) if key in failed and key in place]
        found = _rows_at(scan.rows, np.array([place[keys[i]] for i in rows], np.int64))
        if not rows or not stage.changed(_rows_at(table, np.array(rows)), found):
            continue
        fresh = {row: found.slice(i, 1) for i, row in enumerate(rows)}
        updated = [fresh.get(i, table.slice(i, 1)) for i in range(len(keys))]
        retry.note_updated(stage.writes, number)
        _write(stage, folder, number, pa.concat_tables(updated), mark)


def _new_rows(
    stage: SourceStage,
    folder: ShardFolder,
    scan: Scan,
    numbers: list[int],
    mark: str,
    overwrite: bool,
) -> pa.Table:
    """Return the scan's rows that are in no shard; handle inputs that changed or are gone."""
    changed: list[str] = []
    gone = 0
    new = np.ones(scan.rows.num_rows, bool)
    for number, table, where in _with_positions(stage, folder, scan, numbers):
        here = where >= 0
        missing = table.filter(pa.array(~here))["reason"]
        gone += sum(reason != WITHDRAWN for reason in missing.to_pylist())
        new[where[here]] = False
        found = _rows_at(scan.rows, where[here])
        differing = stage.changed(table if here.all() else table.filter(pa.array(here)), found)
        if differing and overwrite:
            fresh = {key: i for i, key in enumerate(found["key"].to_pylist())}
            rows = [
                found.slice(fresh[key], 1) if key in fresh else table.slice(i, 1)
                for i, key in enumerate(table["key"].to_pylist())
            ]
            _write(stage, folder, number, pa.concat_tables(rows), mark)
        changed += differing
    if changed and not overwrite:
        raise InputError(
            f"{len(changed)} inputs were changed since they were ingested (first: {changed[0]}): "
            "redo them with --overwrite (only those that failed: --retry-failed), or put the old "
            "files back"
        )
    if gone and scan.complete:
        log.warning(
            "%s: %d ingested inputs are no longer there; their finished rows stay, the others "
            "become failed(missing_file)",
            stage.name,
            gone,
        )
    return scan.rows.filter(pa.array(new)) if new.any() else scan.rows.slice(0, 0)


def _with_positions(
    stage: SourceStage, folder: ShardFolder, scan: Scan, numbers: list[int]
) -> Iterator[tuple[int, pa.Table, _Places]]:
    """Yield each shard's number, its rows, and each row's position in the scan (-1: gone).

    While the shards hold the scan's rows in the same order, keys are only compared. From the first
    difference on they are looked up, all at once, because that needs a table of all keys.
    """
    keys = scan.rows["key"]
    start = 0
    looked_up: _Places | None = None
    read = partial(_read, folder, columns=stage.schema.names)
    with ThreadPoolExecutor(_AHEAD, "known") as pool:
        tables = map_ahead(pool, read, numbers, _AHEAD)
        for i, (number, table) in enumerate(zip(numbers, tables, strict=True)):
            rows = table.num_rows
            if looked_up is None and table["key"].equals(keys.slice(start, rows)):
                yield number, table, np.arange(start, start + rows)
                start += rows
                continue
            if looked_up is None:
                left = [_read(folder, n, ["key"])["key"] for n in numbers[i:]]
                chunks = [chunk for column in left for chunk in column.chunks]
                found = pc.index_in(pa.chunked_array(chunks, pa.string()), value_set=keys)
                looked_up, start = pc.fill_null(found, -1).to_numpy(), 0
            assert looked_up is not None
            yield number, table, looked_up[start : start + rows]
            start += rows


def _read(folder: ShardFolder, number: int, columns: list[str]) -> pa.Table:
    """Return a shard's rows. Not with ``pq.read_table``, which first scans the whole folder."""
    with parquet_file(folder.shard(number)) as file:
        return file.read(columns)


def _rows_at(table: pa.Table, where: _Places) -> pa.Table:
    """Return some rows of a table, without a copy if they are contiguous."""
    if len(where) and where[-1] - where[0] + 1 == len(where) and (np.diff(where) == 1).all():
        return table.slice(int(where[0]), len(where))
    return table.take(pa.array(where, pa.int64()))


def _all_labels(path: Path, scan: Scan) -> pa.Table:
    """Return the scan's labels, followed by those that a limited scan did not cover."""
    labels = scan.labels
    if scan.complete or labels is None or not path.is_file():
        return labels
    old = read_labels(path)
    rest = old.filter(pc.invert(pc.is_in(old["key"], value_set=labels["key"])))
    return pa.concat_tables([labels, rest], promote_options="permissive")
