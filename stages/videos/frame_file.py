"""An open video file as an object with ``read`` and ``seek``, and what every clip offers."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..faces.decoder import Decoded

_BUFFER_BYTES = 2**18


class FrameFile:
    """A file behind a descriptor that somebody else opened; opens nothing itself.

    An error of the disk is no fault of the video: ``check`` raises it, whatever a decoder made of
    it meanwhile.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._failure: OSError | None = None

    def stream(self) -> io.BufferedReader:
        """Return a reader that begins at the file's first byte."""
        return io.BufferedReader(_Bytes(self), _BUFFER_BYTES)

    def size(self) -> int:
        """Return the bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def read_at(self, place: int, most: int) -> bytes:
        """Return some bytes from a place on, none at the end. Raises OSError."""
        try:
            return os.pread(self._descriptor, most, place)
        except OSError as error:
            self._failure = error
            raise

    def start(self) -> bytes:
        """Return the first bytes, by which the kinds of files are told apart."""
        return self.read_at(0, 16)

    def check(self) -> None:
        """Raise the OSError that a read met, if one did."""
        if self._failure is not None:
            raise self._failure


class _Bytes(io.RawIOBase):
    """A place in a file, for a buffered reader, which closes it."""

    def __init__(self, file: FrameFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._file.read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size()}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "before the start of the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at


class Clip(Protocol):
    """A video, opened. Call ``scan`` until it returns True, then ``step``.

    Attributes:
        times: seconds of each frame since the first one, if the frames were counted.
        tail: the reason why the file ends early; empty if it does not.
    """

    times: list[float]
    tail: str

    def scan(self, most_frames: int) -> bool:
        """Look a little further through the file; return whether all of it has been seen.

        Raises Undecodable: ``not_a_video``, ``truncated``, ``too_many_frames``,
        ``too_many_pixels``.
        """
        ...

    def until(self, number: int) -> int:
        """Return the first frame after ``number`` that does not need what that frame needs."""
        ...

    def step(self, number: int) -> Decoded | None:
        """Decode a little further towards a frame; return it once it is there.

        Raises Undecodable: ``bad_frame``, ``missing_frame``, ``too_many_pixels``.
        """
        ...
