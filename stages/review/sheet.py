"""Draws the contact sheet: original | aligned | normalized."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from PIL import Image, ImageDraw, ImageOps

from ...manifests.arrays import Rows
from ...manifests.vocabularies import SampleError
from ...pipeline.errors import InputError, OutputError, nearest
from ...pipeline.read.columns import offered_schema, read_columns
from ...pipeline.read.dataset import ShardDataset, open_dataset
from ...pipeline.store.commit import write_bytes
from ...pipeline.store.job_file import read_job
from ...pipeline.store.shards import ShardFolder, datasets_in
from ...pipeline.store.storage import location
from ..faces.align_settings import AlignConfig
from ..faces.isolation import DecoderPool
from ..faces.pixels import to_pixels
from ..sources.fetching import SourceReader

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

#: Side of a picture on the sheet, and faces per row.
TILE_PX = 144
ACROSS = 4
_INK, _PAPER, _GAP = (40, 40, 40), (255, 255, 255), 8


def draw_sheet(
    root: Path, rows: int, variant: str | None, status: str = "ok", label: str = "", sort: str = ""
) -> Path:
    """Draw ``contact_sheet.jpg`` with faces of a job; return its path.

    Args:
        root: the job's folder.
        rows: faces on the sheet, spread evenly over those to choose from.
        variant: of the normalized faces; None: the only one.
        status: of the faces: ``ok``, ``rejected``, ``failed``, ``excluded``, or ``all``.
        label: only faces with this label: a value such as ``anger``, or ``split=test``.
        sort: a column of the faces or labels: the first ones are drawn, with a leading ``-`` the
            last ones.

    Raises:
        InputError: there is no finished variant, or several and none is named; no such status,
            label or column; or no such faces.
    """
    job = read_job(root)
    normalized = _variant(root, variant)
    made = open_dataset(normalized.path, status=_as_status(status), decode=False)
    aligned = open_dataset(root / "aligned", status="all", decode=False)
    places: Any = pc.index_in(made.opened.rows["key"], aligned.opened.rows["key"].combine_chunks())
    chosen = np.arange(len(made))
    if label:
        chosen = chosen[_labelled(made, label)]
    if sort:
        chosen = _sorted((made, aligned, places), chosen, sort)[:rows]
    if not len(chosen):
        what = f" with the label {label}" if label else ""
        raise InputError(
            f"{normalized.path} has no {status} rows{what}: see normpipe status {root}"
        )
    count = min(rows, len(chosen))
    picks = [int(chosen[i * len(chosen) // count]) for i in range(count)]
    paths = _paths(root, made)
    with_original = _Originals(job)
    try:
        tiles = [
            [
                with_original.picture(paths(row)),
                None if places[row].as_py() is None else _picture(aligned, places[row].as_py()),
                _picture(made, row),
            ]
            for row in picks
        ]
    finally:
        with_original.close()
    path = root / "contact_sheet.jpg"
    buffer = io.BytesIO()
    keys = made.opened.rows["key"].take(picks).to_pylist()
    _compose(tiles, [key.partition("/")[2] for key in keys]).save(buffer, "JPEG", quality=90)
    write_bytes(path, buffer.getvalue())
    return path


def _as_status(status: str) -> Any:
    """Return a status for ``open_dataset``, which refuses an unknown one."""
    return status


def _variant(root: Path, variant: str | None) -> ShardFolder:
    made = datasets_in(root / "normalized")
    names = [name for name, folder in made.items() if folder.index_path.is_file()]
    if variant is None and len(names) == 1:
        variant = names[0]
    if variant is None or variant not in names:
        listed = ", ".join(names) or "none is finished"
        raise InputError(f"choose a normalized variant with --variant ({listed})")
    return ShardFolder(root / "normalized" / variant)


def _labelled(made: ShardDataset, label: str) -> Any:
    """Return (N,) which rows have a label, given as its value or as ``column=value``."""
    labels = made.opened.joined_labels
    column, equals, value = label.partition("=")
    if equals and column not in labels:
        raise InputError(f"the labels have no column '{column}'{nearest(column, [*labels])}")
    texts = {
        name: [None if one is None else str(one) for one in values.to_pylist()]
        for name, values in labels.items()
        if not equals or name == column
    }
    wanted = value if equals else label
    found = np.zeros(len(made), np.bool_)
    for values in texts.values():
        found |= np.array([one == wanted for one in values], np.bool_)
    if not found.any():
        known = {
            one for name, values in texts.items() for one in values if one and name != "subject"
        }
        raise InputError(f"no such face has the label '{wanted}'{nearest(wanted, sorted(known))}")
    return found


def _sorted(job: tuple[ShardDataset, ShardDataset, Any], chosen: Rows, sort: str) -> Rows:
    """Return chosen rows in the order of a column of the aligned faces, else of the variant."""
    made, aligned, places = job
    name, last_first = sort.removeprefix("-"), sort.startswith("-")
    own, before = offered_schema(made.opened).names, offered_schema(aligned.opened).names
    if name in before:
        values = read_columns(aligned.opened, [name])[name].take(places)
    elif name in own:
        values = read_columns(made.opened, [name])[name]
    else:
        known = sorted({*own, *before})
        raise InputError(f"there is no column '{name}' to sort by{nearest(name, known)}")
    try:
        order = pc.sort_indices(
            pa.table({"value": values}),
            [("value", "descending" if last_first else "ascending")],
        )
    except pa.ArrowException:
        raise InputError(f"the column '{name}' has no order: sort by another one") from None
    wanted = {*chosen.tolist()}
    return np.array([row for row in order.to_pylist() if row in wanted], np.int64)


def _picture(dataset: ShardDataset, row: int) -> Image.Image | None:
    data = dataset[row]["image"]
    return None if data is None else Image.open(io.BytesIO(data)).convert("RGB")


def _paths(root: Path, made: ShardDataset) -> Callable[[int], str | None]:
    """Return a function that gives the path of a row's photograph."""
    manifest = open_dataset(root / "manifest", status="all").opened
    found: Any = pc.index_in(made.opened.rows["parent_key"], manifest.rows["key"].combine_chunks())
    paths = read_columns(manifest, ["path"])["path"].take(found)
    return lambda row: paths[row].as_py()


class _Originals:
    """Reads photographs; strangers' files are decoded in a process that can be killed."""

    def __init__(self, job: dict[str, Any]) -> None:
        white = job.get("align", {}).get("white") or None
        decoding = AlignConfig.model_validate({"white": white}).decoding()
        self._white = white
        self._pool = DecoderPool(decoding.limits, decoding.bounds)
        root = location(job["input_root"])
        self._reader = SourceReader(root, decoding.limits.max_bytes, 0.0, allow_urls=False)

    def picture(self, path: str | None) -> Image.Image | None:
        """Return a photograph; None where it cannot be read."""
        if path is None:
            return None
        try:
            self._reader.open()
            found = self._pool.decode(self._reader.read({"path": path}))
            return Image.fromarray(to_pixels(found, self._white))
        except (OSError, SampleError, InputError, OutputError):
            return None

    def close(self) -> None:
        """End the process, and close archives."""
        self._pool.close()
        self._reader.close()


def _compose(tiles: list[list[Image.Image | None]], names: list[str]) -> Image.Image:
    across = min(ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    cell_width, cell_height = 3 * TILE_PX + _GAP, TILE_PX + 18
    sheet = Image.new("RGB", (across * cell_width + _GAP, down * cell_height + 24), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 6), "original | aligned | normalized", fill=_INK)
    for i, (pictures, name) in enumerate(zip(tiles, names, strict=True)):
        left, top = _GAP + i % across * cell_width, 24 + i // across * cell_height
        for j, picture in enumerate(pictures):
            if picture is not None:
                fitted = ImageOps.pad(picture, (TILE_PX, TILE_PX), color=_PAPER)
                sheet.paste(fitted, (left + j * TILE_PX, top))
        draw.text((left, top + TILE_PX + 2), name[:60], fill=_INK)
    return sheet
