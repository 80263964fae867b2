"""Emotions of a list: names, numbers, votes of raters, and a column of 0 and 1 for each emotion."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ....manifests.arrays import Floats, Rows
from ....manifests.vocabularies import EMOTIONS, VOTE_COLUMNS, emotion_name
from ....pipeline.errors import InputError, first_few, nearest
from .chosen import most_voted, the_one
from .values import Cells, written_number

if TYPE_CHECKING:
    from .table import Columns

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

#: What columns with the names of emotions hold.
EmotionColumns = Literal["auto", "votes", "one_hot", "labels"]

# Columns that name emotions in some lists and anything else in others: read as emotions only if
# all of their cells are.
_IF_EMOTIONS = ("label", "labels", "class", "emotions", "emotion_label")
# Names beside emotions that datasets give to faces without one (AffectNet, FER+).
_NO_EMOTION = {"none", "uncertain", "non-face", "unknown", "nf"}
# Without these a set of columns is not known to be about emotions; not all sets have contempt.
_BASIC = frozenset(EMOTIONS) - {"neutral", "contempt"}
_VOTED = frozenset(EMOTIONS) - {"contempt"}
# ``emotion_happy`` is what pandas.get_dummies makes of a column ``emotion``.
_NAMED = re.compile(r"^(?P<prefix>(emotion|expression|label|is)[\s_]+)?(?P<name>.+)$")
_EXAMPLE = ", ".join(f'"{name}"' for name in EMOTIONS)


class EmotionRules(NamedTuple):
    """What the settings say about emotions; see ``IngestConfig``."""

    names: Sequence[str] = ()
    missing: Sequence[str] = ()
    columns: EmotionColumns = "auto"

    def also_missing(self, cell: str) -> str:
        """Return the setting that makes a cell mean unknown, too."""
        return f"ingest.emotion_missing='{','.join([*self.missing, cell])}'"

    def is_missing(self, cell: str) -> bool:
        """Return whether a cell is one that means unknown: as a number, or as a name."""
        return any(_same(cell, code) for code in self.missing)


def _same(cell: str, code: str) -> bool:
    number = written_number(cell)
    if number is not None:
        return number == written_number(code)
    return emotion_name(cell) == emotion_name(code)


def standard_emotions(
    cells: Sequence[str | None], rules: EmotionRules, where: Callable[[str], str]
) -> dict[str | None, str | None]:
    """Map each spelling to its standard name, numbers by ``rules.names``; None is unknown.

    Args:
        cells: distinct spellings.
        rules: names of numbers, and what means unknown.
        where: says where a spelling stands, for messages.

    Raises:
        InputError: a number without a name, or one that is not whole.
    """
    result: dict[str | None, str | None] = {None: None}
    for cell in cells:
        if cell is None:
            continue
        number = written_number(cell)
        if rules.is_missing(cell):
            result[cell] = None
        elif number is None:
            result[cell] = emotion_name(cell)
        else:
            result[cell] = _named(cell, number, rules, where(cell))
    return result


def _named(cell: str, number: float, rules: EmotionRules, where: str) -> str | None:
    names = rules.names
    if not names:
        raise InputError(
            f"{where} is the number {cell}, and datasets number emotions differently: give their "
            f"names in order, from 0 on (in AffectNet's ingest.emotion_names=[{_EXAMPLE}])"
        )
    if number != np.floor(number):
        raise InputError(
            f"{where} is {cell}, which is no whole number: give the emotion's name or number"
        )
    if not 0 <= number < len(names):
        raise InputError(
            f"{where} is the number {cell}, but ingest.emotion_names has names for 0 to "
            f"{len(names) - 1} (use '' for a number without a name): name it, or set "
            f"{rules.also_missing(cell)} if it means unknown"
        )
    return emotion_name(names[int(number)]) or None


def folder_emotion(folder: str, rules: EmotionRules) -> str | None:
    """Return the emotion that a class folder is named after.

    Raises InputError, naming the folder, if it is not a known emotion.
    """
    name = folder.rsplit("/", 1)[-1].strip()
    emotion = standard_emotions([name], rules, lambda _: f"the class folder '{folder}'")[name]
    if emotion is not None and emotion not in EMOTIONS:
        raise InputError(
            f"the class folder '{folder}' is not a known emotion: rename it, set "
            f"{rules.also_missing(name)} if its faces have none, or turn "
            f"ingest.class_per_folder off{nearest(emotion, list(EMOTIONS))}"
        )
    return emotion


def emotion_labels(cells: Cells, own: str, rules: EmotionRules) -> pa.Array:
    """Return a column of emotions under their standard names, null if unknown.

    Logs names that are not among the eight, and such as look like one written in two ways.
    """
    spellings = cells.text(own)
    distinct = spellings.unique().to_pylist()

    def where(cell: str) -> str:
        row = pc.index(spellings, cell).as_py()
        return f"{cells.found.path}: '{own}' in {cells.found.where(row)}"

    standard = standard_emotions(distinct, rules, where)
    other = {cell: name for cell, name in standard.items() if name and name not in EMOTIONS}
    if other:
        log.warning(
            "%s: kept in lower case, as they are not among the eight emotions: %s",
            *(cells.found.path.name, first_few(sorted(map(str, other)))),
        )
    alike: dict[str, str] = {}
    for name in sorted({name for name in standard.values() if name}):
        first = alike.setdefault(re.sub(r"[\W_]+", "", name), name)
        if first != name:
            log.warning(
                "%s: '%s' and '%s' are two classes: if they are one, write them alike",
                *(cells.found.path.name, first, name),
            )
    _report_missing(cells, distinct, rules)
    return pa.array([standard[name] for name in spellings.to_pylist()], pa.string())


def _report_missing(cells: Cells, distinct: Sequence[str | None], rules: EmotionRules) -> None:
    met = [cell for cell in distinct if cell is not None]
    unmet = [code for code in rules.missing if not any(_same(cell, code) for cell in met)]
    if unmet:
        log.info(
            "%s: ingest.emotion_missing: no emotion is %s", cells.found.path.name, first_few(unmet)
        )


def find_emotions(cells: Cells, columns: Columns, rules: EmotionRules) -> None:
    """Find the emotions of a list without a column of that name; changes ``columns``.

    A column such as ``label`` is taken if all of its cells are emotions, or numbers with names.
    Then columns that are named after the emotions: votes become ``columns.votes``, and those with
    a single 1 in each row ``columns.one_hot``. Logs what is read as what.

    Raises InputError if the columns do not hold what ``rules.columns`` says.
    """
    if "emotion" not in columns.known and rules.columns != "one_hot":
        plain = {name.strip().lower(): name for name in columns.extras}
        for own in (plain[name] for name in _IF_EMOTIONS if name in plain):
            if _are_emotions(cells, own, rules):
                columns.known["emotion"] = own
                columns.extras.remove(own)
                log.info(
                    "%s: reading the column '%s' as 'emotion': all of its cells are emotions",
                    *(cells.found.path.name, own),
                )
                break
    named = _named_after_emotions(columns.extras)
    kind = _kind(cells, columns, named, rules)
    if kind == "votes":
        _take_votes(cells, columns, named)
    elif kind == "one_hot":
        columns.one_hot = named
        columns.extras = [name for name in columns.extras if name not in named.values()]
        log.info("%s: one column for each emotion: the 1 is the emotion", cells.found.path.name)


def _are_emotions(cells: Cells, own: str, rules: EmotionRules) -> bool:
    kind = cells.raw(own).type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    distinct = [cell for cell in cells.text(own).unique().to_pylist() if cell is not None]
    distinct = [cell for cell in distinct if not rules.is_missing(cell)]
    numbers = [written_number(cell) for cell in distinct]
    file = cells.found.path.name
    if distinct and all(number is not None for number in numbers):
        known = {float(place) for place in range(len(rules.names))}
        if known.issuperset(number for number in numbers if number is not None):
            return True
        log.info(
            "%s: if the numbers in '%s' are emotions, set ingest.columns.emotion='%s' and "
            "ingest.emotion_names to their names in order",
            *(file, own, own),
        )
        return False
    found = {emotion_name(cell) for cell in distinct}
    emotions, others = found.intersection(EMOTIONS), found.difference(EMOTIONS, _NO_EMOTION)
    if emotions and others:
        log.warning(
            "%s: keeping the column '%s' as a label of that name, as some cells are no emotions "
            "(%s); if it means 'emotion', set ingest.columns.emotion='%s'",
            *(file, own, first_few(sorted(others)), own),
        )
    return bool(emotions) and not others


def _named_after_emotions(names: Sequence[str]) -> dict[str, str]:
    """Return emotion → column for the largest set of columns with such names and one prefix."""
    sets: dict[str, dict[str, str]] = {}
    for own in names:
        match = _NAMED.match(own.strip().lower())
        emotion = emotion_name(match["name"]) if match else ""
        if match and emotion in EMOTIONS:
            sets.setdefault(match["prefix"] or "", {}).setdefault(emotion, own)
    return max(sets.values(), key=len, default={})


def _kind(
    cells: Cells, columns: Columns, named: Mapping[str, str], rules: EmotionRules
) -> EmotionColumns:
    """Return what the columns named after emotions hold; ``labels`` if that is not known."""
    asked, file = rules.columns, cells.found.path
    if asked == "labels" or (asked == "auto" and not named.keys() >= _BASIC):
        return "labels"
    if asked != "auto":
        if len(named) < 2:
            raise InputError(
                f"ingest.emotion_columns='{asked}', but {file} has no columns that are named after "
                f"emotions, such as {', '.join(EMOTIONS[:3])}: remove the setting"
            )
        if asked == "one_hot" and "emotion" in columns.known:
            own = columns.known["emotion"]
            cells.refuse(own, "and a column for each emotion both give emotions: leave one out")
        return asked
    values = _numbers(cells, named)
    if values is None:
        return "labels"
    if not (np.isfinite(values) & (values >= 0)).all():
        return "labels"
    named_already, whole = "emotion" in columns.known, (values == np.floor(values)).all()
    if whole and values.max() <= 1:
        return "labels" if named_already else "one_hot"
    if whole and not named_already and _adds_up(columns, values):
        return "votes"
    log.info(
        "%s: keeping the columns %s as labels of these names; if they are the votes of raters, set "
        "ingest.emotion_columns=votes",
        *(file.name, first_few([*named.values()])),
    )
    return "labels"


def _numbers(cells: Cells, named: Mapping[str, str]) -> Floats | None:
    """Return columns as numbers (N, C), 0 where unknown; None if they hold anything else."""
    try:
        columns = [pc.fill_null(cells.numbers(own), 0) for own in named.values()]
    except InputError:
        return None
    return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], 1)


def _adds_up(columns: Columns, values: Floats) -> bool:
    """Return whether numbers (N, C) must be votes: "unknown" beside them, or equal sums."""
    sums = values.sum(1)
    without = {"unknown", "nf"} & {name.strip().lower() for name in columns.extras}
    return bool(without) or len({*sums[sums > 0].tolist()}) == 1


def _take_votes(cells: Cells, columns: Columns, named: Mapping[str, str]) -> None:
    plain = {name.strip().lower(): name for name in columns.extras}
    votes = {f"{emotion}_votes": own for emotion, own in named.items()}
    without = [plain[name] for name in ("unknown", "nf") if name in plain]
    if without:
        votes["unknown_votes"] = without[0]
    columns.no_face = without[1] if len(without) > 1 else None
    for name, own in votes.items():
        if name in columns.votes:
            cells.refuse(own, f"and '{columns.votes[name]}' mean the same; rename one")
    columns.votes.update(votes)
    columns.extras = [name for name in columns.extras if name not in votes.values()]
    also = f"; '{columns.no_face}' counts as unknown" if columns.no_face else ""
    log.info(
        "%s: reading the columns %s as the votes of raters%s",
        *(cells.found.path.name, first_few([*votes.values()]), also),
    )


def derived_emotions(cells: Cells, columns: Columns) -> pa.Array | None:
    """Return the emotions that votes or columns of 0 and 1 give; None if the list has neither.

    By ``most_voted``, with "unknown" and FER+'s ``NF`` as votes for none. Needs votes for at least
    the seven emotions without contempt.

    Raises InputError, naming the line, for a row in which two emotions are 1.
    """
    if "emotion" in columns.known:
        return None
    if columns.one_hot:
        return _the_one(cells, columns.one_hot)
    voted = [name for name in VOTE_COLUMNS if name in columns.votes]
    if not {f"{name}_votes" for name in _VOTED} <= {*voted}:
        return None
    names = [name.removesuffix("_votes") for name in voted if name != "unknown_votes"]
    votes = _numbers(cells, {name: columns.votes[f"{name}_votes"] for name in names})
    others = [columns.votes.get("unknown_votes"), columns.no_face]
    without = _numbers(cells, {own: own for own in others if own}) if any(others) else None
    if votes is None:
        return None  # ``_votes`` refuses the cell
    places = most_voted(votes, np.zeros((len(votes), 0)) if without is None else without)
    log.info(
        "%s: the emotion is the most voted, if it has more than half of the votes for emotions and "
        "more than 'unknown'; %d of %d rows have none",
        *(cells.found.path.name, int((places < 0).sum()), len(places)),
    )
    return _named_places(names, places)


def _named_places(names: Sequence[str], places: Rows) -> pa.Array:
    """Return names by their places, null for -1."""
    return pa.array(np.asarray(names, object)[places], pa.string(), mask=places < 0)


def _the_one(cells: Cells, one_hot: Mapping[str, str]) -> pa.Array:
    names = [*one_hot]
    for own in one_hot.values():
        numbers = cells.numbers(own)
        valid = pc.is_in(numbers, pa.array([0.0, 1.0]))
        cells.require(
            own, numbers, valid, "is {}, but of the columns of emotions one is 1, the others 0"
        )
    values = _numbers(cells, one_hot)
    assert values is not None
    places, several = the_one(values)
    if several is not None:
        first, second = [one_hot[names[place]] for place in np.flatnonzero(values[several])[:2]]
        cells.refuse(
            second,
            f"and '{first}' are both 1: correct one, or set ingest.emotion_columns to 'votes' if "
            "they count raters, to 'labels' to keep the columns as they are",
            several,
        )
    if (places < 0).any():
        log.info(
            "%s: %d of %d rows have no 1 in any column of an emotion: unknown",
            *(cells.found.path.name, int((places < 0).sum()), len(places)),
        )
    return _named_places(names, places)
