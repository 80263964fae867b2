"""ingest: writes the manifest, references to the images of a folder or a list, and their labels.

Nothing is copied and no image is opened. Every input becomes a row; if it cannot be used, the row
says why. Rows are in the natural order of their paths, so the order of a list or disk never
matters.
"""

import logging
import os
import posixpath
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from ..manifests.keys import face_key, sample_id
from ..manifests.schema import MANIFEST
from ..pipeline.errors import InputError
from ..pipeline.stage import Scan, SourceStage, free
from ..pipeline.store.storage import is_store
from .sources.containers.addresses import is_fetchable, is_url
from .sources.containers.archives import ARCHIVE_SUFFIXES, SOLID_SUFFIXES, Archive, Member
from .sources.containers.objects import list_objects
from .sources.files import FileFacts, Root, Walk, is_utf8, path_order, walk
from .sources.inputs import ManifestRows
from .sources.lists.face_columns import supplied_coordinates, unique_faces
from .sources.lists.label_columns import LabelRules, folder_emotion, labels_from_list
from .sources.lists.table import LIST_SUFFIXES, assign_columns, read_list
from .sources.lists.values import Cells
from .videos.frame_listing import FrameSettings, VideoLister, add_frame_labels, warn_of_videos
from .videos.frame_process import Decoding

log = logging.getLogger("normpipe")


class IngestConfig(FrameSettings):
    """Settings of the ingest stage.

    Only ``shard_rows`` shapes the manifest for good. The rest decides which rows there are, and
    those are compared with the manifest at every run; labels are rewritten every time.
    """

    shard_rows: int = Field(1024, ge=1, description="inputs per shard, in every stage of the job")
    limit: int | None = free(None, description="take only the first N inputs", per_run=True, ge=1)
    follow_symlinks: bool = free(False, description="follow links to folders within the input")
    allow_urls: bool = free(
        False,
        description="fetch the http and https addresses of a list (--allow-urls); else they fail",
    )
    class_per_folder: bool = free(
        False, description="each image's folder is named after its emotion"
    )
    root: Path | None = free(
        None,
        description="folder that a list's paths are relative to; unset: the list's own folder",
        path=True,
        relative_to_job_file=True,
    )
    path_column: str = free("path", description="column of the list with the paths")
    columns: dict[str, str] = free(
        {}, description="normpipe's name = the list's, for columns with other names"
    )
    au_columns: Literal["occurrence", "intensity"] = free(
        "occurrence", description="what a column named AU12 holds: 0 or 1, or levels 0 to 5"
    )
    au_missing: float | None = free(
        None, description="the number that means an unknown action unit (BP4D: 9)"
    )
    valence_arousal_missing: float | None = free(
        None, description="the number that means unknown valence or arousal (AffectNet: -2)"
    )
    emotion_names: tuple[str, ...] = free(
        (), description="names for emotions given as numbers, starting at 0; '' for no name"
    )


class Ingest(SourceStage):
    """Source stage: a folder or a list → references.

    Args:
        config: settings.
        source: a folder of images and videos, a ``.csv``, ``.tsv`` or ``.parquet`` list, a
            ``.zip`` or ``.tar`` archive, one image or one video.
        dataset: first part of every key.
        decoding: how videos are decoded.
    """

    name: ClassVar[str] = "ingest"
    libraries: tuple[str, ...] = ("natsort", "pyarrow")
    writes = "manifest"
    schema = MANIFEST
    description = "References to the input images; no pixels."

    def __init__(
        self,
        config: IngestConfig,
        source: Path,
        dataset: str,
        decoding: Decoding = Decoding(),  # noqa: B008 - it is frozen
    ) -> None:
        if not dataset or "/" in dataset or "#" in dataset:
            raise InputError(f"dataset = '{dataset}': choose a name without '/' and '#'")
        self.config = config
        self._settings = config
        self.source = source
        self.dataset = dataset
        self._decoding = decoding

    @property
    def shard_rows(self) -> int:
        """Return the rows of a shard."""
        return self._settings.shard_rows

    @property
    def root(self) -> Path:
        """Return the folder that the manifest's paths are relative to, or the archive; resolved."""
        if is_store(self.source) or self._is_archive:
            return self.source.resolve()
        folder = self.source if self.source.is_dir() else self._settings.root or self.source.parent
        return folder.resolve()

    @property
    def _is_archive(self) -> bool:
        return self.source.suffix.lower() in ARCHIVE_SUFFIXES and self.source.is_file()

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
        if self._is_archive:
            return self._scan_archive()
        if self.source.suffix.lower() in SOLID_SUFFIXES:
            raise InputError(
                f"{self.source} can only be read from front to back: unpack it and give the "
                "folder, or repack it as .zip or .tar"
            )
        photograph = self.source.suffix.lower() in self._settings.file_endings()
        if not photograph and self.source.suffix.lower() not in LIST_SUFFIXES:
            raise InputError(
                f"{self.source} is neither a folder nor a list ({', '.join(LIST_SUFFIXES)}): give "
                "the folder that the images are in"
            )
        if photograph:
            return self._scan_one()
        if self._settings.class_per_folder:
            raise InputError(
                "ingest.class_per_folder is for folders: give a list an 'emotion' column instead"
            )
        if not self.root.is_dir():
            raise InputError(f"ingest.root = {self.root} is not a folder: give the images' folder")
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
        found = walk(root, self._settings.file_endings(), self._settings.follow_symlinks)
        if not found.paths:
            raise InputError(
                f"no images in {self.source} ({_counts(found.ignored)}): give another folder, or "
                f"set ingest.extensions to their endings"
            )
        return self._files(root, found)

    def _files(self, root: Root, found: Walk) -> Scan:
        """Return the scan of files below the root: pictures, and the frames of videos."""
        inputs, limit, used = ManifestRows(), self._settings.limit, list[str]()
        videos = VideoLister(root, self._settings, self._decoding)
        with closing(videos):
            for path in found.paths:
                if limit is not None and len(inputs.keys) >= limit:
                    break
                self._add(inputs, root, path, found.reasons.get(path), videos)
                used += [path] * (len(inputs.keys) - len(used))
        complete = inputs.cut(limit) and len(set(used)) == len(found.paths)
        by_folder = self._settings.class_per_folder
        labels = self._folder_labels(inputs.keys, used[:limit]) if by_folder else None
        labels = add_frame_labels(labels, inputs, self._settings.first_frame)
        ignored = dict(sorted((found.ignored + videos.ignored).items()))
        return Scan(inputs.table(self.name), labels, ignored, complete)

    def _scan_store(self) -> Scan:
        if self._settings.root is not None:
            raise InputError("ingest.root is for lists: remove it, the input is an address")
        found, facts = list_objects(self.source, frozenset(self._settings.extensions))
        warn_of_videos(found.ignored, "copy them into a folder, and give that")
        if not found.paths:
            raise InputError(
                f"no images at {self.source} ({_counts(found.ignored)}): give another address, or "
                "set ingest.extensions to their endings"
            )
        inputs = ManifestRows()
        for path in found.paths[: self._settings.limit]:
            inputs.add(f"{self.dataset}/{sample_id(path)}", path, facts[path])
        paths = found.paths[: self._settings.limit]
        by_folder = self._settings.class_per_folder
        return Scan(
            inputs.table(self.name),
            self._folder_labels(inputs.keys, paths) if by_folder else None,
            dict(sorted(found.ignored.items())),
            complete=len(paths) == len(found.paths),
        )

    def _scan_archive(self) -> Scan:
        if self._settings.root is not None or self._settings.class_per_folder:
            raise InputError(
                "ingest.root and ingest.class_per_folder are for lists and folders: remove them, "
                "the input is an archive"
            )
        inputs, ignored = ManifestRows(), Counter[str]()
        archive = Archive(self.root)
        archive.close()
        for member in archive.members:
            name = posixpath.basename(member.path)
            extension = posixpath.splitext(name)[1].lower()
            if name.startswith(".") and member.facts.reason != "outside_root":
                ignored["hidden file"] += 1
            elif extension not in self._settings.extensions:
                ignored[sample_id(extension) or "no extension"] += 1
            else:
                self._add_member(inputs, member)
        warn_of_videos(ignored, "unpack the archive, and give the folder")
        if not inputs.keys:
            raise InputError(
                f"no images in {self.source} ({_counts(ignored)}): give another archive, or set "
                "ingest.extensions to their endings"
            )
        found = inputs.table(self.name)
        order = sorted(range(len(inputs.keys)), key=lambda row: path_order(inputs.keys[row]))
        rows = found.take(pa.array(order[: self._settings.limit], pa.int64()))
        complete = rows.num_rows == found.num_rows
        return Scan(rows, None, dict(sorted(ignored.items())), complete)

    def _add_member(self, inputs: ManifestRows, member: Member) -> None:
        key = f"{self.dataset}/{sample_id(member.path)}"
        if is_utf8(member.path):
            inputs.add(key, member.path, member.facts)
        else:
            inputs.add(key, None, FileFacts(reason="path_not_utf8"))

    def _scan_one(self) -> Scan:
        if self._settings.root is not None or self._settings.class_per_folder:
            raise InputError(
                "ingest.root and ingest.class_per_folder are for lists and folders: remove them, "
                "the input is one file"
            )
        return self._files(Root(self.root), Walk([self.source.name]))

    def _add(
        self, inputs: ManifestRows, root: Root, path: str, reason: str | None, videos: VideoLister
    ) -> None:
        """Append a file below the root; ``reason`` is what is already known to be wrong with it."""
        key = f"{self.dataset}/{sample_id(path)}"
        if not is_utf8(path):
            inputs.add(key, None, FileFacts(reason="path_not_utf8"))
        elif reason is None and videos.is_video(path):
            videos.add(inputs, key, path)
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
        cells = Cells(found)
        boxes, landmarks = supplied_coordinates(cells, columns)
        config = self._settings
        rules = LabelRules(
            config.au_columns,
            config.au_missing,
            config.valence_arousal_missing,
            config.emotion_names,
        )
        labels = labels_from_list(cells, columns, rules)
        root = Root(self.root)
        places = self._places(cells, columns.known["path"], root)
        videos = VideoLister(root, self._settings, self._decoding)
        with closing(videos):
            paths = [
                path if reason is None and not is_url(path) else None for path, reason in places
            ]
            numbers = videos.frames(paths, labels)
            named = list(zip([path for path, _ in places], numbers, strict=True))
            rows = unique_faces(cells, named, (boxes, landmarks), labels)
            repeated = found.table.num_rows - len(rows)
            rows = videos.expand(rows)
            complete = self._settings.limit is None or len(rows) <= self._settings.limit
            rows = rows[: self._settings.limit]
            inputs = ManifestRows()
            for row in rows:
                key = f"{self.dataset}/{sample_id(row.path)}"
                key = key if row.frame is None else f"{key}#frame{row.frame}"
                key = key if row.face is None else face_key(key, row.face)
                reason = places[row.row][1]
                known = reason or is_url(row.path)
                facts = FileFacts(reason=reason) if known else videos.facts(row)
                place = (boxes[row.row], landmarks[row.row])
                inputs.add(key, row.path, facts, *place, frame=row.frame)
        self._refuse_wrong_root(inputs)
        refused = sum(facts.reason == "url_not_allowed" for facts in inputs.facts)
        if refused:
            log.warning(
                "%d listed paths are addresses: --allow-urls fetches http and https", refused
            )
        if labels is not None:
            labels = labels.take(pa.array([row.row for row in rows], pa.int64()))
            labels = labels.add_column(0, "key", pa.array(inputs.keys, pa.string()))
        labels = add_frame_labels(labels, inputs, self._settings.first_frame)
        ignored = Counter({"repeated row": repeated} if repeated else {}) + videos.ignored
        return Scan(inputs.table(self.name), labels, dict(ignored), complete)

    def _places(self, cells: Cells, own: str, root: Root) -> list[tuple[str, str | None]]:
        """Return each row's path below the root, or its listed path and why it cannot be used."""
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
            path = posixpath.normpath(path)
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
        folders = sorted(path for path in self.root.iterdir() if path.is_dir())
        near = next((path for path in folders if (path / first).is_file()), None)
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
