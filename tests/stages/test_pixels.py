"""Files from strangers: every kind becomes upright RGB or a reason, and nothing else."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from normpipe.manifests.vocabularies import REASONS, SampleError
from normpipe.stages.faces import decoder
from normpipe.stages.faces.isolation import DecoderPool, ProcessLimits
from normpipe.stages.faces.pixels import Limits, decode, encode, quality_measures, to_pixels
from normpipe.stages.sources.fetching import read_source

LIMITS = Limits()


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Four quarters of different colour, so that no turn or flip looks like another."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 40)
    image[: height // 2, width // 2 :] = (30, 180, 60)
    image[height // 2 :, : width // 2] = (40, 60, 210)
    image[height // 2 :, width // 2 :] = (220, 220, 90)
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(SampleError) as caught:
        decode(data, limits)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    decoded = decode(saved(Image.fromarray(picture()), kind), LIMITS)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    assert np.array_equal(decoded, picture())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_keep_the_colour_order(kind: str) -> None:
    decoded = decode(saved(Image.fromarray(picture()), kind, quality=95), LIMITS)
    difference = np.abs(decoded[5:15, 5:25].astype(int) - picture()[5:15, 5:25])
    assert difference.max() < 12


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda up: up),
        (2, np.fliplr),
        (3, lambda up: np.rot90(up, 2)),
        (4, np.flipud),
        (5, lambda up: up.transpose(1, 0, 2)),
        (6, lambda up: np.rot90(up, 1)),
        (7, lambda up: np.rot90(up.transpose(1, 0, 2), 2)),
        (8, lambda up: np.rot90(up, -1)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_exif_orientation_is_made_upright(kind: str, orientation: int, stored: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored(picture())))
    decoded = decode(
        saved(image, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {})), LIMITS
    )
    assert decoded.shape == picture().shape
    for row, column in [(5, 5), (5, 50), (35, 5), (35, 50)]:
        assert np.abs(decoded[row, column].astype(int) - picture()[row, column]).max() < 8


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode(saved(Image.fromarray(ramp), "PNG"), LIMITS)
    assert np.array_equal(decoded[:, :, 0].ravel(), np.arange(256))
    assert np.array_equal(decoded[:, :, 0], decoded[:, :, 2])


def test_16_bit_colour_keeps_its_high_bytes() -> None:
    values = np.full((8, 8, 3), 0x80FF, ">u2")
    lines = b"".join(b"\x00" + row.tobytes() for row in values)
    data = png(8, 8, depth=16, colour=2, body=zlib.compress(lines))
    assert np.abs(decode(data, LIMITS).astype(int) - 0x80).max() <= 1


def png(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_cmyk_jpeg() -> None:
    decoded = decode(saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95), LIMITS)
    assert np.abs(decoded[10, 10].astype(int) - picture()[10, 10]).max() < 15


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    decoded = decode(saved(Image.fromarray(picture()).convert(mode), "PNG"), LIMITS)
    assert decoded.shape == (40, 60, 3)


def test_transparent_pixels_are_white_whatever_colour_hides_there() -> None:
    rgba = np.dstack([picture(), np.zeros((40, 60), np.uint8)])
    rgba[:20, :, 3] = 255
    decoded = decode(saved(Image.fromarray(rgba), "PNG"), LIMITS)
    assert np.array_equal(decoded[:20], picture()[:20])
    assert (decoded[20:] == 255).all()


def test_transparent_palette() -> None:
    paletted = Image.fromarray(picture()).quantize(8)
    data = saved(paletted, "PNG", transparency=paletted.getpixel((5, 5)))
    assert (decode(data, LIMITS)[5, 5] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    assert (
        reason(saved(frames[0], kind, save_all=True, append_images=frames[1:])) == "several_frames"
    )


def test_a_still_gif_is_fine() -> None:
    assert decode(saved(Image.fromarray(picture()), "GIF"), LIMITS).shape == (40, 60, 3)


def test_the_first_picture_of_a_multi_picture_jpeg_is_taken() -> None:
    second = Image.fromarray(255 - picture())
    data = saved(
        Image.fromarray(picture()), "MPO", save_all=True, append_images=[second], quality=95
    )
    assert np.abs(decode(data, LIMITS)[10, 10].astype(int) - picture()[10, 10]).max() < 15


@pytest.mark.parametrize(
    "data", [b"", b"not a picture at all\n" * 20, b"\xff\xd8\xff", b"%PDF-1.4"]
)
def test_other_files_are_no_images(data: bytes) -> None:
    assert reason(data) in {"not_an_image", "truncated"}


def test_postscript_is_not_even_looked_at() -> None:
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n"
    assert reason(data) == "not_an_image"


# What is white


def grey_ramp(white: int) -> np.ndarray:
    """16 x 16 values from black to white, no two alike."""
    return np.round(np.linspace(0, white, 256)).astype(np.uint16).reshape(16, 16)


def pgm(values: np.ndarray, maxval: int, plain: bool = False) -> bytes:
    head = f"P{2 if plain else 5}\n# a comment\n{values.shape[1]} {values.shape[0]}\n{maxval}\n"
    body = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    return head.encode() + body


def tiff(values: bytes, side: int, bits: int, photometric: int = 1) -> bytes:
    """A grey TIFF of one strip."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, side), (279, 4, len(values))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    tables = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + tables


def packed12(values: np.ndarray) -> bytes:
    a, b = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()


def png16(values: np.ndarray, bits: int | None) -> bytes:
    """A 16-bit grey PNG, its values as they are; ``bits`` for its sBIT chunk."""
    whole = saved(Image.fromarray(values), "PNG")
    if bits is None:
        return whole
    chunk = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return whole[:33] + chunk + whole[33:]


@pytest.mark.parametrize(
    "data",
    [
        pgm(grey_ramp(4095), 4095),
        pgm(grey_ramp(1023), 1023, plain=True),
        pgm(grey_ramp(65535), 65535),
        tiff(packed12(grey_ramp(4095)), 16, 12),
        tiff(grey_ramp(65535).tobytes(), 16, 16),
        tiff((65535 - grey_ramp(65535)).tobytes(), 16, 16, photometric=0),
        png16(grey_ramp(4095), 12),
        png16(grey_ramp(1023), 10),
        png16(grey_ramp(65535) >> 4 << 4, 12),  # as PNG wants it: scaled
        png16(grey_ramp(65535), 16),
    ],
)
def test_grey_of_more_than_8_bits_is_as_bright_as_its_file_says(data: bytes) -> None:
    for white in (None, 4095):  # what the file says counts
        ramp = decode(data, Limits(white=white))[:, :, 0].ravel().astype(int)
        assert np.abs(ramp - np.arange(256)).max() <= 1


def test_a_dark_png_that_is_scaled_as_it_should_be_keeps_its_values() -> None:
    dark = (grey_ramp(4095) >> 4) << 4  # 12 bits, scaled, and none is bright
    assert reason(png16(dark, 12)) == "unknown_range"
    found = decode(png16(dark, 12), Limits(white=65535))[:, :, 0]
    assert np.array_equal(found, (dark.astype(int) * 255 + 32767) // 65535)


def test_16_bits_of_which_12_are_used_are_refused_or_scaled_when_asked() -> None:
    for data in (png16(grey_ramp(4095), None), tiff(grey_ramp(4095).tobytes(), 16, 16)):
        assert reason(data) == "unknown_range"
        asked = decode(data, Limits(white=4095))[:, :, 0].ravel()
        assert np.array_equal(asked, np.arange(256))
        assert decode(data, Limits(white=65535)).max() == 16
    # One value above white: all 16 bits are used after all.
    bright = grey_ramp(4095)
    bright[0, 0] = 4096
    plain = decode(png16(bright, None), LIMITS)
    assert plain.max() == 16 and np.array_equal(
        plain, decode(png16(bright, None), Limits(white=4095))
    )
    assert decode(png16(grey_ramp(4095) * 0, None), LIMITS).max() == 0  # black is black


def test_dark_16_bit_colour_is_refused_for_its_lower_bits_are_gone() -> None:
    values = np.repeat(grey_ramp(4095)[:, :, None], 3, 2).astype(">u2")
    lines = b"".join(b"\x00" + row.tobytes() for row in values)
    data = png(16, 16, depth=16, colour=2, body=zlib.compress(lines))
    assert reason(data) == "unknown_range" == reason(data, Limits(white=4095))
    assert decode(data, Limits(white=65535)).max() == 15


def test_floating_point_needs_a_white() -> None:
    ramp = (np.arange(256) / 255).astype(np.float32).reshape(16, 16)
    data = saved(Image.fromarray(ramp), "TIFF")
    assert reason(data) == "unknown_range" == reason(data, Limits(white=0.5))
    assert np.array_equal(decode(data, Limits(white=1.0))[:, :, 0].ravel(), np.arange(256))
    for bad in (np.nan, -1.0, np.inf):
        ramp[3, 3] = bad
        assert reason(saved(Image.fromarray(ramp), "TIFF"), Limits(white=1.0)) == "unknown_range"
    whole = saved(Image.fromarray((np.arange(256) * 1000).astype(np.int32).reshape(16, 16)), "TIFF")
    assert reason(whole) == "unknown_range"
    found = decode(whole, Limits(white=255_000.0))[:, :, 0].ravel()
    assert np.array_equal(found, np.arange(256))


def test_lab_says_so() -> None:
    assert reason(saved(Image.new("LAB", (8, 8)), "TIFF")) == "unknown_colours"


# HEIC

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_heic_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = tuple(name for name in decoder.FORMATS if name != "HEIF")
    monkeypatch.setattr(decoder, "_formats", lambda: formats)
    assert reason(HEIC_HEAD) == "heic_not_installed"
    assert "pip install pillow-heif" in REASONS["heic_not_installed"][1]
    assert reason(HEIC_HEAD.replace(b"heic", b"isom").replace(b"mif1", b"isom")) == "not_an_image"


@pytest.mark.parametrize("isolated", [False, True])
def test_heic_is_read_as_viewers_show_it(isolated: bool) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    side = Image.fromarray(np.ascontiguousarray(np.rot90(picture())))
    side.getexif()[0x0112] = 6  # stored on its side
    data = saved(side, "HEIF", quality=95)
    assert b"irot" in data
    two = heif.from_pillow(Image.fromarray(picture()))
    two.add_from_pillow(Image.fromarray(255 - picture()))
    buffer = io.BytesIO()
    two.save(buffer, quality=95, primary_index=0)
    pool = DecoderPool(LIMITS, ProcessLimits())
    try:
        for whole in (data, buffer.getvalue()):
            found = to_pixels(pool.decode(whole)) if isolated else decode(whole, LIMITS)
            assert found.shape == picture().shape
            for row, column in [(5, 5), (5, 50), (35, 5), (35, 50)]:
                assert np.abs(found[row, column].astype(int) - picture()[row, column]).max() < 20
    finally:
        pool.close()
    assert reason(data, Limits(max_pixels=1000)) == "too_many_pixels"
    assert reason(data[: len(data) // 2]) in {"truncated", "not_an_image"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_say_so(kind: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), kind)
    assert reason(data[: int(len(data) * share)]) in {"truncated", "not_an_image"}


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that claim gigapixels: nothing may be decoded to find out."""

    def never(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert reason(png(100_000, 100_000)) == "too_many_pixels"
    assert reason(png(9_000, 9_000)) == "too_many_pixels"
    assert reason(png(33_000, 10)) == "too_many_pixels"
    assert reason(png(101, 100), Limits(max_pixels=10_000)) == "too_many_pixels"


def test_bytes_are_limited() -> None:
    data = saved(Image.fromarray(picture()), "PNG")
    assert reason(data, Limits(max_bytes=len(data) - 1)) == "too_many_bytes"


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damage_is_a_reason_or_pixels_and_never_another_error(data: Any, kind: str) -> None:
    whole = bytearray(saved(Image.fromarray(picture()), kind))
    flips = data.draw(st.lists(st.integers(0, len(whole) * 8 - 1), min_size=1, max_size=8))
    for flip in flips:
        whole[flip // 8] ^= 1 << flip % 8
    try:
        decoded = decode(bytes(whole), Limits(max_pixels=1_000_000))
    except SampleError:
        return
    assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3


def test_memory_trouble_is_not_blamed_on_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(MemoryError):
        decode(saved(Image.fromarray(picture()), "PNG"), LIMITS)


def test_png_round_trip_and_stable_bytes() -> None:
    assert np.array_equal(decode(encode(picture(), "png", 95), LIMITS), picture())
    for kind in ("png", "jpeg"):
        assert encode(picture(), kind, 90) == encode(picture().copy(), kind, 90)


def test_jpeg_quality_is_heard_and_chroma_kept() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(encode(noise, "jpeg", 50)) < len(encode(noise, "jpeg", 95)) / 2
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (255, 0, 0), (0, 0, 255)
    decoded = decode(encode(stripes, "jpeg", 95), LIMITS).astype(int)
    assert np.abs(decoded - stripes).mean() < 10


def test_measures_see_blur_and_light_and_no_border() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (224, 224, 3), np.uint8)
    flat = np.full_like(noise, 128)
    assert quality_measures(noise)[0] > 1000 > quality_measures(flat)[0] == 0
    assert quality_measures(flat)[1] == pytest.approx(128 / 255, abs=1e-3)
    framed = flat.copy()
    framed[:30] = framed[:, :30] = 0
    assert quality_measures(framed) == quality_measures(flat)


# Reading


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"12345")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return (tmp_path / "in").resolve()


def why(root: Path, relative: str, limit: int = 1000, **seen: int) -> str:
    with pytest.raises(SampleError) as caught:
        read_source(root, relative, limit, **seen)
    return caught.value.reason


def test_a_file_is_read(root: Path) -> None:
    status = (root / "a.jpg").stat()
    seen = {"size_bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    assert read_source(root, "a.jpg", 1000, **seen) == b"12345"


def test_what_is_no_readable_file(root: Path) -> None:
    (root / "folder.jpg").mkdir()
    (root / "empty.jpg").touch()
    os.mkfifo(root / "pipe.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    assert why(root, "gone.jpg") == "missing_file"
    assert why(root, "a.jpg/b.jpg") == "missing_file"
    assert why(root, "null\0byte.jpg") == "missing_file"
    assert why(root, "n" * 300 + ".jpg") == "missing_file"
    assert why(root, "folder.jpg") == "not_a_file"
    assert why(root, "pipe.jpg") == "not_a_file"
    assert why(root, "loop.jpg") == "unreadable"
    assert why(root, "empty.jpg") == "empty_file"
    assert why(root, "a.jpg", 4) == "too_many_bytes"


def test_nothing_outside_the_root_is_read(root: Path) -> None:
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "up").symlink_to(root.parent)
    for path in ("link.jpg", "up/secret.jpg", "../secret.jpg", str(root.parent / "secret.jpg")):
        assert why(root, path) == "outside_root"
    (root / "inside.jpg").symlink_to("a.jpg")
    assert read_source(root, "inside.jpg", 1000) == b"12345"


def test_a_changed_file_is_noticed(root: Path) -> None:
    status = (root / "a.jpg").stat()
    assert (
        why(root, "a.jpg", size_bytes=6, modified_ns=status.st_mtime_ns) == "changed_since_ingest"
    )
    assert why(root, "a.jpg", size_bytes=5, modified_ns=1) == "changed_since_ingest"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_unreadable(root: Path) -> None:
    (root / "a.jpg").chmod(0)
    assert why(root, "a.jpg") == "unreadable"


def test_a_failing_disk_is_not_the_file_s_fault(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.open", broken)
    with pytest.raises(OSError, match="Input/output"):
        read_source(root, "a.jpg", 1000)
