"""Reads videos through a process that can be killed (``frame_server.py``), or in this one."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
import weakref
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from ...manifests.vocabularies import REASONS, SampleError
from ...pipeline.errors import InputError
from ..faces.decoder import Decoded, Limits, Undecodable
from ..faces.isolation import ATTEMPTS, DecoderFailed, DecoderProcess, ProcessLimits, end_all
from .animations import is_animation
from .frame_file import Clip
from .frame_server import CLOSE, COUNT, OPEN, REQUEST, SCAN, STEP, open_clip

log = logging.getLogger("normpipe")
Found = TypeVar("Found")

# The folder of the stages becomes a package of another name, so that its modules can be imported
# without everything else that the project imports.
_START: Final = (
    "import sys, types; p = types.ModuleType('decoding'); p.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['decoding'] = p; from decoding.videos.frame_server import main; "
    "main(sys.argv[1:])"
)
#: The process's command; the memory's descriptor and the limits are appended.
COMMAND: Final = (sys.executable, "-P", "-c", _START, str(Path(__file__).parents[1]))
#: Answers that a process may give beyond one for each frame, before it has finished.
_MORE_STEPS: Final = 10_000
#: Room for the times of the most frames that ``ingest.max_frames`` allows.
_TABLE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Decoding:
    """How videos are decoded.

    Attributes:
        limits: the largest frame.
        bounds: time for each piece of work, and memory, of a process.
        isolate: decode in a process of its own.
        command: what starts it.
    """

    limits: Limits = field(default_factory=Limits)
    bounds: ProcessLimits = field(default_factory=ProcessLimits)
    isolate: bool = True
    command: tuple[str, ...] = COMMAND


@dataclass(frozen=True)
class FrameTable:
    """The frames of a video.

    Attributes:
        times: seconds of each frame since the first one.
        tail: the reason why the file ends early; empty if it does not.
    """

    times: array[float]
    tail: str


class _DiskFailed(Exception):
    """The process says that the disk failed; whoever has the file looks whether that is true."""


class FrameProcess(DecoderProcess):
    """A process that reads one video at a time; one caller at a time."""

    def __init__(self, decoding: Decoding) -> None:
        """Start the process. Raises NormpipeError if it does not start."""
        self._most_seconds = decoding.bounds.seconds
        self._requests, theirs = socket.socketpair()
        try:
            limits = replace(decoding.limits, max_bytes=_TABLE_BYTES)
            super().__init__(limits, decoding.bounds, decoding.command, theirs.fileno())
        finally:
            theirs.close()

    def ask(self, kind: bytes, number: int = 0, descriptors: tuple[int, ...] = ()) -> Any:
        """Send a request, with the descriptor of a file, and return the valid answer.

        Raises:
            SampleError: the reason in the answer.
            _DiskFailed: an error of the disk, says the process.
            DecoderFailed: the process hung, died, or sent another answer.
        """
        try:
            socket.send_fds(self._requests, [REQUEST.pack(kind, number)], descriptors)
        except OSError:
            raise DecoderFailed("decoder_died") from None
        answer = self.answer(self._most_seconds)
        if "errno" in answer:
            raise _DiskFailed
        if "reason" in answer or "width" in answer:
            return self.picture(answer)
        return answer

    def end(self) -> None:
        """End the process and give its memory back."""
        self._requests.close()
        super().end()


class _Local:
    """An open video in this process."""

    def __init__(self, descriptor: int, most_frames: int, count_all: bool, limits: Limits) -> None:
        self._most_frames = most_frames
        self._clip: Clip = open_clip(descriptor, limits, count_all)

    def scan(self) -> FrameTable | None:
        if not self._clip.scan(self._most_frames):
            return None
        return FrameTable(array("d", self._clip.times), self._clip.tail)

    def step(self, number: int) -> Decoded | int:
        found = self._clip.step(number)
        return self._clip.until(number) if found is None else found


class _Remote:
    """An open video in another process."""

    def __init__(
        self, process: FrameProcess, descriptor: int, most_frames: int, count_all: bool
    ) -> None:
        self.process, self._most_frames = process, most_frames
        process.ask(COUNT if count_all else OPEN, most_frames, (descriptor,))

    def scan(self) -> FrameTable | None:
        answer = self.process.ask(SCAN)
        if isinstance(answer, Decoded):
            raise DecoderFailed("decoder_died")
        if not answer.get("done"):
            return None
        frames, tail = answer.get("frames"), answer.get("tail")
        if not isinstance(frames, int) or not 0 <= frames <= self._most_frames:
            raise DecoderFailed("decoder_died")
        if not isinstance(tail, str) or (tail and REASONS.get(tail, ("",))[0] != "failed"):
            raise DecoderFailed("decoder_died")
        times = array("d")
        times.frombytes(self.process.memory(frames * times.itemsize))
        if len(times) != frames or not all(map(math.isfinite, times)):
            raise DecoderFailed("decoder_died")
        return FrameTable(times, tail)

    def step(self, number: int) -> Decoded | int:
        answer = self.process.ask(STEP, number)
        if isinstance(answer, Decoded):
            return answer
        if not isinstance(until := answer.get("until"), int):
            raise DecoderFailed("decoder_died")
        return until


class VideoPool:
    """Opens videos, each in a process of its own; processes are used again.

    They start when needed, and end with ``close``, when this object is garbage collected, and when
    this process ends, however it ends.
    """

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self._idle: list[DecoderProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, end_all, self._idle)

    def close(self) -> None:
        """End the processes that no video uses."""
        with self._lock:
            end_all(self._idle)

    def start_reading(
        self, descriptor: int, most_frames: int, count_all: bool
    ) -> tuple[_Local | _Remote, FrameProcess | None]:
        """Open a video and return its reader, and the process that it is in.

        Raises InputError if PyAV is missing.
        """
        if find_spec("av") is None and not is_animation(os.pread(descriptor, 16, 0)):
            raise InputError(
                'reading videos needs PyAV: pip install "normpipe[video]", or leave videos out '
                "with --set ingest.videos=false"
            )
        if not self.decoding.isolate:
            return _Local(descriptor, most_frames, count_all, self.decoding.limits), None
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if not isinstance(process, FrameProcess):
            process = FrameProcess(self.decoding)
        try:
            return _Remote(process, descriptor, most_frames, count_all), process
        except SampleError:
            self.put_back(process)
            raise
        except BaseException:  # its late answer would be taken as another video's
            process.end()
            raise

    def put_back(self, process: FrameProcess) -> None:
        """Keep a process for the next video."""
        try:
            process.ask(CLOSE)
        except (DecoderFailed, SampleError, _DiskFailed):
            process.end()
            return
        with self._lock:
            self._idle.append(process)


class OpenVideo:
    """A video from which frames are read; one caller at a time.

    If its process hangs or dies, another one tries once more. After that, the frame fails, and so
    does what cannot be decoded without it.
    """

    def __init__(
        self, pool: VideoPool, descriptor: int, most_frames: int, count_all: bool = False
    ) -> None:
        """Open a video, and look through the file.

        Args:
            pool: of processes.
            descriptor: of the open file; closed by ``close``, and if this raises.
            most_frames: a video with more is refused.
            count_all: the table is wanted, even if all must be decoded for it.

        Raises:
            SampleError: ``not_a_video``, ``truncated``, ``too_many_frames``, ``too_many_pixels``,
                ``decode_timeout``, ``decode_memory``, ``decoder_died``.
            OSError: an error of the disk.
        """
        self._pool, self._descriptor = pool, descriptor
        self._asked = (most_frames, count_all)
        self._reader: _Local | _Remote | None = None
        self._process: FrameProcess | None = None
        #: Frames that fail without another try: from, to (exclusive), reason.
        self._doomed = (0, 0, "")
        try:
            self.table = self._tried(self._begin)
        except BaseException:  # whatever it is, nobody else closes the file
            self.close()
            raise

    def frame(self, number: int) -> Decoded:
        """Return a frame, upright; fastest in ascending order.

        Raises:
            SampleError: ``bad_frame``, ``missing_frame``, ``truncated``, ``too_many_pixels``,
                ``decode_timeout``, ``decode_memory``, ``decoder_died``.
            OSError: an error of the disk.
        """
        first, end, reason = self._doomed
        if first <= number < end:
            raise SampleError(reason, f"frame {number} cannot be decoded without frame {first}")
        self._doomed = (number, number + 1, "")
        return self._tried(lambda: self._frame(number))

    def close(self) -> None:
        """Give the process back, and close the file."""
        if self._process is not None:
            self._pool.put_back(self._process)
        self._reader = self._process = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _begin(self) -> FrameTable:
        self._reader, self._process = self._pool.start_reading(self._descriptor, *self._asked)
        for _ in range(self._asked[0] + _MORE_STEPS):
            if (table := self._reader.scan()) is not None:
                return table
        raise DecoderFailed("decode_timeout")

    def _frame(self, number: int) -> Decoded:
        if self._reader is None:
            self._begin()
        assert self._reader is not None
        for _ in range(self._asked[0] + _MORE_STEPS):
            found = self._reader.step(number)
            if isinstance(found, Decoded):
                self._doomed = (0, 0, "")
                return found
            self._doomed = (number, max(found, number + 1), "")
        raise DecoderFailed("decode_timeout")

    def _tried(self, work: Callable[[], Found]) -> Found:
        for left in reversed(range(ATTEMPTS)):
            try:
                return work()
            except Undecodable as error:
                self._doomed = (0, 0, "")
                raise SampleError(error.reason, error.detail) from error
            except SampleError:
                self._doomed = (0, 0, "")
                raise
            except (DecoderFailed, _DiskFailed) as failure:
                if isinstance(failure, _DiskFailed):
                    failure = self._read_all()
                log.debug("replacing a decoder of videos: %s", failure)
                self._end_process()
                if not left:
                    self._doomed = (*self._doomed[:2], str(failure))
                    raise SampleError(str(failure), f"{ATTEMPTS} times") from None
            except BaseException:  # its late answer would be taken as the next frame's
                self._end_process()
                raise
        raise AssertionError("unreachable")

    def _read_all(self) -> DecoderFailed:
        """Raise the OSError that a process has met; without one, what it said was a lie."""
        place = 0
        while piece := os.pread(self._descriptor, 2**20, place):
            place += len(piece)
        return DecoderFailed("decoder_died")

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.end()
        self._reader = self._process = None
