"""Count rows and hash shards again: does the folder match its records?"""

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

from ..errors import InputError
from ..read.exclusions import read_exclusions
from ..stage import sha256_file
from ..store.commit import TEMPORARY, json_bytes
from ..store.derive import manifest_of
from ..store.job_file import read_job
from ..store.labels import LABELS_FILE
from ..store.layout import CARD_FILE, INDEX_FILE, RECORDS
from ..store.shards import ShardFolder, ShardRecord, shard_name
from ..store.storage import folders, is_store, parquet_file, sizes
from ..store.tombstones import (
    DECIDED_BY,
    EXCLUDED_FILE,
    INTENT_FILE,
    WITHDRAWN,
    WITHDRAWN_FILE,
    Withdrawn,
    read_withdrawn,
)
from .withdraw import described_datasets

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Flag of madvise: read these pages now, and report an error if that fails.
_POPULATE_READ = 22
#: Bytes; a multiple of every system's page size.
_STRETCH = 4 << 20


@dataclass
class VerifyReport:
    """The result of ``verify``."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=lambda: list[str]())


def verify(root: Path, threads: int = 2) -> VerifyReport:
    """Check every dataset of a job's folder against its records, and against its input.

    Raises InputError if the folder is not a job's.
    """
    read_job(root)
    report = VerifyReport()
    made = described_datasets(root)
    folders = {name: ShardFolder(root / name) for name in made}
    records = {name: folder.records() for name, folder in folders.items()}
    withdrawn = read_withdrawn(root)
    report.differences += _withdrawals(root, records.values(), withdrawn)
    damaged: dict[str, set[int]] = {}
    with ThreadPoolExecutor(threads) as pool:
        # Inputs first: nothing is compared with a damaged shard, so that one damage is reported
        # once.
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
    """The first dataset that a dataset reads; ``closed``: rows for other samples are an error."""

    folder: ShardFolder
    shards: set[int]
    damaged: set[int]
    closed: bool

    def compare(self, number: int, parents: pa.Array) -> list[str]:
        """Return how a shard's input keys differ from ``parents``, its rows' parent keys."""
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
        # A join may have rows of samples that only its second input has; a map may not.
        if added and self.closed:
            lines.append(f"{added} rows have no input")
        return lines


def _absent(keys: pa.Array, others: pa.Array) -> int:
    """Return how many keys are not among others."""
    return len(keys) - (pc.sum(pc.is_in(keys, value_set=others)).as_py() or 0)


def _withdrawals(
    root: Path, records: Iterable[dict[int, ShardRecord]], withdrawn: Withdrawn | None
) -> Iterator[str]:
    """Yield problems that would bring withdrawn people back, or leave them in."""
    if (root / INTENT_FILE).is_file():
        yield f"a withdrawal was stopped: finish it with normpipe withdraw {root}"
    mark = f"{DECIDED_BY}:{WITHDRAWN}"
    if withdrawn is None and any(
        mark in record.reasons for own in records for record in own.values()
    ):
        yield f"{WITHDRAWN_FILE} is gone: restore it, or withdrawn people come back"


def _strays(folder: ShardFolder, records: dict[int, ShardRecord]) -> Iterator[str]:
    """Yield what is in a dataset's folders without being committed."""
    shards = {shard_name(number) for number in folder.shard_sizes()}
    listed = (name.partition(".json") for name in sizes(folder.records_path))
    recorded = {stem for stem, ending, rest in listed if ending and not rest}
    committed = {shard_name(number) for number in records}
    for name in sorted(shards - recorded):
        yield f"{name}.parquet has no record: it was never finished"
    for name in sorted(recorded - shards):
        yield f"{_metadata_name(folder, RECORDS)}/{name}.json has no shard"
    for name in sorted(shards & recorded - committed):
        yield _damaged_record(folder, f"{name}.json")
    metadata = (_metadata_name(folder, name) for name in sizes(folder.metadata_folder))
    for name in sorted({*sizes(folder.path), *metadata}):
        if name.endswith(TEMPORARY):
            yield f"{name} is left over from a run that was stopped"
    yield from _foreign(folder)
    numbers = list(records)
    if numbers != list(range(len(numbers))):
        yield f"shards are missing between 0 and {max(numbers)}"


def _foreign(folder: ShardFolder) -> Iterator[str]:
    """Yield files that keep other tools from opening a folder of shards; in 0.1.0 none could."""
    if folder.metadata_folder == folder.path:
        return
    ours = {folder.shard(number).name for number in folder.shard_sizes()}
    found = (name for name in sizes(folder.path) if not name.endswith(TEMPORARY))
    for name in sorted({*found, *folders(folder.path)} - ours):
        yield f"{name} is not a shard: other tools cannot open the folder because of it; remove it"


def _metadata_name(folder: ShardFolder, name: str) -> str:
    """Return how messages name a metadata file; in 0.1.0 it is in the dataset's own folder."""
    metadata = folder.metadata_folder
    return name if metadata == folder.path else f"{metadata.name}/{name}"


def _damaged_record(folder: ShardFolder, name: str) -> str:
    path = _metadata_name(folder, f"{RECORDS}/{name}")
    return f"{path} is damaged: remove it, and run the job again"


def _cleaned(folder: ShardFolder) -> bool:
    """Return whether a dataset's shards are missing on purpose: removed by normpipe clean."""
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
    # Mostly each input has one row, with its own key; comparing is faster than a lookup.
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
    """Return the hex sha256 of a file; a file on disk is mapped, without copying its bytes.

    Raises OSError if it cannot be read. Touching an unreadable page would kill the process, so each
    stretch is read in with madvise first.
    """
    if is_store(path) or not hasattr(mmap.mmap, "madvise"):
        return sha256_file(path)
    with path.open("rb") as stream:
        try:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # empty, or on a file system without mmap
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
    """Return rows by status, from a row group's statistics if all its rows have the same."""
    schema = file.metadata.schema
    column = next(i for i in range(len(schema)) if schema.column(i).path == "status")
    counted: Counter[str] = Counter()
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        stats = group.column(column).statistics
        if stats is not None and _is_constant(stats):
            counted[stats.min] += group.num_rows
        else:
            counted.update(file.read_row_group(number, ["status"])["status"].to_pylist())
    return dict(counted)


def _is_constant(stats: pq.Statistics) -> bool:
    return stats.has_min_max and stats.min == stats.max and not stats.null_count


#: Files that ``manifest.json`` may list besides the shards → whether they are in the job's folder.
_LISTED = {
    **dict.fromkeys((CARD_FILE, INDEX_FILE), False),
    **dict.fromkeys((LABELS_FILE, WITHDRAWN_FILE, EXCLUDED_FILE), True),
}


def _derived(root: Path, folder: ShardFolder, records: dict[int, ShardRecord]) -> Iterator[str]:
    """Yield where the manifest, and the files that it lists, differ from what is there."""
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
    checked = dict(files)
    if (folder.description() or {}).get("reads"):  # said once, of the inputs
        checked.pop(EXCLUDED_FILE, None)
    lines = list(_changed_files(root, folder, checked))
    expected = manifest_of(folder, records)
    shards = {shard["file"]: shard for shard in expected["shards"]}
    if listed.keys() != shards.keys():
        lines.append("manifest.json lists other shards: run the job to its end")
    for name in sorted(listed.keys() & shards.keys()):
        if listed[name] != shards[name]:
            lines.append(f"manifest.json and the record of {name} differ: run the job to its end")
    if manifest.get("made_by") != json.loads(json_bytes(expected["made_by"])):
        lines.append("stage.json and manifest.json differ: run the job to its end")
    if not lines and json_bytes({**expected, "files": files}, ascii_only=False) != data:
        lines.append("manifest.json is damaged: run the job again")
    yield from lines
    for record in records.values():
        path = folder.record_path(record.shard)
        if path.read_bytes() != record.to_json():
            yield _damaged_record(folder, path.name)


def _changed_files(root: Path, folder: ShardFolder, files: dict[str, str]) -> Iterator[str]:
    """Yield the files that a manifest lists and that are gone or changed."""
    for name, digest in files.items():
        path = (root if _LISTED[name] else folder.metadata_folder) / name
        shown = name if _LISTED[name] else _metadata_name(folder, name)
        if name == EXCLUDED_FILE:
            yield from _changed_exclusions(path, digest)
        elif not path.is_file():
            yield f"{shown} is gone: run the job again"
        elif sha256_file(path) != digest:
            yield f"{shown} is not as it was written: remove it, and run the job again"


def _changed_exclusions(path: Path, digest: str) -> Iterator[str]:
    """Yield what is wrong with the file of exclusions: without it, excluded rows are back."""
    if not path.is_file():
        yield f"{path.name} is gone, so its rows are back: restore it, or accept that: run the job"
        return
    try:
        read_exclusions(path.parent)
    except InputError as error:
        yield str(error)
        return
    if sha256_file(path) != digest:
        yield (
            f"{path.name} has other rows than were recorded: normpipe exclude {path.parent} --show "
            "lists them; run the job to accept them"
        )
