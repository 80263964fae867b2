"""Decodes videos in a separate process that may be killed; ``frame_process.py`` starts it.

Like ``faces/decoder.py``, with two differences. It receives the descriptor of an open file with the
request, through the socket that is its stdin, so it can open nothing itself; and it remembers the
video that it reads. Each answer comes after a bounded piece of work.
"""

from __future__ import annotations

import array
import contextlib
import errno
import importlib
import mmap
import os
import signal
import socket
import struct
from typing import Any, Final

from ..faces.decoder import Limits, Undecodable, drop_rights, send_answer
from .animations import Animation, is_animation
from .frame_file import Clip, FrameFile

#: What is asked, and a number. OPEN, COUNT: a file, with the most frames that it may have; COUNT
#: also wants their times. SCAN: look on. STEP: decode on to a frame. CLOSE: forget the file.
REQUEST: Final = struct.Struct("<cQ")
OPEN, COUNT, SCAN, STEP, CLOSE = b"o", b"c", b"s", b"f", b"x"
#: Modules that PyAV imports when it opens a file with such a stream: too late here.
_LATE_IMPORTS: Final = (
    *("av.audio.stream", "av.video.stream", "av.subtitles.stream"),
    *("av.audio.codeccontext", "av.video.codeccontext", "av.subtitles.codeccontext"),
)


def open_clip(descriptor: int, limits: Limits, count_all: bool) -> Clip:
    """Open a video or an animated picture; what counts is its content.

    Args:
        descriptor: of the open file; the caller closes it after its last use.
        limits: the largest frame.
        count_all: ``times`` is wanted, even if all must be decoded for it.

    Raises:
        Undecodable: ``not_a_video``, ``truncated``, ``too_many_pixels``.
        OSError: an error of the disk.
    """
    file = FrameFile(descriptor)
    if is_animation(file.start()):
        return Animation(file, limits)
    from .films import Film  # imports PyAV, which is an extra

    return Film(file, limits, count_all)


class _Server:
    """The process's state: at most one open video."""

    def __init__(self, limits: Limits, memory: mmap.mmap) -> None:
        self._limits, self._memory = limits, memory
        self._descriptor = -1
        self._clip: Clip | None = None
        self._most_frames = 0

    def reply(self, kind: bytes, number: int, descriptors: list[int]) -> dict[str, object]:
        try:
            return self._reply(kind, number, descriptors)
        except Undecodable as error:
            return {"reason": error.reason, "detail": error.detail}
        except MemoryError:
            return {"reason": "decode_memory", "detail": ""}
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise RuntimeError("the decoder tried to open a file") from error
            return {"errno": error.errno or 0}

    def _reply(self, kind: bytes, number: int, descriptors: list[int]) -> dict[str, object]:
        if kind in (OPEN, COUNT, CLOSE):
            self._close()
        if kind == CLOSE:
            return {"closed": True}
        if kind in (OPEN, COUNT):
            (self._descriptor,) = descriptors
            self._most_frames = number
            self._clip = open_clip(self._descriptor, self._limits, kind == COUNT)
            return {"opened": True}
        assert self._clip is not None
        if kind == SCAN:
            return self._scan(self._clip)
        shown = self._clip.step(number)
        if shown is None:
            return {"until": self._clip.until(number)}
        self._memory[: len(shown.data)] = shown.data
        return {"width": shown.width_px, "height": shown.height_px, "kind": shown.kind}

    def _scan(self, clip: Clip) -> dict[str, object]:
        if not clip.scan(self._most_frames):
            return {"done": False}
        times = array.array("d", clip.times).tobytes()
        self._memory[: len(times)] = times
        return {"done": True, "frames": len(clip.times), "tail": clip.tail}

    def _close(self) -> None:
        self._clip = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def main(arguments: list[str]) -> None:
    """Serve until the socket ends; the arguments are those of ``faces/decoder.py``."""
    descriptor, size, max_pixels, max_bytes, memory_bytes = map(int, arguments[:5])
    seconds, memory = float(arguments[5]), mmap.mmap(descriptor, size)
    with contextlib.suppress(ImportError):
        for name in (f"{__package__}.films", *_LATE_IMPORTS):
            importlib.import_module(name)
    requests: Any = socket.socket(fileno=0)
    # One more open file than now: the video.
    free = os.dup(0)
    os.close(free)
    drop_rights(memory_bytes, free + 1)
    server = _Server(Limits(max_pixels, max_bytes), memory)
    send_answer({"ready": True})
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST.size, 1)
        if len(message) < REQUEST.size:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        kind, number = REQUEST.unpack(message)
        send_answer(server.reply(kind, number, descriptors))
        signal.setitimer(signal.ITIMER_REAL, 0)
