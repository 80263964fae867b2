"""Draws the contact sheet: original | aligned | normalized."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from PIL import Image, ImageDraw, ImageOps

from ...manifests.vocabularies import SampleError
from ...pipeline.errors import InputError
from ...pipeline.read.reading import open_parquet
from ...pipeline.store.commit import write_bytes
from ...pipeline.store.job_file import read_job
from ...pipeline.store.shards import ShardFolder, datasets_in
from ...pipeline.store.storage import location
from ..faces.pixels import Limits, decode
from ..sources.fetching import SourceReader

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

#: Side of a picture on the sheet, and faces per row.
TILE_PX = 144
ACROSS = 4
_INK, _PAPER, _GAP = (40, 40, 40), (255, 255, 255), 8


def draw_sheet(root: Path, rows: int, variant: str | None) -> Path:
    """Draw ``contact_sheet.jpg`` with faces spread evenly over a variant; return its path.

    Raises InputError if there is no finished variant, or several and none is named.
    """
    job = read_job(root)
    aligned, normalized = ShardFolder(root / "aligned"), _variant(root, variant)
    with open_parquet(normalized.index_path) as file:
        index = file.read()
    index = index.filter(pc.equal(index["status"], "ok"))
    if not index.num_rows:
        raise InputError(f"{normalized.path} has no ok rows: see normpipe status {root}")
    count = min(rows, index.num_rows)
    picks = index.take([i * index.num_rows // count for i in range(count)]).to_pylist()
    tiles = [_triple(root, job, aligned, normalized, pick) for pick in picks]
    path = root / "contact_sheet.jpg"
    buffer = io.BytesIO()
    _compose(tiles, [pick["key"].partition("/")[2] for pick in picks]).save(
        buffer, "JPEG", quality=90
    )
    write_bytes(path, buffer.getvalue())
    return path


def _variant(root: Path, variant: str | None) -> ShardFolder:
    made = datasets_in(root / "normalized")
    names = [name for name, folder in made.items() if folder.index_path.is_file()]
    if variant is None and len(names) == 1:
        variant = names[0]
    if variant is None or variant not in names:
        listed = ", ".join(names) or "none is finished"
        raise InputError(f"choose a normalized variant with --variant ({listed})")
    return ShardFolder(root / "normalized" / variant)


def _triple(
    root: Path,
    job: dict[str, Any],
    aligned: ShardFolder,
    normalized: ShardFolder,
    pick: dict[str, Any],
) -> list[Image.Image | None]:
    """Return the original, aligned and normalized picture of one row (None: missing)."""
    row = _find(aligned, pick["shard"], pick["key"])
    made = _find(normalized, pick["shard"], pick["key"])
    return [_original(root, job, pick), _picture(row), _picture(made)]


def _find(folder: ShardFolder, shard: int, key: str) -> pa.Table:
    with open_parquet(folder.shard(shard)) as file:
        table = file.read(["key", "image"])
    return table.filter(pc.equal(table["key"], key))


def _picture(table: pa.Table) -> Image.Image | None:
    if not table.num_rows or table["image"][0].as_py() is None:
        return None
    return Image.open(io.BytesIO(table["image"][0].as_py()["bytes"])).convert("RGB")


def _original(root: Path, job: dict[str, Any], pick: dict[str, Any]) -> Image.Image | None:
    with open_parquet(ShardFolder(root / "manifest").shard(pick["shard"])) as file:
        manifest = file.read(["key", "path"])
    paths = manifest.filter(pc.equal(manifest["key"], pick["parent_key"]))["path"].to_pylist()
    reader = SourceReader(location(job["input_root"]), Limits().max_bytes, 0.0, allow_urls=False)
    try:
        reader.open()
        limits = Limits(white=job.get("align", {}).get("white") or None)
        return Image.fromarray(decode(reader.read({"path": paths[0]}), limits))
    except (OSError, IndexError, SampleError, InputError):
        return None
    finally:
        reader.close()


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
