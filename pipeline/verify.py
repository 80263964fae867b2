"""Recounts rows and rehashes shards: does the folder hold what its records say?"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .commit import TEMPORARY
from .derive import CLEANED_FILE
from .plan import read_description
from .runner import read_job
from .shards import ShardFolder, ShardRecord
from .stage import sha256_file
from .tombstones import DECIDED_BY, WITHDRAWN, WITHDRAWN_FILE, Withdrawn, read_withdrawn
from .withdrawal import INTENT_FILE


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
    folders = [ShardFolder(path.parent) for path in sorted(root.rglob("stage.json"))]
    damaged: set[Path] = set()
    withdrawn = read_withdrawn(root)
    report.differences += _withdrawals(root, folders, withdrawn)
    with ThreadPoolExecutor(threads) as pool:
        for folder in folders:
            records = folder.records()
            name = folder.path.relative_to(root).as_posix()
            report.differences += [f"{name}: {line}" for line in _strays(folder, records)]
            checked = pool.map(lambda r, f=folder: _check(f, r, withdrawn), records.values())
            for record, found in zip(records.values(), checked, strict=True):
                report.shards += 1
                report.rows += record.rows
                report.bytes += record.bytes
                report.differences += [f"{name}/{record.file}: {line}" for line in found]
                if found:
                    damaged.add(folder.shard(record.shard))
            if not _cleaned(folder):
                report.differences += [f"{name}: {line}" for line in _derived(folder, records)]
    # Only sound shards are compared with each other: one damage is one difference.
    for folder in folders:
        name = folder.path.relative_to(root).as_posix()
        for record in folder.records().values():
            for line in _balance(root, folder, record, damaged):
                report.differences.append(f"{name}/{record.file}: {line}")
    return report


def _withdrawals(
    root: Path, folders: list[ShardFolder], withdrawn: Withdrawn | None
) -> Iterator[str]:
    """Yield what would bring withdrawn people back, or leave them in."""
    if (root / INTENT_FILE).is_file():
        yield f"a withdrawal was stopped: finish it with normpipe withdraw {root}"
    mark = f"{DECIDED_BY}:{WITHDRAWN}"
    if withdrawn is None and any(
        mark in record.reasons for folder in folders for record in folder.records().values()
    ):
        yield f"{WITHDRAWN_FILE} is gone: restore it, or withdrawn people come back"


def _strays(folder: ShardFolder, records: dict[int, ShardRecord]) -> Iterator[str]:
    """Yield what lies in a dataset's folder without being committed."""
    committed = {record.file for record in records.values()}
    for path in sorted(folder.path.glob("shard-*.parquet")):
        if path.name not in committed:
            yield f"{path.name} has no record: it was never finished"
    for path in sorted((folder.path / "records").glob("*.json")):
        if not (folder.path / f"{path.stem}.parquet").is_file():
            yield f"records/{path.name} has no shard"
    for path in sorted(folder.path.glob("*" + TEMPORARY)):
        yield f"{path.name} is left of a run that was stopped"
    numbers = list(records)
    if numbers != list(range(len(numbers))):
        yield f"shards are missing between 0 and {max(numbers)}"


def _cleaned(folder: ShardFolder) -> bool:
    """Say whether a dataset's shards are missing on purpose: normpipe clean freed them."""
    return (folder.path / CLEANED_FILE).is_file()


def _check(folder: ShardFolder, record: ShardRecord, withdrawn: Withdrawn | None) -> list[str]:
    path = folder.shard(record.shard)
    size = path.stat().st_size
    if size != record.bytes:
        return [f"{size} bytes, recorded {record.bytes}"]
    if sha256_file(path) != record.sha256:
        return ["its sha256 is not the recorded one"]
    try:
        table = pq.read_table(path, columns=["key", "parent_key", "status"])
    except (pa.ArrowException, OSError) as error:
        return [f"cannot be read: {error}"]
    lines: list[str] = []
    keys, parents = table["key"].to_pylist(), set(table["parent_key"].to_pylist())
    if len(keys) != record.rows or len(parents) != record.inputs:
        lines.append(f"{len(keys)} rows, recorded {record.rows}")
    if len(set(keys)) != len(keys):
        lines.append(f"{len(keys) - len(set(keys))} keys occur twice")
    back = len(withdrawn.found(parents, withdrawn.keys)) if withdrawn else 0
    if back:
        lines.append(f"{back} inputs of withdrawn people: withdraw them again")
    counted = {
        entry["values"]: entry["counts"]
        for entry in table["status"].combine_chunks().value_counts().to_pylist()
    }
    if counted != record.statuses:
        lines.append(f"statuses {counted}, recorded {record.statuses}")
    return lines


def _balance(root: Path, folder: ShardFolder, record: ShardRecord, damaged: set[Path]) -> list[str]:
    """Return whether every input key of the shard's source is there, and none besides."""
    reads = (read_description(folder) or {}).get("reads") or []
    if not reads:
        return []
    source = ShardFolder(root / reads[0])
    if source.record(record.shard) is None:
        return [] if _cleaned(source) else [f"its input {reads[0]} is gone"]
    paths = (source.shard(record.shard), folder.shard(record.shard))
    if damaged.intersection(paths):
        return []
    inputs, parents = (
        set(pq.read_table(path, columns=["parent_key"])["parent_key"].to_pylist()) for path in paths
    )
    lost, added = len(inputs - parents), len(parents - inputs)
    lines = [f"{lost} input keys have no row"] if lost else []
    # A join may name samples that only its second input has; a map may not.
    if added and len(reads) == 1:
        lines.append(f"{added} rows stand for no input")
    return lines


def _derived(folder: ShardFolder, records: dict[int, ShardRecord]) -> Iterator[str]:
    """Yield where index and manifest do not speak of the shards that are there."""
    path = folder.path / "manifest.json"
    if not path.is_file():
        yield "manifest.json is missing: run the job to its end"
        return
    try:
        listed = json.loads(path.read_bytes())["shards"]
    except (ValueError, KeyError):
        yield "manifest.json cannot be read"
        return
    if [s["sha256"] for s in listed] != [r.sha256 for r in records.values()]:
        yield "manifest.json speaks of other shards: run the job to its end"
    if folder.index_path.is_file():
        rows = pq.read_metadata(folder.index_path).num_rows
        expected = sum(record.rows for record in records.values())
        if rows != expected:
            yield f"index.parquet has {rows} rows, the shards {expected}"
