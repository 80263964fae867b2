"""A table of texts while it is put together: rows of label files, joined with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ....manifests.layouts import NUMBER_FIELDS
from ....pipeline.errors import InputError

Cells = list[str | None]


@dataclass
class LabelSheet:
    """Columns of texts, None where unknown, and where each row was read.

    Attributes:
        columns: all of one length.
        files: those that were read.
        places: of each row: number of its file, and its line from 1 (0: the file as a whole).
    """

    columns: dict[str, Cells] = field(default_factory=lambda: dict[str, Cells]())
    files: list[str] = field(default_factory=lambda: list[str]())
    places: list[tuple[int, int]] = field(default_factory=lambda: list[tuple[int, int]]())

    def where(self, row: int) -> str:
        """Return where a row was read: ``line 3 of EmoLabel/list.txt``."""
        file, line = self.places[row]
        if file < 0:
            return f"row {row + 1}"
        return f"line {line} of {self.files[file]}" if line else self.files[file]

    def extend(self, columns: Mapping[str, Cells], file: int, lines: Sequence[int]) -> None:
        """Append rows. Columns that only some rows have are None in the others."""
        for name in columns:
            if name not in self.columns:
                self.columns[name] = [None] * len(self.places)
        self.places += [(file, line) for line in lines]
        for name, column in self.columns.items():
            column += columns[name] if name in columns else [None] * len(lines)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out all other rows."""
        self.columns = {n: [column[i] for i in rows] for n, column in self.columns.items()}
        self.places = [self.places[i] for i in rows]

    def keys(self, names: Sequence[str], offset: int = 0) -> list[tuple[str, ...] | None]:
        """Return each row's texts under ``names``, whole numbers in one spelling; None if unknown.

        ``offset`` is added to ``frame``.
        """
        columns: list[Cells] = []
        for name in names:
            texts = self.columns.get(name, [None] * len(self.places))
            shift = offset if name == "frame" else 0
            spelt = {text: as_key(name, text, shift) for text in {*texts}}
            columns.append([spelt[text] for text in texts])
        return [
            None if None in parts else tuple(str(part) for part in parts)
            for parts in zip(*columns, strict=True)
        ]


def as_key(name: str, text: str | None, shift: int = 0) -> str | None:
    """Return a text as it is compared: ``0643`` and ``643.0`` are frame 643."""
    if not text or name not in NUMBER_FIELDS:
        return text or None
    try:
        number = float(text)
        return str(int(number) + shift) if number == int(number) else text
    except (ValueError, OverflowError):
        return text


def joined_sheets(
    left: LabelSheet,
    right: LabelSheet,
    names: Sequence[str],
    same: Callable[[str, str | None], str | None],
) -> LabelSheet:
    """Return all rows of both, those with the same texts under ``names`` as one.

    Args:
        same: (column, text) → the text as it is compared.

    Raises:
        InputError: a sheet has two rows of one key, or the two say different things of one.
    """
    first, second = _places_of(left, names), _places_of(right, names)
    pairs: list[tuple[int | None, int | None]] = [
        (row, second.get(key)) for key, row in first.items()
    ]
    pairs += [(None, row) for key, row in second.items() if key not in first]
    made = LabelSheet(files=[*left.files, *right.files])
    for mine, theirs in pairs:
        file, line = left.places[mine] if mine is not None else right.places[theirs or 0]
        made.places.append((file if mine is not None else file + len(left.files), line))
    for name in dict.fromkeys([*left.columns, *right.columns]):
        one, two = left.columns.get(name), right.columns.get(name)
        ours = [None if one is None or i is None else one[i] for i, _ in pairs]
        others = [None if two is None or j is None else two[j] for _, j in pairs]
        made.columns[name] = [a or b for a, b in zip(ours, others, strict=True)]
        if one is None or two is None or name in names:
            continue
        for row, (a, b) in enumerate(zip(ours, others, strict=True)):
            if a and b and a != b and same(name, a) != same(name, b):
                mine, theirs = pairs[row]
                raise InputError(
                    f"'{name}' is {a!r} in {left.where(mine or 0)} but {b!r} in "
                    f"{right.where(theirs or 0)}: correct one of them"
                )
    return made


def _places_of(sheet: LabelSheet, names: Sequence[str]) -> dict[tuple[str, ...], int]:
    places: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(sheet.keys(names)):
        if key is None:
            lacking = next((name for name in names if not sheet.columns.get(name)), names[0])
            raise InputError(f"{sheet.where(row)} has no '{lacking}' to be matched by: give it one")
        if key in places:
            what = ", ".join(f"{n} {text}" for n, text in zip(names, key, strict=True))
            raise InputError(
                f"{sheet.where(places[key])} and {sheet.where(row)} are both of {what}: "
                "remove one of them"
            )
        places[key] = row
    return places
