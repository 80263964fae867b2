"""Files derived from the shards: index, manifest, dataset card. Rewritten whenever they differ."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...manifests.schema import IMAGE, INDEX, SCHEMA_VERSION
from ...manifests.vocabularies import REASONS
from ..stage import Stage, sha256_file
from .commit import (
    PendingFile,
    commit_file,
    json_bytes,
    remove_file,
    storage_errors,
    temporary,
    write_if_changed,
)
from .labels import LABELS_FILE
from .layout import CARD_FILE, INDEX_FILE
from .shards import PLACE, ShardFolder, ShardRecord
from .tombstones import EXCLUDED_FILE, WITHDRAWN_FILE

#: Minimum rows of a row group in an index; it holds complete shards.
_INDEX_GROUP = 1 << 16


def totals(records: dict[int, ShardRecord]) -> dict[str, Any]:
    """Return the sums over shards: rows, inputs, bytes, statuses, reasons."""
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in records.values():
        statuses.update(record.statuses)
        reasons.update(record.reasons)
    return {
        "shards": len(records),
        "rows": sum(record.rows for record in records.values()),
        "inputs": sum(record.inputs for record in records.values()),
        "bytes": sum(record.bytes for record in records.values()),
        "statuses": dict(sorted(statuses.items())),
        "reasons": dict(sorted(reasons.items())),
    }


def derive(root: Path, stage: Stage) -> None:
    """Write index.parquet, manifest.json and README.md of a stage's dataset."""
    _derive(root, stage.writes, stage.description, stage.schema)
    cleaned = ShardFolder(root / stage.writes).cleaned_path
    if cleaned.is_file():
        remove_file(cleaned)


def derive_again(root: Path, name: str) -> None:
    """Do the same for a dataset without its stage: the description comes from the old card."""
    folder = ShardFolder(root / name)
    number = next(iter(folder.records()), None)
    if number is None:
        return
    card = folder.card_path
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    title = f"# {name}"
    words = lines[lines.index(title) + 2] if title in lines else ""
    _derive(root, name, words, folder.schema(number))


def _derive(root: Path, name: str, words: str, schema: pa.Schema) -> None:
    folder = ShardFolder(root / name)
    records = folder.records()
    manifest = manifest_of(folder, records)
    card = _card(name, words, manifest).encode()
    listed = {CARD_FILE: hashlib.sha256(card).hexdigest()}
    if any(field.type == IMAGE for field in schema):
        listed[INDEX_FILE] = _current_index(folder, manifest) or _write_index(folder, list(records))
    if not manifest["made_by"].get("reads"):  # a source: what belongs to its inputs
        others = [name for name in (LABELS_FILE, WITHDRAWN_FILE) if (root / name).is_file()]
        listed |= {name: sha256_file(root / name) for name in others}
    if (root / EXCLUDED_FILE).is_file():  # so that a dataset that is copied alone says it
        listed[EXCLUDED_FILE] = sha256_file(root / EXCLUDED_FILE)
    write_if_changed(folder.card_path, card)
    # Last: while the manifest is missing or outdated, the index is rewritten.
    write_if_changed(
        folder.manifest_path, json_bytes({**manifest, "files": listed}, ascii_only=False)
    )


def manifest_of(folder: ShardFolder, records: dict[int, ShardRecord]) -> dict[str, Any]:
    """Return the content of ``manifest.json`` for some records, without its ``files``."""
    shards = [
        {
            "file": record.file,
            "rows": record.rows,
            "bytes": record.bytes,
            "sha256": record.sha256,
            "record_sha256": hashlib.sha256(record.to_json()).hexdigest(),
        }
        for record in records.values()
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "made_by": folder.description() or {},
        "shards": shards,
        "totals": totals(records),
    }


def _current_index(folder: ShardFolder, manifest: dict[str, Any]) -> str | None:
    """Return the sha256 of the index if it covers exactly these shards, without reading it."""
    try:
        old = json.loads(folder.manifest_path.read_bytes())
        digest = old.pop("files")[INDEX_FILE]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    same = old == json.loads(json_bytes(manifest))
    return digest if same and folder.index_path.is_file() else None


def _write_index(folder: ShardFolder, numbers: list[int]) -> str:
    """Write key → shard, row group, row, status, sha256 for all shards; return its sha256.

    Works shard by shard, so that memory does not grow with the dataset.
    """
    with storage_errors(folder.index_path):
        file = PendingFile(temporary(folder.index_path))
        sink = pa.PythonFile(file, mode="w")
        with pq.ParquetWriter(sink, INDEX, compression="ZSTD", write_page_index=True) as writer:
            pending: list[pa.Table] = []
            for number in numbers:
                pending.append(_index_rows(folder, number))
                if sum(table.num_rows for table in pending) >= _INDEX_GROUP:
                    writer.write_table(pa.concat_tables(pending).combine_chunks())
                    pending = []
            if pending:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
        digest = file.finish()
        commit_file(folder.index_path)
    return digest


def _index_rows(folder: ShardFolder, number: int) -> pa.Table:
    columns = [name for name in INDEX.names if name not in PLACE and name != "image_sha256"]
    extra = ["image_sha256"] if "image_sha256" in folder.schema_names(number) else []
    table = folder.read(number, [*columns, *extra])
    if not extra:
        table = table.append_column("image_sha256", pa.nulls(table.num_rows, pa.string()))
    return table.select(INDEX.names).cast(INDEX)


def _card(name: str, words: str, manifest: dict[str, Any]) -> str:
    """Return the dataset card: how to open the dataset, what it contains, what made it."""
    sums, made = manifest["totals"], manifest["made_by"]
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        '  data_files: "shard-*.parquet"',
        "tags: [normpipe, facial-expression]",
        "---",
        f"# {name}",
        "",
        words,
        "",
        "```python",
        "import datasets",
        f'rows = datasets.load_dataset("{_last(name)}", split="train")   # this folder',
        "import normpipe",
        f'rows = normpipe.open_dataset("{_last(name)}")   # ok rows, labels joined',
        "```",
        "",
        f"{sums['rows']} rows from {sums['inputs']} inputs in {sums['shards']} shards, "
        f"{sums['bytes']:,} bytes. Every input has a row: `ok`, `rejected` or `failed`.",
        "",
        "| status | rows |",
        "|---|---|",
        *[f"| {status} | {count} |" for status, count in sums["statuses"].items()],
        "",
    ]
    if sums["reasons"]:
        lines += ["| decided by | reason | rows | meaning |", "|---|---|---|---|"]
        for decided, count in sums["reasons"].items():
            stage_name, _, reason = decided.partition(":")
            lines.append(f"| {stage_name} | {reason} | {count} | {REASONS[reason][1]} |")
        lines.append("")
    lines += [
        f"Made by normpipe's stage `{made.get('stage')}` (version {made.get('version')}) on "
        f"`{made.get('device_class')}`; settings, digests and library versions are in "
        "`stage.json`, the shards' sha256 in `manifest.json`.",
        "",
    ]
    return "\n".join(lines)


def _last(path: str) -> str:
    return path.rpartition("/")[2]
