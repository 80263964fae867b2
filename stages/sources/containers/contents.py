"""What archives and Parquet files contain, as inputs with labels: one, or a folder of them."""

from __future__ import annotations

import logging
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from ....manifests.keys import sample_id
from ....manifests.vocabularies import EMOTIONS, SampleError, emotion_name
from ....pipeline.errors import InputError
from ....pipeline.store.labels import find_labels, read_labels
from ..files import FileFacts, Root, Walk, path_order
from ..lists.folder_lists import join_tables, without_paths
from ..lists.json_lines import MOST_FIELDS, table_of_records
from ..lists.table import LIST_SUFFIXES, SYNONYMS, ListTable
from .archives import Archive, Member
from .nested import Nested
from .picture_tables import PictureTable, chosen_column
from .sidecars import frequent_fields, read_sidecars

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

#: Columns that may hold classes of any kind: emotions only if all their values are.
_CLASSES = ("cls", "label", "txt")
#: Names of parts in file names, as Hugging Face reads them, and the split that they mean.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SPLIT = re.compile(rf"(?:^|[-._ /])({'|'.join(_SPLITS)})(?=[-._ /\d]|$)", re.IGNORECASE)


class Taken(NamedTuple):
    """Which files are pictures, how many are taken, and which columns of Parquet files.

    ``path_column``: as in ``chosen_column``; ``columns``: as in ``PictureTable.labels``.
    """

    extensions: frozenset[str]
    limit: int | None = None
    path_column: str = "path"
    columns: tuple[str, ...] = ()


@dataclass
class Contents:
    """Inputs in archives or Parquet files, in natural order.

    Attributes:
        paths: as in the manifest; may hold characters that are no UTF-8.
        facts: of each.
        listed: their labels as a list, one row each, or None.
        ignored: what else there is, by kind.
        complete: False if there is more than was asked for.
    """

    paths: list[str] = field(default_factory=lambda: list[str]())
    facts: list[FileFacts] = field(default_factory=lambda: list[FileFacts]())
    listed: ListTable | None = None
    ignored: Counter[str] = field(default_factory=lambda: Counter[str]())
    complete: bool = True


class _Part(NamedTuple):
    """The inputs in one container, and their labels, if any."""

    paths: list[str]
    facts: list[FileFacts]
    labels: pa.Table | None = None
    complete: bool = True


def read_contents(nested: Nested, containers: Walk | None, taken: Taken) -> Contents:
    """Return what there is in a container, or in those that a walk through a folder found.

    Raises:
        InputError: the only container cannot be read, or there are no pictures.
    """
    found, parts = Contents(), list[_Part]()
    names = [""] if containers is None else containers.paths
    left = taken.limit
    for name in names:
        if left is not None and left <= 0:
            found.complete = False
            break
        part = _part(nested, name, containers, taken._replace(limit=left), found.ignored)
        if part is None:
            continue
        parts.append(part)
        found.complete &= part.complete
        left = None if left is None else left - len(part.paths)
    found.paths = [path for part in parts for path in part.paths]
    found.facts = [facts for part in parts for facts in part.facts]
    found.listed = _listed(nested.root, parts)
    return found


def class_spellings(found: ListTable, given: Mapping[str, str], numbered: bool) -> dict[str, str]:
    """Return ``given`` spellings, and which column of classes holds emotions, if one does.

    Classes may be people as well, so they are emotions only if each is one by name, or if they are
    numbers and ``numbered`` says that the numbers of emotions have names.
    """
    names = {name.strip().lower(): name for name in found.table.column_names}
    if "emotion" in given or {"emotion", "expression"} & names.keys():
        return dict(given)
    for name in _CLASSES:
        if name not in names or names[name] in given.values():
            continue
        column = found.table[names[name]]
        if pa.types.is_nested(column.type):
            continue
        values = [
            str(value).strip() for value in pc.unique(column).to_pylist() if value is not None
        ]
        digits = bool(values) and all(re.fullmatch(r"-?\d+", value) for value in values)
        emotions = bool(values) and all(emotion_name(value) in EMOTIONS for value in values)
        if emotions or (digits and numbered):
            return {**given, "emotion": names[name]}
        if digits:
            log.warning(
                "%s: '%s' holds numbers of classes and is kept as it is: for emotions, set "
                "ingest.emotion_names to their names in order; for people, "
                "ingest.columns.subject='%s'",
                *(found.path.name, names[name], names[name]),
            )
    return dict(given)


def named_split(path: str) -> str | None:
    """Return the split that a file or folder name has in it, as Hugging Face reads names."""
    found = _SPLIT.findall(path)
    return _SPLITS[found[-1].lower()] if found else None


def _part(
    nested: Nested, name: str, walked: Walk | None, taken: Taken, ignored: Counter[str]
) -> _Part | None:
    """Read one container; one of a folder that cannot be used is a row that says so."""
    container, reason = None, None
    try:
        if walked is not None:
            reason = walked.reasons.get(name) or Root(nested.root).inspect(name).reason
        container = None if reason else nested.open(name)
    except InputError as error:
        if walked is None:
            raise
        log.warning("%s", error)
        reason = "unreadable"
    except SampleError as error:
        reason = error.reason
    if container is None:
        return _Part([name], [FileFacts(reason=reason)])
    part = None
    if isinstance(container, PictureTable):
        part = _in_table(container, taken)
    elif isinstance(container, Archive):
        part = _in_archive(container, taken, ignored, alone=walked is None)
    if part is None:
        ignored[f"{posixpath.splitext(name)[1]} without pictures"] += 1
        return None
    split = named_split(name or container.path.name)
    if split and (walked is not None or isinstance(container, PictureTable)):
        part = part._replace(labels=_with_split(part, split))
    prefix = f"{name}/" if name else ""
    return part._replace(paths=[prefix + path for path in part.paths])


def _in_archive(archive: Archive, taken: Taken, ignored: Counter[str], alone: bool) -> _Part | None:
    found: list[Member] = []
    others: list[str] = []
    for member in archive.members:
        name = posixpath.basename(member.path)
        if name.startswith(".") and member.facts.reason != "outside_root":
            ignored["hidden file"] += 1
        elif posixpath.splitext(name)[1].lower() not in taken.extensions:
            others.append(member.path)
        else:
            found.append(member)
    found.sort(key=lambda member: path_order(sample_id(member.path)))
    chosen = found[: taken.limit]
    paths = [member.path for member in chosen]
    sidecars = read_sidecars(archive, paths)
    for path in others:
        if path not in sidecars.used:
            ignored[sample_id(posixpath.splitext(path)[1].lower()) or "no extension"] += 1
    labels = None
    if any(sidecars.records):
        labels = table_of_records(frequent_fields(sidecars.records, MOST_FIELDS))
    lists = [path for path in others if posixpath.splitext(path)[1].lower() in LIST_SUFFIXES]
    if alone and lists and labels is None:
        log.warning("%s", _about_list(archive.path, lists[0]))
    facts = [member.facts for member in chosen]
    return _Part(paths, facts, labels, len(chosen) == len(found)) if found else None


def _about_list(archive: Path, name: str) -> str:
    """Return how to use a list that is in an archive."""
    own = posixpath.basename(name)
    root = archive / posixpath.dirname(name)
    tool = "tar -xOf" if archive.suffix.lower() == ".tar" else "unzip -p"
    return (
        f"{archive.name} has a list in it, whose labels are not read: {tool} {quote(str(archive))} "
        f"{quote(name)} > {quote(own)}, then give --input {quote(own)} --set "
        f"{quote(f'ingest.root={root}')}"
    )


def _in_table(table: PictureTable, taken: Taken) -> _Part | None:
    column = chosen_column(table.path, table.schema, taken.path_column)
    if column is None:
        return None
    rows = table.rows if taken.limit is None else min(table.rows, taken.limit)
    paths = [table.place(row, column) for row in range(rows)]
    labels = table.labels(taken.columns).slice(0, rows)
    facts = table.inspect(paths[0]) if paths else FileFacts()
    return _Part(paths, [facts] * rows, labels if labels.num_columns else None, rows == table.rows)


def _with_split(part: _Part, split: str) -> pa.Table:
    """Return labels with the split of a file's name, where they do not have one of their own."""
    column = pa.array([split] * len(part.paths), pa.string())
    if part.labels is None:
        return pa.table({"split": column})
    names = {name.strip().lower() for name in part.labels.column_names}
    if names & {"split", *SYNONYMS["split"]}:
        return part.labels
    return part.labels.append_column("split", column)


def _listed(root: Path, parts: Sequence[_Part]) -> ListTable | None:
    """Return the labels of all inputs as one list."""
    if all(part.labels is None for part in parts):
        return None
    paths = [path for part in parts for path in part.paths]
    tables: list[pa.Table] = []
    for part in parts:
        own = pa.array([sample_id(path) for path in part.paths], pa.string())
        table = pa.table({"path": own})
        for name, column in _columns(part):
            table = table.append_column(name, column)
        tables.append(table)
    whole = join_tables(root, tables)
    if "list_parent_key" in whole.column_names:
        whole = _with_job_labels(root, whole)
    return ListTable(root, whole, places=lambda row: sample_id(paths[row]))


def _columns(part: _Part) -> list[tuple[str, pa.ChunkedArray]]:
    table = pa.table({}) if part.labels is None else without_paths(part.labels)
    return list(zip(table.column_names, table.columns, strict=True))


def _with_job_labels(root: Path, table: pa.Table) -> pa.Table:
    """Return the rows of normpipe's own shards with the labels that lie beside them."""
    file = find_labels(root if root.is_dir() else root.parent)
    if file is None:
        return table
    labels = read_labels(file)
    keys = labels["key"].combine_chunks()
    own, parent = (pc.index_in(table[f"list_{n}"], value_set=keys) for n in ("key", "parent_key"))
    rows = pc.coalesce(own, parent)
    for name in labels.column_names:
        if name != "key" and name not in table.column_names:
            table = table.append_column(name, labels[name].take(rows))
    return table
