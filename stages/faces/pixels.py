"""Image files to pixels and back, for files from strangers.

Every image becomes upright RGB, uint8. Colour profiles are not applied: pixel values are taken as
sRGB, which is what the detectors and networks were trained on.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...pipeline.errors import SampleError

Pixels = NDArray[np.uint8]
ImageFormat = Literal["jpeg", "png"]

# Formats whose decoders are widely used and exercised. The rest of Pillow's four dozen (EPS, which
# starts Ghostscript; FITS; WMF …) are attack surface without photographs of faces behind it.
# Multi-picture JPEGs (MPO) come in through JPEG.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
# Pillow warns above this many pixels; staying below keeps its own alarm silent and ours decisive.
PILLOW_MAX_PIXELS: Final = 89_478_485
# OpenCV's warps index with 16 bits.
MAX_SIDE_PX: Final = 32_000

# What Pillow's decoders raise on damaged data. MemoryError is not among them: it is not the
# sample's fault alone and must stop the shard. The bytes are in memory: OSError is no disk error.
_DAMAGE = (
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
    struct.error,
    zlib.error,
)
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_EIGHT_BIT = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_JPEG_FULL_CHROMA: Final = 0  # Pillow's number for 4:4:4


@dataclass(frozen=True)
class Limits:
    """The largest image that is decoded.

    Attributes:
        max_pixels: width × height as the header tells, at most ``PILLOW_MAX_PIXELS``.
        max_bytes: size of the file.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 64 * 2**20


def decode(data: bytes, limits: Limits) -> Pixels:
    """Decode one still image.

    The header alone decides about size and number of frames, before memory for pixels is taken.
    EXIF orientation is applied. 16-bit grey keeps its brightest 8 bits (rounded); 16-bit colour
    arrives from Pillow with 8. Transparency is laid over white, as viewers show it. Of a
    multi-picture JPEG (MPO, two lenses or an embedded preview) the first picture is taken; any
    other file with several frames is refused, because which of them was meant is anyone's guess.

    Args:
        data: the whole file.
        limits: what is still accepted.

    Returns:
        (H, W, 3) uint8, RGB, upright, C-contiguous.

    Raises:
        SampleError: ``too_many_bytes``, ``too_many_pixels``, ``several_frames``,
            ``not_an_image`` (no known format, or pixels without a stated range), ``truncated``.
    """
    if len(data) > limits.max_bytes:
        raise SampleError("too_many_bytes", f"{len(data)} > {limits.max_bytes}")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SampleError("too_many_pixels", str(error)) from error
    except _DAMAGE as error:
        raise SampleError("not_an_image", "no known image format") from error
    with image:
        _check_header(image, limits)
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _as_rgb(image)
        except _DAMAGE as error:
            raise SampleError("truncated", f"{type(error).__name__}: {error}"[:200]) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this build of Pillow has; it may lack AVIF, WEBP or JPEG2000."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_header(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    most = min(limits.max_pixels, PILLOW_MAX_PIXELS)
    if width * height > most or max(width, height) > MAX_SIDE_PX:
        raise SampleError("too_many_pixels", f"{width} x {height}")
    try:
        # is_animated stops at the second frame, where n_frames would walk through all of them.
        several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except _DAMAGE as error:
        raise SampleError("truncated", f"{type(error).__name__}: {error}"[:200]) from error
    if several:
        raise SampleError("several_frames", str(image.format))


def _as_rgb(image: Image.Image) -> Pixels:
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion clips at 255 instead of scaling.
        grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    elif image.mode not in _EIGHT_BIT:
        raise SampleError("not_an_image", f"pixels of mode {image.mode} have no stated range")
    return np.ascontiguousarray(image.convert("RGB"), dtype=np.uint8)


def encode(pixels_rgb_u8: Pixels, image_format: ImageFormat, quality: int) -> bytes:
    """Encode an image; the same pixels give the same bytes under the same Pillow.

    Args:
        pixels_rgb_u8: (H, W, 3) uint8.
        image_format: ``jpeg`` keeps full chroma (4:4:4), lips and eyes are small; ``png`` is
            lossless.
        quality: JPEG quality 1–100; PNG ignores it.
    """
    image = Image.fromarray(pixels_rgb_u8)
    buffer = io.BytesIO()
    if image_format == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=_JPEG_FULL_CHROMA)
    else:
        # Level 1 is half the time of the default for 6 % more bytes (measured at 224 px).
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def measures(aligned_rgb_u8: Pixels) -> tuple[float, float]:
    """Sharpness and brightness of an aligned face.

    Both look at the middle three fifths of the square, which hold brows to mouth; borders and
    background do not count.

    Returns:
        sharpness: variance of the Laplacian of luma (0–255), Pech-Pacheco et al., ICPR 2000.
            Comparable between images of the same ``size_px`` only; enlarged faces score low.
        brightness: mean luma, 0–1.
    """
    size = aligned_rgb_u8.shape[0]
    first, last = size // 5, size - size // 5
    luma = cv2.cvtColor(aligned_rgb_u8[first:last, first:last], cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(luma, cv2.CV_32F).var()), float(luma.mean()) / 255
