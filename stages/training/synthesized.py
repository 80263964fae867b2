"""Sets that ``normpipe synthesize`` wrote: their pairs, and which target face they show.

The same face, rendered on two kinds of CPU, or on a CPU and a GPU, differs in single pixels by
rounding. So faces are identified by what defines them, and by the sha256 of the resting picture
only if a set does not record that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...pipeline.errors import InputError
from ...pipeline.store.shards import ShardFolder
from .pictures import Form, PairCache, Pictures

#: Shards older than the target note all show the mean head.
MEAN_TARGET = {"kind": "mean"}
#: Fields in which two notes must agree; ``renderer`` is the first version of ``synthesize`` that
#: draws the face this way.
_DEFINES = ("kind", "name", "facekit", "renderer", "size_px")


class NoPairs(InputError):
    """Sets have no pairs of a split, or none with target pictures."""


def synthesized_shards(folders: Sequence[Path]) -> list[Path]:
    """Return the shards of outputs of ``normpipe synthesize``, or of folders of such shards.

    Raises:
        InputError: a folder holds none.
    """
    shards: list[Path] = []
    for folder in folders:
        inner = Path(folder) / "pairs"  # the output folder of normpipe synthesize
        found = sorted((inner if inner.is_dir() else Path(folder)).glob("shard-*.parquet"))
        if not found:
            raise InputError(f"no shards in {folder}: give a folder written by normpipe synthesize")
        shards += found
    return shards


def same_target(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two notes describe the same face, apart from rounding in rendering."""
    if one == other:
        return True
    if "sha256" in one and one["sha256"] == other.get("sha256"):
        return True
    defines = (*_DEFINES, "photograph") if one.get("kind") == "image" else _DEFINES
    return all(name in one and one[name] == other.get(name) for name in defines)


def expression_names(shard: Path) -> tuple[str, ...]:
    """Return the names of a shard's coefficients, in order.

    Raises:
        InputError: ``normpipe synthesize`` did not write it.
    """
    metadata = pq.read_schema(shard).metadata or {}
    if b"expression_names" not in metadata:
        raise InputError(f"{shard} was not written by normpipe synthesize: no expression names")
    return tuple(metadata[b"expression_names"].decode().split(","))


def target_of(shard: Path) -> dict[str, Any] | None:
    """Return the target note of a shard of ``normpipe synthesize``; None if it shows no target.

    Shards older than version 4 record less; the rest comes from ``stage.json``, if known.
    """
    metadata = pq.read_schema(shard).metadata or {}
    if b"target" in metadata:
        note: dict[str, Any] = json.loads(metadata[b"target"])
        return _made_with(shard) | note
    shown = pq.read_table(shard, columns=["target"])["target"]
    return MEAN_TARGET if shown.null_count < len(shown) else None


def _made_with(shard: Path) -> dict[str, Any]:
    """Return what else defines the target, from the description of the stage that made the set."""
    try:
        made = json.loads(ShardFolder(shard.parent).stage_path.read_bytes())
        return {
            "facekit": made["digests"]["facekit"],
            "renderer": made["version"],
            "size_px": made["settings"]["target_size_px"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# Names of the shapes, and the target note; None until a target is shown.
_Header = tuple[tuple[str, ...], dict[str, Any] | None]


def load_pairs(
    folders: Sequence[Path],
    split: str,
    limit: int | None = None,
    source: Form | None = None,
    target: Form | None = None,
    memory_gb: float = 8.0,
) -> PairCache:
    """Read the pairs of one split from synthesized datasets.

    Args:
        folders: outputs of ``normpipe synthesize``, or their ``pairs`` folders.
        split: ``train``, ``validation`` or ``test``.
        limit: maximum number of pairs.
        source: how to hold sources; grey and their own size by default.
        target: how to hold targets; RGB and their own size by default.
        memory_gb: limit for decoded sources, and for targets; beyond it they stay encoded.

    Raises:
        InputError: a folder holds no synthesized shards, or the sets do not match.
        NoPairs: the sets have no pairs of that split.
    """
    header: _Header | None = None
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("source", "expression", "landmarks", "pose", "identity", "target", "of", "tl")
    }
    for shard in synthesized_shards(folders):
        header = _check_header(shard, header)
        table = pq.read_table(shard, filters=[("split", "=", split), ("status", "=", "ok")])
        _append(columns, table, limit)
        if limit is not None and len(columns["source"]) >= limit:
            break
    if header is None or not columns["source"]:
        raise NoPairs(f"no {split} pairs in {', '.join(map(str, folders))}")
    pictures = Pictures(columns["source"], source or Form(), memory_gb * 1e9)
    shapes = [_size(columns[name][0]) for name in ("source", "target") if columns[name]]
    scale = len(pictures[0]) / shapes[0]
    targets = (
        Pictures(columns["target"], target or Form(colour=True), memory_gb * 1e9)
        if columns["target"]
        else None
    )
    target_scale = len(targets[0]) / shapes[1] if targets else 1.0
    return PairCache(
        expression_names=header[0],
        source=pictures,
        expression=np.array(columns["expression"], np.float32),
        landmarks=scale * np.array(columns["landmarks"], np.float32),
        pose_deg=np.array(columns["pose"], np.float32),
        identity=np.array(columns["identity"], np.int64),
        target=targets,
        target_of=np.array(columns["of"], np.int64),
        target_landmarks=target_scale * np.array(columns["tl"], np.float32).reshape(-1, 68, 2),
        target_note=header[1] or MEAN_TARGET,
    )


def _size(encoded: bytes) -> int:
    return len(Pictures([encoded], Form(), 1e9)[0])


def _check_header(shard: Path, before: _Header | None) -> _Header:
    """Return the header including this shard; names and target must match the shards before."""
    names, note = expression_names(shard), target_of(shard)
    if before is None:
        return names, note
    if before[0] != names:
        raise InputError(f"{shard} has other expression shapes than the sets before it")
    if note and before[1] and not same_target(note, before[1]):
        raise InputError(
            f"{shard} shows another target face ({json.dumps(note)}) than the sets before it "
            f"({json.dumps(before[1])}): one network learns one target"
        )
    return names, before[1] or note


def _append(columns: dict[str, list[Any]], table: pa.Table, limit: int | None) -> None:
    for row in table.to_pylist():
        if limit is not None and len(columns["source"]) >= limit:
            return
        columns["source"].append(row["image"]["bytes"])
        columns["expression"].append(row["expression"])
        columns["landmarks"].append(row["landmarks68"])
        columns["pose"].append([row["yaw_deg"], row["pitch_deg"], row["roll_deg"]])
        columns["identity"].append(row["identity"])
        if row["target"] is not None:
            columns["target"].append(row["target"]["bytes"])
            columns["of"].append(len(columns["source"]) - 1)
            columns["tl"].append(row["target_landmarks68"])
