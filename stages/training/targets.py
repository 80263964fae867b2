"""Which target face a set of pairs shows, and whether two sets show the same one.

The same face, rendered on two kinds of CPU, or on a CPU and a GPU, differs in single pixels by
rounding. So faces are told apart by what defines them; the sha256 of the resting picture only
serves where a set does not say that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ...pipeline.errors import InputError
from ...pipeline.store.shards import ShardFolder

#: Shards from before targets were recorded all show the mean head.
MEAN_TARGET = {"kind": "mean"}
#: What two notes must agree in: ``renderer`` is the version of ``synthesize`` that first drew the
#: face so.
_DEFINES = ("kind", "name", "facekit", "renderer", "size_px")


def same_target(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two notes speak of one face, rendering's rounding apart."""
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
    """Return what a shard of ``normpipe synthesize`` says of its target; None where none is shown.

    Shards of before version 4 hold less; what made them, as ``stage.json`` says, is added
    where it is known.
    """
    metadata = pq.read_schema(shard).metadata or {}
    if b"target" in metadata:
        note: dict[str, Any] = json.loads(metadata[b"target"])
        return _made_with(shard) | note
    shown = pq.read_table(shard, columns=["target"])["target"]
    return MEAN_TARGET if shown.null_count < len(shown) else None


def _made_with(shard: Path) -> dict[str, Any]:
    """What defines the target beside its kind and name, by the description of what made the set."""
    try:
        made = json.loads(ShardFolder(shard.parent).stage_path.read_bytes())
        return {
            "facekit": made["digests"]["facekit"],
            "renderer": made["version"],
            "size_px": made["settings"]["target_size_px"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
