"""Decodes untrusted image files; run as a script, in a separate process that may be killed.

Imports the standard library and Pillow only, and nothing of ours: the process that decodes hostile
bytes holds no model, no setting and no open file. ``isolation.py`` starts it; ``pixels.py`` calls
it in process.

The process reads requests (the number of bytes in the shared memory) from stdin, writes the pixels
there and answers with one line of JSON. While serving, it can open no file or socket, its memory
and time are limited, and it exits with its parent.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import mmap
import os
import signal
import struct
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Final

from PIL import Image, ImageOps

# Formats whose decoders are widely used and exercised. The rest of Pillow's four dozen (EPS, which
# starts Ghostscript; FITS; WMF …) are attack surface without photographs of faces behind it.
# Multi-picture JPEGs (MPO) come in through JPEG.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
_PLUGINS: Final = ("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Tiff", "Gif", "Avif", "Jpeg2K", "Ppm")
# Pillow warns above this many pixels; our limit is at most that, so that only ours applies.
PILLOW_MAX_PIXELS: Final = 89_478_485
# OpenCV's warps index with 16 bits.
MAX_SIDE_PX: Final = 32_000

#: ``kind`` of 8-bit colour. Any other kind is 16-bit grey, as a NumPy type string.
RGB: Final = "rgb"
SIXTEEN_BIT_KINDS: Final = frozenset({"<u2", ">u2"})
REQUEST: Final = struct.Struct("<Q")

#: What Pillow's decoders raise on damaged data. Not MemoryError, which may not be the sample's
# fault. The bytes are in memory, so OSError is never a disk error.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_EIGHT_BIT = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


class Undecodable(Exception):
    """A file cannot be decoded: a reason from ``manifests/vocabularies.py``, and details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Limits:
    """The largest image that is decoded.

    Attributes:
        max_pixels: width × height in the header, at most ``PILLOW_MAX_PIXELS``.
        max_bytes: size of the file.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 64 * 2**20


@dataclass(frozen=True)
class Decoded:
    """An upright picture by rows: ``rgb`` with three bytes per pixel, or 16-bit grey with two."""

    width_px: int
    height_px: int
    kind: str
    data: bytes

    @staticmethod
    def size_of(width_px: int, height_px: int, kind: str) -> int:
        """Return the bytes of a picture."""
        return width_px * height_px * (3 if kind == RGB else 2)


def decode_file(data: bytes, limits: Limits) -> Decoded:
    """Decode one still image; see ``pixels.decode`` for the rules. Raises Undecodable."""
    if len(data) > limits.max_bytes:
        raise Undecodable("too_many_bytes", f"{len(data)} > {limits.max_bytes}")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undecodable("too_many_pixels", str(error)) from error
    except DAMAGE as error:
        _reraise_own_error(error)
        raise Undecodable("not_an_image", "no known image format") from error
    with image:
        _check_header(image, limits)
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return upright(image)
        except DAMAGE as error:
            _reraise_own_error(error)
            raise Undecodable("truncated", f"{type(error).__name__}: {error}"[:200]) from error


@cache
def _formats() -> tuple[str, ...]:
    """Return the ``FORMATS`` that this build of Pillow has; it may lack AVIF, WEBP or JPEG2000."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reraise_own_error(error: Exception) -> None:
    """Raise errors of this process, not of the file: a module that it may no longer load."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise RuntimeError("the decoder tried to open a file") from error


def check_size(size: tuple[int, int], limits: Limits) -> None:
    """Refuse a width and height beyond the limits. Raises Undecodable: ``too_many_pixels``."""
    width, height = size
    most = min(limits.max_pixels, PILLOW_MAX_PIXELS)
    if width * height > most or max(width, height) > MAX_SIDE_PX:
        raise Undecodable("too_many_pixels", f"{width} x {height}")


def _check_header(image: Image.Image, limits: Limits) -> None:
    check_size(image.size, limits)
    try:
        # is_animated stops at the second frame; n_frames would walk through all of them.
        several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except DAMAGE as error:
        _reraise_own_error(error)
        raise Undecodable("truncated", f"{type(error).__name__}: {error}"[:200]) from error
    if several:
        raise Undecodable("several_frames", str(image.format))


def upright(image: Image.Image) -> Decoded:
    """Return a loaded picture's pixels, over white where it is transparent.

    Raises Undecodable: ``not_an_image`` for pixels without a stated range.
    """
    if image.mode in _SIXTEEN_BIT:
        kind = str(image.__array_interface__["typestr"])
        return Decoded(*image.size, kind, image.tobytes())
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    elif image.mode not in _EIGHT_BIT:
        raise Undecodable("not_an_image", f"pixels of mode {image.mode} have no stated range")
    return Decoded(*image.size, RGB, image.convert("RGB").tobytes())


def serve(limits: Limits, seconds: float, memory_bytes: int, memory: mmap.mmap) -> None:
    """Answer requests until stdin ends."""
    drop_rights(memory_bytes)
    send_answer({"ready": True})
    while len(request := os.read(0, REQUEST.size)) == REQUEST.size:
        # In case the parent is gone and the decoder hangs: the alarm's default action ends the
        # process, wherever it is.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        send_answer(_reply(bytes(memory[: REQUEST.unpack(request)[0]]), limits, memory))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reply(data: bytes, limits: Limits, memory: mmap.mmap) -> dict[str, object]:
    try:
        found = decode_file(data, limits)
    except Undecodable as error:
        return {"reason": error.reason, "detail": error.detail}
    except MemoryError:
        return {"reason": "decode_memory", "detail": ""}
    memory[: len(found.data)] = found.data
    return {"width": found.width_px, "height": found.height_px, "kind": found.kind}


def send_answer(reply: dict[str, object]) -> None:
    """Write one line of JSON to the parent."""
    os.write(1, json.dumps(reply).encode() + b"\n")


def drop_rights(memory_bytes: int, most_files: int = 3) -> None:
    """Load everything that decoding needs, then drop all other rights.

    ``most_files``: open files that the process may have, stdin, stdout and stderr included.
    """
    _formats()
    for name in ("latin_1", "ascii", "utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_32"):
        importlib.import_module(f"encodings.{name}")
    # The parent handles signals sent to the job's processes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # If the machine still runs out of memory, kill this process first.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    try:
        import resource
    except ImportError:  # no POSIX
        return
    for kind, limit in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, most_files),
    ):
        hard = resource.getrlimit(kind)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (least, least))


def main(arguments: list[str]) -> None:
    """Serve; ``isolation.py`` passes the memory's descriptor and size, then the limits."""
    descriptor, size, max_pixels, max_bytes, memory_bytes = map(int, arguments[:5])
    memory = mmap.mmap(descriptor, size)
    serve(Limits(max_pixels, max_bytes), float(arguments[5]), memory_bytes, memory)


if __name__ == "__main__":
    main(sys.argv[1:])
