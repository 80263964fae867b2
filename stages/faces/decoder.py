"""Decodes untrusted image files; run as a script, in a separate process that may be killed.

Imports the standard library, Pillow and, if it is installed, pillow-heif, and nothing of ours: the
process that decodes hostile bytes holds no model, no setting and no open file. ``isolation.py``
starts it; ``pixels.py`` calls it in process.

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
import re
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
# HEIF is Pillow's only with pillow-heif.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "HEIF")
_PLUGINS: Final = ("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Tiff", "Gif", "Avif", "Jpeg2K", "Ppm")
# Formats of cameras, whose files name the picture that viewers show.
_FIRST_TAKEN: Final = frozenset({"MPO", "HEIF"})
# Pillow warns above this many pixels; our limit is at most that, so that only ours applies.
PILLOW_MAX_PIXELS: Final = 89_478_485
# OpenCV's warps index with 16 bits.
MAX_SIDE_PX: Final = 32_000

#: ``kind`` of 8-bit colour. Any other kind is 16-bit grey, as a NumPy type string.
RGB: Final = "rgb"
SIXTEEN_BIT_KINDS: Final = frozenset({"<u2", ">u2"})
#: White of 16-bit grey that uses its whole range.
FULL_WHITE: Final = 65535
#: Brands in the first box of HEIC and HEIF files (ISO/IEC 23008-12, annex B).
_HEIF_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
#: Tags of TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
#: 16-bit pictures without any value from here on probably use fewer bits, such as 12.
LEAST_PEAK: Final = 2**12
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
# A PGM whose numbers are not scaled.
_PPM_16 = re.compile(rb"P[25](?:\s|#[^\r\n]*[\r\n])+\d+\s+\d+\s+65535\s")
# The chunk of a grey PNG that says how many bits its samples had.
_SIGNIFICANT_BITS = re.compile(rb"\x00\x00\x00\x01sBIT(.)", re.DOTALL)
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
    """The largest image that is decoded, and what its numbers mean.

    Attributes:
        max_pixels: width × height in the header, at most ``PILLOW_MAX_PIXELS``.
        max_bytes: size of the file.
        white: value of white in pictures that do not say it: 16-bit grey that uses fewer bits,
            32-bit and floating-point grey. 0 is black. None: such pictures are refused.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 64 * 2**20
    white: float | None = None


@dataclass(frozen=True)
class Decoded:
    """An upright picture by rows: ``rgb`` with three bytes per pixel, or 16-bit grey with two.

    ``white``: of 16-bit grey, the value of white if the file says it, else 0.
    """

    width_px: int
    height_px: int
    kind: str
    data: bytes
    white: int = 0

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
        if _is_heif(data) and "HEIF" not in _formats():
            raise Undecodable("heic_not_installed") from error
        raise Undecodable("not_an_image", "no known image format") from error
    with image:
        _check_header(image, limits)
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return upright(image, data, limits)
        except DAMAGE as error:
            _reraise_own_error(error)
            raise Undecodable("truncated", _one_line(error)) from error


@cache
def _formats() -> tuple[str, ...]:
    """Return the ``FORMATS`` that are installed; Pillow may lack AVIF, WEBP or JPEG2000."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    with contextlib.suppress(ImportError):
        plugin = importlib.import_module("pillow_heif")
        # One thread: the pool has a process for each. Nothing but the picture itself is decoded.
        unused = {"thumbnails": False, "depth_images": False, "aux_images": False}
        plugin.register_heif_opener(decode_threads=1, **unused)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_heif(data: bytes) -> bool:
    """Return whether a file says in its first box that it is HEIC or HEIF."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    brands = {box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))}
    return bool(brands & _HEIF_BRANDS)


def _one_line(error: Exception) -> str:
    """Return what a library says, which may have several lines."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


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
        several = image.format not in _FIRST_TAKEN and bool(getattr(image, "is_animated", False))
    except DAMAGE as error:
        _reraise_own_error(error)
        raise Undecodable("truncated", _one_line(error)) from error
    if several:
        raise Undecodable("several_frames", str(image.format))


def upright(image: Image.Image, data: bytes = b"", limits: Limits = Limits()) -> Decoded:
    """Return a loaded picture's pixels, over white where it is transparent.

    Args:
        data: the file, for what Pillow does not say of it.

    Raises:
        Undecodable: pixels without a stated range or colours.
    """
    if image.format == "PPM" and image.mode == "I":  # Pillow scales maxval to 65535
        image = image.convert("I;16")
        return Decoded(
            *image.size, "<u2", image.tobytes(), 0 if _PPM_16.match(data) else FULL_WHITE
        )
    if image.mode in _SIXTEEN_BIT:
        if image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
            image = image.point(lambda value: value * -1 + FULL_WHITE)
        kind = str(image.__array_interface__["typestr"])
        return Decoded(*image.size, kind, image.tobytes(), _stated_white(image, data))
    if image.mode in ("I", "F"):
        return Decoded(*image.size, RGB, _scaled(image, limits.white).convert("RGB").tobytes())
    if image.mode == "LAB":
        raise Undecodable("unknown_colours", f"{image.format} in {image.mode}")
    if _is_deep(image, data) and (limits.white or 0) < FULL_WHITE:
        _refuse_dark_colour(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    elif image.mode not in _EIGHT_BIT:
        raise Undecodable("not_an_image", f"pixels of mode {image.mode}")
    return Decoded(*image.size, RGB, image.convert("RGB").tobytes())


def _stated_white(image: Image.Image, data: bytes) -> int:
    """Return what a 16-bit grey picture says is white, 0 if it does not say."""
    if image.format == "TIFF" and 8 < (bits := _tag(image, _BITS_PER_SAMPLE)) < 16:
        return 2**bits - 1
    if image.format != "PNG":
        return 0
    # PNG's samples are scaled to 16 bits whatever sBIT says. Only some writers leave them as they
    # were: then there are values that no scaling gives.
    found = _SIGNIFICANT_BITS.search(data[: data.find(b"IDAT")])
    bits = found[1][0] if found else 16
    if not 8 <= bits < 16 or int(image.getextrema()[1]) >= 2**bits:  # type: ignore[arg-type]
        return 0
    scaled = {n << 16 - bits for n in range(2**bits)}
    scaled |= {n << 16 - bits | n >> 2 * bits - 16 for n in range(2**bits)}
    return 0 if scaled.issuperset(memoryview(image.tobytes()).cast("H")) else 2**bits - 1


def _scaled(image: Image.Image, white: float | None) -> Image.Image:
    """Return floating-point or 32-bit grey as 8 bits; ``white`` of ``Limits``."""
    if white is None:
        raise Undecodable("unknown_range", f"{image.format} with pixels of mode {image.mode}")
    least, most = map(float, image.getextrema())  # type: ignore[arg-type]
    # The extremes pass NaN over; the mean does not.
    mean = image.convert("F").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    # Interpolation may overshoot a little. What goes further is of another range.
    if not -0.1 * white <= least <= most <= 1.1 * white or mean != mean:
        raise Undecodable("unknown_range", f"{least:g} to {most:g}, not 0 to {white:g}")
    return image.convert("F").point(lambda value: value * (255 / white) + 0.5).convert("L")


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Return whether a picture has 16 bits per channel, of which Pillow keeps the upper 8."""
    if image.format == "TIFF":
        return _tag(image, _BITS_PER_SAMPLE) == 16
    return image.format == "PNG" and data[24] == 16


def _refuse_dark_colour(image: Image.Image) -> None:
    colours = image.getbands()[: 3 if image.mode.startswith("RGB") else 1]
    peak = max(int(image.getchannel(name).getextrema()[1]) for name in colours)  # type: ignore[arg-type]
    if 0 < peak < LEAST_PEAK >> 8:
        raise Undecodable("unknown_range", f"16-bit colour, none above {peak} of 255")


def _tag(image: Image.Image, number: int) -> int:
    """Return the first value of a tag of a TIFF, -1 if it is not there."""
    value = image.tag_v2.get(number, -1)  # type: ignore[attr-defined]
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else -1


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
    size = {"width": found.width_px, "height": found.height_px}
    return {**size, "kind": found.kind, "white": found.white}


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
    limits = Limits(max_pixels, max_bytes, float(arguments[6]) or None)
    serve(limits, float(arguments[5]), memory_bytes, memory)


if __name__ == "__main__":
    main(sys.argv[1:])
