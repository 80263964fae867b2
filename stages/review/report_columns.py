"""The columns that a report sorts, filters and counts rows by, and the files that hold them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ...manifests.arrays import Floats, Rows

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Rows of a file of keys.
CHUNK_ROWS = 500
#: A column with more different words is text: shown, but neither sorted nor filtered by.
MOST_WORDS = 5000
#: Values of a column that histograms are drawn apart for; columns with more values are left out.
MOST_GROUPS = 12
_BINS = 32
#: Which end of a measure is doubtful: low, high, or both.
_DOUBTFUL = {
    "detection_score": "low",
    "sharpness": "low",
    "face_size_px": "low",
    "brightness": "both",
    "nose_offset": "both",
    "contrast": "low",
    "saturated_share": "high",
}


@dataclass(frozen=True)
class ReportColumn:
    """A column of the rows.

    Attributes:
        name: unique.
        values: (N,) float64, NaN where unknown; or the places of words, from 1 on, 0 where unknown.
        words: of a column of text, the most frequent first; None: these are numbers.
    """

    name: str
    values: Floats | Rows
    words: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        """Return ``number`` or ``word``."""
        return "number" if self.words is None else "word"

    def known(self) -> NDArray[np.bool_]:
        """Return (N,) where a value is known."""
        return np.isfinite(self.values) if self.words is None else self.values > 0


def column_of(name: str, values: pa.ChunkedArray | pa.Array) -> ReportColumn | None:
    """Return a column of a table as numbers or words; None if it is neither, or too many words."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found: Any = pc.cast(values, pa.float64(), safe=False)
        return ReportColumn(name, np.array(found.to_numpy(zero_copy_only=False), np.float64))
    if pa.types.is_boolean(kind):
        values, kind = pc.cast(values, pa.string()), pa.string()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    counts = Counter[str](word for word in values.to_pylist() if word)
    if len(counts) > MOST_WORDS:
        return None
    words = tuple(word for word, _ in counts.most_common())
    places = pc.add(pc.index_in(values, pa.array(words, pa.string())), 1)
    numbers: Any = pc.fill_null(places, 0)
    return ReportColumn(name, numbers.to_numpy().astype(np.int64), words)


def doubts(columns: Sequence[ReportColumn]) -> Floats:
    """Return (N,) how far out rows are on their worst measure: 0 in the middle, 1 the worst of all.

    Measures of the picture count (``_DOUBTFUL``), by rank among the rows, not by a threshold.
    """
    worst = np.zeros(len(columns[0].values) if columns else 0)
    for column in columns:
        end = _DOUBTFUL.get(column.name.rpartition(": ")[2])
        if end is None or column.words is not None:
            continue
        known = column.known()
        values = np.asarray(column.values)[known]
        if not len(values) or values.min() == values.max():
            continue
        ordered = np.sort(values)
        # Equal values have equal ranks.
        rank = (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right")) / 2
        rank = rank / len(values)
        out = {"low": 1 - rank, "high": rank, "both": np.abs(2 * rank - 1)}[end]
        worst[known] = np.maximum(worst[known], out)
    return worst


def nose_offsets(landmarks: Sequence[Any], transforms: Sequence[Any]) -> Floats:
    """Return (N,) how far noses are from the middle of the eyes, in distances of the eyes.

    0 is a face from the front; a positive one has its nose to the right in the crop, and so looks
    there. A measure of pose that needs no network; NaN without landmarks.

    Args:
        landmarks: N lists of 5 points, or None.
        transforms: N matrices (2, 3), or None.
    """
    offsets = np.full(len(landmarks), np.nan)
    for row, (points, matrix) in enumerate(zip(landmarks, transforms, strict=True)):
        if points is None or matrix is None:
            continue
        linear = np.asarray(matrix, np.float64)[:, :2]
        left, right, nose = (linear @ np.asarray(points[place], np.float64) for place in range(3))
        across = right - left
        length = float(across @ across)
        if length > 0:
            offsets[row] = float((nose - (left + right) / 2) @ across) / length
    return offsets


def distributions(columns: Sequence[ReportColumn], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return histograms of columns of numbers, ready for JSON: of all rows, and by other columns.

    Args:
        columns: all columns.
        names: of those to draw.
    """
    groups = [
        one
        for one in columns
        if one.words is not None and 2 <= len(one.words) <= 50 and one.name not in ("reason",)
    ]
    found: list[dict[str, Any]] = []
    for column in (one for one in columns if one.name in names):
        known = column.known()
        if not known.any():
            continue
        values = np.asarray(column.values, np.float64)
        low, high = (float(one) for one in np.quantile(values[known], (0.001, 0.999)))
        if low == high:
            low, high = low - 0.5, high + 0.5
        inside = np.clip(values, low, high)
        edges = np.linspace(low, high, _BINS + 1)

        def counted(rows: Any, inside: Any = inside, edges: Any = edges) -> list[int]:
            return np.histogram(inside[rows], edges)[0].tolist()

        middle = float(np.median(values[known]))
        by = {
            one.name: {
                word: counted(known & (np.asarray(one.values) == place))
                for place, word in enumerate((one.words or ())[:MOST_GROUPS], 1)
            }
            for one in groups
        }
        found.append(
            {
                "name": column.name,
                "low": low,
                "high": high,
                "known": int(known.sum()),
                "median": middle,
                "all": counted(known),
                "by": by,
            }
        )
    return found


def script(name: str, value: Any) -> bytes:
    """Return a file of JavaScript that gives the page a value: ``fetch`` reads no local files."""
    # As JSON is within JavaScript; "<" is escaped so that it may even stand within HTML.
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f"normpipe({json.dumps(name)},{text});\n".encode()


def packed(values: Floats | Rows) -> dict[str, str]:
    """Return numbers, (N,), as the page reads them: the type of its array, and base64."""
    kind = "f4"
    if np.issubdtype(values.dtype, np.integer):
        most = int(values.max(initial=0))
        kind = "u1" if most < 1 << 8 else "u2" if most < 1 << 16 else "u4"
    elif np.abs(values[np.isfinite(values)]).max(initial=0) > 1 << 24:
        kind = "f8"  # such as a time: a float32 would round it
    data = np.ascontiguousarray(values, f"<{kind}").tobytes()
    return {"type": kind, "data": base64.b64encode(data).decode()}


def write_columns(columns: Sequence[ReportColumn], folder: Path) -> list[dict[str, Any]]:
    """Write ``c0.js`` … into a folder; return what the page must know of each column."""
    about: list[dict[str, Any]] = []
    for number, column in enumerate(columns):
        (folder / f"c{number}.js").write_bytes(script(f"c{number}", packed(column.values)))
        entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
        if column.words is not None:
            counts = np.bincount(np.asarray(column.values), minlength=len(column.words) + 1)
            entry |= {"words": [*column.words], "counts": counts.tolist()}
        else:
            known = np.asarray(column.values)[column.known()]
            entry |= {"low": _plain(known, "min"), "high": _plain(known, "max")}
        about.append(entry)
    return about


def _plain(values: Any, which: str) -> float | None:
    return float(getattr(values, which)()) if len(values) else None


def write_texts(texts: Mapping[str, list[Any]], rows: int, folder: Path) -> None:
    """Write ``k0.js`` … into a folder: keys and other texts, of ``CHUNK_ROWS`` rows each."""
    for number, start in enumerate(range(0, rows, CHUNK_ROWS)):
        chunk = {name: values[start : start + CHUNK_ROWS] for name, values in texts.items()}
        (folder / f"k{number}.js").write_bytes(script(f"k{number}", chunk))
