"""Frames of videos for rows that many threads ask for, each video decoded once, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from ...manifests.keys import parse_key
from ...manifests.vocabularies import SampleError
from ...pipeline.stage import Row
from ..faces.decoder import Decoded
from .frame_process import Decoding, OpenVideo, VideoPool

#: Videos that stay open while no thread reads them.
_KEPT_OPEN: Final = 4
#: Bytes of decoded frames that wait for the threads that will ask for them, per video.
_MOST_WAITING: Final = 256 * 2**20
#: Ingest has refused videos with too many frames.
_ANY_NUMBER: Final = 8_000_000


def frame_number(key: str) -> int | None:
    """Return the number of the frame that a key names, or None if it names a picture."""
    return parse_key(key).frame if "#frame" in key else None


class FrameReader:
    """Reads frames. Safe to use from several threads.

    Each video has one place at which it is decoded. ``expect`` says which frames will be asked for:
    threads ask in almost the right order, and a frame that a slower thread will ask for is kept
    when a faster one has decoded past it. What is not expected costs decoding from a keyframe on,
    and nothing else.
    """

    def __init__(self, open_file: Callable[[Row], int], decoding: Decoding) -> None:
        """``open_file``: returns a descriptor of a row's file, or raises SampleError."""
        self._open_file, self._pool = open_file, VideoPool(decoding)
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()

    def expect(self, rows: Sequence[Row]) -> None:
        """Announce rows that will be read, in order."""
        with self._lock:
            for row in rows:
                if (number := frame_number(row["key"])) is not None:
                    self._places.setdefault(row["path"], _Place()).expected.add(number)

    def read(self, row: Row) -> Decoded:
        """Return a row's frame, upright.

        Raises:
            SampleError: as ``OpenVideo`` and ``open_file``.
            OSError: an error that is not this video's fault.
        """
        path, number = row["path"], frame_number(row["key"])
        assert number is not None
        with self._lock:
            place = self._places[path] = self._places.pop(path, None) or _Place()
            place.users += 1
        try:
            with place.lock:
                place.open(lambda: OpenVideo(self._pool, self._open_file(row), _ANY_NUMBER))
                return place.frame(number)
        finally:
            with self._lock:
                place.users -= 1
                self._close_some()

    def close(self) -> None:
        """Close all videos, and end the processes."""
        with self._lock:
            for place in self._places.values():
                place.close()
            self._places.clear()
        self._pool.close()

    def _close_some(self) -> None:
        """Close the videos that were used longest ago, those that nobody waits for first."""
        resting = [place for place in self._places.values() if place.is_open and not place.users]
        resting.sort(key=lambda place: bool(place.expected))
        for place in resting[: max(0, len(resting) - _KEPT_OPEN)]:
            place.close()
        for path, place in list(self._places.items()):
            if not (place.is_open or place.users or place.expected or place.waiting):
                del self._places[path]


class _Place:
    """A video, where it is decoded, and the frames that wait to be asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.expected: set[int] = set()
        self.waiting: dict[int, Decoded | SampleError] = {}
        self._video: OpenVideo | None = None
        self._failure: SampleError | None = None

    @property
    def is_open(self) -> bool:
        return self._video is not None or self._failure is not None

    def open(self, make: Callable[[], OpenVideo]) -> None:
        if self.is_open:
            return
        try:
            self._video = make()
        except SampleError as error:  # all of its frames fail for this reason
            self._failure = error

    def frame(self, number: int) -> Decoded:
        # A copy: others announce frames meanwhile.
        for earlier in sorted(one for one in self.expected.copy() if one < number):
            self.expected.discard(earlier)
            self.waiting[earlier] = self._decoded(earlier)
        self.expected.discard(number)
        found = self.waiting.pop(number, None) or self._decoded(number)
        self._drop_some()
        if isinstance(found, SampleError):
            raise SampleError(found.reason, found.detail)
        return found

    def _drop_some(self) -> None:
        """Forget the oldest frames that nobody came for: those of a shard that was given up."""
        size = sum(len(one.data) for one in self.waiting.values() if isinstance(one, Decoded))
        while size > _MOST_WAITING:
            one = self.waiting.pop(next(iter(self.waiting)))
            size -= len(one.data) if isinstance(one, Decoded) else 0

    def _decoded(self, number: int) -> Decoded | SampleError:
        if self._video is None:
            assert self._failure is not None
            return self._failure
        try:
            return self._video.frame(number)
        except SampleError as error:
            return error

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = self._failure = None
