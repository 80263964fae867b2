"""Labels of real faces, as training reads them: arrays by name, NaN where nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...manifests.arrays import Floats
from ...manifests.vocabularies import EMOTIONS
from ...pipeline.errors import InputError
from ...pipeline.store.labels import LABELS_FILE, read_labels, vote_shares
from ..sources.lists.label_columns import LabelRules, labels_from_list
from ..sources.lists.table import assign_columns, read_list
from ..sources.lists.values import Cells
from ..synthesis.scene.expressions import RENDERED_UNITS

pc: Any = pyarrow.compute  # made at run time; type checkers cannot see its functions

_SIDES = {"Left": "_L", "Right": "_R"}


@dataclass(frozen=True)
class FaceLabels:
    """Labels of N faces; NaN where unknown.

    Attributes:
        emotions: (N, 8) float32 in the order of ``EMOTIONS``: the raters' shares, or 1 for the
            emotion that the face is labelled with; each row adds up to 1.
        occurrence: (N, U) float32, 0 or 1, units in the order of ``RENDERED_UNITS``.
        intensity: (N, U) float32, 0 to 5.
        shapes: (N, E) float32 scores of another witness, in the order of the coefficients. Their
            scale and their zero mean nothing.
    """

    emotions: Floats
    occurrence: Floats
    intensity: Floats
    shapes: Floats

    def known(self) -> dict[str, int]:
        """Return the number of faces with a label of each kind, without kinds that none has."""
        counts = {
            name: int(np.isfinite(values).any(1).sum()) for name, values in self.by_kind().items()
        }
        return {name: count for name, count in counts.items() if count}

    def by_kind(self) -> dict[str, Floats]:
        """Return the arrays, (N, 8), (N, U), (N, U) and (N, E), by the name of their kind."""
        return {
            "emotions": self.emotions,
            "occurrence": self.occurrence,
            "intensity": self.intensity,
            "shapes": self.shapes,
        }


def labels_of(table: pa.Table, shapes: Sequence[str], smoothing: float = 0.0) -> FaceLabels:
    """Return the labels in a label table of N rows.

    Votes count where a face has any, else its emotion. Scores of shapes are columns named as the
    face kit's shapes (``browDown_L``), as ARKit's and MediaPipe's (``browDownLeft``), or without a
    side, for both.

    Args:
        table: columns as in ``labels.parquet``.
        shapes: names of the E coefficients.
        smoothing: share of an emotion without votes that goes to all eight alike: such labels are
            wrong at times.
    """
    emotions = vote_shares(table)
    if "emotion" in table.column_names:
        named = _one_hot(table["emotion"].to_pylist())
        emotions = _fill(emotions, (1 - smoothing) * named + np.float32(smoothing / len(EMOTIONS)))
    count, columns = table.num_rows, table.column_names
    found = FaceLabels(
        emotions,
        np.full((count, len(RENDERED_UNITS)), np.nan, np.float32),
        np.full((count, len(RENDERED_UNITS)), np.nan, np.float32),
        np.full((count, len(shapes)), np.nan, np.float32),
    )
    for place, unit in enumerate(RENDERED_UNITS):
        for name, into in ((unit, found.occurrence), (f"{unit}_intensity", found.intensity)):
            if name in columns:
                into[:, place] = _numbers(table[name])
    for name in columns:
        places = [place for place, shape in enumerate(shapes) if shape in _shapes_of(name)]
        if places and pa.types.is_floating(table[name].type) | pa.types.is_integer(
            table[name].type
        ):
            found.shapes[:, places] = _numbers(table[name])[:, None]
    return found


def label_tables(files: Sequence[Path]) -> dict[Path, pa.Table]:
    """Read labels of faces that are aligned already.

    Args:
        files: lists (.csv or .parquet) with a column of paths, as ``normpipe run`` reads them;
            ``labels.parquet`` of a job, or the job's folder.

    Returns:
        For each file its label columns, and ``key``, or ``path`` with forward slashes.

    Raises:
        InputError: not a list, no labels, or a path twice.
    """
    tables: dict[Path, pa.Table] = {}
    for file in files:
        own = file / LABELS_FILE if file.is_dir() else file
        if own.name == LABELS_FILE:
            tables[file] = read_labels(own)
            continue
        listed = read_list(file)
        try:
            columns, cells = assign_columns(listed, "path", {}), Cells(listed)
            labels = labels_from_list(cells, columns, LabelRules())
        except InputError as error:
            raise InputError(
                f"--labels {file} cannot be read with ingest's default settings: correct it, or "
                f"put its columns into the list of normpipe run ({error})"
            ) from None
        if labels is None:
            raise InputError(f"--labels {file} has no labels, only paths")
        paths = pc.replace_substring(cells.paths(columns.known["path"]), "\\", "/")
        if pc.count_distinct(paths, mode="all").as_py() < len(paths):
            raise InputError(f"--labels {file} names a picture twice: keep one row of each")
        tables[file] = labels.append_column("path", paths)
    return tables


def by_path(keys: Sequence[str], table: pa.Table) -> pa.Array:
    """Return for each key the row of ``table`` with its path, int64; null if there is none.

    A key is ``dataset/path``, with ``#frame`` and ``#face`` behind it where there are several.
    """
    paths = pc.replace_substring_regex(pa.array(keys, pa.string()), r"^[^/]*/", "")
    listed = table["path"].combine_chunks()
    found = pc.index_in(paths, listed)
    for _ in range(2):
        paths = pc.replace_substring_regex(paths, r"#[^#]*$", "")
        found = pc.coalesce(found, pc.index_in(paths, listed))
    return found.cast(pa.int64())


def merged(first: FaceLabels, second: FaceLabels) -> FaceLabels:
    """Return labels of the same N faces from two sources: the second where it knows any."""
    pairs = zip(second.by_kind().values(), first.by_kind().values(), strict=True)
    return FaceLabels(*(_fill(new, old) for new, old in pairs))


def joined(parts: Sequence[FaceLabels]) -> FaceLabels:
    """Return the labels of several sets of faces, one set behind the other."""
    kinds = zip(*(part.by_kind().values() for part in parts), strict=True)
    return FaceLabels(*(np.concatenate(arrays) for arrays in kinds))


def _fill(values: Floats, others: Floats) -> Floats:
    """Return ``values`` (N, C) with those of ``others`` where they are NaN."""
    return np.where(np.isnan(values), others, values)


def _one_hot(emotions: Sequence[str | None]) -> Floats:
    shares = np.full((len(emotions), len(EMOTIONS)), np.nan, np.float32)
    for row, name in enumerate(emotions):
        if name in EMOTIONS:
            shares[row] = [other == name for other in EMOTIONS]
    return shares


def _numbers(column: pa.ChunkedArray) -> Floats:
    values: Any = column.cast(pa.float64())
    return values.to_numpy(zero_copy_only=False).astype(np.float32)


def _shapes_of(column: str) -> set[str]:
    """Return the names of shapes that a column may score."""
    for word, side in _SIDES.items():
        if column.endswith(word):
            return {column, column.removesuffix(word) + side}
    return {column, f"{column}_L", f"{column}_R"}
