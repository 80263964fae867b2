"""Opens what a report of a job shows: its faces, their variants, photographs and measurements."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ...pipeline.errors import InputError
from ...pipeline.read.columns import offered_schema, read_columns
from ...pipeline.read.dataset import ShardDataset, open_dataset
from ...pipeline.store.job_file import read_job, saved_settings
from ...pipeline.store.shards import ShardFolder
from ...pipeline.store.storage import location
from ..faces.align_settings import AlignConfig
from .job_report import JobFaces
from .thumbnails import Originals

# pyarrow makes these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

#: In the key of a frame of a video, which is no picture file.
_FRAME = "#frame"
_VARIANTS = "normalized/"


def faces_of_job(
    root: Path,
    state: Mapping[str, Any],
    made: Mapping[str, Mapping[str, Any]],
    originals: bool,
    device: str,
) -> JobFaces:
    """Open the faces of a job, as far as it has run.

    Args:
        root: the job's folder.
        state: of ``normpipe status``.
        made: dataset → what made it, in the order of the flow.
        originals: with the photographs that they come from.
        device: of the network that measures expressions; empty: none does.

    Raises:
        InputError: no dataset has a finished shard, or there are no aligned faces to measure.
    """
    finished = [name for name in made if ShardFolder(root / name).records()]
    if not finished:
        raise InputError(f"{root} has no finished shard: run the job first")
    faces, variants = None, dict[str, ShardDataset]()
    if "aligned" in finished:
        faces = _opened(root / "aligned")
        variants = {
            name.removeprefix(_VARIANTS): _opened(root / name)
            for name in finished
            if name.startswith(_VARIANTS)
        }
    else:  # the first with pictures, such as renders; else the inputs alone
        opened = {name: _opened(root / name) for name in reversed(finished)}
        pictured = (one for one in opened.values() if one.opened.pictures)
        faces = next(pictured, opened[finished[0]])
    shown = _originals(root, faces) if originals and "manifest" in finished else None
    measured = _measured(root, device) if device else None
    return JobFaces(state, made, faces, variants, shown, measured)


def _opened(path: Path) -> ShardDataset:
    return open_dataset(path, status="all", decode=False)


def _originals(root: Path, faces: ShardDataset) -> Originals | None:
    """Return where the photographs are; None for a job whose inputs are no files."""
    manifest = _opened(root / "manifest")
    if "path" not in offered_schema(manifest.opened).names:
        return None
    paths = read_columns(manifest.opened, ["path"])["path"].combine_chunks()
    keys = manifest.opened.rows["key"].combine_chunks()
    parents = faces.opened.rows["parent_key"].combine_chunks()
    frame = pc.match_substring(parents, _FRAME)
    found = paths.take(pc.index_in(parents, keys))
    boxes: list[list[float] | None] = [None] * len(parents)
    if "bbox_xyxy" in offered_schema(faces.opened).names:
        boxes = read_columns(faces.opened, ["bbox_xyxy"])["bbox_xyxy"].to_pylist()
    tables = saved_settings(root, {"align": AlignConfig}) or {}
    config = AlignConfig.model_validate(tables.get("align", {}))
    return Originals(
        location(read_job(root).get("input_root", "")),
        pc.if_else(frame, pa.scalar(None, pa.string()), found),
        boxes,
        config,
        pc.sum(frame).as_py() or 0,
    )


def _measured(root: Path, device: str) -> pa.Table:
    from .face_reader import open_face_reader
    from .measure import MeasureConfig, measure

    if not ShardFolder(root / "aligned").records():
        raise InputError(f"{root} has no aligned faces to read coefficients off: run align first")
    reader = open_face_reader("compact", device)
    with tempfile.TemporaryDirectory(prefix="normpipe-") as folder:
        table = Path(folder, "measured.parquet")
        measure(MeasureConfig.model_validate({}), reader, _opened(root / "aligned"), table)
        return pq.read_table(table)
