"""Label columns of a list: typed, named, null if unknown.

``AU12`` is occurrence (0 or 1), ``AU12_intensity`` the level from 0 (absent) to 5 (maximum, the
letter E of FACS). A list may hold both. ``happiness_votes`` counts the raters who chose happiness.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute

from ....manifests.schema import (
    ALIGNED_UPRIGHT,
    LABEL_COLUMNS,
    MANIFEST,
    NORMALIZED,
    ORIGINS,
    PAIRS,
)
from ....manifests.vocabularies import ACTION_UNITS, EMOTIONS, emotion_name
from ....pipeline.errors import InputError, nearest
from .table import Columns
from .values import Cells

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

#: Names that a label may not have, because data columns have them.
RESERVED = frozenset(
    {*MANIFEST.names, *ALIGNED_UPRIGHT.names, *NORMALIZED.names, *PAIRS.names}
    | {"normalized", "shard", "row_group", "row", *dict(ORIGINS)}
)

_TYPES = dict(LABEL_COLUMNS)
_NUMBER = re.compile(r"^-?\d+(\.0*)?$")


class LabelRules(NamedTuple):
    """What the settings say about labels; see ``IngestConfig``."""

    au_columns: Literal["occurrence", "intensity"] = "occurrence"
    au_missing: float | None = None
    valence_arousal_missing: float | None = None
    emotion_names: Sequence[str] = ()


def labels_from_list(cells: Cells, columns: Columns, rules: LabelRules) -> pa.Table | None:
    """Return the label columns of a list, rows in its order, or None if it has none.

    Columns are in the order of LABEL_COLUMNS, then action units by number, then the others and the
    votes, as in the list.
    Raises InputError, naming the line, for values that a column cannot hold.
    """
    found: dict[str, pa.Array] = {}
    for name, kind in LABEL_COLUMNS:
        own = columns.known.get(name)
        if own is None:
            continue
        if name == "emotion":
            found[name] = _emotions(cells, own, rules.emotion_names)
        elif name in ("valence", "arousal"):
            found[name] = _unit_range(cells, own, rules.valence_arousal_missing)
        elif pa.types.is_integer(kind):
            found[name] = cells.integers(own, kind)
        else:
            found[name] = cells.text(own)
    found.update(_action_units(cells, columns, rules))
    voted = {own: column for column, own in columns.votes.items()}
    for name in (n for n in cells.found.table.column_names if n in {*columns.extras, *voted}):
        array = _votes(cells, name) if name in voted else cells.any_type(name)
        if array is None:
            log.warning("%s: skipping the column '%s': it holds lists", cells.found.path.name, name)
            continue
        label = voted.get(name, f"list_{name}" if name in RESERVED else name)
        if label != name and name not in voted:
            log.warning("keeping the column '%s' as '%s': '%s' is reserved", name, label, name)
        if label in found:
            cells.refuse(name, f"would be a second label named '{label}': rename it")
        found[label] = array
    return pa.table(found) if found else None


def emotions_of(
    names: Sequence[str | None], emotion_names: Sequence[str], what: str
) -> dict[str | None, str | None]:
    """Map each spelling to its standard name, numbers by ``emotion_names``.

    Raises InputError for a number without a name; ``what`` names the source of the spellings.
    """
    result: dict[str | None, str | None] = {None: None}
    for name in names:
        if name is None:
            continue
        if not _NUMBER.match(name):
            result[name] = emotion_name(name)
            continue
        if not emotion_names:
            raise InputError(
                f"{what} is the number {name}, and datasets number emotions differently: give "
                "their names in order, such as ingest.emotion_names=['neutral', 'happiness', …]"
            )
        number = int(float(name))
        if not 0 <= number < len(emotion_names):
            raise InputError(
                f"{what} is the number {name}, but ingest.emotion_names has names for 0 to "
                f"{len(emotion_names) - 1} (use '' for a number without a name)"
            )
        result[name] = emotion_name(emotion_names[number]) or None
    return result


def folder_emotion(folder: str, emotion_names: Sequence[str]) -> str | None:
    """Return the emotion that a class folder is named after.

    Raises InputError, naming the folder, if it is not a known emotion.
    """
    name = folder.rsplit("/", 1)[-1]
    emotion = emotions_of([name], emotion_names, f"the class folder '{folder}'")[name]
    if emotion is not None and emotion not in EMOTIONS:
        raise InputError(
            f"the class folder '{folder}' is not a known emotion: rename it, or turn "
            f"ingest.class_per_folder off{nearest(emotion, list(EMOTIONS))}"
        )
    return emotion


def _emotions(cells: Cells, own: str, emotion_names: Sequence[str]) -> pa.Array:
    spellings = cells.text(own)
    distinct = spellings.unique().to_pylist()
    first = next((name for name in distinct if name is not None and _NUMBER.match(name)), None)
    row = 0 if first is None else pc.index(spellings, first).as_py()
    standard = emotions_of(
        distinct, emotion_names, f"{cells.found.path}: '{own}' in {cells.found.where(row)}"
    )
    other = sorted({name for name in standard.values() if name and name not in EMOTIONS})
    if other:
        log.warning(
            "%s: kept unchanged, as they are not among the eight emotions: %s",
            *(cells.found.path.name, ", ".join(other[:10])),
        )
    return pa.array([standard[name] for name in spellings.to_pylist()], pa.string())


def _unit_range(cells: Cells, own: str, missing: float | None) -> pa.Array:
    numbers = _known(cells.numbers(own), missing)
    cells.require(
        own,
        numbers,
        pc.and_(pc.greater_equal(numbers, -1), pc.less_equal(numbers, 1)),
        "is {}, not within -1 to 1: rescale the column, or set ingest.valence_arousal_missing to "
        "the number that means unknown",
    )
    return numbers.cast(pa.float32())


def _action_units(cells: Cells, columns: Columns, rules: LabelRules) -> dict[str, pa.Array]:
    found: dict[str, pa.Array] = {}
    ordered = sorted(columns.action_units.items(), key=lambda item: (int(item[0][0][2:]), item[1]))
    for (unit, kind), own in ordered:
        if unit not in ACTION_UNITS:
            log.info("%s is not among normpipe's action units; kept", unit)
        intensity = (kind or rules.au_columns) == "intensity"
        name = f"{unit}_intensity" if intensity else unit
        if name in found:
            cells.refuse(own, f"is the second column of {name}: rename one")
        numbers = _known(cells.numbers(own), rules.au_missing)
        found[name] = (
            _intensity(cells, own, numbers) if intensity else _occurrence(cells, own, numbers)
        )
    return found


def _occurrence(cells: Cells, own: str, numbers: pa.Array) -> pa.Array:
    cells.require(
        own,
        numbers,
        pc.is_in(numbers, pa.array([0.0, 1.0])),
        "is {}, but occurrence is 0 or 1: set ingest.au_columns='intensity' for levels 0 to 5, or "
        "ingest.au_missing to the number that means unknown (9 in BP4D)",
    )
    return numbers.cast(pa.int8())


def _intensity(cells: Cells, own: str, numbers: pa.Array) -> pa.Array:
    cells.require(
        own,
        numbers,
        pc.and_(pc.greater_equal(numbers, 0), pc.less_equal(numbers, 5)),
        "is {}, but intensity is from 0 to 5: set ingest.au_missing to the number that means "
        "unknown (9 in BP4D)",
    )
    return numbers.cast(pa.float32())


def _votes(cells: Cells, own: str) -> pa.Array:
    """Return numbers of votes in the type of an unknown column if that is a number's.

    So lists that were ingested before votes were known keep the bytes of their labels.
    """
    numbers = cells.numbers(own)
    counts = pc.and_(pc.is_finite(numbers), pc.greater_equal(numbers, 0))
    cells.require(own, numbers, counts, "is {}, but votes are numbers from 0")
    kept = cells.any_type(own)
    if kept is not None and pa.types.is_integer(kept.type):
        return kept
    if kept is not None and pa.types.is_floating(kept.type):
        return numbers.cast(kept.type)
    whole = pc.all(pc.equal(pc.floor(numbers), numbers)).as_py()
    return numbers if whole is False else cells.integers(own, pa.int64())


def _known(numbers: pa.Array, missing: float | None) -> pa.Array:
    """Return numbers with null for the one that means unknown."""
    if missing is None:
        return numbers
    return pc.if_else(pc.equal(numbers, missing), pa.scalar(None, numbers.type), numbers)
