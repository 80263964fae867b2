"""Cells of a list as typed values, with errors that name the line."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pyarrow as pa
import pyarrow.compute

from ....manifests.vocabularies import UNKNOWN_WORDS
from ....pipeline.errors import InputError, first_few

if TYPE_CHECKING:
    from .table import ListTable

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute
log = logging.getLogger("normpipe")

_INTEGER = r"^[-+]?(0|[1-9]\d{0,17})$"
_DECIMAL = r"^[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"
_NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
# Characters of a cell that a message shows.
_SHOWN = 40


class Cells:
    """The columns of one list, by the list's names.

    Args:
        found: the list.
        unknown_words: cells of text that mean "unknown", ignoring case.
    """

    def __init__(self, found: ListTable, unknown_words: Sequence[str] = UNKNOWN_WORDS) -> None:
        self.found = found
        self._words = [word.strip().lower() for word in unknown_words]
        self._unknown: dict[str, Counter[str]] = {}

    def raw(self, name: str) -> pa.Array:
        """Return a column as read, in one chunk and without dictionary encoding."""
        column = self.found.table[name]
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            column = column.cast(pa.string())
        array = column.combine_chunks()
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    def text(self, name: str) -> pa.Array:
        """Return a column as text, null if empty; surrounding white space is dropped.

        Words that mean "unknown" are null, too, and are counted for ``report_unknown``.
        """
        array = self._as_text(name)
        unknown = pc.is_in(pc.utf8_lower(array), pa.array(self._words, pa.string()))
        words = Counter(array.filter(unknown).to_pylist())
        self._unknown[name] = words
        return pc.if_else(unknown, pa.scalar(None, pa.string()), array) if words else array

    def paths(self, name: str) -> pa.Array:
        """Return a column of paths as text, null if empty; a file may have any other name."""
        return _without(self._as_text(name), ["nan"])

    def _as_text(self, name: str) -> pa.Array:
        array = self.raw(name)
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        if not pa.types.is_string(array.type):
            try:
                return array.cast(pa.string())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                self.refuse(name, "holds neither text nor numbers")
        return _without(pc.utf8_trim_whitespace(array), [""])

    def report_unknown(self) -> None:
        """Log which words in columns of text were read as unknown, and how to keep them."""
        seen = {name: words for name, words in self._unknown.items() if words}
        if not seen:
            return
        counts = [
            f"{count} x '{word}' in '{name}'" for name in seen for word, count in seen[name].items()
        ]
        met = {word.lower() for words in seen.values() for word in words}
        left = [word for word in self._words if len(met) > 1 or word not in met]
        value = ",".join(left) or "[]"
        advice = f"--set 'ingest.unknown_words={value}'"
        keep = "without those that are names" if len(met) > 1 else "keeps it, if it is a name"
        log.warning(
            "%s: read as unknown: %s; %s %s",
            *(self.found.path.name, first_few(counts), advice, keep),
        )

    def numbers(self, name: str) -> pa.Array:
        """Return a column as float64, null if unknown. Raises InputError for other cells."""
        array = self.raw(name)
        if pa.types.is_string(array.type):
            array = _without(pc.utf8_trim_whitespace(array), ["", *UNKNOWN_WORDS])
            words = pc.utf8_lower(array)
            for word, digit in (("true", "1"), ("false", "0")):
                array = pc.if_else(pc.equal(words, word), digit, array)
        try:
            numbers = array.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            row = next((i for i, v in enumerate(array.to_pylist()) if not _is_number(v)), 0)
            shown = f"'{self.written(name, row)}'"
            self.refuse(name, f"is {shown}, which is not a number (use a point)", row)
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)

    def integers(self, name: str, kind: pa.DataType) -> pa.Array:
        """Return a column as whole numbers; ``0643`` is 643."""
        numbers = self.numbers(name)
        whole = pc.equal(pc.floor(numbers), numbers)
        self.require(name, numbers, whole, "is {}, which is no whole number")
        most = float(2 ** (kind.bit_width - 1) - 1024)  # a little less: floats skip integers there
        fits = pc.less_equal(pc.abs(numbers), most)
        self.require(name, numbers, fits, "is {}, which is too large")
        return numbers.cast(kind)

    def require(self, name: str, values: pa.Array, valid: pa.Array, message: str) -> None:
        """Raise InputError for the first value that is known and not valid.

        ``message`` has a placeholder for the value.
        """
        bad = pc.and_(pc.is_valid(values), pc.invert(pc.fill_null(valid, False)))
        row = pc.index(bad, True).as_py()
        if row >= 0:
            self.refuse(name, message.format(self.written(name, row)), row)

    def written(self, name: str, row: int) -> str:
        """Return a cell as it stands in the list; of a long one the beginning."""
        return shortened(str(self.raw(name)[row].as_py()).strip())

    def refuse(self, name: str, message: str, row: int | None = None) -> NoReturn:
        """Raise InputError about a column, or a cell of it."""
        place = "" if row is None else f" in {self.found.where(row)}"
        raise InputError(f"{self.found.path}: '{name}'{place} {message}")

    def any_type(self, name: str) -> pa.Array | None:
        """Return a column unknown to normpipe, in its own type, or one inferred from its text.

        Numbers with leading zeros stay text. None for lists and other nested values.
        """
        array = self.raw(name)
        if pa.types.is_nested(array.type) or pa.types.is_binary(array.type):
            return None
        if not pa.types.is_string(array.type):
            return array
        array = self.text(name)
        for pattern, kind in ((_INTEGER, pa.int64()), (_DECIMAL, pa.float64())):
            fits = pc.match_substring_regex(array, pattern)
            if array.null_count < len(array) and pc.all(fits).as_py():
                del self._unknown[name]  # in numbers they can be nothing else
                return pc.replace_substring_regex(array, r"^\+", "").cast(kind)
        return array

    def lists(self, name: str, shape: str, take: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Return a column of coordinates as Python lists, None if empty.

        Text may be JSON, or numbers separated by white space, commas or semicolons. ``take``
        arranges the flat numbers and raises ValueError if their count is not ``shape``.
        """
        values = self.raw(name).to_pylist()
        for row, value in enumerate(values):
            if value is None or (isinstance(value, str) and _is_unknown(value)):
                values[row] = None
                continue
            try:
                values[row] = take(_flat(_parsed(value)))
            except (ValueError, TypeError):
                self.refuse(name, f"is '{self.written(name, row)}': expected {shape}", row)
        return values

    def numbers_by_row(self, names: tuple[str, ...]) -> list[list[float | None] | None]:
        """Return several columns of numbers as one list per row, None if all are unknown."""
        columns = [self.numbers(name).to_pylist() for name in names]
        rows = zip(*columns, strict=True)
        return [None if all(v is None for v in row) else list(row) for row in rows]


def box(numbers: list[Any]) -> list[Any]:
    """Return the four numbers left, top, right, bottom; raise ValueError for any other count."""
    if len(numbers) != 4:
        raise ValueError
    return numbers


def corners(place: list[float | None] | None) -> list[float | None] | None:
    """Convert left, top, width, height to left, top, right, bottom."""
    if place is None:
        return None
    left, top, width, height = place
    right = None if left is None or width is None else left + width
    return [left, top, right, None if top is None or height is None else top + height]


def points(numbers: list[Any]) -> list[Any]:
    """Return ten numbers as five points x, y; raise ValueError for any other count."""
    if len(numbers) != 10:
        raise ValueError
    return [numbers[i : i + 2] for i in range(0, 10, 2)]


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [float(word) for word in re.split(r"[\s,;]+", value.strip(" \t,;()"))]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _flat(item)]
    return [None if value is None else float(value)]


def written_number(text: str) -> float | None:
    """Return the number that a text spells in any way (``7``, ``+7.0``, ``7e0``), else None."""
    return float(text) if _NUMBER.match(text.strip()) else None


def words_of(value: Any) -> tuple[str, ...]:
    """Return the words of a setting: text is cut at commas, and a number is a word.

    Raises ValueError for anything else.
    """
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    if not isinstance(value, list | tuple):
        raise ValueError("give words or numbers, such as 'none,-1'")
    items = cast(list[Any] | tuple[Any, ...], value)
    words = [(item.strip(),) if isinstance(item, str) else words_of(item) for item in items]
    return tuple(word for found in words for word in found)


def missing_numbers(value: Any) -> float | tuple[float, ...] | None:
    """Return a setting of numbers that mean unknown: one number, several, or None.

    Text is cut at commas. Raises ValueError for what is no number.
    """
    words = () if value is None else words_of(value)
    numbers = [number for number in map(written_number, words) if number is not None]
    if len(numbers) < len(words):
        raise ValueError("give numbers, such as 9 or 9,-1,999 (NaN and NA are always unknown)")
    return numbers[0] if len(numbers) == 1 else tuple(numbers) or None


def shortened(text: str) -> str:
    """Return a text, or the beginning of a long one and how many characters follow."""
    more = len(text) - _SHOWN
    return text if more <= 0 else f"{text[:_SHOWN]}… and {more} more characters"


def _is_unknown(text: str) -> bool:
    return text.strip().lower() in ("", *UNKNOWN_WORDS)


def _without(array: pa.Array, words: Sequence[str]) -> pa.Array:
    """Return text with null in place of some words, ignoring case."""
    unknown = pc.is_in(pc.utf8_lower(array), pa.array(words, pa.string()))
    return pc.if_else(unknown, pa.scalar(None, pa.string()), array)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True
