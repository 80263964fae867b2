"""pair: joins each aligned face with its normalized ones, one original to n variants.

By default it writes an index: rows say where the two pictures are, and no picture is copied. With
``materialize`` the shards hold both pictures and the labels, for use on their own.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from ..manifests.keys import pair_key
from ..manifests.schema import COMMON, IMAGE, ORIGINS, PAIRS, schema
from ..manifests.vocabularies import status_of
from ..pipeline.errors import InputError
from ..pipeline.stage import JoinStage, Row, StageConfig, added
from ..pipeline.store.labels import LABELS_METADATA, label_rows, labels_digest, read_labels
from ..pipeline.store.shards import ROW_GROUP_ROWS

_COMMON = [name for name, _ in COMMON]
_PLACE = ("shard", "row_group", "row")
# Column of ORIGINS → the same in the aligned and in the normalized rows.
_OF_ALIGNED = {"source_sha256": "source_sha256", "face_size_px": "face_size_px"}
_OF_NORMALIZED = {"normalized_weights_sha256": "weights_sha256"}


class PairConfig(StageConfig):
    """Which variants are paired, and whether their pictures are copied."""

    variants: tuple[str, ...] = Field(
        (), description="normalized variants, by folder name; unset: the one of this job"
    )
    materialize: bool = Field(
        False, description="write shards with both pictures and the labels, for use on their own"
    )
    origins: bool | None = added(
        None,
        description="with materialize, also write the photograph's sha256, the face's size and the "
        "weights' sha256; unset: yes, unless the shards were begun without",
    )

    @field_validator("variants", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("variants")
    @classmethod
    def _plain_names(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not re.fullmatch(r"(?!_)[A-Za-z0-9._-]+", value):
                raise ValueError(
                    f"'{value}' is not a variant name: use letters, digits, . _ -, and no leading _"
                )
        if len(set(values)) < len(values):
            raise ValueError("a variant is named twice")
        return values


class Pair(JoinStage):
    """Join stage: aligned + normalized/<variant> … → pairs.

    A shard has one row for each aligned row and variant, in the order of the aligned shard. ``key``
    is the aligned row's, with ``@variant`` appended if there are several variants; ``parent_key``
    is the input image's.

    ===========================  =========================  ==================
    the aligned row              its normalized row         the pair
    ===========================  =========================  ==================
    ok                           ok                         ok, both positions
    ok                           not ok                     its reason, aligned position
    ok                           none                       ``no_normalized``, aligned position
    not ok                       any or none                the aligned reason
    none                         any                        ``no_original``, normalized position
    ===========================  =========================  ==================

    Args:
        config: settings; its variants must be set, and ``origins`` unset means without.
        labels: what ingest found, by ``key``, or the file with them, which ``open`` reads and which
            may be missing; used with ``materialize`` only.
    """

    name: ClassVar[str] = "pair"
    writes = "pairs"
    description = "Originals and their normalized faces, joined by key."

    def __init__(self, config: PairConfig, labels: pa.Table | Path | None = None) -> None:
        if not config.variants:
            raise InputError("pair.variants is empty: name the normalized variants to pair")
        self.config = config
        self._variants = config.variants
        self._materialize = config.materialize
        self._origins = config.materialize and bool(config.origins)
        self._labels_file = labels if isinstance(labels, Path) else None
        self._labels: pa.Table | None = None
        if config.materialize and not isinstance(labels, Path):
            self._labels = labels
        self.reads = ("aligned", *(f"normalized/{variant}" for variant in config.variants))
        self.columns = [*_COMMON, "image"] if config.materialize else _COMMON
        if self._origins:
            self.columns = [*self.columns, *_OF_ALIGNED.values(), *_OF_NORMALIZED.values()]
        self.schema = _materialized(self._labels, self._origins) if config.materialize else PAIRS

    def open(self) -> None:
        """Read the labels if they go into the shards. Raises InputError for any other file."""
        if self._materialize and self._labels_file is not None and self._labels_file.is_file():
            self._labels = read_labels(self._labels_file)
            self.schema = _materialized(self._labels, self._origins)

    def digests(self) -> dict[str, str]:
        """Return the digest of the labels if they are written into the shards."""
        if self._labels is None:
            return {}
        return {"labels": labels_digest(self._labels)}

    def join(self, number: int, inputs: list[pa.Table]) -> Iterable[pa.Table]:
        """Return the pairs of shard ``number``; see the class for the rules.

        Args:
            number: of the shard; unused, as its rows hold their positions.
            inputs: the aligned shard and that of each variant (without rows if it is missing), with
                the columns ``shard``, ``row_group`` and ``row``.
        """
        del number
        rows = self._rows(inputs)
        if self._materialize:
            return self._with_pictures(rows, inputs)
        return [pa.Table.from_pylist(rows, PAIRS)]

    def _rows(self, inputs: list[pa.Table]) -> list[Row]:
        """Return index rows, with the positions in the inputs as ``_aligned``, ``_normalized``."""
        aligned, *variants = [_references(table) for table in inputs]
        by_key = [{row["key"]: row for row in variant} for variant in variants]
        rows: list[Row] = []
        for original in aligned:
            for variant, found in zip(self._variants, by_key, strict=True):
                rows.append(self._pair(variant, original, found.pop(original["key"], None)))
        # The rest has no original: the aligned dataset was replaced after its variant was made.
        for variant, found in zip(self._variants, by_key, strict=True):
            rows += [self._pair(variant, None, row) for row in found.values()]
        return rows

    def _pair(self, variant: str, original: Row | None, normalized: Row | None) -> Row:
        source = original or normalized
        assert source is not None
        key = source["key"]
        row: Row = {
            "key": pair_key(key, variant) if len(self._variants) > 1 else key,
            "parent_key": source["parent_key"],
            "variant": variant,
            "_key": key,
        }
        if original is None:
            decided = _decision(self._decided("no_original"))
        elif original["status"] != "ok":
            return row | _decision(original)
        elif normalized is None:
            decided = _decision(self._decided("no_normalized"))
        elif normalized["status"] != "ok":
            decided = _decision(normalized)
        else:
            decided = {"status": "ok", "reason": None, "decided_by": self.name}
        row |= decided
        if original is not None:
            row |= {f"aligned_{name}": original[name] for name in _PLACE}
            row["_aligned"] = original["_position"]
        if normalized is not None and (decided["status"] == "ok" or original is None):
            row |= {f"normalized_{name}": normalized[name] for name in _PLACE}
            row["_normalized"] = normalized["_position"]
        return row

    def _decided(self, reason: str) -> Row:
        return {"status": status_of(reason), "reason": reason, "decided_by": self.name}

    def _with_pictures(self, rows: list[Row], inputs: list[pa.Table]) -> Iterator[pa.Table]:
        """Yield tables of at most one row group with both pictures and the labels."""
        labels, places = self._labels, pa.nulls(len(rows), pa.int64())
        if labels is not None:
            keys = pa.array([row["_key"] for row in rows], pa.string())
            parents = pa.array([row["parent_key"] for row in rows], pa.string())
            places = label_rows(keys, parents, labels)
            labels = labels.drop_columns("key")
        original = inputs[0]
        variants = dict(zip(self._variants, inputs[1:], strict=True))
        # At least one table, so that an empty shard still has its columns.
        for start in range(0, max(1, len(rows)), ROW_GROUP_ROWS):
            part = rows[start : start + ROW_GROUP_ROWS]
            columns: dict[str, Any] = {
                name: pa.array([row.get(name) for row in part], pa.string())
                for name in [*_COMMON, "variant"]
            }
            aligned = [(original, row.get("_aligned")) for row in part]
            normalized = [(variants[row["variant"]], row.get("_normalized")) for row in part]
            cells = {"image": (aligned, "image"), "normalized": (normalized, "image")}
            if self._origins:
                cells |= {name: (aligned, own) for name, own in _OF_ALIGNED.items()}
                cells |= {name: (normalized, own) for name, own in _OF_NORMALIZED.items()}
            for name, (places_of, own) in cells.items():
                columns[name] = _cells(places_of, own, self.schema.field(name).type)
            if labels is not None:
                known = labels.take(places.slice(start, len(part)))
                columns.update({name: known[name] for name in known.column_names})
            arrays = [columns[name] for name in self.schema.names]
            yield pa.Table.from_arrays(arrays, schema=self.schema)


def _materialized(labels: pa.Table | None, origins: bool) -> pa.Schema:
    """Return the schema of shards with pictures and labels."""
    fields = [] if labels is None else [f for f in labels.schema if f.name != "key"]
    columns = [("variant", pa.string()), ("image", IMAGE), ("normalized", IMAGE)]
    columns += ORIGINS if origins else []
    return schema(
        [*columns, *((f.name, f.type) for f in fields)],
        {LABELS_METADATA: json.dumps([f.name for f in fields])},
    )


def _references(table: pa.Table) -> list[Row]:
    """Return a shard's rows without pictures, each with its position in the table."""
    rows = table.select([*_COMMON, *_PLACE]).to_pylist()
    for position, row in enumerate(rows):
        row["_position"] = position
    return rows


def _decision(row: Row) -> Row:
    return {name: row[name] for name in ("status", "reason", "decided_by")}


def _cells(places: list[tuple[pa.Table, int | None]], name: str, kind: pa.DataType) -> pa.Array:
    """Gather a column's cells by table and position; null without a position, or a column."""
    pieces = [
        pa.nulls(1, kind)
        if position is None or name not in table.column_names
        else table[name].slice(position, 1).chunk(0)
        for table, position in places
    ]
    return pa.concat_arrays(pieces) if pieces else pa.array([], kind)
