"""Columns of all rows of a dataset as one table, without pictures: to choose and sort rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...manifests.arrays import Rows
from ...manifests.schema import IMAGE
from ..errors import InputError
from ..store.shards import ShardFolder
from ..store.storage import parquet_file
from .opening import ColumnSource, OpenedDataset
from .reading import damage_errors
from .where import columns_in, parse_where


def offered_schema(opened: OpenedDataset) -> pa.Schema:
    """Return all columns that rows of an open dataset have, with their types, without pictures."""
    return pa.schema([(name, kind) for name, kind in opened.types.items() if kind != IMAGE])


def read_columns(opened: OpenedDataset, names: Sequence[str]) -> pa.Table:
    """Return columns of all rows of an open dataset, in its order; null where a row has none.

    Args:
        names: of ``offered_schema``; none is a picture. Memory holds all of them at once.

    Raises:
        InputError: a shard is damaged, or was rewritten since the dataset was opened.
    """
    schema = offered_schema(opened)
    found: dict[str, Any] = {}
    for name in names:
        if name in opened.joined_labels:
            found[name] = opened.joined_labels[name]
        elif name in opened.rows.column_names:
            found[name] = opened.rows[name]
    for source in opened.sources:
        wanted = {name: source.columns[name] for name in names if name in source.columns}
        wanted = {name: column for name, column in wanted.items() if name not in found}
        if wanted:
            table = _gathered(opened, source, [*wanted.values()])
            if table is None:
                found |= {n: pa.nulls(opened.rows.num_rows, schema.field(n).type) for n in wanted}
            else:
                found |= {name: table[column] for name, column in wanted.items()}
    return pa.table({name: found[name] for name in names})


def rows_where(opened: OpenedDataset, condition: str) -> pa.Table:
    """Return the rows of an open dataset that a condition holds for, without its other columns.

    Args:
        condition: see ``parse_where``; on columns of ``offered_schema``.

    Returns:
        The columns of ``opened.rows`` and an int64 column ``_row``, their places there.

    Raises:
        InputError: as ``parse_where`` and ``read_columns``.
    """
    places = pa.array(places_where(opened, condition))
    return opened.rows.take(places).append_column("_row", places)


def places_where(opened: OpenedDataset, condition: str | pyarrow.compute.Expression) -> Rows:
    """Return (M,) which rows of an open dataset a condition holds for, in their order.

    Args:
        condition: see ``parse_where``; or an expression of pyarrow on columns of
            ``offered_schema``.

    Raises:
        InputError: as ``parse_where`` and ``read_columns``, or the expression cannot be computed.
    """
    schema, shown = offered_schema(opened), str(condition)
    if isinstance(condition, str):
        expression, names = parse_where(condition, schema), columns_in(condition, schema)
    else:  # it does not say what it names: not more than its text does
        expression, names = condition, [name for name in schema.names if name in shown]
    try:
        table = read_columns(opened, names or ["key"])
        numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
        return numbered.filter(expression)["_row"].to_numpy()
    except (pa.ArrowException, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"where = {shown}: {why}") from None


def _gathered(opened: OpenedDataset, source: ColumnSource, columns: list[str]) -> pa.Table | None:
    """Return columns of a source in the order of the rows; None if no row is in it."""
    places, index = source.places, np.full(len(source.places), -1, np.int64)
    pieces: list[pa.Table] = []
    read = 0
    keys: Any = opened.rows["_source"]
    for folder, rows in _by_folder(opened, source):
        if not len(rows):
            continue
        shards = ShardFolder(folder)
        order = rows[np.argsort(places[rows, 0], kind="stable")]
        numbers, starts = np.unique(places[order, 0], return_index=True)
        for number, here in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            with (
                damage_errors(shards.shard(number)),
                parquet_file(shards.shard(number)) as file,
            ):
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
                table = file.read(columns=list(dict.fromkeys(["key", *columns])))
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            place = offsets[np.minimum(places[here, 1], len(sizes))] + places[here, 2]
            known = place.max(initial=-1) < table.num_rows
            if not known or table["key"].take(place).to_pylist() != keys.take(here).to_pylist():
                raise InputError(f"{folder} was changed since it was opened: open it again")
            index[here] = read + np.arange(len(here))
            pieces.append(table.select(columns).take(place))
            read += len(here)
    if not pieces:
        return None
    return pa.concat_tables(pieces).take(pa.array(index, mask=index < 0))


def _by_folder(opened: OpenedDataset, source: ColumnSource) -> Iterator[tuple[Any, Any]]:
    """Yield each folder of a source, and which rows (M,) are in it."""
    inside = source.places[:, 0] >= 0
    for variant, folder in source.folders.items():
        of_variant = inside
        if variant:
            names = np.asarray(opened.rows["_variant"].to_pylist(), object)
            of_variant = inside & (names == variant)
        yield folder, np.flatnonzero(of_variant)
