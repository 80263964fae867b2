"""Reads the label files of a release: text with or without a header, or ``.npy``."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ....manifests.layouts import LabelFiles, Pattern, SlowPatternError, fields_of, fill
from ....pipeline.errors import InputError, nearest
from ..files import Root, path_order
from .sheets import Cells, LabelSheet, joined_sheets

#: Columns of a file, and its rows: the line (0: the whole file) and the cells.
_Rows = tuple[list[str], Iterator[tuple[int, list[str]]]]
#: A cell may hold the pixels of a picture.
_LONGEST_CELL = 2**24
_WILD = re.compile(r"[*?{]")
_UNIT = re.compile(r"0*[1-9]\d?")


# pathlib is slow where a release has a million names.


def found_below(root: Path, pattern: Pattern) -> list[str]:
    """Return the paths below a folder that match a pattern, in natural order.

    Hidden names are skipped, and links to folders are not followed by ``**``.
    """
    paths = _below(str(root), "", pattern, 0, set())
    return sorted({path for path in paths if matched(pattern, path) is not None}, key=path_order)


def exists_below(root: Path, pattern: Pattern) -> bool:
    """Return whether any path below a folder matches a pattern."""
    paths = _below(str(root), "", pattern, 0, set())
    return any(matched(pattern, path) is not None for path in paths)


def matched(pattern: Pattern, path: str) -> dict[str, str] | None:
    """Return the texts of a pattern's fields in a path; None if it is none of these paths.

    Raises InputError for a pattern that takes too long.
    """
    with _in_time():
        return pattern.match(path)


@contextmanager
def _in_time() -> Generator[None, None, None]:
    try:
        yield
    except SlowPatternError as error:
        raise InputError(f"the description of the release: the pattern {error}") from None


def _fits(pattern: Pattern, step: int, name: str) -> bool:
    with _in_time():
        return pattern.steps[step].fullmatch(name) is not None


def _below(
    folder: str, prefix: str, pattern: Pattern, step: int, seen: set[tuple[str, int]]
) -> Iterator[str]:
    """Yield paths that may match from a step on; ``seen``: folders and steps that were begun."""
    if (prefix, step) in seen:  # of two ** that share the folders above
        return
    seen.add((prefix, step))
    whole = pattern.text.split("/")[step]
    last = step == len(pattern.steps) - 1
    if not _WILD.search(whole) and os.path.lexists(f"{folder}/{whole}"):
        # As it is written: no need to list a folder of a million pictures.
        if last:
            yield prefix + whole
        elif Path(folder, whole).is_dir():
            yield from _below(f"{folder}/{whole}", f"{prefix}{whole}/", pattern, step + 1, seen)
        return
    if whole == "**" and not last:
        yield from _below(folder, prefix, pattern, step + 1, seen)
    for entry in _entries(folder):
        path = prefix + entry.name
        if whole == "**":
            if last and not _is_folder(entry):
                yield path
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, path + "/", pattern, step, seen)
        elif _fits(pattern, step, entry.name):
            if last:
                yield path
            elif _is_folder(entry):
                yield from _below(entry.path, path + "/", pattern, step + 1, seen)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except PermissionError:
        return []  # the walk for pictures makes a row of such a folder
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror}") from None


def read_label_files(
    root: Root,
    described: LabelFiles,
    paths: Sequence[str],
    match: Sequence[str],
    same: Callable[[str, str | None], str | None],
) -> LabelSheet | None:
    """Return the rows of label files, columns under normpipe's names; None if there are no files.

    Args:
        root: the release's folder; files that lie outside it are not read.
        described: what the files hold.
        paths: of the files, below the root.
        match: columns that join files which hold one column each (``{unit}_intensity``).
        same: as of ``joined_sheets``.

    Raises:
        InputError: a file cannot be read, or is not as described.
    """
    pattern = Pattern(described.files)
    inner = {name for column in described.header for name in fields_of(column)}
    sheets: dict[tuple[str, ...], LabelSheet] = {}
    for path in paths:
        fields = matched(pattern, path) or {}
        reason = root.inspect(path).reason
        if reason == "empty_file":
            continue
        if reason is not None:
            raise InputError(f"cannot read {path} in {root.path}: {reason.replace('_', ' ')}")
        key = tuple(fields[name].lower() for name in sorted(inner & fields.keys()))
        sheet = sheets.setdefault(key, LabelSheet())
        outer = {name: text for name, text in fields.items() if name not in inner}
        with _naming(root.path / path):
            _read_into(sheet, root.path, path, described, fields, outer)
    filled = [sheet for sheet in sheets.values() if sheet.places]
    if not filled:
        return None
    made = filled[0]
    for sheet in filled[1:]:
        made = joined_sheets(made, sheet, match, same)
    return made


@contextmanager
def _naming(path: Path) -> Generator[None, None, None]:
    """Turn what a broken file raises into one line that names it."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    except UnicodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    finally:
        csv.field_size_limit(before)


def _read_into(
    sheet: LabelSheet,
    root: Path,
    path: str,
    described: LabelFiles,
    fields: dict[str, str],
    outer: dict[str, str],
) -> None:
    """Append a file's rows; ``outer``: fields of its path that are columns of every row."""
    array = path.lower().endswith(".npy")
    header, rows = _npy(root / path, described) if array else _text(root / path, described)
    names = _names([fill(one, fields) or one for one in header], described, root / path)
    twice = [name for name in names if name and (name in outer or names.count(name) > 1)]
    if twice:
        raise InputError(f"{root / path}: two columns mean '{twice[0]}' (one may be in its name)")
    kept = [place for place, name in enumerate(names) if name]
    lines, cells = list[int](), list[list[str]]()
    for line, row in rows:
        if len(row) != len(names):
            raise InputError(
                f"{root / path}: line {line} has {len(row)} cells, not {len(names)} "
                f"({', '.join(header[:6])}{', …' if len(header) > 6 else ''}): is it described by "
                "the right header and separator?"
            )
        lines.append(line)
        cells.append([row[place] for place in kept])
    columns: dict[str, Cells] = {name: [text] * len(lines) for name, text in outer.items()}
    for place, here in enumerate(kept):
        columns[names[here]] = [row[place] or None for row in cells]
    if described.row_number:
        start = described.first_row
        columns[described.row_number] = [str(start + row) for row in range(len(lines))]
    sheet.extend(columns, len(sheet.files), lines)
    sheet.files.append(path)


def _text(path: Path, described: LabelFiles) -> _Rows:
    rows = _cells(path, described)
    return list(described.header) or next(rows, (0, []))[1], rows


def _cells(path: Path, described: LabelFiles) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and cells of each row that is not blank, the header's first."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        before = 0
        first = ""
        for first in stream:
            before += 1
            if before > described.skip_lines and first.strip():
                break
        else:
            return
        separator = described.separator
        if not separator:
            counts = {mark: first.count(mark) for mark in ",;\t"}
            most = max(counts, key=lambda mark: counts[mark])
            separator = most if counts[most] else "space"
        whole = itertools.chain([first], stream)
        if separator == "space":
            yield from ((n, line.split()) for n, line in enumerate(whole, before) if line.strip())
            return
        reader = csv.reader(whole, delimiter=separator)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield before - 1 + reader.line_num, [cell.strip() for cell in cells]


def _npy(path: Path, described: LabelFiles) -> _Rows:
    try:
        values = np.load(path, allow_pickle=False).reshape(-1).tolist()
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an array of numbers: {error}") from None
    return list(described.header), iter([(0, [str(value).strip() for value in values])])


def _names(header: list[str], described: LabelFiles, path: Path) -> list[str]:
    """Return normpipe's names of a file's columns; "" for those to leave out."""
    plain = [one.strip() for one in header]
    if not described.header:
        wanted = [*described.columns.values(), *described.one_hot.values()]
        lacking = [one for one in wanted if one not in plain]
        if lacking:
            raise InputError(
                f"{path} has no column '{lacking[0]}'{nearest(lacking[0], plain)}: the "
                "description of the release names it"
            )
    renamed = {theirs: ours for ours, theirs in described.columns.items()}
    one_hot = {*described.one_hot.values()}
    names: list[str] = []
    for one in plain:
        name = "frame" if described.units and not names else renamed.get(one, one)
        if one not in renamed and described.units and _UNIT.fullmatch(one):
            name = f"AU{int(one)}"
        left_out = one in described.ignored or (
            described.only and one not in renamed and one not in one_hot
        )
        names.append("" if left_out else name)
    return names
