"""What lies beside the datasets of a job's folder and still speaks of withdrawn people."""

import json
from collections.abc import Set
from pathlib import Path

import pyarrow as pa

from ..stage import sha256_file
from ..store.labels import JOB_FILE, LABELS_FILE, OLD_JOB_FILE
from ..store.lock import STORE_LOCK
from ..store.shards import ShardFolder
from ..store.storage import parquet_file
from ..store.toml_text import value_text

_TEXTS = frozenset({".csv", ".tsv", ".json", ".jsonl", ".toml", ".html", ".md", ".txt", ".log"})
_MODELS = frozenset({".safetensors", ".onnx"})
#: Paths that a line names; the others are counted.
_NAMED = 3


def find_traces(root: Path, datasets: list[str], keys: Set[str]) -> tuple[list[str], list[str]]:
    """Return files to remove and lines on what stays, all paths relative to the folder.

    Tables that hold one of the keys are removed (predictions, say), with the JSON files beside
    them that vouch for their sha256 (scores made from them). Texts that name a key are the user's
    to remove; of models only retraining takes what they learnt.
    """
    own = {root / name for name in datasets}
    known = {ShardFolder(path).index_path for path in own} | {root / LABELS_FILE}
    remove: list[str] = []
    texts: list[str] = []
    models: list[str] = []
    unreadable: list[str] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if (path.parent in own and path.name.startswith("shard-")) or path in known:
            continue
        if path.parent.name == STORE_LOCK:  # this process's own, and rewritten meanwhile
            continue
        if path.suffix in _MODELS:
            models.append(name)
        elif path.suffix == ".parquet":
            holds = _holds(path, keys)
            if holds is None:
                unreadable.append(name)
            elif holds:
                remove += [name, *_vouching(root, path)]
        elif path.suffix in _TEXTS and _names(path, keys):
            texts.append(name)
    texts = [name for name in texts if name not in remove]
    remains: list[str] = []
    own_job = [name for name in texts if name in (JOB_FILE, OLD_JOB_FILE)]
    if own_job:  # an input of one photograph, say; without it the folder is no job's
        remains.append(f"{_listed(own_job)} still names them: see for yourself what in it does")
        texts = [name for name in texts if name not in own_job]
    if texts:
        remains.append(f"{_listed(texts)} still name them: remove these files, or make them anew")
    if unreadable:
        remains.append(f"{_listed(unreadable)} cannot be read: see for yourself who is in it")
    if models:
        remains.append(
            f"models may have been trained with them, and keep what they learnt: "
            f"{_listed(models)}; train anew with --overwrite, or remove them"
        )
    return remove, remains


def _holds(path: Path, keys: Set[str]) -> bool | None:
    """Say whether a table has a row of one of the keys; None: it cannot be read."""
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
    # As it is, as TOML writes it, and as JSON writes what is not ASCII.
    return any(
        text.encode() in data
        for key in keys
        for text in (key, value_text(key)[1:-1], json.dumps(key)[1:-1])
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
