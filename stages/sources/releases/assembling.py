"""Joins the labels of a release with its pictures: one row for each picture, and for each label."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....manifests.layouts import Pattern, ReleaseLayout, fill
from ....pipeline.errors import InputError
from .label_files import matched
from .sheets import Cells, LabelSheet, as_key

Fields = Mapping[str, str]


@dataclass
class Assembled:
    """Rows with a column ``path``, and what was left out or is missing.

    Attributes:
        sheet: the rows.
        from_paths: columns that came from names of folders and files.
        named: rows of labels whose picture is there.
        unlabelled: rows of pictures that no label names.
        ignored: what became no row, by kind.
        shifted: whether pictures count from one less than frames.
    """

    sheet: LabelSheet
    from_paths: set[str]
    named: int = 0
    unlabelled: int = 0
    ignored: Counter[str] = field(default_factory=lambda: Counter[str]())
    shifted: bool = False


def pictures_among(paths: Sequence[str], patterns: Sequence[Pattern]) -> dict[str, Fields]:
    """Return path → fields for the paths that match one of the patterns, the first that does."""
    found: dict[str, Fields] = {}
    for path in paths:
        fields = next((f for one in patterns if (f := matched(one, path)) is not None), None)
        if fields is not None:
            found[path] = fields
    return found


def assemble(
    layout: ReleaseLayout,
    labels: LabelSheet | None,
    pictures: dict[str, Fields],
    same: Callable[[str, str | None], str | None],
    labelled_only: bool,
    folder: Path,
) -> Assembled:
    """Return one row for each row of labels, then one for each picture that no label names.

    Args:
        layout: says what joins them.
        labels: rows of label files; None without any.
        pictures: path → the fields of its pattern.
        same: as of ``joined_sheets``.
        labelled_only: leave out pictures that no label names.
        folder: for messages.

    Raises:
        InputError: they contradict each other.
    """
    patterns = [Pattern(one) for one in layout.pictures]
    made = Assembled(labels or LabelSheet(), {name for one in patterns for name in one.fields})
    sheet = made.sheet
    offset = layout.frame_offset
    if layout.frames_from is not None:
        numbers = {as_key("frame", fields.get("frame")) for fields in pictures.values()}
        made.shifted = str(layout.frames_from - 1) in numbers
        offset -= made.shifted
    if labels is not None:
        paths = _paths(layout, sheet, pictures, offset, same, folder)
        kept = [row for row, path in enumerate(paths) if path is not None]
        if len(kept) < len(paths):
            made.ignored["row of labels without a picture"] += len(paths) - len(kept)
            sheet.keep(kept)
        sheet.columns["path"] = [paths[row] for row in kept]
        _fill_in(sheet, patterns, pictures, {*layout.match}, same, folder)
    listed = {*sheet.columns.get("path", [])}
    rest = [path for path in pictures if path not in listed]
    if labels is not None:
        made.named = sum(path in pictures for path in sheet.columns["path"])
        if labelled_only:
            made.ignored["picture without a label"] += len(rest)
            rest = []
        made.unlabelled = len(rest)
    columns: dict[str, Cells] = {"path": [*rest]}
    for name in dict.fromkeys(name for path in rest for name in pictures[path]):
        texts: Cells = [pictures[path].get(name) for path in rest]
        shift = -offset if name == "frame" else 0
        columns[name] = [as_key(name, text, shift) for text in texts]
    sheet.files += [*rest]
    start = len(sheet.files) - len(rest)
    before = len(sheet.places)
    sheet.extend(columns, 0, [0] * len(rest))
    sheet.places[before:] = [(start + place, 0) for place in range(len(rest))]
    return made


def _paths(
    layout: ReleaseLayout,
    sheet: LabelSheet,
    pictures: Mapping[str, Fields],
    offset: int,
    same: Callable[[str, str | None], str | None],
    folder: Path,
) -> list[str | None]:
    """Return the path of each row's picture; None if the row names none."""
    by_key: dict[tuple[str | None, ...], str] = {}
    for path, fields in pictures.items() if layout.match else ():
        key = tuple(as_key(name, fields.get(name)) for name in layout.match)
        if key in by_key:
            raise InputError(
                f"{folder}: {by_key[key]} and {path} are both the picture of "
                f"{', '.join(f'{n} {t}' for n, t in zip(layout.match, key, strict=True))}: keep "
                "one in the folder, or say with ingest.layout which ones are meant"
            )
        by_key[key] = path
    keys = sheet.keys(layout.match, offset) if layout.match else [None] * len(sheet.places)
    given = sheet.columns.get("path", [None] * len(sheet.places))
    frames = sheet.keys(["frame"], offset) if "frame" in sheet.columns else None
    found: list[str | None] = []
    for row, key in enumerate(keys):
        path = by_key.get(key) if key else None
        if path is None:
            values = {name: column[row] for name, column in sheet.columns.items()}
            name = posixpath.basename((given[row] or "").replace("\\", "/"))
            values |= {"_name": values.get("_name") or name}
            values |= {"_stem": values.get("_stem") or posixpath.splitext(name)[0]}
            if frames is not None:
                number = frames[row]
                values["frame"] = number[0] if number else None
            if layout.pixels:  # else folders have the release's own words
                values["split"] = same("split", values.get("split"))
            path = fill(layout.path, values)
        found.append(path)
    return found


def _fill_in(
    sheet: LabelSheet,
    patterns: Sequence[Pattern],
    pictures: Mapping[str, Fields],
    matched: set[str],
    same: Callable[[str, str | None], str | None],
    folder: Path,
) -> None:
    """Add what the paths of the rows say to their columns."""
    paths = sheet.columns["path"]
    known = {**pictures_among([p for p in {*paths} if p and p not in pictures], patterns)}
    for row, path in enumerate(paths):
        fields = pictures.get(path or "") or known.get(path or "", {})
        for name, text in fields.items():
            if name in matched:
                continue
            if name not in sheet.columns:
                sheet.columns[name] = [None] * len(paths)
            before = sheet.columns[name][row]
            if before and same(name, before) != same(name, text):
                raise InputError(
                    f"{folder}: '{name}' is {before!r} in {sheet.where(row)}, but {text!r} in the "
                    f"path {path}: correct one of them"
                )
            sheet.columns[name][row] = before or text
