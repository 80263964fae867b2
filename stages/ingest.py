"""ingest: writes the manifest, references to the images of a folder or a list, and their labels.

Nothing is copied and no image is opened. Every input becomes a row; if it cannot be used, the row
says why. Rows are in the natural order of their paths, so the order of a list or disk never
matters.
"""

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from ..manifests.keys import face_key, sample_id
from ..manifests.schema import MANIFEST
from ..pipeline.errors import InputError
from ..pipeline.stage import Scan, SourceStage
from ..pipeline.store.labels import holds_job
from ..pipeline.store.storage import is_store
from .sources.containers.addresses import is_fetchable, is_url
from .sources.containers.archives import SOLID_SUFFIXES
from .sources.containers.contents import Contents, Taken, read_contents
from .sources.containers.nested import (
    CONTAINER_SUFFIXES,
    Nested,
    folder_with,
    is_container,
    outermost,
)
from .sources.containers.objects import list_objects
from .sources.files import FileFacts, Root, Walk, is_utf8, path_order, walk
from .sources.ingest_settings import IngestConfig
from .sources.inputs import ManifestRows, content_rows
from .sources.lists.face_columns import ListedFace, supplied_coordinates, unique_faces
from .sources.lists.folder_lists import read_metadata
from .sources.lists.label_columns import LabelRules, folder_emotion, labels_from_list
from .sources.lists.table import LIST_SUFFIXES, Columns, ListTable, assign_columns, read_list
from .sources.lists.values import Cells

log = logging.getLogger("normpipe")

#: ``row`` of a file that a list does not name.
_UNLISTED = -1
# Not read yet; a message says what to do instead.
_VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".flv", ".3gp"}
)
_FRAMES = (
    "videos cannot be read yet: write the frames into a folder (ffmpeg -i VIDEO FRAMES/%06d.png), "
    "and give that folder"
)


class Ingest(SourceStage):
    """Source stage: a folder or a list → references.

    Args:
        config: settings.
        source: a folder of images, a ``.csv``, ``.tsv`` or ``.parquet`` list, a ``.zip`` or
            ``.tar`` archive, or one image.
        dataset: first part of every key.
    """

    name: ClassVar[str] = "ingest"
    libraries: tuple[str, ...] = ("natsort", "pyarrow")
    writes = "manifest"
    schema = MANIFEST
    description = "References to the input images; no pixels."

    def __init__(self, config: IngestConfig, source: Path, dataset: str) -> None:
        if not dataset or "/" in dataset or "#" in dataset:
            raise InputError(f"dataset = '{dataset}': choose a name without '/' and '#'")
        self.config = config
        self._settings = config
        self.source = source
        self.dataset = dataset

    @property
    def shard_rows(self) -> int:
        """Return the rows of a shard."""
        return self._settings.shard_rows

    @property
    def root(self) -> Path:
        """Return the folder that the manifest's paths are relative to, or the archive; resolved."""
        if is_store(self.source) or self._is_container:
            return self.source.resolve()
        folder = self.source if self.source.is_dir() else self._settings.root or self.source.parent
        return outermost(folder.resolve())[0]

    @property
    def _within(self) -> str:
        """Return the folder inside an archive that a list's paths are relative to."""
        return outermost(self._settings.root.resolve())[1] if self._settings.root else ""

    @cached_property
    def _is_container(self) -> bool:
        """Return whether the input is an archive, or a Parquet file with pictures in it."""
        table = self._settings.root is None
        return is_container(self.source, self._settings.path_column if table else None)

    def scan(self) -> Scan:
        """Return all inputs in natural order of their paths, with their labels.

        Raises InputError if there are no inputs, or a list contradicts itself.
        """
        if is_store(self.source):
            return self._scan_store()
        if self.source.is_dir():
            if self._settings.root is not None:
                raise InputError("ingest.root is for lists: remove it, the input is a folder")
            return self._scan_folder()
        if not self.source.exists():
            raise InputError(f"no folder or list {self.source}: give an existing one")
        if self._is_container:
            return self._scan_contents(read_contents(Nested(self.root), None, self._taken))
        if self.source.suffix.lower() in SOLID_SUFFIXES:
            raise InputError(
                f"{self.source} can only be read from front to back: unpack it and give the "
                "folder, or repack it as .zip or .tar"
            )
        if self.source.suffix.lower() in _VIDEOS:
            raise InputError(f"{self.source} is a video, and {_FRAMES}")
        photograph = self.source.suffix.lower() in self._settings.extensions
        if not photograph and self.source.suffix.lower() not in LIST_SUFFIXES:
            raise InputError(
                f"{self.source} is neither a folder nor a list ({', '.join(LIST_SUFFIXES)}): give "
                "the folder that the images are in"
            )
        if photograph:
            return self._scan_photograph()
        if self._settings.class_per_folder:
            raise InputError(
                "ingest.class_per_folder is for folders: give a list an 'emotion' column instead"
            )
        if not (self.root.is_dir() or is_container(self.root, None)):
            raise InputError(
                f"ingest.root = {self.root} is no folder, .zip or .tar: give where the images are"
            )
        return self._scan_list()

    def changed(self, known: pa.Table, found: pa.Table) -> list[str]:
        """Return the keys whose file, box or landmarks have changed."""
        different: set[int] = set()
        for name in MANIFEST.names:
            before, after = known[name], found[name]
            if not before.equals(after):
                pairs = zip(before.to_pylist(), after.to_pylist(), strict=True)
                different.update(i for i, (a, b) in enumerate(pairs) if a != b)
        return [known["key"][i].as_py() for i in sorted(different)]

    def _scan_folder(self) -> Scan:
        root = Root(self.root)
        found = walk(root, frozenset(self._settings.extensions), self._settings.follow_symlinks)
        if holds_job(self.source):
            raise InputError(
                f"{self.source} is an output of normpipe run: for its faces, give its folder "
                "'aligned'"
            )
        if not found.paths:
            contents = self._contents_of_folder(root)
            if contents is not None:
                return self._scan_contents(contents)
        if found.paths and found.metadata and not self._settings.class_per_folder:
            listed, used = read_metadata(root, found.metadata, found.paths)
            if listed is not None:
                return self._scan_metadata(root, found, listed, used)
        found.ignored.update(posixpath.splitext(name)[1] for name in found.metadata)
        if not found.paths and _VIDEOS.intersection(found.ignored):
            raise InputError(
                f"no images in {self.source} ({_counts(found.ignored)}), and {_FRAMES}"
            )
        if not found.paths:
            raise InputError(
                f"no images in {self.source} ({_counts(found.ignored)}): give another folder, or "
                f"set ingest.extensions to their endings"
            )
        inputs = ManifestRows()
        for path in found.paths[: self._settings.limit]:
            self._add(inputs, root, path, found.reasons.get(path))
        return self._walked(found, inputs)

    def _walked(self, found: Walk, inputs: ManifestRows) -> Scan:
        """Return the scan of a folder or store; ``inputs`` are the first of its paths."""
        paths = found.paths[: self._settings.limit]
        by_folder = self._settings.class_per_folder
        return Scan(
            inputs.table(self.name),
            self._folder_labels(inputs.keys, paths) if by_folder else None,
            dict(sorted(found.ignored.items())),
            complete=len(paths) == len(found.paths),
        )

    def _scan_store(self) -> Scan:
        if self._settings.root is not None:
            raise InputError("ingest.root is for lists: remove it, the input is an address")
        found, facts = list_objects(self.source, frozenset(self._settings.extensions))
        if not found.paths:
            raise InputError(
                f"no images at {self.source} ({_counts(found.ignored)}): give another address, or "
                "set ingest.extensions to their endings"
            )
        inputs = ManifestRows()
        for path in found.paths[: self._settings.limit]:
            inputs.add(f"{self.dataset}/{sample_id(path)}", path, facts[path])
        return self._walked(found, inputs)

    @property
    def _taken(self) -> Taken:
        config = self._settings
        columns = tuple(config.columns.values())
        return Taken(frozenset(config.extensions), config.limit, config.path_column, columns)

    def _contents_of_folder(self, root: Root) -> Contents | None:
        """Return what is in the archives and Parquet files of a folder; None if that is nothing."""
        inner = walk(root, frozenset(CONTAINER_SUFFIXES), self._settings.follow_symlinks)
        found = read_contents(Nested(root.path), inner, self._taken) if inner.paths else None
        return found if found is not None and found.paths else None

    def _scan_contents(self, found: Contents) -> Scan:
        """Return the scan of archives and Parquet files; see ``read_contents``."""
        if self._settings.root is not None or self._settings.class_per_folder:
            raise InputError(
                "ingest.root and ingest.class_per_folder are for lists and folders: remove them, "
                "the input is an archive or a Parquet file with pictures"
            )
        if not found.paths:
            raise InputError(
                f"no images in {self.source} ({_counts(found.ignored)}): give another archive, or "
                "set ingest.extensions to their endings"
            )
        spellings = self._settings.columns
        rows, labels = content_rows(found, self.dataset, spellings, self._rules)
        ignored = dict(sorted(found.ignored.items()))
        return Scan(rows.table(self.name), labels, ignored, found.complete)

    def _scan_metadata(self, root: Root, found: Walk, listed: ListTable, used: list[str]) -> Scan:
        """Return the scan of a folder with lists of its images; see ``read_metadata``."""
        columns = assign_columns(listed, "path", self._settings.columns)
        scan = self._scan_rows(Cells(listed), columns, root.inspect, found)
        unused = [name for name in found.metadata if name not in used]
        found.ignored.update(posixpath.splitext(name)[1] for name in unused)
        scan.ignored.update(sorted(found.ignored.items()))
        return scan

    @property
    def _rules(self) -> LabelRules:
        config = self._settings
        return LabelRules(
            config.au_columns,
            config.au_missing,
            config.valence_arousal_missing,
            config.emotion_names,
        )

    def _scan_photograph(self) -> Scan:
        if self._settings.root is not None or self._settings.class_per_folder:
            raise InputError(
                "ingest.root and ingest.class_per_folder are for lists and folders: remove them, "
                "the input is one image"
            )
        inputs = ManifestRows()
        self._add(inputs, Root(self.root), self.source.name)
        return Scan(inputs.table(self.name))

    def _add(self, inputs: ManifestRows, root: Root, path: str, reason: str | None = None) -> None:
        """Append a file below the root; ``reason`` is what is already known to be wrong with it."""
        key = f"{self.dataset}/{sample_id(path)}"
        if not is_utf8(path):
            inputs.add(key, None, FileFacts(reason="path_not_utf8"))
        else:
            inputs.add(key, path, FileFacts(reason=reason) if reason else root.inspect(path))

    def _folder_labels(self, keys: list[str], paths: list[str]) -> pa.Table:
        names = self._settings.emotion_names
        emotions: dict[str, str | None] = {}
        for path in paths:
            folder = posixpath.dirname(path)
            if not folder:
                raise InputError(
                    f"'{sample_id(path)}' is in no class folder: move it into one, or turn "
                    "ingest.class_per_folder off"
                )
            if folder not in emotions:
                emotions[folder] = folder_emotion(sample_id(folder), names)
        column = pa.array([emotions[posixpath.dirname(path)] for path in paths], pa.string())
        return pa.table({"key": pa.array(keys, pa.string()), "emotion": column})

    def _scan_list(self) -> Scan:
        found = read_list(self.source)
        columns = assign_columns(found, self._settings.path_column, self._settings.columns)
        return self._scan_rows(Cells(found), columns, Nested(self.root).inspect)

    def _scan_rows(
        self,
        cells: Cells,
        columns: Columns,
        inspect: Callable[[str], FileFacts],
        found: Walk | None = None,
    ) -> Scan:
        """Return the scan of a list, and of the files that it does not name.

        Args:
            cells, columns: of the list.
            inspect: returns what is known of a file.
            found: files that may be in the list.
        """
        boxes, landmarks = supplied_coordinates(cells, columns)
        labels = labels_from_list(cells, columns, self._rules)
        root = Root(self.root)
        places = self._places(cells, columns.known["path"], root)
        rows = unique_faces(cells, [path for path, _ in places], (boxes, landmarks), labels)
        repeated = cells.found.table.num_rows - len(rows)
        if found is not None:
            listed = {path for path, _ in places}
            rows += [ListedFace(path, _UNLISTED) for path in found.paths if path not in listed]
        rows.sort(key=lambda row: (path_order(row.path), row.face or 0))
        complete = self._settings.limit is None or len(rows) <= self._settings.limit
        rows = rows[: self._settings.limit]
        inputs = ManifestRows()
        for row in rows:
            if row.row == _UNLISTED:
                self._add(inputs, root, row.path, found.reasons.get(row.path) if found else None)
                continue
            key = f"{self.dataset}/{sample_id(row.path)}"
            key = key if row.face is None else face_key(key, row.face)
            reason = places[row.row][1]
            known = reason or is_url(row.path)
            facts = FileFacts(reason=reason) if known else inspect(row.path)
            inputs.add(key, row.path, facts, boxes[row.row], landmarks[row.row])
        if found is None:
            self._refuse_wrong_root(inputs)
        refused = sum(facts.reason == "url_not_allowed" for facts in inputs.facts)
        if refused:
            log.warning(
                "%d listed paths are addresses: --allow-urls fetches http and https", refused
            )
        if labels is not None:
            own = [None if row.row == _UNLISTED else row.row for row in rows]
            labels = labels.take(pa.array(own, pa.int64()))
            labels = labels.add_column(0, "key", pa.array(inputs.keys, pa.string()))
        ignored = {"repeated row": repeated} if repeated else {}
        return Scan(inputs.table(self.name), labels, ignored, complete)

    def _places(self, cells: Cells, own: str, root: Root) -> list[tuple[str, str | None]]:
        """Return each row's path below the root, or its listed path and why it cannot be used."""
        within = self._within
        texts = cells.text(own).to_pylist()
        places: list[tuple[str, str | None]] = []
        for row, text in enumerate(texts):
            if text is None:
                cells.refuse(own, "is empty: every row needs the path of its image", row)
            path = text
            if is_url(path):
                fetched = self._settings.allow_urls and is_fetchable(path)
                places.append((path, None if fetched else "url_not_allowed"))
                continue
            if "\\" in path and not os.path.lexists(root.path / path):
                path = path.replace("\\", "/")  # a list made on Windows
            if path.startswith("/"):
                path = os.path.relpath(path, root.path)
            path = posixpath.normpath(posixpath.join(within, path))
            if path.startswith("../") or path == "..":
                places.append((text, "outside_root"))
            else:
                places.append((path, None))
        return places

    def _refuse_wrong_root(self, inputs: ManifestRows) -> None:
        """Raise if none of the listed files exists: then the root is wrong, not the files."""
        if any(facts.reason not in ("missing_file", "outside_root") for facts in inputs.facts):
            return
        first = inputs.paths[0] or ""
        near = folder_with(self.root, first)
        hint = f"ingest.root='{near}'" if near else "ingest.root to the folder they are relative to"
        raise InputError(
            f"none of the {len(inputs.keys)} files listed in {self.source} is below {self.root} "
            f"(the first: {first}): set {hint}"
        )


def _counts(ignored: Counter[str]) -> str:
    if not ignored:
        return "it holds no files"
    total = sum(ignored.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common(8))
    return f"{total} files skipped: {kinds}"
