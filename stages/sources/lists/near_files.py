"""Files that have nearly the name that a list gives: found when asked for, and named as advice."""

import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from ....pipeline.errors import InputError, first_few
from ..files import Root, is_utf8

log = logging.getLogger("normpipe")

#: How a file's name may differ from the listed one: leading folders, ``_aligned`` before the
#: ending, the ending, upper and lower case, Unicode's normal form, zeros before numbers.
NameDifference = Literal["folders", "aligned", "ending", "case", "unicode", "zeros"]
_ALL: tuple[str, ...] = get_args(NameDifference)

# Advice is worked out on some of the missing files, from a bounded number of folders.
_SAMPLE, _FOLDERS, _ENTRIES, _DEPTH = 60, 200, 5000, 3


class NearFiles:
    """The files below a root, by names that ignore some differences.

    Args:
        root: bounds what is found; folders are listed when they are first needed.
        endings: of images, in lower case.
    """

    def __init__(self, root: Root, endings: Collection[str]) -> None:
        self._root = root
        self._endings = frozenset(endings)
        self._listed: dict[str, tuple[list[str], list[str]]] = {}
        self._named: dict[tuple[str, bool, frozenset[str]], dict[str, list[str]]] = {}

    def at(self, root: Root) -> "NearFiles":
        """Return the same for another root."""
        return NearFiles(root, self._endings)

    def matches(
        self, missing: Iterable[str], taken: Collection[str], ignore: Collection[str]
    ) -> dict[str, str]:
        """Return listed path → path of the only file of nearly that name.

        ``ignore`` has the differences (``NameDifference``) that the names may have. Files that are
        in ``taken``, or that two listed paths would get, are nobody's.
        """
        ways = frozenset(ignore)
        found = {path: near for path in missing if (near := self._find(path, ways)) is not None}
        wanted = Counter(found.values())
        return {
            path: near
            for path, near in found.items()
            if wanted[near] == 1 and near not in taken and self._root.inspect(near).reason is None
        }

    def _find(self, path: str, ignore: frozenset[str]) -> str | None:
        parts = path.split("/")
        starts = len(parts) if "folders" in ignore else 1
        tries = (self._below(parts[start:], ignore) for start in range(starts))
        return next((near for near in tries if near is not None and near != path), None)

    def _below(self, parts: Sequence[str], ignore: frozenset[str]) -> str | None:
        folder = ""
        for place, part in enumerate(parts):
            is_file = place == len(parts) - 1
            names = self._names(folder, is_file, ignore).get(self._plain(part, is_file, ignore), [])
            if part in names:
                names = [part]
            if len(names) != 1:
                return None
            folder += names[0] + ("" if is_file else "/")
        return folder

    def _names(self, folder: str, files: bool, ignore: frozenset[str]) -> dict[str, list[str]]:
        """Return what a folder holds, files or folders, by plain name."""
        key = (folder, files, ignore)
        if key not in self._named:
            if folder not in self._listed:
                self._listed[folder] = _entries(self._root, folder)
            by_name: dict[str, list[str]] = {}
            for name in self._listed[folder][0 if files else 1]:
                by_name.setdefault(self._plain(name, files, ignore), []).append(name)
            self._named[key] = by_name
        return self._named[key]

    def _plain(self, name: str, is_file: bool, ignore: frozenset[str]) -> str:
        """Return a name without the differences that are ignored."""
        if "unicode" in ignore:
            name = unicodedata.normalize("NFC", name)
        if "case" in ignore:
            name = name.casefold()
        if is_file:
            stem, dot, ending = name.rpartition(".")
            stem, ending = (stem, dot + ending) if stem else (name, "")
            if ending.lower() not in self._endings:
                stem, ending = name, ""
            if "aligned" in ignore:
                stem = stem.removesuffix("_aligned")
            name = stem if "ending" in ignore else stem + ending
        return re.sub(r"(?<!\d)0+(?=\d)", "", name) if "zeros" in ignore else name


def _entries(root: Root, folder: str) -> tuple[list[str], list[str]]:
    """Return the names of a folder's files and of its folders; none if it cannot be listed."""
    files: list[str] = []
    folders: list[str] = []
    path = root.path / folder
    try:
        with os.scandir(path if root.contains(str(path.resolve())) else "") as entries:
            for entry in entries:
                if is_utf8(entry.name) and not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        pass
    return files, folders


def nearly_named(
    places: list[tuple[str, str | None]], near: NearFiles, root: Root, ignore: Sequence[str]
) -> list[tuple[str, str | None]]:
    """Return a list's places with missing files replaced by those of nearly the same name.

    Args:
        places: path below the root, or as listed and why it cannot be used.
        near: the files there.
        root: of the paths.
        ignore: differences of names; none: nothing is replaced.
    """
    if not ignore:
        return places
    ways = [way for way in _ALL if way in ignore]
    there = {path for path, reason in places if not reason and _exists(root, path)}
    missing = {path for path, reason in places if path not in there and _may_be_near(reason)}
    found = near.matches(sorted(missing), there, ways)
    for path in islice(sorted(found), 1):
        log.info(
            "%d listed files have another name, which ingest.match_names finds (the first: %s: %s)",
            *(len(found), path, found[path]),
        )
    return [(found[path], None) if path in found else (path, why) for path, why in places]


def _may_be_near(reason: str | None) -> bool:
    return reason in (None, "outside_root", "missing_file")


def _exists(root: Root, path: str) -> bool:
    return os.path.lexists(os.path.join(root.path, path))  # noqa: PTH118 - a million names


def report_missing(
    source: Path, root: Root, near: NearFiles, reasons: Sequence[tuple[str, str | None]]
) -> None:
    """Log how many listed files are missing, and which setting would find them.

    Args:
        source: the list.
        root: of the paths.
        near: the files there.
        reasons: path and what is wrong with it, for each input.

    Raises:
        InputError: all of them are missing: then the root is wrong, not the files.
    """
    lost = ("missing_file", "outside_root")
    missing = [path for path, reason in reasons if reason in lost]
    if not missing:
        return
    there = {path for path, reason in reasons if reason not in lost}
    found, ways = _best(near, missing, there)
    names = f"ingest.match_names={','.join(ways)}"
    if not there:
        hint = _root_hint(root, near, missing, found, names)
        raise InputError(
            f"none of the {len(missing)} files listed in {source} is below {root.path} (the first: "
            f"{missing[0]}): set {hint}"
        )
    hint = ""
    if found:
        first = next(path for path in missing if path in found)
        hint = (
            f"; --set {names} finds {len(found)} of them under another name ({first}: "
            f"{found[first]})"
        )
    log.warning(
        "%d of the %d files listed in %s are missing (the first: %s)%s",
        *(len(missing), len(reasons), source.name, missing[0], hint),
    )


def _best(
    near: NearFiles, missing: Sequence[str], there: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the files that the fewest differences find, and these differences."""
    some = missing[:: len(missing) // _SAMPLE + 1]
    count = {ways: len(near.matches(some, there, ways)) for ways in (*((w,) for w in _ALL), _ALL)}
    best = [*max(count, key=lambda ways: (count[ways], -len(ways)))]
    most = max(count.values())
    for way in [*best]:
        fewer = [other for other in best if other != way]
        if fewer and len(near.matches(some, there, fewer)) == most:
            best = fewer
    found = near.matches(dict.fromkeys(missing), there, best) if most else {}
    return found, best


def _root_hint(
    root: Root, near: NearFiles, missing: Sequence[str], found: dict[str, str], names: str
) -> str:
    """Return the settings that find files: below the root, else under other names, else beside."""
    some = missing[:: len(missing) // _SAMPLE + 1]
    roots = _most_of(_folders_below(root.path), some, 1)
    if not roots and not found:
        # Folders beside it may be other datasets with such names: all files, and one folder.
        roots = _most_of(_folders_below(root.path.parent), some, len(some))
        roots = roots if len(roots) == 1 else []
    hit = sum((roots[0] / path).is_file() for path in missing) if roots else 0
    if roots and hit >= len(found):
        part = "" if hit == len(missing) else f" (it has {hit} of them)"
        if len(roots) == 1:
            return f"ingest.root={_quoted(roots[0])}{part}"
        return f"ingest.root to one of {first_few([_quoted(one) for one in roots], 4)}{part}"
    if found:
        first = next(path for path in missing if path in found)
        return f"{names}, which finds {len(found)} of them ({first}: {found[first]})"
    return _elsewhere(root, near, missing) or "ingest.root to the folder they are relative to"


def _elsewhere(root: Root, near: NearFiles, missing: Sequence[str]) -> str:
    """Return advice for files that are in another folder, under nearly the same names."""
    folders = [*_folders_below(root.path), *_folders_below(root.path.parent)]
    some = missing[:: len(missing) // _SAMPLE + 1]
    hits: list[tuple[Path, list[str]]] = []
    for folder in dict.fromkeys(folders):
        there = near.at(Root(folder))
        if len(there.matches(some, (), _ALL)) == len(some):
            hits.append((folder, _best(there, missing, ())[1]))
    if len(hits) != 1:
        return ""
    folder, ways = hits[0]
    return f"ingest.root={_quoted(folder)} and ingest.match_names={','.join(ways)}"


def _most_of(folders: Sequence[Path], paths: Sequence[str], least: int) -> list[Path]:
    """Return the folders that most of the paths are files in, of those with ``least`` or more."""
    count = {one: sum((one / path).is_file() for path in paths) for one in folders}
    most = max(count.values(), default=0)
    return [one for one in folders if count[one] == most] if most >= least else []


def _folders_below(top: Path) -> list[Path]:
    """Return the nearest folders below one, not itself, at most ``_FOLDERS``."""
    found: list[Path] = []
    level = [top]
    for _ in range(_DEPTH):
        level = [one for folder in level for one in _subfolders(folder)][: _FOLDERS - len(found)]
        found += level
    return found


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            some = [entry for entry in islice(entries, _ENTRIES) if is_utf8(entry.name)]
            names = [entry.name for entry in some if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _quoted(path: Path) -> str:
    text = str(path)
    return json.dumps(text, ensure_ascii=False) if "'" in text else f"'{text}'"
