"""Label columns of a list: typed, named, null if unknown.

``AU12`` is occurrence (0 or 1), ``AU12_intensity`` the level from 0 (absent) to 5 (maximum, the
letter E of FACS). A list may hold both. ``happiness_votes`` counts the raters who chose happiness.
"""

import logging
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
from ....manifests.vocabularies import ACTION_UNITS
from ....pipeline.errors import first_few
from .emotion_columns import (
    EmotionColumns,
    EmotionRules,
    derived_emotions,
    emotion_labels,
    find_emotions,
)
from .table import Columns, report_extras
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
#: One number that means unknown, or several.
Codes = float | Sequence[float] | None


class LabelRules(NamedTuple):
    """What the settings say about labels; see ``IngestConfig``."""

    au_columns: Literal["occurrence", "intensity"] = "occurrence"
    au_missing: Codes = None
    valence_arousal_missing: Codes = None
    emotion_names: Sequence[str] = ()
    emotion_missing: Sequence[str] = ()
    emotion_columns: EmotionColumns = "auto"

    @property
    def of_emotions(self) -> EmotionRules:
        """Return those about emotions."""
        return EmotionRules(self.emotion_names, self.emotion_missing, self.emotion_columns)


class _Missing:
    """Numbers that mean unknown, and which of them occurred."""

    def __init__(self, setting: str, codes: Codes, what: str) -> None:
        codes = () if codes is None else (codes,) if isinstance(codes, int | float) else codes
        self._setting, self._what = setting, what
        self._met = dict.fromkeys(map(float, codes), False)
        self._columns = 0

    def dropped(self, numbers: pa.Array) -> pa.Array:
        """Return numbers with null for those that mean unknown."""
        self._columns += 1
        for code in self._met:
            missing = pc.fill_null(pc.equal(numbers, code), False)
            self._met[code] |= pc.any(missing).as_py() is True
            numbers = pc.if_else(missing, pa.scalar(None, numbers.type), numbers)
        return numbers

    def report(self, file: str) -> None:
        """Log which numbers met no cell."""
        unmet = [f"{code:g}" for code, met in self._met.items() if not met]
        if unmet and not self._columns:
            log.warning("%s: ingest.%s: there is no %s", file, self._setting, self._what)
        elif unmet:
            log.info(
                "%s: ingest.%s: no %s is %s", file, self._setting, self._what, first_few(unmet)
            )


def labels_from_list(cells: Cells, columns: Columns, rules: LabelRules) -> pa.Table | None:
    """Return the label columns of a list, rows in its order, or None if it has none.

    Columns are in the order of LABEL_COLUMNS, then action units by number, then the others and the
    votes, as in the list. Completes ``columns`` by those that only their cells tell to be emotions.
    Logs what was read as what, and what as unknown.
    Raises InputError, naming the line, for values that a column cannot hold.
    """
    find_emotions(cells, columns, rules.of_emotions)
    report_extras(cells.found, columns)
    of_units = _Missing("au_missing", rules.au_missing, "action unit")
    found = _known_labels(cells, columns, rules)
    found.update(_action_units(cells, columns, rules, of_units))
    found.update(_other_labels(cells, columns, {*found}))
    of_units.report(cells.found.path.name)
    cells.report_unknown()
    return pa.table(found) if found else None


def _known_labels(cells: Cells, columns: Columns, rules: LabelRules) -> dict[str, pa.Array]:
    """Return the columns of LABEL_COLUMNS that a list has."""
    found: dict[str, pa.Array] = {}
    of_places = _Missing(
        "valence_arousal_missing", rules.valence_arousal_missing, "valence or arousal"
    )
    for name, kind in LABEL_COLUMNS:
        own = columns.known.get(name)
        if name == "emotion" and own is None:
            derived = derived_emotions(cells, columns)
            if derived is not None:
                found[name] = derived
            elif rules.emotion_missing or rules.emotion_names:
                log.warning(
                    "%s: ingest.emotion_%s: there is no emotion",
                    *(cells.found.path.name, "missing" if rules.emotion_missing else "names"),
                )
        elif own is None:
            continue
        elif name == "emotion":
            found[name] = emotion_labels(cells, own, rules.of_emotions)
        elif name in ("valence", "arousal"):
            found[name] = _unit_range(cells, own, of_places)
        elif pa.types.is_integer(kind):
            found[name] = cells.integers(own, kind)
        else:
            found[name] = cells.text(own)
    of_places.report(cells.found.path.name)
    return found


def _other_labels(cells: Cells, columns: Columns, taken: set[str]) -> dict[str, pa.Array]:
    """Return votes and columns that normpipe does not know, in the order of the list."""
    found: dict[str, pa.Array] = {}
    voted = {own: column for column, own in columns.votes.items()}
    for name in (n for n in cells.found.table.column_names if n in {*columns.extras, *voted}):
        array = _votes(cells, name) if name in voted else cells.any_type(name)
        if array is None:
            log.warning("%s: skipping the column '%s': it holds lists", cells.found.path.name, name)
            continue
        label = voted.get(name, f"list_{name}" if name in RESERVED else name)
        if label != name and name not in voted:
            log.warning("keeping the column '%s' as '%s': '%s' is reserved", name, label, name)
        if label in found or label in taken:
            cells.refuse(name, f"would be a second label named '{label}': rename it")
        if label == "unknown_votes" and columns.no_face is not None:
            array = _sum(array, _votes(cells, columns.no_face))
        found[label] = array
    return found


def _unit_range(cells: Cells, own: str, missing: _Missing) -> pa.Array:
    numbers = missing.dropped(cells.numbers(own))
    cells.require(
        own,
        numbers,
        pc.and_(pc.greater_equal(numbers, -1), pc.less_equal(numbers, 1)),
        "is {}, not within -1 to 1: rescale the column, or set ingest.valence_arousal_missing to "
        "the number that means unknown",
    )
    return numbers.cast(pa.float32())


def _action_units(
    cells: Cells, columns: Columns, rules: LabelRules, missing: _Missing
) -> dict[str, pa.Array]:
    found: dict[str, pa.Array] = {}
    ordered = sorted(columns.action_units.items(), key=lambda item: (int(item[0][0][2:]), item[1]))
    for (unit, kind), own in ordered:
        if unit not in ACTION_UNITS:
            log.info("%s is not among normpipe's action units; kept", unit)
        intensity = (kind or rules.au_columns) == "intensity"
        name = f"{unit}_intensity" if intensity else unit
        if name in found:
            cells.refuse(own, f"is the second column of {name}: rename one")
        numbers = missing.dropped(cells.numbers(own))
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


def _sum(one: pa.Array, other: pa.Array) -> pa.Array:
    """Return sums of votes, where unknown counts as none; null where both are."""
    if pa.types.is_integer(one.type) and pa.types.is_integer(other.type):
        one, other = one.cast(pa.int64()), other.cast(pa.int64())  # int8 would overflow
    total = pc.add(pc.fill_null(one, 0), pc.fill_null(other, 0))
    known = pc.or_(pc.is_valid(one), pc.is_valid(other))
    return pc.if_else(known, total, pa.scalar(None, total.type))
