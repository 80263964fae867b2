"""Cells of a list as typed values, with errors that name the line."""

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute

from ....pipeline.errors import InputError
from .table import ListTable

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

# Words that mean "unknown" in columns of numbers. In columns of text only an empty cell and pandas'
# "nan" do: "NA" and "none" can be names.
_NO_NUMBER = {"", "na", "n/a", "#n/a", "nan", "null", "none"}
_NO_TEXT = {"", "nan"}

_INTEGER = r"^-?(0|[1-9]\d{0,17})$"
_DECIMAL = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$"


class Cells:
    """The columns of one list, by the list's names."""

    def __init__(self, found: ListTable) -> None:
        self.found = found

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
        """Return a column as text, null if empty; surrounding white space is dropped."""
        array = self.raw(name)
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        if not pa.types.is_string(array.type):
            try:
                return array.cast(pa.string())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                self.refuse(name, "holds neither text nor numbers")
        return _without(pc.utf8_trim_whitespace(array), _NO_TEXT)

    def numbers(self, name: str) -> pa.Array:
        """Return a column as float64, null if unknown. Raises InputError for other cells."""
        array = self.raw(name)
        if pa.types.is_string(array.type):
            array = _without(pc.utf8_trim_whitespace(array), _NO_NUMBER)
            words = pc.utf8_lower(array)
            for word, digit in (("true", "1"), ("false", "0")):
                array = pc.if_else(pc.equal(words, word), digit, array)
        try:
            numbers = array.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            row = next((i for i, v in enumerate(array.to_pylist()) if not _is_number(v)), 0)
            found = f"is {array[row].as_py()!r}, which is not a number (use a point)"
            self.refuse(name, found, row)
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
            value = values[row].as_py()
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            self.refuse(name, message.format(shown), row)

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
                return array.cast(kind)
        return array

    def lists(self, name: str, shape: str, take: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Return a column of coordinates as Python lists, None if empty.

        Text may be JSON, or numbers separated by white space, commas or semicolons. ``take``
        arranges the flat numbers and raises ValueError if their count is not ``shape``.
        """
        values = self.raw(name).to_pylist()
        for row, value in enumerate(values):
            if value is None or (isinstance(value, str) and value.strip().lower() in _NO_TEXT):
                values[row] = None
                continue
            try:
                values[row] = take(_flat(_parsed(value)))
            except (ValueError, TypeError):
                self.refuse(name, f"is {str(value)[:40]!r}: expected {shape}", row)
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


def _without(array: pa.Array, words: set[str]) -> pa.Array:
    """Return text with null in place of some words, ignoring case."""
    unknown = pc.is_in(pc.utf8_lower(array), pa.array(sorted(words)))
    return pc.if_else(unknown, pa.scalar(None, pa.string()), array)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True
