"""Reads a list (CSV, JSON lines or Parquet) and decides what each of its columns means."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ....manifests.schema import LABEL_COLUMNS
from ....manifests.vocabularies import VOTE_COLUMNS, vote_column
from ....pipeline.errors import InputError, first_few, nearest
from .csv_lists import read_csv
from .json_lines import read_json_lines

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

#: File name endings of lists.
LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".pq")

LABELS = tuple(name for name, _ in LABEL_COLUMNS if name != "key")
#: Corners, left top right bottom.
CORNERS = ("x1", "y1", "x2", "y2")
#: AffectNet's spelling of a box: left, top, width, height.
AFFECTNET_BOX = ("face_x", "face_y", "face_width", "face_height")
#: Five points, one number per column, in the order of ``stages.faces.geometry.LANDMARK_NAMES``.
POINT_COLUMNS = tuple(f"lm{point}_{axis}" for point in range(5) for axis in "xy")
COORDINATE_SETS = (CORNERS, AFFECTNET_BOX, POINT_COLUMNS)
KNOWN = (
    *("path", *LABELS, "bbox_xyxy", "landmarks"),
    *(name for names in COORDINATE_SETS for name in names),
)

#: Spellings that occur in public lists, used if the list has no column of the name itself.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "path": (
        "image",
        "file",
        "filename",
        "file_name",
        "image_path",
        "filepath",
        "subdirectory_filepath",
        "image name",
        "image_name",
    ),
    "subject": ("identity", "subject_id", "person"),
    "split": ("part", "partition", "subset"),
    "emotion": ("expression",),
}

# ``AU12``, ``au_01``, ``AU 1``, ``AU12_intensity``; OpenFace's ``_r`` is regression, ``_c`` class.
_ACTION_UNIT = re.compile(
    r"^au[\s_-]*0*(?P<number>[1-9]\d?)(?:[\s_-]+(?P<kind>occurrence|occ|c|intensity|int|r))?$"
)
# What pandas and R call the numbers of rows when they write a table.
_INDEX_COLUMN = re.compile(r"^(|unnamed: \d+(\.\d+)*|__index_level_\d+__)$")
#: A name of a picture where that of a column should be.
_PICTURE_NAME = re.compile(r"\.(jpe?g|png|bmp|tiff?|webp|gif)\s*$", re.IGNORECASE)
_WHOLE_NUMBER = r"^\s*([-+]?\d+(\.0*)?\s*)?$"


@dataclass(frozen=True)
class ListTable:
    """A list as read. Columns of CSV and JSON are text; Parquet columns keep their types.

    ``places``: returns a row's position for a message, where the row's number does not say it.
    """

    path: Path
    table: pa.Table
    places: Callable[[int], str] | None = None

    def where(self, row: int) -> str:
        """Return a row's position for a message: ``line 5`` of a CSV, ``row 3`` of Parquet."""
        return f"row {row + 1}" if self.places is None else self.places(row)


@dataclass
class Columns:
    """What the columns of a list mean.

    Attributes:
        known: normpipe's name → the list's.
        action_units: (``AU12``, ``occurrence`` or ``intensity`` or None for a bare name) → the
            list's name.
        votes: of ``vocabularies.VOTE_COLUMNS`` → the list's name.
        extras: other columns, kept as labels under their own names.
        one_hot: emotion → the list's name of the column that is 1 for it; see ``find_emotions``.
        no_face: FER+'s column of votes for "no face", which count as unknown.
    """

    known: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    action_units: dict[tuple[str, str | None], str] = field(
        default_factory=lambda: dict[tuple[str, str | None], str]()
    )
    votes: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    extras: list[str] = field(default_factory=lambda: list[str]())
    one_hot: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    no_face: str | None = None

    @property
    def taken(self) -> set[str]:
        """Return the list's names of all columns that mean something."""
        return {*self.known.values(), *self.action_units.values(), *self.votes.values()}


def read_list(path: Path) -> ListTable:
    """Read a list. Raises InputError if it is not one, is empty, or has two columns of one name."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            found = ListTable(path, pq.read_table(path))
            found.table.validate(full=True)  # invalid text, offsets beyond the end
        elif path.suffix.lower() == ".jsonl":
            table, lines = read_json_lines(path)
            found = ListTable(path, table, places=lambda row: f"line {lines[row]}")
        else:
            table, where = read_csv(path)
            found = ListTable(path, table, where)
    except FileNotFoundError:
        raise InputError(
            f"no list {path}: give a folder of images or a .csv/.parquet list"
        ) from None
    except UnicodeError:
        raise InputError(f"{path} is not UTF-8 text: {_save(path)}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        if "UTF8" in line or "UTF-8" in line:
            line = f"it is not UTF-8 text: {_save(path)}"
        raise InputError(f"cannot read the list {path}: {line}") from None
    if not found.table.num_rows:
        raise InputError(f"the list {path} has no rows")
    found = _without_empty(found)
    names = found.table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has the column '{twice[0]}' twice: rename one of them")
    return found


def _save(path: Path) -> str:
    return "save it as UTF-8" if path.suffix.lower() == ".jsonl" else "save it as 'CSV UTF-8'"


def _without_empty(found: ListTable) -> ListTable:
    """Return a list without columns that have neither a name nor a cell: a comma ends each line."""
    kept = [
        place
        for place, name in enumerate(found.table.column_names)
        if name.strip() or not _all_match(found.table.column(place), r"^\s*$")
    ]
    return replace(found, table=found.table.select(kept))


def _counts_rows(found: ListTable, name: str) -> bool:
    """Return whether a column is the number of the row, as pandas and R write it, or empty."""
    if not _INDEX_COLUMN.match(name.strip().lower()):
        return False
    column = found.table[name]
    return pa.types.is_integer(column.type) or _all_match(column, _WHOLE_NUMBER)


def _all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    """Return whether all cells of a column are null, or text that a pattern matches."""
    if not pa.types.is_string(column.type):
        return column.null_count == len(column)
    return pc.all(pc.match_substring_regex(column, pattern)).as_py() is not False


def assign_columns(found: ListTable, path_column: str, spellings: Mapping[str, str]) -> Columns:
    """Decide what each column means: by ``spellings``, then by name, then by known synonym.

    Names are compared ignoring case. Logs the synonyms used and likely misspellings.

    Args:
        found: the list.
        path_column: the list's name of the column with paths.
        spellings: normpipe's name → the list's, for other columns.

    Raises:
        InputError: a named column is missing, or two mean the same.
    """
    names = found.table.column_names
    columns = Columns()
    wanted = dict(spellings)
    if path_column != "path":
        wanted["path"] = path_column
    trimmed = {name.strip(): name for name in reversed(names)}
    for name, written in wanted.items():
        spelling = written if written in names else trimmed.get(written.strip(), written)
        if spelling not in names:
            raise InputError(f"{found.path} has no column '{spelling}'{nearest(spelling, names)}")
        match = _ACTION_UNIT.match(name.lower())
        if match:
            columns.action_units[_unit(match)] = spelling
        elif name in KNOWN:
            columns.known[name] = spelling
        elif voted := vote_column(name):
            columns.votes[voted] = spelling
        else:
            raise InputError(
                f"ingest.columns names '{name}', which is not a column of normpipe"
                f"{nearest(name, [*KNOWN, *VOTE_COLUMNS])}"
            )
    _by_name(found, columns)
    _by_synonym(found, columns)
    if "path" not in columns.known:
        if any(_PICTURE_NAME.search(name) for name in names):
            raise InputError(
                f"{found.path} has no header: its first line names a picture ({first_few(names)}). "
                "Put a line above it that names the columns, such as path,emotion"
            )
        raise InputError(
            f"{found.path} has no column 'path': set ingest.path_column to the column with the "
            f"image paths (columns: {first_few([name or repr(name) for name in names], 12)})"
        )
    _whole_sets_only(columns)
    extras = [name for name in names if name not in columns.taken]
    columns.extras = [name for name in extras if not _counts_rows(found, name)]
    if ignored := [f"'{name}'" for name in extras if name not in columns.extras]:
        log.info("%s: ignoring numbers of rows: the column %s", found.path.name, first_few(ignored))
    return columns


def _by_name(found: ListTable, columns: Columns) -> None:
    taken = columns.taken
    for name in found.table.column_names:
        if name in taken:
            continue
        plain = name.strip().lower()
        match = _ACTION_UNIT.match(plain)
        if match:
            rival = columns.action_units.setdefault(_unit(match), name)
        elif plain in KNOWN:
            rival = columns.known.setdefault(plain, name)
        elif voted := vote_column(plain):
            rival = columns.votes.setdefault(voted, name)
        else:
            continue
        if rival != name and rival not in taken:
            raise InputError(f"{found.path}: '{rival}' and '{name}' mean the same; rename one")


def _by_synonym(found: ListTable, columns: Columns) -> None:
    taken = columns.taken
    plain = {name.strip().lower(): name for name in found.table.column_names if name not in taken}
    for name, others in SYNONYMS.items():
        match = next((plain[other] for other in others if other in plain), None)
        if name not in columns.known and match is not None:
            columns.known[name] = match
            log.info("%s: reading the column '%s' as '%s'", found.path.name, match, name)


def _whole_sets_only(columns: Columns) -> None:
    """Move incomplete coordinates to the extras, with a warning."""
    for names in COORDINATE_SETS:
        there = [name for name in names if name in columns.known]
        if there and len(there) < len(names):
            missing = ", ".join(name for name in names if name not in there)
            log.warning("columns %s: incomplete coordinates without %s", ", ".join(there), missing)
            for name in there:
                del columns.known[name]


def report_extras(found: ListTable, columns: Columns) -> None:
    """Log which columns are kept under their own names, and which of them look misspelt."""
    words = ["path", *LABELS, "bbox_xyxy", "landmarks"]
    free = [word for word in words if word not in columns.known]
    for name in columns.extras:
        match = get_close_matches(name.strip().lower(), free, n=1, cutoff=0.8)
        if match:
            log.warning(
                "%s: keeping the column '%s' as a label of that name; if it means '%s', set "
                "ingest.columns.%s='%s'",
                *(found.path.name, name, match[0], match[0], name),
            )
        elif re.match(r"au[\s_-]*\d", name.strip().lower()):
            log.warning(
                "%s: keeping the column '%s' as a label of that name; action units are read from "
                "names such as AU12, AU12_occurrence and AU12_intensity",
                *(found.path.name, name),
            )
        elif name.strip().lower().endswith("_votes"):
            log.warning(
                "%s: keeping the column '%s' as a label of that name; votes of raters are read "
                "from %s",
                *(found.path.name, name, ", ".join(VOTE_COLUMNS)),
            )
    if columns.extras:
        log.info("%s: also kept as labels: %s", found.path.name, ", ".join(columns.extras))


def _unit(match: re.Match[str]) -> tuple[str, str | None]:
    kinds = {"o": "occurrence", "c": "occurrence", "i": "intensity", "r": "intensity"}
    kind = match["kind"]
    return f"AU{int(match['number'])}", None if kind is None else kinds[kind[0]]
