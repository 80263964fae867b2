"""Whether a video's file is shorter than its outermost elements say: Matroska, WebM and AVI.

FFmpeg reads what is there, and says nothing of the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .frame_file import FrameFile

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
#: Writers of AVI count in different ways; so few bytes are no frame.
_SLACK: Final = 1024
#: Chunks of an AVI: each holds a gigabyte.
_MOST_CHUNKS: Final = 4096


def ends_early(file: FrameFile) -> bool:
    """Return whether bytes are missing at the end; False where nothing says so.

    Raises OSError.
    """
    start = file.start()
    if start.startswith(_EBML):
        return _matroska(file)
    return start.startswith(b"RIFF") and start[8:12] == b"AVI " and _avi(file)


def _matroska(file: FrameFile) -> bool:
    place = 0
    for name in (_EBML, _SEGMENT):
        head = file.read_at(place, 12)
        if not head.startswith(name) or len(head) < 5:
            return False
        count = 9 - head[4].bit_length()  # bytes of the size: one more for each leading zero
        if count > 8 or len(head) < 4 + count:
            return False
        size = int.from_bytes(head[4 : 4 + count], "big") & (1 << 7 * count) - 1
        if size == (1 << 7 * count) - 1:
            return False  # unknown: it was streamed
        place += 4 + count + size
    return place > file.size()


def _avi(file: FrameFile) -> bool:
    place, size = 0, file.size()
    for _ in range(_MOST_CHUNKS):
        head = file.read_at(place, 8)
        if len(head) < 8 or head[:4] != b"RIFF":
            break
        length = int.from_bytes(head[4:], "little")
        if not length:
            break  # it was never finished
        place += 8 + length + length % 2
    return place > size + _SLACK
