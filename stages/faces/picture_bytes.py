"""The bytes of a picture as they leave: the same pixels, without the texts that a file may carry.

Pictures that normpipe encoded hold none. Imported ones keep their bytes, and may name cameras,
places, people and files.
"""

from __future__ import annotations

import struct

from ...pipeline.errors import InputError

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
#: Segments that decoders need: JFIF, colour profile, Adobe's transform. Other APPn and comments go.
_KEPT_APPS = {0xE0, 0xE2, 0xEE}
_APPS, _COMMENT, _SCAN = range(0xE0, 0xF0), 0xFE, 0xDA
_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"}


def picture_ending(data: bytes, key: str) -> str:
    """Return the ending of a picture's file. Raises InputError if it is neither JPEG nor PNG."""
    if data.startswith(_JPEG):
        return "jpg"
    if data.startswith(_PNG):
        return "png"
    raise InputError(f"the picture of {key} is neither JPEG nor PNG: see 'normpipe verify'")


def without_texts(data: bytes, key: str) -> bytes:
    """Return a picture without EXIF, XMP, IPTC and comments; its pixels stay as they are.

    Raises InputError if it is neither JPEG nor PNG, or is damaged.
    """
    try:
        return _jpeg(data) if picture_ending(data, key) == "jpg" else _png(data)
    except (IndexError, struct.error):
        raise InputError(f"the picture of {key} is damaged: see 'normpipe verify'") from None


def _jpeg(data: bytes) -> bytes:
    kept, place = [data[:2]], 2
    while True:
        if data[place] != 0xFF:
            raise IndexError
        kind = data[place + 1]
        if kind == 0xFF:  # padding before a segment
            place += 1
            continue
        if kind == _SCAN:
            return b"".join([*kept, data[place:]])
        (length,) = struct.unpack_from(">H", data, place + 2)
        end = place + 2 + length
        if kind != _COMMENT and (kind not in _APPS or kind in _KEPT_APPS):
            kept.append(data[place:end])
        place = end


def _png(data: bytes) -> bytes:
    kept, place = [data[:8]], 8
    while True:
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            raise IndexError
        kind = data[place + 4 : place + 8]
        if kind not in _TEXT_CHUNKS:
            kept.append(data[place:end])
        if kind == b"IEND":
            return b"".join(kept)
        place = end
