"""What follows from the shards: index, manifest, dataset card. Made anew whenever they differ."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..manifests.schema import IMAGE, INDEX, SCHEMA_VERSION
from ..manifests.vocabularies import REASONS
from .commit import write_if_changed
from .plan import read_description
from .shards import ShardFolder, ShardRecord, write_table
from .stage import Stage

#: Lies in a dataset that was cleaned until it is made again.
CLEANED_FILE = "cleaned.json"


def to_json(value: Any) -> bytes:
    """Return JSON with sorted keys, as all our files have it."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


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
    (root / stage.writes / CLEANED_FILE).unlink(missing_ok=True)


def derive_again(root: Path, name: str) -> None:
    """Do the same for a dataset whose stage is not at hand: the old card says what it is."""
    folder = ShardFolder(root / name)
    number = next(iter(folder.records()), None)
    if number is None:
        return
    card = folder.path / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    title = f"# {name}"
    words = lines[lines.index(title) + 2] if title in lines else ""
    _derive(root, name, words, pq.read_schema(folder.shard(number)))


def _derive(root: Path, name: str, words: str, schema: pa.Schema) -> None:
    folder = ShardFolder(root / name)
    records = folder.records()
    description = read_description(folder) or {}
    shards = [
        {"file": r.file, "rows": r.rows, "bytes": r.bytes, "sha256": r.sha256}
        for r in records.values()
    ]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "made_by": description,
        "shards": shards,
        "totals": totals(records),
    }
    data = to_json(manifest)
    index_current = (
        folder.index_path.is_file()
        and (folder.path / "manifest.json").is_file()
        and (folder.path / "manifest.json").read_bytes() == data
    )
    if any(field.type == IMAGE for field in schema) and not index_current:
        write_table(folder.index_path, _index(folder, list(records)))
    write_if_changed(folder.path / "README.md", _card(name, words, manifest).encode())
    # Last: while it is missing or old, the index is made anew.
    write_if_changed(folder.path / "manifest.json", data)


def _index(folder: ShardFolder, numbers: list[int]) -> pa.Table:
    """Return key → shard, row group, row, status, sha256 over all shards, in order."""
    columns = ["key", "parent_key", "status", "reason", "decided_by"]
    tables: list[pa.Table] = []
    for number in numbers:
        names = folder.schema_names(number)
        extra = ["image_sha256"] if "image_sha256" in names else []
        table = folder.read(number, [*columns, *extra])
        if not extra:
            table = table.append_column("image_sha256", pa.nulls(table.num_rows, pa.string()))
        tables.append(table.select(INDEX.names).cast(INDEX))
    return pa.concat_tables(tables) if tables else INDEX.empty_table()


def _card(name: str, words: str, manifest: dict[str, Any]) -> str:
    """Return the dataset card: how to open it, what is in it, what made it."""
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
