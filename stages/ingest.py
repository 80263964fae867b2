"""ingest: writes the manifest, references to the images of a folder or a list, and their labels.

Nothing is copied and no image is opened. Every input becomes a row; if it cannot be used, the row
says why. Rows are in the natural order of their paths, so the order of a list or disk never
matters.
"""

import logging
import posixpath
from collections import Counter
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from ..manifests.keys import sample_id
from ..manifests.schema import MANIFEST
from ..pipeline.errors import InputError, first_few
from ..pipeline.stage import Scan, SourceStage
from ..pipeline.store.labels import holds_job
from ..pipeline.store.storage import is_store
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
from .sources.files import FileFacts, Root, Walk, walk
from .sources.ingest_settings import IngestConfig
from .sources.inputs import ManifestRows, add_frame_labels
from .sources.listed import ListRows
from .sources.lists.emotion_columns import EmotionRules, folder_emotion
from .sources.lists.folder_lists import read_metadata
from .sources.lists.near_files import NearFiles, nearly_named, report_missing
from .sources.lists.table import LIST_SUFFIXES, ListTable, assign_columns, read_list
from .sources.lists.values import Cells
from .sources.releases.recognition import advice_for
from .sources.releases.release import Release, release_of
from .videos.frame_listing import VideoLister, warn_of_videos
from .videos.frame_process import Decoding

log = logging.getLogger("normpipe")

#: What to do about files that are nearly lists.
_REMEDIES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as 'CSV UTF-8'"),
    ".json": "write one object in each line, and name it .jsonl",
    ".txt": "name it .csv if its first line names the columns; else --release my.toml describes it",
}


class Ingest(SourceStage):
    """Source stage: a folder or a list → references.

    Args:
        config: settings.
        source: a folder of images and videos, a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``
            list, a ``.zip`` or ``.tar`` archive, a Parquet file with pictures, a folder of these,
            one image or one video.
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
        self._release = release_of(config, source)

    @property
    def shard_rows(self) -> int:
        """Return the rows of a shard."""
        return self._settings.shard_rows

    @property
    def root(self) -> Path:
        """Return the folder that the manifest's paths are relative to, or the archive; resolved."""
        if self._release is not None:
            return self._release.root
        if is_store(self.source) or self._is_container:
            return self.source.resolve()
        folder = self.source if self.source.is_dir() else self._settings.root or self.source.parent
        return outermost(folder.resolve())[0]

    @cached_property
    def _listed(self) -> ListRows:
        config = self._settings
        within = outermost(config.root.resolve())[1] if config.root else ""
        return ListRows(self.name, self.dataset, config, self.root, within)

    @cached_property
    def _is_container(self) -> bool:
        """Return whether the input is an archive, or a Parquet file with pictures in it."""
        table = self._settings.root is None
        return is_container(self.source, self._settings.path_column if table else None)

    def scan(self) -> Scan:
        """Return all inputs in natural order of their paths, with their labels.

        Raises InputError if there are no inputs, or a list contradicts itself.
        """
        if self._release is not None:
            return self._scan_release(self._release)
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
        photograph = self.source.suffix.lower() in self._settings.file_endings()
        if not photograph and self.source.suffix.lower() not in LIST_SUFFIXES:
            remedy = _REMEDIES.get(self.source.suffix.lower(), "give the folder of the images")
            raise InputError(
                f"{self.source} is neither a folder nor a list ({', '.join(LIST_SUFFIXES)}): "
                f"{remedy}"
            )
        if photograph:
            return self._scan_one()
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
        found = walk(root, self._settings.file_endings(), self._settings.follow_symlinks)
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
        if not found.paths:
            raise InputError(
                f"no images in {self.source} ({_counts(found.ignored)}): give another folder, or "
                f"set ingest.extensions to their endings"
            )
        for line in advice_for(root.path, found.paths, self._settings.class_per_folder):
            log.warning("%s", line)
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
        warn_of_videos(found.ignored, "unpack the archive, and give the folder")
        if not found.paths:
            raise InputError(
                f"no images in {self.source} ({_counts(found.ignored)}): give another archive, or "
                "set ingest.extensions to their endings"
            )
        return self._listed.contents(found)

    def _scan_metadata(self, root: Root, found: Walk, listed: ListTable, used: list[str]) -> Scan:
        """Return the scan of a folder with lists of its images; see ``read_metadata``."""
        columns = assign_columns(listed, "path", self._settings.columns)
        config = self._settings
        cells = Cells(listed, config.unknown_words)
        places = self._listed.places(cells, columns)
        videos = VideoLister(root, config, self._decoding)
        scan = self._listed.scan(cells, columns, places, videos, found)
        unused = [name for name in found.metadata if name not in used]
        found.ignored.update(posixpath.splitext(name)[1] for name in unused)
        scan.ignored.update(sorted(found.ignored.items()))
        return scan

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
        if reason is None and videos.is_video(path):
            videos.add(inputs, key, path)
        else:
            inputs.add(key, path, FileFacts(reason=reason) if reason else root.inspect(path))

    def _folder_labels(self, keys: list[str], paths: list[str]) -> pa.Table:
        rules = EmotionRules(self._settings.emotion_names, self._settings.emotion_missing)
        emotions: dict[str, str | None] = {}
        for path in paths:
            folder = posixpath.dirname(path)
            if not folder:
                raise InputError(
                    f"'{sample_id(path)}' is in no class folder: move it into one, or turn "
                    "ingest.class_per_folder off"
                )
            if folder not in emotions:
                emotions[folder] = folder_emotion(sample_id(folder), rules)
        column = pa.array([emotions[posixpath.dirname(path)] for path in paths], pa.string())
        return pa.table({"key": pa.array(keys, pa.string()), "emotion": column})

    def _scan_list(self) -> Scan:
        config, root = self._settings, Root(self.root)
        found = read_list(self.source)
        columns = assign_columns(found, config.path_column, config.columns)
        cells = Cells(found, config.unknown_words)
        places = self._listed.places(cells, columns)
        near = None if root.path.is_file() else NearFiles(root, config.extensions)
        if near is not None:
            places = nearly_named(places, near, root, config.match_names)
        videos = VideoLister(root, config, self._decoding, Nested(self.root).inspect)
        scan = self._listed.scan(cells, columns, places, videos)
        paths, reasons = (scan.rows[name].to_pylist() for name in ("path", "reason"))
        listed = [path or "" for path in paths]
        if near is not None:
            report_missing(self.source, root, near, [*zip(listed, reasons, strict=True)])
        elif not {*reasons} - {"missing_file", "outside_root"}:
            within = folder_with(self.root, listed[0])
            hint = f"='{within}'" if within else " to the folder or archive they are relative to"
            raise InputError(
                f"none of the {len(listed)} files listed in {self.source} is in {self.root} (the "
                f"first: {listed[0]}): set ingest.root{hint}"
            )
        return scan

    def _scan_release(self, release: Release) -> Scan:
        config = self._settings
        described = release.read(
            config.file_endings(), config.follow_symlinks, config.labelled_only
        )
        columns = assign_columns(described.found, "path", {})
        cells = Cells(described.found)
        places = self._listed.places(cells, columns)
        rules = config.model_copy(update={"first_frame": described.first_frame})
        videos = VideoLister(Root(self.root), rules, self._decoding, described.inspect)
        scan = self._listed.scan(cells, columns, places, videos)
        scan.ignored.update(described.ignored)
        missing = scan.rows["reason"].to_pylist().count("missing_file")
        if missing:
            log.warning("%d pictures that labels name are not there: rows missing_file", missing)
        return scan


def _counts(ignored: Counter[str]) -> str:
    if not ignored:
        return "it holds no files"
    total = sum(ignored.values())
    kinds = first_few([f"{count} {kind}" for kind, count in ignored.most_common()], 8)
    return f"{total} files skipped: {kinds}"
