"""Collects the rows of a manifest."""

from dataclasses import dataclass, field

import pyarrow as pa

from ...manifests.schema import MANIFEST
from ...manifests.vocabularies import status_of
from .files import FileFacts
from .lists.face_columns import Coordinates


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
        path: str | None,
        facts: FileFacts,
        bbox: Coordinates = None,
        landmarks: Coordinates = None,
        *,
        frame: int | None = None,
    ) -> None:
        """Append one input; ``path`` is None if it cannot be written as text.

        ``frame``: its number, from 0, if it is a frame of a video.
        """
        self.keys.append(key)
        self.paths.append(path)
        self.facts.append(facts)
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
