"""report: static pages to look through a job: counts, distributions, pictures side by side.

Reads the job's datasets. Writes a folder that opens from disk, without a server or a network: two
pages, and the data and pictures that they load as they are needed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute

from ... import __version__
from ...manifests.arrays import Rows
from ...manifests.vocabularies import REASONS
from ...pipeline.errors import OutputError
from ...pipeline.read.columns import offered_schema, read_columns
from ...pipeline.read.exclusions import EXCLUDED
from ...pipeline.store.commit import fsync_folder, make_folder, storage_errors
from ...pipeline.store.lock import LOCK_FILE, locked
from .near_duplicates import duplicate_groups
from .report_columns import (
    CHUNK_ROWS,
    ReportColumn,
    column_of,
    distributions,
    doubts,
    nose_offsets,
    packed,
    script,
    write_columns,
    write_texts,
)
from .thumbnails import (
    FOLDER_FILES,
    SHEET_ROWS,
    TILE_PX,
    DrawnPictures,
    Originals,
    PictureColumn,
    draw_pictures,
)

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Marks a folder as a report, which the next one may replace.
MARK_FILE = "report.json"
#: Columns that say nothing to a person, or are shown otherwise.
_HIDDEN = frozenset(
    {
        *("key", "parent_key", "status", "reason", "decided_by", "variant", "path", "modified_ns"),
        *("image_sha256", "source_sha256", "weights_sha256", "network"),
    }
)
#: Shown first, and drawn as distributions.
_MEASURES = (
    *("detection_score", "face_size_px", "sharpness", "brightness", "nose_offset", "contrast"),
    *("saturated_share", "yaw_deg", "pitch_deg", "roll_deg"),
)
#: Columns of a variant that are worth a look.
_OF_VARIANT = ("brightness", "contrast", "saturated_share")
_ORDER = ("failed", "rejected", "ok", EXCLUDED)
_MEANINGS = {
    "doubt": "how far out the row is on its worst measure: 1 is the worst of all rows",
    "nose_offset": "how far the nose is off the middle of the eyes, in distances of the eyes",
    "near_duplicates": "how many other faces look almost the same",
    "duplicate_group": "number of the group of near-duplicates",
    "sharpness": "variance of the Laplacian in the middle of the crop",
    "face_size_px": "original pixels that the crop's side spans",
    "detection_score": "0 to 1",
    "brightness": "mean luma in the middle of the crop, 0 to 1",
}


@dataclass(frozen=True)
class JobFaces:
    """What a report is about.

    Attributes:
        state: of the job, as ``normpipe status --json`` has it.
        made: dataset → what made it, as its ``stage.json`` says.
        faces: the rows of the report, opened with ``status="all", decode=False``.
        variants: name → normalized faces, opened likewise.
        originals: where the photographs are; None: without them.
        measured: a table of ``normpipe measure`` with the rows of ``faces`` in order; None: without
            coefficients.
    """

    state: Mapping[str, Any]
    made: Mapping[str, Mapping[str, Any]]
    faces: ShardDataset
    variants: Mapping[str, ShardDataset]
    originals: Originals | None = None
    measured: pa.Table | None = None


@dataclass
class WrittenReport:
    """Where a report is, and what could not be shown."""

    page: Path
    rows: int
    bytes: int
    lines: list[str] = field(default_factory=lambda: list[str]())


def write_job_report(job: JobFaces, output: Path, threads: int = 0) -> WrittenReport:
    """Write the pages of a job into a folder; an earlier report there is replaced at the end.

    Args:
        output: the folder, on a disk.
        threads: that draw pictures; 0: one for each processor.

    Raises:
        OutputError: the folder is something else, or another report is being written there.
    """
    threads = threads or min(8, len(os.sched_getaffinity(0)))
    with _replacing(output) as folder:
        rows = job.faces.opened.rows
        columns = _columns(job)
        pictures = [
            PictureColumn(name, job.faces, name, np.arange(rows.num_rows))
            for name in job.faces.opened.pictures
        ]
        if "aligned" in job.made and len(pictures) == 1:
            pictures = [PictureColumn("aligned", pictures[0].dataset, pictures[0].column,
                                      pictures[0].rows)]  # fmt: skip
        pictures += [
            PictureColumn(name, dataset, "image", _places(rows, dataset), _is_ours(job, name))
            for name, dataset in job.variants.items()
        ]
        drawn = draw_pictures(pictures, job.originals, rows.num_rows, folder / "pictures", threads)
        columns += _duplicates(drawn)
        columns.insert(2, ReportColumn("doubt", doubts(columns)))
        columns.append(ReportColumn("pictures", drawn.there))
        lines = [
            f"{count} originals are not shown: {why}" for why, count in drawn.lost.most_common()
        ]
        meta = _write_data(job, columns, drawn, folder / "data")
        _write_pages(job, {**meta, "notes": lines}, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return WrittenReport(output / "index.html", rows.num_rows, size, lines)


def _is_ours(job: JobFaces, variant: str) -> bool:
    """Return whether normpipe encoded a variant's pictures; those of an import keep their bytes."""
    found = (made for name, made in job.made.items() if name.endswith(f"/{variant}"))
    return next(found, {}).get("stage") != "import-variant"


def _places(rows: pa.Table, dataset: ShardDataset) -> Rows:
    """Return (N,) which row of a dataset belongs to each row; -1 where none does."""
    found = pc.index_in(rows["_source"], dataset.opened.rows["_source"].combine_chunks())
    numbers: Any = pc.fill_null(found, -1)
    return numbers.to_numpy().astype(np.int64)


def _columns(job: JobFaces) -> list[ReportColumn]:
    """Return the columns of the rows; ``status`` and ``reason`` first."""
    opened = job.faces.opened
    rows = opened.rows
    decided = {name: rows[name] for name in ("status", "reason", "decided_by")}
    further: list[ReportColumn] = []
    for name, dataset in job.variants.items():
        places = _places(rows, dataset)
        index = pa.array(places, mask=places < 0)
        other = dataset.opened.rows
        status = other["status"].take(index)
        # A face that is fine until a normalizer spoils it is rejected there.
        worse = pc.and_(
            pc.equal(decided["status"], "ok"),
            pc.fill_null(pc.not_equal(status, "ok"), False),
        )
        for column in decided:
            decided[column] = pc.if_else(worse, other[column].take(index), decided[column])
        offered = offered_schema(dataset.opened).names
        wanted = [one for one in _OF_VARIANT if one in offered]
        values = read_columns(dataset.opened, wanted)
        for one in wanted:
            shown = one if len(job.variants) == 1 and one != "brightness" else f"{name}: {one}"
            further += [found for found in [column_of(shown, values[one].take(index))] if found]
    first = [found for name, values in decided.items() if (found := column_of(name, values))]
    schema = offered_schema(opened)
    names = [
        name
        for name in dict.fromkeys([*_MEASURES, *opened.joined_labels, *schema.names])
        if name in schema.names and name not in _HIDDEN
    ]
    table = read_columns(opened, names)
    own = [found for name in names if (found := column_of(name, table[name]))]
    if {"landmarks", "transform"} <= {*schema.names}:
        points = read_columns(opened, ["landmarks", "transform"])
        offsets = nose_offsets(points["landmarks"].to_pylist(), points["transform"].to_pylist())
        own.append(ReportColumn("nose_offset", offsets))
    if job.measured is not None:
        angles = [name for name in job.measured.column_names if name.endswith("_deg")]
        own += [found for name in angles if (found := column_of(name, job.measured[name]))]
    return [*first, *own, *further]


def _duplicates(drawn: DrawnPictures) -> list[ReportColumn]:
    groups = duplicate_groups(drawn.hashes)
    others = np.where(groups > 0, np.bincount(groups)[groups] - 1, 0) if len(groups) else groups
    numbers = np.where(groups > 0, groups, np.nan)
    return [
        ReportColumn("near_duplicates", others.astype(np.float64)),
        ReportColumn("duplicate_group", numbers),
    ]


def _first_order(columns: list[ReportColumn]) -> Rows:
    """Return (N,) the rows as they are shown first: failed, rejected, then the doubtful ones."""
    by_name = {column.name: column for column in columns}
    status = by_name["status"]
    words = ["", *(status.words or ())]
    rank = np.array([_ORDER.index(word) if word in _ORDER else len(_ORDER) for word in words])
    return np.lexsort(
        [-np.asarray(by_name["doubt"].values), rank[np.asarray(status.values, np.int64)]]
    )


def _write_data(
    job: JobFaces, columns: list[ReportColumn], drawn: DrawnPictures, folder: Path
) -> dict[str, Any]:
    """Write what the pages load; return what they must know of it."""
    folder.mkdir()
    rows = job.faces.opened.rows
    texts = {name: rows[name].to_pylist() for name in ("key",)}
    if job.originals is not None:
        texts["path"] = job.originals.paths.to_pylist()
    write_texts(texts, rows.num_rows, folder)
    (folder / "order.js").write_bytes(script("order", packed(_first_order(columns))))
    meta: dict[str, Any] = {
        "rows": rows.num_rows,
        "chunk": CHUNK_ROWS,
        "tile": TILE_PX,
        "sheet": SHEET_ROWS,
        "files": FOLDER_FILES,
        "titles": drawn.titles,
        "columns": write_columns(columns, folder),
        "meanings": _MEANINGS | {name: words for name, (_, words) in REASONS.items()},
        "coefficients": _write_coefficients(job.measured, folder),
        "distributions": distributions(
            columns, [*_MEASURES, *(one.name for one in columns if ": " in one.name)]
        ),
    }
    (folder / "meta.js").write_bytes(script("meta", meta))
    return meta


def _write_coefficients(measured: pa.Table | None, folder: Path) -> list[str]:
    """Write ``e0.js`` …: the coefficients of ``CHUNK_ROWS`` rows each; return their names.

    In hundredths, 255 where unknown.
    """
    if measured is None:
        return []
    start = measured.column_names.index("AU1") if "AU1" in measured.column_names else None
    names = measured.column_names[start:] if start is not None else []
    arrays: list[Any] = [measured[name].to_numpy() for name in names]
    values = np.stack(arrays, axis=1) if arrays else np.zeros((measured.num_rows, 0))
    whole = np.where(np.isfinite(values), np.clip(np.nan_to_num(values) * 100, 0, 250), 255)
    whole = np.rint(whole).astype(np.int64)
    for number, begin in enumerate(range(0, len(whole), CHUNK_ROWS)):
        chunk = packed(whole[begin : begin + CHUNK_ROWS].reshape(-1))
        (folder / f"e{number}.js").write_bytes(script(f"e{number}", chunk))
    return names


def _write_pages(job: JobFaces, meta: Mapping[str, Any], folder: Path) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("normpipe.stages.review", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    statuses = next(one for one in meta["columns"] if one["name"] == "status")
    counts = dict(zip(statuses["words"], statuses["counts"][1:], strict=True))
    given = {
        "state": job.state,
        "made": job.made,
        "meta": meta,
        "counts": {name: counts.get(name, 0) for name in ("ok", "rejected", "failed", EXCLUDED)},
        "reasons": REASONS,
        "version": __version__,
    }
    for name in ("index.html", "faces.html"):
        page = environment.get_template(name).render(given)
        (folder / name).write_text(page, encoding="utf-8")
    templates = Path(__file__).with_name("templates")
    for name in ("report.css", "report.js"):
        shutil.copyfile(templates / name, folder / name)
    mark = {"command": "report", "normpipe": __version__, "rows": meta["rows"]}
    (folder / MARK_FILE).write_text(json.dumps(mark) + "\n", encoding="utf-8")


@contextmanager
def _replacing(output: Path) -> Generator[Path]:
    """Yield a new folder beside ``output``, which takes its place if nothing is raised."""
    if output.exists() and not is_report(output):
        raise OutputError(f"{output} exists and is no report: choose another --to")
    work, old = (output.with_name(f"{output.name}{end}.tmp") for end in ("", ".old"))
    with storage_errors(output):
        make_folder(output.parent)
        with locked(work):
            for path in (*work.iterdir(), *([old] if old.exists() else [])):
                if path.name != LOCK_FILE:  # of a report that was stopped
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            try:
                yield work
            except BaseException:  # also if it is interrupted: half a report shows faces, too
                shutil.rmtree(work)
                raise
            if output.exists():
                output.replace(old)
            work.replace(output)
            (output / LOCK_FILE).unlink(missing_ok=True)
            fsync_folder(output.parent)
            shutil.rmtree(old, ignore_errors=True)


def is_report(folder: Path) -> bool:
    """Return whether a folder is a report, or empty."""
    try:
        if not any(folder.iterdir()):
            return True
        return json.loads((folder / MARK_FILE).read_bytes()).get("command") == "report"
    except (OSError, ValueError, AttributeError):
        return False
