"""Collects the rows of a manifest."""

import posixpath
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ...manifests.schema import LABEL_COLUMNS, MANIFEST
from ...manifests.vocabularies import status_of
from .files import FileFacts, is_utf8
from .lists.face_columns import Coordinates

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute


@dataclass
class ManifestRows:
    """Inputs before they are written: every list has one entry per row."""

    keys: list[str] = field(default_factory=lambda: list[str]())
    paths: list[str | None] = field(default_factory=lambda: list[str | None]())
    facts: list[FileFacts] = field(default_factory=lambda: list[FileFacts]())
    boxes: list[Coordinates] = field(default_factory=lambda: list[Coordinates]())
    landmarks: list[Coordinates] = field(default_factory=lambda: list[Coordinates]())
    frames: list[int | None] = field(default_factory=lambda: list[int | None]())

    def add(
        self,
        key: str,
        path: str,
        facts: FileFacts,
        bbox: Coordinates = None,
        landmarks: Coordinates = None,
        *,
        frame: int | None = None,
    ) -> None:
        """Append one input; a path that cannot be written as text is ``path_not_utf8``.

        ``frame``: its number, from 0, if it is a frame of a video.
        """
        written = is_utf8(path)
        self.keys.append(key)
        self.paths.append(path if written else None)
        self.facts.append(facts if written else FileFacts(reason="path_not_utf8"))
        self.boxes.append(bbox)
        self.landmarks.append(landmarks)
        self.frames.append(frame)

    def cut(self, most: int | None) -> bool:
        """Keep the first ``most`` inputs; return whether there were no more."""
        if most is None or len(self.keys) <= most:
            return True
        for column in (self.keys, self.paths, self.facts, self.boxes, self.landmarks, self.frames):
            del column[most:]
        return False

    def table(self, stage: str) -> pa.Table:
        """Return the rows as a MANIFEST table."""
        reasons = [facts.reason for facts in self.facts]
        columns = {
            "key": self.keys,
            "parent_key": self.keys,
            "status": ["ok" if reason is None else status_of(reason) for reason in reasons],
            "reason": reasons,
            "decided_by": [stage] * len(reasons),
            "path": self.paths,
            "size_bytes": [facts.size_bytes for facts in self.facts],
            "modified_ns": [facts.modified_ns for facts in self.facts],
            "bbox_xyxy": self.boxes,
            "landmarks": self.landmarks,
        }
        arrays = [pa.array(columns[f.name], f.type) for f in MANIFEST]
        return pa.Table.from_arrays(arrays, schema=MANIFEST)


def add_frame_labels(
    labels: pa.Table | None, inputs: ManifestRows, first_frame: int
) -> pa.Table | None:
    """Return labels with ``sequence`` and ``frame`` of every frame of a video.

    ``sequence`` is the video's path without its ending, unless a list says otherwise; ``frame`` is
    the frame's number, counted as lists count. Rows of labels are those of the inputs.
    """
    if all(frame is None for frame in inputs.frames):
        return labels
    columns: dict[str, Any] = {"key": pa.array(inputs.keys, pa.string())}
    if labels is not None:
        columns |= {name: labels[name] for name in labels.column_names}
    paths = zip(inputs.paths, inputs.frames, strict=True)
    sequences = [
        None if frame is None or path is None else posixpath.splitext(path)[0]
        for path, frame in paths
    ]
    numbers = [None if frame is None else frame + first_frame for frame in inputs.frames]
    for name, values in (("sequence", sequences), ("frame", numbers)):
        own = pa.array(values, dict(LABEL_COLUMNS)[name])
        listed = columns.get(name)
        columns[name] = own if listed is None else pc.coalesce(listed, own)
    order = [name for name, _ in LABEL_COLUMNS if name in columns]
    rest = [name for name in columns if name not in order]
    return pa.table({name: columns[name] for name in (*order, *rest)})
