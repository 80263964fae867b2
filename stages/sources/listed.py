"""The rows of a list as inputs: its files, frames and faces, with their labels."""

from __future__ import annotations

import logging
import os
import posixpath
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ...manifests.keys import face_key, sample_id
from ...pipeline.stage import Scan
from .containers.addresses import is_fetchable, is_url
from .containers.contents import Contents, class_spellings
from .files import FileFacts, Walk
from .ingest_settings import IngestConfig
from .inputs import ManifestRows, add_frame_labels
from .lists.face_columns import Coordinates, ListedFace, supplied_coordinates, unique_faces
from .lists.label_columns import LabelRules, labels_from_list
from .lists.table import Columns, assign_columns
from .lists.values import Cells

if TYPE_CHECKING:
    from ..videos.frame_listing import VideoLister

log = logging.getLogger("normpipe")

#: A row's path below the root, or its listed path and why it cannot be used.
ListedPlace = tuple[str, str | None]
#: ``row`` of a file that a list does not name.
_UNLISTED = -1


class ListRows:
    """Turns lists into inputs.

    Args:
        stage: name of the stage, for ``decided_by``.
        dataset: first part of every key.
        config: settings of ingest.
        root: folder that paths are relative to, or an archive.
        within: folder inside the archive that paths are relative to.
    """

    def __init__(
        self, stage: str, dataset: str, config: IngestConfig, root: Path, within: str = ""
    ) -> None:
        self._stage, self._dataset, self._config = stage, dataset, config
        self._root, self._within = root, within

    @property
    def rules(self) -> LabelRules:
        """Return what the settings say about labels."""
        return LabelRules(**{name: getattr(self._config, name) for name in LabelRules._fields})

    def places(self, cells: Cells, columns: Columns) -> list[ListedPlace]:
        """Return where each row's picture is. Raises InputError for a row without a path."""
        own = columns.known["path"]
        found: list[ListedPlace] = []
        for row, path in enumerate(cells.paths(own).to_pylist()):
            if path is None:
                cells.refuse(own, "is empty: every row needs the path of its image", row)
            found.append(self._place(path))
        return found

    def _place(self, listed: str) -> ListedPlace:
        if is_url(listed):
            fetched = self._config.allow_urls and is_fetchable(listed)
            return listed, None if fetched else "url_not_allowed"
        path = listed
        if "\\" in path and not os.path.lexists(self._root / path):
            path = path.replace("\\", "/")  # a list made on Windows
        if path.startswith("/"):
            path = os.path.relpath(path, self._root)
        path = posixpath.normpath(posixpath.join(self._within, path))
        outside = path.startswith("../") or path == ".."
        return (listed, "outside_root") if outside else (path, None)

    def scan(
        self,
        cells: Cells,
        columns: Columns,
        places: list[ListedPlace],
        videos: VideoLister,
        walked: Walk | None = None,
    ) -> Scan:
        """Return the scan of a list, and of the files that it does not name.

        Args:
            cells, columns: of the list.
            places: of its rows.
            videos: lists their frames, and inspects all files; is closed.
            walked: files that may not be in the list.
        """
        limit = self._config.limit
        boxes, landmarks = supplied_coordinates(cells, columns)
        labels = labels_from_list(cells, columns, self.rules)
        with closing(videos):
            rows = self._faces(cells, places, videos, (boxes, landmarks), labels)
            repeated = cells.found.table.num_rows - len(rows)
            if walked is not None:
                listed = {path for path, _ in places}
                rows += [ListedFace(p, _UNLISTED) for p in walked.paths if p not in listed]
            rows = videos.expand(rows)
            complete = limit is None or len(rows) <= limit
            rows = rows[:limit]
            inputs = ManifestRows()
            for row in rows:
                own = row.row != _UNLISTED
                reason = places[row.row][1] if own else None
                if walked is not None and not own:
                    reason = walked.reasons.get(row.path)
                box, points = (boxes[row.row], landmarks[row.row]) if own else (None, None)
                self._add(inputs, row, reason, videos, box, points)
        refused = sum(facts.reason == "url_not_allowed" for facts in inputs.facts)
        if refused:
            log.warning(
                "%d listed paths are addresses: --allow-urls fetches http and https", refused
            )
        if labels is not None:
            numbers = [None if row.row == _UNLISTED else row.row for row in rows]
            labels = labels.take(pa.array(numbers, pa.int64()))
            labels = labels.add_column(0, "key", pa.array(inputs.keys, pa.string()))
        labels = add_frame_labels(labels, inputs, videos.rules.first_frame)
        ignored = Counter({"repeated row": repeated} if repeated else {}) + videos.ignored
        return Scan(inputs.table(self._stage), labels, dict(ignored), complete)

    def contents(self, found: Contents) -> Scan:
        """Return the scan of what archives and Parquet files contain, with their labels.

        Raises InputError for labels that a column cannot hold.
        """
        boxes: list[Coordinates] = [None] * len(found.paths)
        landmarks, labels = boxes, None
        if found.listed is not None:
            named = bool(self.rules.emotion_names)
            spellings = class_spellings(found.listed, self._config.columns, named)
            columns = assign_columns(found.listed, "path", spellings)
            cells = Cells(found.listed, self._config.unknown_words)
            boxes, landmarks = supplied_coordinates(cells, columns)
            labels = labels_from_list(cells, columns, self.rules)
        inputs = ManifestRows()
        for row, (path, facts) in enumerate(zip(found.paths, found.facts, strict=True)):
            key = f"{self._dataset}/{sample_id(path)}"
            inputs.add(key, path, facts, boxes[row], landmarks[row])
        if labels is not None:
            labels = labels.add_column(0, "key", pa.array(inputs.keys, pa.string()))
        ignored = dict(sorted(found.ignored.items()))
        return Scan(inputs.table(self._stage), labels, ignored, found.complete)

    def _faces(
        self,
        cells: Cells,
        places: list[ListedPlace],
        videos: VideoLister,
        coordinates: tuple[list[Coordinates], list[Coordinates]],
        labels: pa.Table | None,
    ) -> list[ListedFace]:
        usable = [p if reason is None and not is_url(p) else None for p, reason in places]
        numbers = videos.frames(usable, labels)
        named = list(zip([path for path, _ in places], numbers, strict=True))
        return unique_faces(cells, named, coordinates, labels)

    def _add(
        self,
        inputs: ManifestRows,
        row: ListedFace,
        reason: str | None,
        videos: VideoLister,
        box: Coordinates,
        points: Coordinates,
    ) -> None:
        key = f"{self._dataset}/{sample_id(row.path)}"
        key = key if row.frame is None else f"{key}#frame{row.frame}"
        key = key if row.face is None else face_key(key, row.face)
        known = reason or is_url(row.path)
        facts = FileFacts(reason=reason) if known else videos.facts(row)
        inputs.add(key, row.path, facts, box, points, frame=row.frame)
