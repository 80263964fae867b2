"""The files of an export in each format. All are written whole or not at all, with their sha256."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...manifests.schema import IMAGE, is_text
from ...pipeline.store.commit import (
    PendingFile,
    commit_file,
    make_folder,
    storage_errors,
    temporary,
)
from .export_columns import ExportColumn
from .export_plan import ExportPart, ExportPlan, ExportRow, file_stem

#: Rows of a row group: few, so that a viewer need not read much.
_GROUP_ROWS = 100
#: Folder of the faces whose emotion is unknown.
_UNLABELLED = "unlabelled"
_ORIGINALS = "originals"
#: In ``metadata.csv``: a text that is not known.
_UNKNOWN = "unknown"


class WrittenFile(NamedTuple):
    """A file of the export, below its folder."""

    path: str
    sha256: str
    bytes: int


#: Returns the files of a part, in the order of its rows.
WrittenOfPart = Callable[[ExportPart], list[WrittenFile]]


# ---------------------------------------------------------------- Parquet


def parquet_path(part: ExportPart) -> str:
    """Return the path of a part in the layout of the Hub."""
    return f"data/{part.split}-{part.number:05d}-of-{part.count:05d}.parquet"


def plain_parquet_path(part: ExportPart) -> str:
    """Return the path of a part as plain Parquet: a folder for each split."""
    return f"{part.split}/part-{part.number:05d}-of-{part.count:05d}.parquet"


def hub_features(plan: ExportPlan) -> dict[str, Any]:
    """Return column → its type, as ``datasets`` writes it into Parquet."""
    features: dict[str, Any] = {}
    for column in plan.columns:
        if column.classes:
            features[column.name] = {"names": [*column.classes], "_type": "ClassLabel"}
        else:
            features[column.name] = {"dtype": value_dtype(column.type), "_type": "Value"}
    return features | {name: {"_type": "Image"} for name in exported_pictures(plan)}


def value_dtype(kind: pa.DataType) -> str:
    """Return the name that ``datasets`` has for a type: ``float32`` for Arrow's ``float``."""
    names = {"float": "float32", "double": "float64", "halffloat": "float16"}
    return names.get(str(kind), str(kind))


def exported_pictures(plan: ExportPlan) -> list[str]:
    """Return the names of the columns with pictures."""
    return ["image", "original"] if plan.request.with_originals else ["image"]


def _write_hub(plan: ExportPlan, part: ExportPart, target: Path) -> list[WrittenFile]:
    numbers = {c.name: {n: i for i, n in enumerate(c.classes)} for c in plan.columns if c.classes}
    fields = [(c.name, pa.int64() if c.classes else c.type) for c in plan.columns]
    pictures = [(name, IMAGE) for name in exported_pictures(plan)]
    features = {"info": {"features": hub_features(plan)}}
    schema = pa.schema([*fields, *pictures], {"huggingface": json.dumps(features)})

    def as_row(row: ExportRow) -> dict[str, Any]:
        values = row.values | {
            name: places.get(row.values[name]) for name, places in numbers.items()
        }
        values["image"] = {"bytes": row.image, "path": f"{row.stem}.{row.image_ending}"}
        if row.original is not None:
            path = f"{row.stem}.{row.original_ending}"
            values["original"] = {"bytes": row.original, "path": path}
        return values

    return [_write_parquet(target, parquet_path(part), schema, map(as_row, plan.read(part)))]


def _write_plain(plan: ExportPlan, part: ExportPart, target: Path) -> list[WrittenFile]:
    fields = [(c.name, c.type) for c in plan.columns]
    schema = pa.schema([*fields, *((name, pa.binary()) for name in exported_pictures(plan))])
    rows = (row.values | {"image": row.image, "original": row.original} for row in plan.read(part))
    return [_write_parquet(target, plain_parquet_path(part), schema, rows)]


def _write_parquet(
    target: Path, name: str, schema: pa.Schema, rows: Iterator[dict[str, Any]]
) -> WrittenFile:
    pictures = {"image", "original"}
    plain = [n for n in schema.names if n not in pictures]
    leaves = [
        leaf
        for one in schema
        if one.name in pictures
        for leaf in ([one.name] if one.type != IMAGE else [f"{one.name}.bytes", f"{one.name}.path"])
    ]

    def fill(file: PendingFile) -> None:
        options: dict[str, Any] = {
            # Pictures are compressed already.
            "compression": {**dict.fromkeys(plain, "ZSTD"), **dict.fromkeys(leaves, "NONE")},
            "use_dictionary": plain,
            "write_statistics": plain,
            "write_page_index": True,
        }
        with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, **options) as writer:
            while group := list(islice(rows, _GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema))

    return _write_whole(target, name, fill)


# ---------------------------------------------------------------- WebDataset


def archive_path(plan: ExportPlan, part: ExportPart) -> str:
    """Return the path of a part as an archive."""
    return f"{plan.request.name}-{part.split}-{part.number:06d}.tar"


def _write_archive(plan: ExportPlan, part: ExportPart, target: Path) -> list[WrittenFile]:
    def fill(file: PendingFile) -> None:
        stream = cast(IO[bytes], file)
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for row in plan.read(part):
                text = json.dumps(row.values, ensure_ascii=False).encode()
                _add_member(archive, f"{row.stem}.{row.image_ending}", row.image)
                if row.original is not None:
                    _add_member(archive, f"{row.stem}.original.{row.original_ending}", row.original)
                _add_member(archive, f"{row.stem}.json", text)

    return [_write_whole(target, archive_path(plan, part), fill)]


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner and no time: the same bytes everywhere
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


# ---------------------------------------------------------------- folders of pictures


def _write_pictures(plan: ExportPlan, part: ExportPart, target: Path) -> list[WrittenFile]:
    found: list[WrittenFile] = []
    for row in plan.read(part):
        found.append(_write_picture(target, picture_path(part.split, row), row.image))
        if row.original is not None:
            found.append(_write_picture(target, _original_path(part.split, row), row.original))
    os.sync()  # one for all of them, before anything says that they are there
    return found


def picture_path(split: str, row: ExportRow) -> str:
    """Return the path of a picture: split, emotion if the rows have it, name."""
    parts = [split, f"{row.stem}.{row.image_ending}"]
    if "emotion" in row.values:
        emotion = row.values["emotion"]
        parts.insert(1, _UNLABELLED if emotion is None else class_folder(emotion))
    return "/".join(parts)


def class_folder(emotion: str) -> str:
    """Return the folder of an emotion; different emotions have different ones."""
    name = file_stem(f"/{emotion}.jpg")
    return f"{name}=" if name in (_UNLABELLED, _ORIGINALS) else name


def _original_path(split: str, row: ExportRow) -> str:
    return f"{split}/{_ORIGINALS}/{row.stem}.{row.original_ending}"


def _write_picture(target: Path, name: str, data: bytes) -> WrittenFile:
    path = target / name
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary(path).write_bytes(data)
        temporary(path).replace(path)
    return WrittenFile(name, hashlib.sha256(data).hexdigest(), len(data))


class _Encoded:
    """Takes text for a file of bytes."""

    def __init__(self, file: PendingFile) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _write_tables(plan: ExportPlan, written: WrittenOfPart, target: Path) -> list[WrittenFile]:
    """Write ``metadata.csv`` of each split, as ``datasets`` reads it beside pictures."""
    names = [column.name for column in plan.columns]
    cell_of = {column.name: _cells(column) for column in plan.columns}
    more = ["original_file_name"] if plan.request.with_originals else []

    def write_split(split: str) -> WrittenFile:
        def fill(file: PendingFile) -> None:
            writer = csv.writer(_Encoded(file), lineterminator="\n")
            writer.writerow(["file_name", *more, *names])
            for part in (one for one in plan.parts if one.split == split):
                paths = (one.path.partition("/")[2] for one in written(part))
                for values in plan.values(part):
                    cells = [next(paths) for _ in range(1 + len(more))]
                    writer.writerow([*cells, *(cell_of[name](values[name]) for name in names)])

        return _write_whole(target, f"{split}/metadata.csv", fill)

    return [write_split(split) for split in plan.splits]


def _cells(column: ExportColumn) -> Callable[[Any], Any]:
    """Return how a value is written, so that readers guess one type in the tables of all splits.

    A column without a value would be read as numbers: unknown texts are words. Whole numbers would
    be read as others where some are unknown: then all are.
    """
    if is_text(column.type):
        return lambda value: _UNKNOWN if value is None else value
    if column.whole:
        return lambda value: value
    return lambda value: "" if value is None else float(value)


# ---------------------------------------------------------------- all


class ExportFormat(NamedTuple):
    """How a format lays out its files.

    Attributes:
        about: for people.
        write: writes the files of a part below a folder.
        finish: writes what belongs to all parts, after them; None: nothing does.
    """

    about: str
    write: Callable[[ExportPlan, ExportPart, Path], list[WrittenFile]]
    finish: Callable[[ExportPlan, WrittenOfPart, Path], list[WrittenFile]] | None = None


FORMATS = {
    "hub": ExportFormat("Parquet as the Hugging Face Hub has it", _write_hub),
    "webdataset": ExportFormat("tar archives for webdataset", _write_archive),
    "folder": ExportFormat("pictures by split and emotion", _write_pictures, _write_tables),
    "parquet": ExportFormat("plain Parquet by split", _write_plain),
}


def _write_whole(target: Path, name: str, fill: Callable[[PendingFile], None]) -> WrittenFile:
    """Write a file below the export's folder: it appears, durably, once ``fill`` is through."""
    path = target / name
    with storage_errors(path):
        make_folder(path.parent)
        file = PendingFile(temporary(path))
        whole = False
        try:
            fill(file)
            digest = file.finish()
            whole = True
        finally:
            if not whole:
                file.drop()
        commit_file(path)
    return WrittenFile(name, digest, file.size)
