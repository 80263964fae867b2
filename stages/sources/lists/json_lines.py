"""Records as JSON writes them, as the text cells of a list."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

#: Fields beyond the most frequent ones are left out: a table is not for free-form records.
MOST_FIELDS = 500


def json_object(data: str | bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError if it is none, or nested too deeply."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object, {…}")
    return found


def table_of_records(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return records as columns of text, null where a record lacks a field.

    Columns are in the order in which their fields occur first. Lists and objects stay JSON. Raises
    ValueError if there are more than ``MOST_FIELDS`` fields.
    """
    names = Counter(name for record in records for name in record)
    if len(names) > MOST_FIELDS:
        raise ValueError(f"it has {len(names)} different fields, more than {MOST_FIELDS}")
    columns = {name: [_cell(record.get(name)) for record in records] for name in names}
    return pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})


def read_json_lines(path: Path) -> tuple[pa.Table, list[int]]:
    """Read a file with one JSON object per line; also return each row's line, from 1.

    Raises:
        ValueError: a line is no JSON object. UnicodeError: it is not UTF-8. OSError.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in _filled(stream):
            try:
                records.append(json_object(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            lines.append(number)
    return table_of_records(records), lines


def _filled(stream: Iterable[str]) -> Iterable[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(stream, 1) if line.strip())


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        # Half of a character's two codes is legal in JSON, and no text.
        return None if value is None else value.encode("utf-8", "replace").decode()
    return json.dumps(value, ensure_ascii=True)
