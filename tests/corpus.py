"""Files from strangers: ways to spoil a photograph, each with what must become of it.

Seeded: the same seed spoils the same way. Used by the tests of accounting and of hostile inputs,
and as seeds of the fuzz.
"""

import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Spoil = Callable[[bytes, random.Random], bytes]
Place = Callable[[Path, bytes], None]


@dataclass(frozen=True)
class Way:
    """One way to spoil a photograph.

    ``spoil`` makes other bytes of a file's; ``place`` makes something else than a file. ``reason``
    is None where the picture must be taken all the same. ``stage``: who finds out.
    """

    name: str
    reason: str | None
    spoil: Spoil | None = None
    place: Place | None = None
    stage: str = "align"
    suffix: str = ".jpg"

    def apply(self, path: Path, photograph: bytes, rng: random.Random) -> Path:
        """Put the spoilt photograph where ``path`` says, with this way's suffix."""
        path = path.with_suffix(self.suffix)
        path.unlink(missing_ok=True)
        if self.place is not None:
            self.place(path, photograph)
        else:
            assert self.spoil is not None
            path.write_bytes(self.spoil(photograph, rng))
        return path


def opened(photograph: bytes) -> Image.Image:
    return Image.open(io.BytesIO(photograph)).convert("RGB")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(width: int, height: int, *extra: bytes, body: bytes = b"", depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_chunk(photograph: bytes, chunk: bytes) -> bytes:
    """A sound PNG of the photograph, with a further chunk behind its header."""
    whole = saved(opened(photograph), "PNG", compress_level=1)
    return whole[:33] + chunk + whole[33:]


def zeros_squeezed(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 2**20), 9)


def flipped(photograph: bytes, rng: random.Random) -> bytes:
    """A PNG with flipped bits in its pixels; its check sums tell."""
    whole = bytearray(saved(opened(photograph), "PNG", compress_level=1))
    for _ in range(8):
        whole[rng.randrange(len(whole) // 3, len(whole) - 100)] ^= 1 << rng.randrange(8)
    return bytes(whole)


def tiff_header(width: int, height: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 16)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    content = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(content)) + content


def gif_frames(count: int, side: int = 1) -> bytes:
    """A GIF of many frames with one pixel each, on a canvas of any size."""
    start = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    frame = b"\x21\xf9\x04\0\x01\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    return start + (frame + b"\x02\x02\x44\x01\0") * count + b";"


def jp2_header(width: int, height: int) -> bytes:
    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + name + content

    size = box(b"ihdr", struct.pack(">IIHBBBB", height, width, 3, 7, 7, 0, 0))
    colour = box(b"colr", struct.pack(">BBBI", 1, 0, 0, 16))
    places = (width, height, 0, 0, width, height, 0, 0)
    tiles = struct.pack(">HH8IH", 47, 0, *places, 3) + bytes((7, 1, 1)) * 3
    return (
        b"\0\0\0\x0cjP  \r\n\x87\n"
        + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", size + colour)
        + box(b"jp2c", b"\xff\x4f\xff\x51" + tiles + b"\xff\xd9")
    )


def zipped(_: bytes, __: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../escaped.jpg", b"out")
    return buffer.getvalue()


def turned(photograph: bytes, _: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 60_000  # and a description that nobody asked for
    return saved(opened(photograph).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def sixteen_bit(photograph: bytes, _: random.Random) -> bytes:
    grey = np.asarray(opened(photograph).convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), "PNG")


def alpha(photograph: bytes, _: random.Random) -> bytes:
    image = opened(photograph)
    image.putalpha(200)
    return saved(image, "PNG", compress_level=1)


def animated(photograph: bytes, _: random.Random) -> bytes:
    small = ImageOps.contain(opened(photograph), (64, 64))
    return saved(small, "GIF", save_all=True, append_images=[ImageOps.invert(small)])


def pages(photograph: bytes, _: random.Random) -> bytes:
    small = ImageOps.contain(opened(photograph), (64, 64))
    return saved(small, "TIFF", save_all=True, append_images=[ImageOps.invert(small)])


def huge(path: Path, _: bytes) -> None:
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(65 * 2**20)  # a hole: takes no room


def of(data: bytes) -> Spoil:
    return lambda _photograph, _rng: data


#: What a pickle does that runs code, were anybody to load it.
PICKLE = b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."

#: Files that fail, one way each.
SPOILT = (
    Way("no bytes", "empty_file", of(b""), stage="ingest"),
    Way("half a jpeg", "truncated", lambda data, _: data[: len(data) // 2]),
    Way("a jpeg's start", "not_an_image", lambda data, _: data[:3]),
    Way("flipped bits", "truncated", flipped, suffix=".png"),
    Way("a web page", "not_an_image", of(b"<html><body>404 not found</body></html>")),
    Way("a pickle", "not_an_image", of(PICKLE)),
    Way("a zip that climbs out", "not_an_image", zipped),
    Way("postscript", "not_an_image", of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
    Way("a png bomb", "too_many_pixels", of(png(60_000, 60_000, body=zeros_squeezed(1)))),
    Way("a tiff bomb", "too_many_pixels", of(tiff_header(31_000, 31_000)), suffix=".tiff"),
    Way("a webp bomb", "too_many_pixels", of(webp_header(16_383, 16_383)), suffix=".webp"),
    Way("a gif bomb", "too_many_pixels", of(gif_frames(1, 65_535)), suffix=".gif"),
    Way("a jpeg 2000 bomb", "too_many_pixels", of(jp2_header(2**20, 2**20)), suffix=".jp2"),
    Way("a jpeg 2000 without header", "not_an_image", of(jp2_header(9, 9)[:32]), suffix=".jp2"),
    Way("too many bytes", "too_many_bytes", place=huge),
    Way("an animation", "several_frames", animated, suffix=".gif"),
    Way("many frames", "several_frames", of(gif_frames(20_000)), suffix=".gif"),
    Way("pages", "several_frames", pages, suffix=".tiff"),
    Way("no range", "unknown_range", of(saved(Image.new("F", (8, 8), 0.5), "TIFF"))),
    Way(
        "a folder",
        "not_a_file",
        place=lambda path, _: path.mkdir(),
        stage="ingest",
    ),
    Way(
        "a link to nowhere",
        "missing_file",
        place=lambda path, _: path.symlink_to("gone.jpg"),
        stage="ingest",
    ),
    Way(
        "a link out",
        "outside_root",
        place=lambda path, _: path.symlink_to("../secret.jpg"),
        stage="ingest",
    ),
    Way(
        "a link to itself",
        "unreadable",
        place=lambda path, _: path.symlink_to(path.name),
        stage="ingest",
    ),
    Way("a pipe", "not_a_file", place=lambda path, _: os.mkfifo(path), stage="ingest"),
)

#: Files that are odd and must be taken.
ODD = (
    Way("turned by exif", None, turned),
    Way("16 bits", None, sixteen_bit, suffix=".png"),
    Way("cmyk", None, lambda data, _: saved(opened(data).convert("CMYK"), "JPEG")),
    Way("alpha", None, alpha, suffix=".png"),
    Way("grey", None, lambda data, _: saved(opened(data).convert("L"), "JPEG")),
    Way("still gif", None, lambda data, _: saved(opened(data), "GIF"), suffix=".gif"),
    Way("a zip behind a jpeg", None, lambda data, rng: data + zipped(data, rng)),
    Way("another format than its name", None, lambda data, _: saved(opened(data), "BMP")),
    Way("webp", None, lambda data, _: saved(opened(data), "WEBP"), suffix=".webp"),
)

#: Chunks of a PNG that swell when they are unpacked; some releases of Pillow refuse the file, some
#: leave the chunk alone. Neither may take the memory.
SWELLING = {
    "zTXt": png_chunk(b"zTXt", b"Comment\0\0" + zeros_squeezed(256)),
    "iTXt": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros_squeezed(256)),
    "iCCP": png_chunk(b"iCCP", b"icc\0\0" + zeros_squeezed(256)),
}
