"""Decodes files in separate processes that can be killed, so that a bad file harms nothing else.

Each process (``decoder.py``) shares memory with this one: the file's bytes go in, the pixels come
out, with one line of JSON. Nothing is pickled, and every answer is checked, as a hostile file may
have written it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...manifests.vocabularies import REASONS, SampleError
from ...pipeline.errors import NormpipeError
from .decoder import (
    FULL_WHITE,
    PILLOW_MAX_PIXELS,
    REQUEST,
    RGB,
    SIXTEEN_BIT_KINDS,
    Decoded,
    Limits,
)

log = logging.getLogger("normpipe")

#: The decoder's command; the memory's descriptor and the limits are appended.
COMMAND: Final = (sys.executable, "-P", str(Path(__file__).with_name("decoder.py")))
#: Starting Python and Pillow takes a tenth of a second, on a busy disk much longer.
_START_SECONDS: Final = 120.0
#: Added to the time limit for the process's own alarm, which then ends it.
_SLACK_SECONDS: Final = 2.0
#: Attempts at a file whose decoder hung or died: one failure may be the machine's fault.
ATTEMPTS: Final = 2
#: A line longer than this is no answer.
_LONGEST_ANSWER: Final = 4096
#: Memory used by a larger picture is returned to the system; what most pictures need is kept.
_KEPT_BYTES: Final = 16 * 2**20


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of one decoder process.

    Attributes:
        seconds: wall time per file.
        memory_bytes: memory of the process (``RLIMIT_DATA``).
    """

    seconds: float = 30.0
    memory_bytes: int = 2048 * 2**20


class DecoderFailed(Exception):
    """The process hung, died or sent an invalid answer; the text is the reason."""


class DecoderPool:
    """A pool of decoder processes, one for each thread that calls ``decode`` at the same time.

    They start when needed and are reused. They end with ``close``, when this object is garbage
    collected, and when this process ends, however it ends.
    """

    def __init__(
        self, limits: Limits, bounds: ProcessLimits, command: Sequence[str] = COMMAND
    ) -> None:
        self._limits, self._bounds, self._command = limits, bounds, tuple(command)
        self._idle: list[DecoderProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, end_all, self._idle)

    def start(self) -> None:
        """Start one process, so that a failure to start shows before any work.

        Raises NormpipeError.
        """
        self._put_back(self._take())

    def decode(self, data: bytes) -> Decoded:
        """Decode a file in one of the processes; see ``pixels.decode``.

        Raises:
            SampleError: as ``pixels.decode``, and ``decode_timeout``, ``decode_memory``,
                ``decoder_died``.
        """
        if len(data) > self._limits.max_bytes:
            raise SampleError("too_many_bytes", f"{len(data)} > {self._limits.max_bytes}")
        for left in reversed(range(ATTEMPTS)):
            decoder = self._take()
            try:
                found = decoder.decode(data)
            except SampleError:
                self._put_back(decoder)
                raise
            except DecoderFailed as failure:
                decoder.end()
                log.debug("replacing a decoder: %s", failure)
                if not left:
                    raise SampleError(str(failure), f"{ATTEMPTS} times") from None
            except BaseException:  # its late answer would be taken as the next file's
                decoder.end()
                raise
            else:
                self._put_back(decoder)
                return found
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the processes; ``decode`` would start new ones."""
        with self._lock:
            end_all(self._idle)

    def _take(self) -> DecoderProcess:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return DecoderProcess(self._limits, self._bounds, self._command)

    def _put_back(self, decoder: DecoderProcess) -> None:
        with self._lock:
            self._idle.append(decoder)


def end_all(idle: list[DecoderProcess]) -> None:
    """End processes, and empty the list."""
    while idle:
        idle.pop().end()


class DecoderProcess:
    """One process and its shared memory; one caller at a time."""

    def __init__(
        self,
        limits: Limits,
        bounds: ProcessLimits,
        command: Sequence[str],
        requests: int = subprocess.PIPE,
    ) -> None:
        """Start the process. ``requests``: its stdin, if that is no pipe. Raises NormpipeError."""
        self._limits, self._bounds = limits, bounds
        most_pixels = min(limits.max_pixels, PILLOW_MAX_PIXELS)
        self._size = max(limits.max_bytes, Decoded.size_of(most_pixels, 1, RGB), mmap.PAGESIZE)
        self._file = _memory_file(self._size)
        self._memory = mmap.mmap(self._file, self._size)
        given = (
            *(self._file, self._size, limits.max_pixels, limits.max_bytes, bounds.memory_bytes),
            *(bounds.seconds + _SLACK_SECONDS, limits.white or 0.0),
        )
        self._process = subprocess.Popen(
            [*command, *map(str, given)],
            stdin=requests,
            stdout=subprocess.PIPE,
            # Codecs complain there about damaged files; the reason is enough.
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(self._file,),
            # Ctrl-C in the terminal is for the job, which finishes the files in progress.
            process_group=0,
        )
        try:
            self.answer(_START_SECONDS)
        except DecoderFailed as failure:
            self.end()
            raise NormpipeError(
                f"the process that decodes pictures does not start ({' '.join(command)}: "
                f"{failure}): reinstall Pillow, or decode in this process with align.isolate=false"
            ) from None

    def decode(self, data: bytes) -> Decoded:
        """Decode a file. Raises SampleError and DecoderFailed."""
        assert self._process.stdin is not None
        self._memory[: len(data)] = data
        try:
            self._process.stdin.write(REQUEST.pack(len(data)))
        except OSError:
            raise DecoderFailed("decoder_died") from None
        answer = self.answer(self._bounds.seconds)
        used = len(data)
        try:
            found = self.picture(answer)
            used = max(used, len(found.data))
            return found
        finally:
            if used > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
                self._memory.madvise(mmap.MADV_REMOVE)

    def memory(self, count: int) -> bytes:
        """Return the first bytes of the shared memory."""
        return self._memory[:count]

    def picture(self, answer: dict[str, Any]) -> Decoded:
        """Return the pixels of a valid answer.

        Raises SampleError for the reason in it, and DecoderFailed for any other answer.
        """
        if "reason" in answer:
            reason = str(answer["reason"])
            if REASONS.get(reason, ("",))[0] != "failed":
                raise DecoderFailed("decoder_died")
            raise SampleError(reason, str(answer.get("detail", ""))[:200])
        width, height, kind = answer.get("width"), answer.get("height"), answer.get("kind")
        white = answer.get("white", 0)
        if (
            not (isinstance(width, int) and isinstance(height, int) and isinstance(kind, str))
            or not (isinstance(white, int) and 0 <= white <= FULL_WHITE)
            or not 0 < width * height <= self._limits.max_pixels
            or width < 1
            or kind not in SIXTEEN_BIT_KINDS | {RGB}
        ):
            raise DecoderFailed("decoder_died")
        data = self._memory[: Decoded.size_of(width, height, kind)]
        return Decoded(width, height, kind, data, white)

    def answer(self, seconds: float) -> dict[str, Any]:
        """Return the process's answer. Raises DecoderFailed, with the reason."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        line, end = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise DecoderFailed("decode_timeout")
            piece = os.read(output, _LONGEST_ANSWER)
            line += piece
            if not piece or len(line) > _LONGEST_ANSWER:
                raise DecoderFailed("decoder_died")
        try:
            answer = json.loads(line)
        except ValueError:
            raise DecoderFailed("decoder_died") from None
        if not isinstance(answer, dict):
            raise DecoderFailed("decoder_died")
        return answer

    def end(self) -> None:
        """End the process and give its memory back."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._memory.close()
        os.close(self._file)


def _memory_file(size: int) -> int:
    """Return a descriptor of anonymous memory, which no other process can open by name."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), size)
            return os.dup(file.fileno())
    file = os.memfd_create("normpipe-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    # If the decoder shrank it, reading its end would kill this process.
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return file
