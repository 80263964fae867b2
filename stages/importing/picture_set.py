"""A folder or archive of pictures that others made, and lists that say whose they are."""

import hashlib
import json
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...manifests.keys import sample_id
from ...pipeline.errors import InputError
from ..sources.containers.archives import ARCHIVE_SUFFIXES, Archive
from ..sources.files import FileFacts, Root, path_order, walk
from ..sources.lists.table import ListTable, read_list

#: Columns of a list, with other names that they may have.
_ORIGINAL = ("key", "path", "image", "original")
_PICTURE = ("normalized", "picture")


@dataclass(frozen=True)
class PictureSet:
    """The pictures of a folder or archive; none is opened.

    Attributes:
        root: the folder or archive, resolved.
        facts: path below it → size and time, in natural order; a picture that is unusable has
            none, as reading it will say.
    """

    root: Path
    facts: dict[str, FileFacts]

    def digest(self) -> str:
        """Return the sha256 of all names, sizes and times."""
        listed = [
            [sample_id(path), one.size_bytes, one.modified_ns] for path, one in self.facts.items()
        ]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def by_name(self) -> dict[str, str]:
        """Return name, escaped as in keys → path."""
        return {sample_id(path): path for path in self.facts}


def list_pictures(folder: Path, endings: Sequence[str]) -> PictureSet:
    """List the pictures of a folder, with those in its folders, or of a ``.zip`` or ``.tar``.

    Hidden files are left out. Raises InputError if there are none.
    """
    wanted = frozenset(endings)
    if folder.is_dir():
        root = Root(folder)
        facts = {p: root.inspect(p) for p in walk(root, wanted, False).paths}
    elif folder.is_file() and folder.suffix.lower() in ARCHIVE_SUFFIXES:
        archive = Archive(folder.resolve())
        archive.close()
        found = {member.path: member.facts for member in archive.members}
        facts = {p: found[p] for p in sorted(found, key=path_order) if _is_picture(p, wanted)}
    else:
        raise InputError(
            f"{folder} is neither a folder nor a .zip or .tar: give the one that holds the "
            "normalized pictures (unpack any other archive)"
        )
    if not facts:
        raise InputError(f"no pictures in {folder}: give the folder that holds them")
    return PictureSet(folder.resolve(), facts)


def _is_picture(path: str, endings: frozenset[str]) -> bool:
    name = posixpath.basename(path)
    return not name.startswith(".") and posixpath.splitext(name)[1].lower() in endings


@dataclass(frozen=True)
class ListedPairs:
    """What a list says.

    Attributes:
        found: original → path of its picture, which may be missing.
        unknown: originals that the job does not have.
    """

    found: dict[str, str]
    unknown: list[str]


def listed_pairs(file: Path, originals: Mapping[str, str], pictures: PictureSet) -> ListedPairs:
    """Read a list of originals and their pictures; an empty cell means that there is none.

    Args:
        file: ``.csv``, ``.tsv`` or ``.parquet`` with a column ``key`` or ``path``, and
            ``normalized``: a path below the folder of pictures.
        originals: key, or path below the input → original.
        pictures: in any Unicode form.

    Raises:
        InputError: no such list, an original with two pictures, or none that is there.
    """
    table = read_list(file)
    ours, theirs = _column(table, _ORIGINAL), _column(table, _PICTURE)
    spelled = {unicodedata.normalize("NFC", path): path for path in pictures.facts}
    found, unknown, rows = dict[str, str](), list[str](), dict[str, int]()
    for row, (name, listed) in enumerate(zip(ours, theirs, strict=True)):
        original = originals.get(name, originals.get(sample_id(_plain(name))))
        if original is None:
            unknown.append(name)
        elif listed.strip():
            path = _below(_plain(listed), pictures.root)
            path = spelled.get(unicodedata.normalize("NFC", path), path)
            if found.setdefault(original, path) != path:
                raise InputError(
                    f"{file} gives {name} two pictures: {found[original]} in "
                    f"{table.where(rows[original])} and {path} in {table.where(row)}; remove one"
                )
            rows.setdefault(original, row)
    if not found:
        shown = unknown[0] if unknown else "no row has a picture"
        raise InputError(
            f"{file} names no original of this job (such as {next(iter(originals), 'none')}): "
            f"{shown}"
        )
    if not any(path in pictures.facts for path in found.values()):
        raise InputError(
            f"none of the pictures in {file} is in {pictures.root} (the list has "
            f"{next(iter(found.values()))}, the folder {next(iter(pictures.facts))}): give paths "
            "below that folder"
        )
    return ListedPairs(found, unknown)


def _column(table: ListTable, names: Sequence[str]) -> list[str]:
    """Return a column as text; "" for unknown."""
    there = {name.strip().casefold(): name for name in table.table.column_names}
    for name in names:
        if name in there:
            values = table.table[there[name]].to_pylist()
            return ["" if value is None else str(value) for value in values]
    raise InputError(
        f"{table.path} has no column '{names[0]}' (columns: {', '.join(there)}): it needs key or "
        "path, and normalized"
    )


def _plain(path: str) -> str:
    return posixpath.normpath(path.strip().replace("\\", "/"))


def _below(path: str, root: Path) -> str:
    """Return a path below the root for an absolute one."""
    return path.removeprefix(f"{root.as_posix()}/")
