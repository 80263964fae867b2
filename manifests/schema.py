"""Arrow schemas of every dataset that normpipe writes.

Rows of all stages start with the same five columns. ``image`` follows the Hugging Face layout
(``struct<bytes, path>`` with feature metadata), so ``datasets`` shows images without normpipe.
"""

import json
from typing import NamedTuple

import pyarrow as pa

#: Increased with every incompatible change; readers refuse a newer version.
SCHEMA_VERSION = 1

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
POINTS = pa.list_(pa.list_(pa.float32()))

#: key: of this row. parent_key: of its input (the same unless an image has several faces).
#: status, reason: see vocabularies. decided_by: the stage that set the status.
COMMON: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("parent_key", pa.string()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("decided_by", pa.string()),
]


def schema(
    columns: list[tuple[str, pa.DataType]], metadata: dict[str, str] | None = None
) -> pa.Schema:
    """Return COMMON + ``columns`` as a schema with version and Hugging Face image metadata."""
    fields = [*COMMON, *columns]
    images = {name: {"_type": "Image"} for name, kind in fields if kind == IMAGE}
    entries = {"normpipe_schema_version": str(SCHEMA_VERSION), **(metadata or {})}
    if images:
        entries["huggingface"] = json.dumps({"info": {"features": images}})
    return pa.schema(fields, metadata=entries)


#: ingest: references. ``path`` is relative to the input root; boxes and landmarks only if the list
#: supplies them, in upright original pixels (x, y).
MANIFEST = schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("bbox_xyxy", pa.list_(pa.float32())),
        ("landmarks", POINTS),
    ]
)

#: align: one crop per face. ``transform`` (2×3) maps original upright pixels to crop pixels.
_ALIGNED: list[tuple[str, pa.DataType]] = [
    ("image", IMAGE),
    ("image_sha256", pa.string()),
    ("source_sha256", pa.string()),
    ("source_width_px", pa.int32()),
    ("source_height_px", pa.int32()),
    ("bbox_xyxy", pa.list_(pa.float32())),
    ("landmarks", POINTS),
    ("landmarks_from", pa.string()),
    ("transform", POINTS),
    ("detection_score", pa.float32()),
    ("sharpness", pa.float32()),
    ("brightness", pa.float32()),
    ("face_size_px", pa.float32()),
    ("faces_found", pa.int32()),
]
ALIGNED = schema(_ALIGNED)

#: The same with ``align.upright``: how far the picture is turned clockwise for the crop, to the
#: nearest of 0, 90, 180 and 270. Datasets that were begun without it go on with ``ALIGNED``.
ALIGNED_UPRIGHT = schema([*_ALIGNED, ("turned_degrees", pa.int32())])

#: normalize: the face of one identity with the original's expression.
NORMALIZED = schema(
    [
        ("image", IMAGE),
        ("image_sha256", pa.string()),
        ("network", pa.string()),
        ("weights_sha256", pa.string()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("saturated_share", pa.float32()),
    ]
)

_PLACE = [("shard", pa.int32()), ("row_group", pa.int32()), ("row", pa.int32())]

#: pair: an index into both datasets; ``row`` counts within the row group.
PAIRS = schema(
    [
        ("variant", pa.string()),
        *[(f"aligned_{name}", kind) for name, kind in _PLACE],
        *[(f"normalized_{name}", kind) for name, kind in _PLACE],
    ]
)

#: Pairs with pictures: what classifiers must know of both. Named as an index offers them.
ORIGINS: list[tuple[str, pa.DataType]] = [
    ("source_sha256", pa.string()),
    ("face_size_px", pa.float32()),
    ("normalized_weights_sha256", pa.string()),
]


class Reference(NamedTuple):
    """Columns that locate a row's image in another dataset of the same job.

    Attributes:
        prefix: of the columns ``<prefix>shard``, ``<prefix>row_group`` and ``<prefix>row``.
        dataset: the other dataset, below the job's folder; ``{variant}`` is the row's ``variant``.
        name: the image's name in items; the other columns are ``<name>_<column>``. Empty: the
            columns keep their names.
    """

    prefix: str
    dataset: str
    name: str = ""

    def item_name(self, column: str) -> str:
        """Return the name that a column of the other dataset has in items."""
        if not self.name:
            return column
        return self.name if column == "image" else f"{self.name}_{column}"


#: How ``PAIRS`` refers to the datasets that contain its images.
REFERENCES = (
    Reference("aligned_", "aligned"),
    Reference("normalized_", "normalized/{variant}", "normalized"),
)
#: Advice: how to get pairs without references.
PAIRS_ALONE = "pair with --set pair.materialize=true for shards that need no other dataset"
#: What opening a job's folder opens: this dataset, else the only one in that folder.
OPENED_FIRST, OPENED_ELSE = "pairs", "normalized"

#: The derived ``index.parquet`` of an image dataset.
INDEX = schema([*_PLACE, ("image_sha256", pa.string())])


def is_text(kind: pa.DataType | None) -> bool:
    """Return whether a column of this type holds text; None: it is unknown."""
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


#: Label columns that normpipe knows; null if unknown. Two families are added by name: AU columns
#: (``AU1`` …: occurrence 0/1 or intensity 0–5, see ``label_columns.py``) and the votes of raters
#: (``vocabularies.VOTE_COLUMNS``).
LABEL_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("subject", pa.string()),
    ("split", pa.string()),
    ("fold", pa.int32()),
    ("sequence", pa.string()),
    ("frame", pa.int64()),
    ("emotion", pa.string()),
    ("valence", pa.float32()),
    ("arousal", pa.float32()),
]
