"""Several lists as one: the ``metadata`` files of an image folder, the labels of several shards."""

import posixpath
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from ....pipeline.errors import InputError
from ..files import Root
from .table import ListTable, read_list

#: Hugging Face's column with the names of files, relative to the list's own folder.
FILE_NAME = "file_name"


def read_metadata(
    root: Root, names: Sequence[str], images: Sequence[str]
) -> tuple[ListTable | None, list[str]]:
    """Return the ``metadata`` files of an image folder as one list, and the names of those used.

    Files without a column ``file_name``, and links that lead out, are left out. ``path`` has the
    paths below the root. ``images`` are those that there are.

    Raises:
        InputError: one cannot be read, they contradict each other, or they name no image.
    """
    used: list[str] = []
    lists: list[ListTable] = []
    for name in names:
        if root.inspect(name).reason is not None:
            continue
        found = read_list(root.path / name)
        if FILE_NAME in found.table.column_names:
            used.append(name)
            lists.append(found)
    if not lists:
        return None, []
    tables = [_below(one, posixpath.dirname(name)) for one, name in zip(lists, used, strict=True)]
    ends = list(accumulate(table.num_rows for table in tables))

    def place(row: int) -> str:
        number = bisect_right(ends, row)
        return f"{used[number]}, {lists[number].where(row - ([0, *ends][number]))}"

    paths = [path for table in tables for path in table["path"].to_pylist() if path is not None]
    there = {*images}
    if not any(posixpath.normpath(path) in there for path in paths):
        raise InputError(
            f"none of the {len(paths)} files in {root.path / used[0]} is an image there (first: "
            f"{next(iter(paths), '')}): '{FILE_NAME}' counts from the folder of that list"
        )
    return ListTable(root.path, join_tables(root.path, tables), places=place), used


def _below(found: ListTable, folder: str) -> pa.Table:
    """Return a list whose paths count from the root, under the name ``path``."""
    table = without_paths(found.table)
    names = found.table[FILE_NAME].cast(pa.string()).to_pylist()
    paths = [None if not n or not n.strip() else posixpath.join(folder, n.strip()) for n in names]
    table = table.drop_columns([FILE_NAME])
    return table.add_column(0, "path", pa.array(paths, pa.string()))


def without_paths(table: pa.Table) -> pa.Table:
    """Return a table whose own column ``path``, if there is one, is named ``list_path``."""
    names = table.column_names
    return table.rename_columns(
        ["list_path" if name.strip().lower() == "path" else name for name in names]
    )


def join_tables(path: Path, tables: Sequence[pa.Table]) -> pa.Table:
    """Return tables one below the other; columns of several types become text.

    Raises InputError, with ``path``, if they cannot.
    """
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        pass
    try:
        texts = [
            pa.table({name: one[name].cast(pa.string()) for name in one.column_names})
            for one in tables
        ]
        return pa.concat_tables(texts, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(
            f"{path}: the labels of its files differ in type ({error}): give the files one by one"
        ) from None
