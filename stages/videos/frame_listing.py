"""Which frames of which videos are inputs, and the labels that they have."""

from __future__ import annotations

import logging
import math
import os
import posixpath
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute

from ...manifests.vocabularies import SampleError
from ...pipeline.errors import InputError
from ..sources.files import FileFacts, Root, is_utf8, path_order
from ..sources.files_inside import open_descriptor
from ..sources.inputs import ManifestRows
from ..sources.lists.face_columns import ListedFace
from .frame_process import Decoding, FrameTable, OpenVideo, VideoPool
from .frame_settings import VIDEO_SUFFIXES, FrameSettings

log = logging.getLogger("normpipe")

# pyarrow creates these functions at run time; type checkers do not see them.
pc: Any = pyarrow.compute

#: File name endings of pictures that may be animated.
ANIMATED_SUFFIXES: Final = frozenset({".gif", ".webp", ".png", ".apng"})


@dataclass(frozen=True)
class ListedVideo:
    """What ingest knows of a video.

    Attributes:
        facts: of its file; with a reason if none of its frames can be read.
        total: frames in the file.
        taken: numbers of those that are inputs.
        tail: the reason why the file ends early, after its last frame; else empty.
    """

    facts: FileFacts
    total: int = 0
    taken: tuple[int, ...] = ()
    tail: str = ""


def choose_frames(times: FrameTable, rules: FrameSettings) -> tuple[int, ...]:
    """Return the numbers of the frames that the rules take, ascending.

    ``every`` takes those whose number it divides. ``fps`` takes the first frame at or after each
    multiple of its period. Both count from the video's beginning, also within ``seconds``.
    """
    start, end = rules.seconds or (0.0, math.inf)
    taken: list[int] = []
    period = -1
    for number, time in enumerate(times.times):
        if rules.fps is not None:
            # A little later: a frame at 0.2 s is due at 5 frames a second, however 0.2 is rounded.
            latest, period = period, math.floor(time * rules.fps + 1e-6)
            if period == latest:
                continue
        if number % rules.every == 0 and start <= time <= end:
            taken.append(number)
    return tuple(taken)


class VideoLister:
    """Lists the frames of videos; each file is looked through once."""

    def __init__(
        self,
        root: Root,
        rules: FrameSettings,
        decoding: Decoding,
        inspect: Callable[[str], FileFacts] | None = None,
    ) -> None:
        """``inspect``: what is known of an input that may be in an archive; None: all are files."""
        self._root, self.rules = root, rules
        self._inspect = inspect or root.inspect
        self._pool = VideoPool(decoding)
        self._known: dict[str, ListedVideo] = {}
        #: Frames and videos that are left out, by the reason.
        self.ignored: Counter[str] = Counter()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def is_video(self, path: str) -> bool:
        """Return whether the frames of a file are inputs; may open it, if it could be animated.

        A file whose name is no text is one row, which says so.
        """
        if not is_utf8(path):
            return False
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in VIDEO_SUFFIXES:
            return self.rules.videos
        if suffix not in ANIMATED_SUFFIXES or not self.rules.animations:
            return False
        found = self.video(path)
        return found.facts.reason is None and found.total > 1

    def video(self, path: str) -> ListedVideo:
        """Return what a file below the root holds. Raises InputError if PyAV is missing."""
        if path not in self._known:
            self._known[path] = self._listed(path)
        return self._known[path]

    def _listed(self, path: str) -> ListedVideo:
        facts = self._inspect(path)
        if facts.reason is not None:
            return ListedVideo(facts)
        try:
            descriptor = open_descriptor(self._root.path, path)
            video = OpenVideo(self._pool, descriptor, self.rules.max_frames, count_all=True)
        except SampleError as error:
            return ListedVideo(FileFacts(facts.size_bytes, facts.modified_ns, error.reason))
        except OSError as error:
            place = os.path.join(self._root.path, path)  # noqa: PTH118
            raise InputError(
                f"cannot read {place}: {error.strerror}; fix the disk and run the same command "
                "again"
            ) from error
        video.close()
        taken = choose_frames(video.table, self.rules)
        return ListedVideo(facts, len(video.table.times), taken, video.table.tail)

    def add(self, inputs: ManifestRows, key: str, path: str) -> None:
        """Append the frames of a video: one row for each, or one that says what is wrong."""
        found = self.video(path)
        if found.facts.reason is not None:
            inputs.add(key, path, found.facts)
        for number in found.taken:
            inputs.add(f"{key}#frame{number}", path, found.facts, frame=number)
        if found.tail:
            facts = FileFacts(found.facts.size_bytes, found.facts.modified_ns, found.tail)
            inputs.add(f"{key}#frame{found.total}", path, facts, frame=found.total)
        elif found.facts.reason is None and not found.taken:
            self.ignored["video without a frame in ingest.seconds"] += 1

    # ---------------------------------------------------------------- lists

    def frames(self, paths: list[str | None], labels: pa.Table | None) -> list[int | None]:
        """Return the number, from 0, of the frame that each row of a list names.

        None for pictures, for rows that mean a whole video, and where the path is None.
        Raises InputError for a frame before the first one.
        """
        if labels is None or "frame" not in labels.column_names:
            return [None] * len(paths)
        found: list[int | None] = []
        for path, number in zip(paths, labels["frame"].to_pylist(), strict=True):
            if path is None or number is None or not self.is_video(path):
                found.append(None)
                continue
            if number < self.rules.first_frame:
                raise InputError(
                    f"the list names frame {number} of {path}, but counting begins at "
                    f"{self.rules.first_frame}: set ingest.first_frame to the number that the list "
                    "gives to a video's first frame, 0 or 1"
                )
            found.append(number - self.rules.first_frame)
        return found

    def expand(self, rows: list[ListedFace]) -> list[ListedFace]:
        """Return rows of a list, those of whole videos as one row for each frame that is taken.

        Listed frames that are not taken are left out and counted. Raises InputError if a video is
        listed with frames and without, or its frames seem to be counted from 1.
        """
        by_frame = {row.path for row in rows if row.frame is not None}
        found: list[ListedFace] = []
        for row in rows:
            if row.frame is not None:
                found += self._one(row)
            elif not self.is_video(row.path):
                found.append(row)
            elif row.path in by_frame:
                raise InputError(
                    f"the list names {row.path} in some rows with a frame, and in others without: "
                    "give all of them a frame, or none"
                )
            else:
                found += self._whole(row)
        self._refuse_wrong_first(found)
        found.sort(key=lambda row: (path_order(row.path), row.frame or 0, row.face or 0))
        return found

    def _one(self, row: ListedFace) -> list[ListedFace]:
        known = self.video(row.path)
        assert row.frame is not None
        if known.facts.reason is None and row.frame < known.total and row.frame not in known.taken:
            self.ignored["listed frame left out by every, fps or seconds"] += 1
            return []
        return [row]

    def _whole(self, row: ListedFace) -> list[ListedFace]:
        known = self.video(row.path)
        if known.facts.reason is not None:
            return [row]
        if not known.taken:
            self.ignored["video without a frame in ingest.seconds"] += 1
        numbers = (*known.taken, known.total) if known.tail else known.taken
        return [ListedFace(row.path, row.row, row.face, number) for number in numbers]

    def _refuse_wrong_first(self, rows: list[ListedFace]) -> None:
        numbers: dict[str, list[int]] = {}
        for row in rows:
            if row.frame is not None:
                numbers.setdefault(row.path, []).append(row.frame)
        for path, listed in numbers.items():
            known = self.video(path)
            if known.tail or known.facts.reason or min(listed) != 1 or max(listed) != known.total:
                continue
            raise InputError(
                f"the list names frames 1 to {known.total} of {path}, which has {known.total}: its "
                "frames are counted from 1, so set ingest.first_frame=1"
            )

    def facts(self, row: ListedFace) -> FileFacts:
        """Return the facts of a listed row's file, with the reason if it has no such frame."""
        if row.frame is None and not self.is_video(row.path):
            return self._inspect(row.path)
        known = self.video(row.path)
        if row.frame is None or known.facts.reason is not None or row.frame < known.total:
            return known.facts
        reason = known.tail or "missing_frame"
        return FileFacts(known.facts.size_bytes, known.facts.modified_ns, reason)


def warn_of_videos(ignored: Counter[str], remedy: str) -> None:
    """Say that videos were passed over because they are not in a folder."""
    count = sum(ignored[suffix] for suffix in VIDEO_SUFFIXES)
    if count:
        log.warning("%d videos are left out, as only folders of them are read: %s", count, remedy)
