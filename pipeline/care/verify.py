"""Recounts rows and rehashes shards: does the folder hold what its records say?"""

import errno
import hashlib
import json
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..stage import sha256_file
from ..store.commit import TEMPORARY
from ..store.derive import manifest_of, to_json
from ..store.job_file import read_job
from ..store.labels import LABELS_FILE
from ..store.layout import CARD_FILE, INDEX_FILE, RECORDS
from ..store.shards import ShardFolder, ShardRecord, shard_name
from ..store.storage import folders, is_store, parquet_file, sizes
from ..store.tombstones import (
    DECIDED_BY,
    INTENT_FILE,
    WITHDRAWN,
    WITHDRAWN_FILE,
    Withdrawn,
    read_withdrawn,
)
from .withdraw import datasets

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Of madvise: fetch these pages now, and say where that fails.
_POPULATE_READ = 22
#: A multiple of every system's pages.
_STRETCH = 4 << 20


@dataclass
class Report:
    """What ``verify`` found."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=lambda: list[str]())


def verify(root: Path, threads: int = 2) -> Report:
    """Check every dataset of a job's folder against its records, and each against its input.

    Raises InputError where the folder holds no job.
    """
    read_job(root)
    report = Report()
    made = datasets(root)
    folders = {name: ShardFolder(root / name) for name in made}
    records = {name: folder.records() for name, folder in folders.items()}
    withdrawn = read_withdrawn(root)
    report.differences += _withdrawals(root, records.values(), withdrawn)
    damaged: dict[str, set[int]] = {}
    with ThreadPoolExecutor(threads) as pool:
        # Inputs first: with a damaged shard none is compared, so that one damage is one difference.
        for name, folder in folders.items():
            own, reads = records[name], made[name].get("reads") or []
            report.differences += [f"{name}: {line}" for line in _strays(folder, own)]
            source = None
            if reads:
                there = ShardFolder(root / reads[0])
                read = records.get(reads[0], {})
                source = _Source(there, set(read), damaged.get(reads[0], set()), len(reads) == 1)
            check = partial(_check, folder, source, withdrawn)
            damaged[name] = set()
            for record, found in zip(own.values(), pool.map(check, own.values()), strict=True):
                report.shards += 1
                report.rows += record.rows
                report.bytes += record.bytes
                report.differences += [f"{name}/{record.file}: {line}" for line in found]
                if found:
                    damaged[name].add(record.shard)
            if not _cleaned(folder):
                report.differences += [f"{name}: {line}" for line in _derived(root, folder, own)]
    return report


@dataclass(frozen=True)
class _Source:
    """The first dataset that a dataset reads; ``closed`` where it may name no other samples."""

    folder: ShardFolder
    shards: set[int]
    damaged: set[int]
    closed: bool

    def compare(self, number: int, parents: pa.Array) -> list[str]:
        """Return whether every input key of the shard's source is there, and none besides."""
        if number not in self.shards:
            gone = f"its input {self.folder.path.name} is gone"
            return [] if _cleaned(self.folder) else [gone]
        if number in self.damaged:
            return []
        with parquet_file(self.folder.shard(number)) as file:
            inputs = file.read(["parent_key"])["parent_key"].unique()
        if inputs.equals(parents):
            return []
        lost, added = _absent(inputs, parents), _absent(parents, inputs)
        lines = [f"{lost} input keys have no row"] if lost else []
        # A join may name samples that only its second input has; a map may not.
        if added and self.closed:
            lines.append(f"{added} rows stand for no input")
        return lines


def _absent(keys: pa.Array, others: pa.Array) -> int:
    """Return how many keys are not among others."""
    return len(keys) - (pc.sum(pc.is_in(keys, value_set=others)).as_py() or 0)


def _withdrawals(
    root: Path, records: Iterable[dict[int, ShardRecord]], withdrawn: Withdrawn | None
) -> Iterator[str]:
    """Yield what would bring withdrawn people back, or leave them in."""
    if (root / INTENT_FILE).is_file():
        yield f"a withdrawal was stopped: finish it with normpipe withdraw {root}"
    mark = f"{DECIDED_BY}:{WITHDRAWN}"
    if withdrawn is None and any(
        mark in record.reasons for own in records for record in own.values()
    ):
        yield f"{WITHDRAWN_FILE} is gone: restore it, or withdrawn people come back"


def _strays(folder: ShardFolder, records: dict[int, ShardRecord]) -> Iterator[str]:
    """Yield what lies in a dataset's folders without being committed."""
    shards = {shard_name(number) for number in folder.shard_sizes()}
    listed = (name.partition(".json") for name in sizes(folder.records_path))
    recorded = {stem for stem, ending, rest in listed if ending and not rest}
    committed = {shard_name(number) for number in records}
    for name in sorted(shards - recorded):
        yield f"{name}.parquet has no record: it was never finished"
    for name in sorted(recorded - shards):
        yield f"{_beside(folder, RECORDS)}/{name}.json has no shard"
    for name in sorted(shards & recorded - committed):
        yield _damaged_record(folder, f"{name}.json")
    found = {*sizes(folder.path), *(_beside(folder, name) for name in sizes(folder.about))}
    for name in sorted(found):
        if name.endswith(TEMPORARY):
            yield f"{name} is left of a run that was stopped"
    yield from _foreign(folder)
    numbers = list(records)
    if numbers != list(range(len(numbers))):
        yield f"shards are missing between 0 and {max(numbers)}"


def _foreign(folder: ShardFolder) -> Iterator[str]:
    """Yield what keeps other tools from opening a folder of shards; of old none opened it."""
    if folder.about == folder.path:
        return
    ours = {folder.shard(number).name for number in folder.shard_sizes()}
    found = (name for name in sizes(folder.path) if not name.endswith(TEMPORARY))
    for name in sorted({*found, *folders(folder.path)} - ours):
        yield f"{name} is no shard: other tools cannot open the folder with it; take it out"


def _beside(folder: ShardFolder, name: str) -> str:
    """Return how a file beside the shards is told: of old it lies in the dataset's own folder."""
    return name if folder.about == folder.path else f"{folder.about.name}/{name}"


def _damaged_record(folder: ShardFolder, name: str) -> str:
    return f"{_beside(folder, f'{RECORDS}/{name}')} is damaged: remove it, and run the job again"


def _cleaned(folder: ShardFolder) -> bool:
    """Say whether a dataset's shards are missing on purpose: normpipe clean freed them."""
    return folder.cleaned_path.is_file()


def _check(
    folder: ShardFolder, source: _Source | None, withdrawn: Withdrawn | None, record: ShardRecord
) -> list[str]:
    path = folder.shard(record.shard)
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return [f"{size} bytes, recorded {record.bytes}"]
        if sha256_mapped(path) != record.sha256:
            return ["its sha256 is not the recorded one"]
        # The bytes were just hashed: what is parsed comes from memory.
        with parquet_file(path) as file:
            table = file.read(["key", "parent_key"], use_threads=False)
            counted = _statuses(file)
    except (pa.ArrowException, OSError) as error:
        return [f"cannot be read: {error}"]
    lines: list[str] = []
    names = table["key"].unique()
    keys = len(names)
    # Mostly each input has one row, with its own key; to compare is faster than to look up.
    alike = table["key"].equals(table["parent_key"])
    parents = names if alike else table["parent_key"].unique()
    if table.num_rows != record.rows or len(parents) != record.inputs:
        lines.append(f"{table.num_rows} rows, recorded {record.rows}")
    if keys != table.num_rows:
        lines.append(f"{table.num_rows - keys} keys occur twice")
    back = len(withdrawn.found(parents.to_pylist(), withdrawn.keys)) if withdrawn else 0
    if back:
        lines.append(f"{back} inputs of withdrawn people: withdraw them again")
    if counted != record.statuses:
        lines.append(f"statuses {counted}, recorded {record.statuses}")
    return lines + (source.compare(record.shard, parents) if source else [])


def sha256_mapped(path: Path) -> str:
    """Return the hex sha256 of a file; of one on a disk without copying its bytes.

    Raises OSError where it cannot be read. A plain mapping would end the process there, so each
    stretch is asked for before it is touched.
    """
    if is_store(path) or not hasattr(mmap.mmap, "madvise"):
        return sha256_file(path)
    with path.open("rb") as stream:
        try:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # empty, or of a file system without mappings
            return sha256_file(path)
        digest = hashlib.sha256()
        with mapped, memoryview(mapped) as view:
            for start in range(0, len(view), _STRETCH):
                length = min(_STRETCH, len(view) - start)
                try:
                    mapped.madvise(_POPULATE_READ, start, length)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    return sha256_file(path)  # Linux before 5.14
                with view[start : start + length] as part:
                    digest.update(part)
        return digest.hexdigest()


def _statuses(file: pq.ParquetFile) -> dict[str, int]:
    """Return rows by status; where all of a row group have the same, its statistics say so."""
    schema = file.metadata.schema
    column = next(i for i in range(len(schema)) if schema.column(i).path == "status")
    counted: Counter[str] = Counter()
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        told = group.column(column).statistics
        if told is not None and told.has_min_max and told.min == told.max and not told.null_count:
            counted[told.min] += group.num_rows
        else:
            counted.update(file.read_row_group(number, ["status"])["status"].to_pylist())
    return dict(counted)


#: What ``manifest.json`` may list beside the shards, and whether it lies in the job's folder.
_LISTED = {CARD_FILE: False, INDEX_FILE: False, LABELS_FILE: True, WITHDRAWN_FILE: True}


def _derived(root: Path, folder: ShardFolder, records: dict[int, ShardRecord]) -> Iterator[str]:
    """Yield where the manifest, and what it lists, do not speak of what is there."""
    if not folder.manifest_path.is_file():
        yield "manifest.json is missing: run the job to its end"
        return
    data = folder.manifest_path.read_bytes()
    try:
        manifest = json.loads(data)
        files = dict[str, str](manifest["files"])
        listed = {str(shard["file"]): shard for shard in manifest["shards"]}
    except (ValueError, KeyError, TypeError):
        files, listed, manifest = {"?": ""}, dict[str, Any](), dict[str, Any]()
    if not set(files) <= set(_LISTED):
        yield "manifest.json cannot be read: run the job again"
        return
    lines = list(_vouched(root, folder, files))
    expected = manifest_of(folder, records)
    shards = {shard["file"]: shard for shard in expected["shards"]}
    if listed.keys() != shards.keys():
        lines.append("manifest.json speaks of other shards: run the job to its end")
    for name in sorted(listed.keys() & shards.keys()):
        if listed[name] != shards[name]:
            lines.append(f"manifest.json and the record of {name} differ: run the job to its end")
    if manifest.get("made_by") != json.loads(to_json(expected["made_by"])):
        lines.append("stage.json and manifest.json differ: run the job to its end")
    if not lines and to_json({**expected, "files": files}) != data:
        lines.append("manifest.json is damaged: run the job again")
    yield from lines
    for record in records.values():
        path = folder.record_path(record.shard)
        if path.read_bytes() != record.to_json():
            yield _damaged_record(folder, path.name)


def _vouched(root: Path, folder: ShardFolder, files: dict[str, str]) -> Iterator[str]:
    """Yield where the files that a manifest lists are not as they were."""
    for name, digest in files.items():
        path = (root if _LISTED[name] else folder.about) / name
        said = name if _LISTED[name] else _beside(folder, name)
        if not path.is_file():
            yield f"{said} is gone: run the job again"
        elif sha256_file(path) != digest:
            yield f"{said} is not as it was written: remove it, and run the job again"
