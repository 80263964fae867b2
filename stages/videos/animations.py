"""Animated GIF, PNG and WebP as videos; decoded by Pillow, as pictures of these formats are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from PIL import Image

from ..faces.decoder import DAMAGE, Decoded, Limits, Undecodable, check_size, upright
from .frame_file import FrameFile

_FORMATS: Final = ("GIF", "PNG", "WEBP")
_BEGINNINGS: Final = (b"GIF87a", b"GIF89a", b"\x89PNG\r\n\x1a\n")


def is_animation(start: bytes) -> bool:
    """Return whether a file that begins so is of a format that may hold an animation."""
    return start.startswith(_BEGINNINGS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


class Animation:
    """An animated picture; see ``Clip``."""

    def __init__(self, file: FrameFile, limits: Limits) -> None:
        """Open it. Raises Undecodable."""
        self.times: list[float] = []
        self.tail = ""
        self._file = file
        try:
            self._image: Any = Image.open(file.stream(), formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise Undecodable("too_many_pixels", str(error)) from error
        except DAMAGE as error:
            file.check()
            raise Undecodable("not_a_video", "no animation of a known format") from error
        check_size(self._image.size, limits)
        self._work = self._scan()

    def scan(self, most_frames: int) -> bool:
        """See ``Clip``."""
        for frames in islice(self._work, 1):
            if frames > most_frames:
                raise Undecodable("too_many_frames", f"more than {most_frames}")
            return False
        return True

    def _scan(self) -> Iterator[int]:
        time = 0.0
        for number in range(getattr(self._image, "n_frames", 1)):
            try:
                self._image.seek(number)
                self._image.load()
            except DAMAGE:
                self._file.check()
                self.tail = "truncated"
                break
            self.times.append(time)
            time += float(self._image.info.get("duration") or 100) / 1000
            yield len(self.times)
        if not self.times:
            raise Undecodable("truncated", "no frame can be decoded")

    def until(self, number: int) -> int:
        """See ``Clip``: every frame needs those before it."""
        return 2**62

    def step(self, number: int) -> Decoded | None:
        """See ``Clip``."""
        at = self._image.tell()
        try:
            if number != at:
                self._image.seek(at + 1 if number > at else 0)
            self._image.load()
            if self._image.tell() < number:
                return None
            return upright(self._image.copy())
        except EOFError:
            raise Undecodable(self.tail or "missing_frame", f"frame {number}") from None
        except DAMAGE as error:
            self._file.check()
            raise Undecodable(self.tail or "bad_frame", str(error)[:200]) from error
