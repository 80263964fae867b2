"""Files of a job's folder, besides its datasets, that still name withdrawn people."""

import json
from collections.abc import Set
from pathlib import Path

import pyarrow as pa

from ..stage import sha256_file
from ..store.labels import JOB_FILE, LABELS_FILE, OLD_JOB_FILE
from ..store.lock import STORE_LOCK
from ..store.shards import ShardFolder
from ..store.storage import parquet_file
from ..store.tombstones import EXCLUDED_FILE
from ..store.toml_text import value_text

_TEXTS = frozenset({".csv", ".tsv", ".json", ".jsonl", ".toml", ".html", ".md", ".txt", ".log"})
#: Beside a dataset, such a table lists what became no row of it; its command writes it again.
_LEFT_OVER = ".csv"
_MODELS = frozenset({".safetensors", ".onnx"})
#: Paths that a message names; the others are counted.
_NAMED = 3


def find_traces(root: Path, datasets: list[str], keys: Set[str]) -> tuple[list[str], list[str]]:
    """Return the files to remove, and messages about what remains, with paths below the folder.

    Tables that contain one of the keys are removed (such as predictions), with the JSON files next
    to them that contain their sha256 (scores made from them), and lists beside datasets. Texts that
    name a key are for the user to remove; models forget what they learnt only by retraining.
    """
    own = {root / name for name in datasets}
    folders = [ShardFolder(path) for path in own]
    known = {folder.index_path for folder in folders}
    known |= {root / LABELS_FILE, root / EXCLUDED_FILE}
    beside = {folder.metadata_folder for folder in folders}
    remove: list[str] = []
    texts: list[str] = []
    models: list[str] = []
    unreadable: list[str] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if (path.parent in own and path.name.startswith("shard-")) or path in known:
            continue
        if path.parent.name == STORE_LOCK:  # this process's own lock, which keeps being rewritten
            continue
        if path.suffix in _MODELS:
            models.append(name)
        elif path.suffix == ".parquet":
            holds = _holds(path, keys)
            if holds is None:
                unreadable.append(name)
            elif holds:
                remove += [name, *_vouching(root, path)]
        elif path.suffix == _LEFT_OVER and path.parent in beside:
            remove.append(name)  # such as a person's pictures, which have other names
        elif path.suffix in _TEXTS and _names(path, keys):
            texts.append(name)
    texts = [name for name in texts if name not in remove]
    remains: list[str] = []
    own_job = [name for name in texts if name in (JOB_FILE, OLD_JOB_FILE)]
    if own_job:  # such as an input of one photograph; without the file it is not a job's folder
        remains.append(f"{_listed(own_job)} still names them: check it, and edit it by hand")
        texts = [name for name in texts if name not in own_job]
    if texts:
        remains.append(f"{_listed(texts)} still name them: remove these files, or make them again")
    if unreadable:
        remains.append(f"{_listed(unreadable)} cannot be read: check yourself who is in it")
    if models:
        remains.append(
            f"models may have been trained with them, and keep what they learnt: "
            f"{_listed(models)}; train again with --overwrite, or remove them"
        )
    return remove, remains


def _holds(path: Path, keys: Set[str]) -> bool | None:
    """Return whether a table has a row of one of the keys; None if it cannot be read."""
    try:
        with parquet_file(path) as file:
            wanted = [name for name in ("key", "parent_key") if name in file.schema_arrow.names]
            table = file.read(columns=wanted)
    except (OSError, pa.ArrowException):
        return None
    return any(not keys.isdisjoint(table[name].to_pylist()) for name in wanted)


def _vouching(root: Path, table: Path) -> list[str]:
    digest = sha256_file(table).encode()
    return [
        path.relative_to(root).as_posix()
        for path in sorted(table.parent.glob("*.json"))
        if digest in path.read_bytes()
    ]


def _names(path: Path, keys: Set[str]) -> bool:
    data = path.read_bytes()
    # As plain text, as TOML, and as JSON with escapes for what is not ASCII.
    return any(
        text.encode() in data
        for key in keys
        for text in (key, value_text(key)[1:-1], json.dumps(key)[1:-1])
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
