"""Frames of videos: numbered, decoded, and failed one by one, whatever the file."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.errors import InputError
from normpipe.stages.faces.isolation import ProcessLimits
from normpipe.stages.faces.pixels import Limits
from normpipe.stages.videos import frame_process
from normpipe.stages.videos.frame_process import COMMAND, Decoding, OpenVideo, VideoPool

from .filming import KINDS, digest, film, kind_of_film, packets, pattern, straight


@pytest.fixture
def pool() -> Iterator[VideoPool]:
    made = VideoPool(Decoding())
    yield made
    made.close()


def opened(path: Path, pool: VideoPool, most: int = 10_000) -> OpenVideo:
    return OpenVideo(pool, os.open(path, os.O_RDONLY), most, count_all=True)


def pixels(video: OpenVideo, number: int) -> np.ndarray:
    found = video.frame(number)
    return np.frombuffer(found.data, np.uint8).reshape(found.height_px, found.width_px, 3)


def outcome(video: OpenVideo, number: int) -> str:
    try:
        return digest(pixels(video, number))
    except SampleError as error:
        return error.reason


def refusal(path: Path, pool: VideoPool, most: int = 10_000) -> str:
    with pytest.raises(SampleError) as caught:
        opened(path, pool, most)
    return caught.value.reason


def test_frames_are_those_of_a_straight_decode_in_whatever_order(
    tmp_path: Path, pool: VideoPool
) -> None:
    here, rng = VideoPool(Decoding(isolate=False)), random.Random(1)
    for kind in KINDS:
        path = kind_of_film(tmp_path, kind)
        expected = straight(path)
        assert len(set(expected)) == len(expected) == 80, kind
        video = opened(path, pool)
        assert len(video.table.times) == 80 and not video.table.tail, kind
        assert np.allclose(video.table.times, np.arange(80) / 25, atol=0.002), kind
        assert [outcome(video, number) for number in range(80)] == expected, kind
        video.close()
        video = opened(path, here)
        for number in (77, 70, 3, *rng.sample(range(80), 4)):
            assert outcome(video, number) == expected[number], (kind, number)
        assert outcome(video, 80) == "missing_frame"
        video.close()
    assert len(pool._idle) == 1  # one process read them all


def test_numbers_are_in_the_order_of_showing(tmp_path: Path, pool: VideoPool) -> None:
    greys = [np.full((48, 64, 3), 20 + 15 * number, np.uint8) for number in range(12)]
    for suffix, codec, options in KINDS.values():
        video = opened(film(tmp_path / f"{codec}{suffix}", greys, codec, options), pool)
        for number in range(12):
            assert abs(pixels(video, number).mean() - (20 + 15 * number)) < 7, codec
        video.close()


def test_a_turned_video_is_upright(tmp_path: Path, pool: VideoPool) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255  # white in the upper left
    for degrees, corner in ((0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))):
        path = film(
            tmp_path / f"{degrees}.mp4",
            [picture] * 3,
            prepare=lambda stream, turn=degrees: stream.set_display_rotation(turn),
        )
        video = opened(path, pool)
        found = pixels(video, 1)
        assert found.shape[:2] == ((32, 64) if degrees % 180 == 0 else (64, 32))
        assert found[corner].min() > 200 and found.mean() < 100, degrees
        video.close()


def test_pixels_are_made_square(tmp_path: Path, pool: VideoPool) -> None:
    path = film(tmp_path / "wide.mp4", 3, options={"x264-params": "sar=2/1"})
    video = opened(path, pool)
    assert pixels(video, 0).shape == (48, 128, 3)
    video.close()


def test_odd_sizes_single_frames_and_uneven_times(tmp_path: Path, pool: VideoPool) -> None:
    odd = film(tmp_path / "odd.avi", [pattern(9, 51, 37)], "mjpeg")
    video = opened(odd, pool)
    assert pixels(video, 0).shape == (37, 51, 3) and list(video.table.times) == [0.0]
    video.close()
    uneven = film(tmp_path / "uneven.mkv", 9, times=lambda number: number * number)
    video = opened(uneven, pool)
    assert np.allclose(video.table.times, np.arange(9) ** 2 / 25, atol=0.002)
    assert [outcome(video, n) for n in (8, 0, 4)] == [straight(uneven)[n] for n in (8, 0, 4)]
    video.close()


def test_what_is_no_video_has_one_reason(tmp_path: Path, pool: VideoPool) -> None:
    whole = film(tmp_path / "whole.mp4", 20).read_bytes()
    files = {
        "text.mp4": (b"a text" * 100, "not_a_video"),
        "list.mp4": (b"ffconcat version 1.0\nfile whole.mp4\n", "not_a_video"),
        "hls.mp4": (b"#EXTM3U\n#EXTINF:1,\nwhole.mp4\n", "not_a_video"),
        "cut.mp4": (whole[: len(whole) * 2 // 3], "truncated"),
        "cut.mkv": (b"\x1a\x45\xdf\xa3" + bytes(9), "truncated"),
        "noise.avi": (random.Random(2).randbytes(5000), "not_a_video"),
    }
    for name, (data, reason) in files.items():
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name, pool) == reason, name
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*sound.encode(frame), *sound.encode()])
    assert refusal(tmp_path / "sound.mp4", pool) == "not_a_video"
    assert refusal(tmp_path / "whole.mp4", pool, most=19) == "too_many_frames"
    small = VideoPool(Decoding(Limits(max_pixels=1000)))
    assert refusal(tmp_path / "whole.mp4", small) == "too_many_pixels"
    small.close()


def test_a_video_cut_short_keeps_what_is_there(tmp_path: Path, pool: VideoPool) -> None:
    path = film(tmp_path / "a.mp4", 60, options={"bf": "0"}, muxing={"movflags": "faststart"})
    place, _ = packets(path)[40]
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:place])
    video = opened(tmp_path / "cut.mp4", pool)
    assert len(video.table.times) == 40 and video.table.tail == "truncated"
    assert [outcome(video, n) for n in (0, 39)] == [straight(path)[n] for n in (0, 39)]
    assert outcome(video, 40) == "truncated"
    video.close()


@pytest.mark.parametrize("kind", ["open groups", "no times, old", "web", "keyframes alone"])
def test_a_file_that_is_shorter_than_it_says_ends_early(
    tmp_path: Path, pool: VideoPool, kind: str
) -> None:
    """FFmpeg is silent about it. What is shown as a frame is that frame, none that came after."""
    whole = kind_of_film(tmp_path, kind, 40)
    expected, data = straight(whole), whole.read_bytes()
    cut = tmp_path / f"cut{whole.suffix}"
    for share in (0.83, 0.7):
        cut.write_bytes(data[: int(len(data) * share)])
        video = opened(cut, pool)
        frames = len(video.table.times)
        assert video.table.tail == "truncated" and 0 < frames < 40, (kind, share)
        seen = [outcome(video, number) for number in range(frames)]
        good = [expected[n] if one != "bad_frame" else one for n, one in enumerate(seen)]
        assert seen == good and seen.count("bad_frame") <= 1, (kind, share)
        assert outcome(video, frames) == "truncated"
        video.close()
    # A file that was never finished, or streamed, says nothing; more than it says is no loss.
    cut.write_bytes(data + bytes(2000))
    assert not opened(cut, pool).table.tail


def test_a_header_that_lies_about_the_number_of_frames(tmp_path: Path, pool: VideoPool) -> None:
    path = film(tmp_path / "a.avi", 12, "mjpeg")
    data = bytearray(path.read_bytes())
    header = data.index(b"avih") + 8
    data[header + 16 : header + 20] = (999).to_bytes(4, "little")  # frames in the main header
    data[data.index(b"strh") + 8 + 32 :][:4] = (999).to_bytes(4, "little")
    stream = data.index(b"strh") + 8 + 32
    data[stream : stream + 4] = (999).to_bytes(4, "little")
    path.write_bytes(data)
    video = opened(path, pool)
    assert len(video.table.times) == 12 and outcome(video, 11) != "bad_frame"
    video.close()


def test_damage_fails_the_frames_that_it_reaches(tmp_path: Path, pool: VideoPool) -> None:
    path = film(tmp_path / "a.mp4", 40, options={"bf": "0"})
    expected, data = straight(path), bytearray(path.read_bytes())
    place, size = packets(path)[13]
    data[place : place + 4] = (2**31 - 1).to_bytes(4, "big")  # the length of what follows
    path.write_bytes(data)
    video = opened(path, pool)
    found = [outcome(video, number) for number in range(40)]
    bad = set(range(13, 20))  # up to the next keyframe
    assert {number for number in range(40) if found[number] == "bad_frame"} == bad
    assert all(found[n] == expected[n] for n in range(40) if n not in bad)
    assert [outcome(video, n) for n in (25, 15, 14)] == [expected[25], "bad_frame", "bad_frame"]
    video.close()
    single = film(tmp_path / "a.mov", 9, "mjpeg")
    data, (place, size) = bytearray(single.read_bytes()), packets(single)[4]
    expected = straight(single)
    data[place + size // 2 : place + size] = bytes(size - size // 2)
    single.write_bytes(data)
    video = opened(single, pool)
    found = [outcome(video, number) for number in range(9)]
    assert found == [*expected[:4], "bad_frame", *expected[5:]]
    video.close()


HOSTILE = """
import os, sys, time
import decoding.videos.films as films, decoding.videos.frame_server as server
plain = films.Film._decoded
def hostile(self, packet):
    if packet is not None and packet.pts == BAD:
        ACTION
    return plain(self, packet)
films.Film._decoded = hostile
server.main(sys.argv[1:])
"""


def hostile(bad_pts: int, action: str, seconds: float = 2.0) -> VideoPool:
    start = COMMAND[3].partition("from decoding")[0]
    body = HOSTILE.replace("BAD", str(bad_pts)).replace("ACTION", action)
    command = (*COMMAND[:3], f"{start}\n{body}", COMMAND[4])
    return VideoPool(Decoding(bounds=ProcessLimits(seconds), command=command))


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("os._exit(1)", "decoder_died"),
        ("time.sleep(60)", "decode_timeout"),
        ("open('/proc/self/status')", "decoder_died"),
        ("server.send_answer({'width': 9**9, 'height': 1, 'kind': 'rgb'})", "decoder_died"),
        ("server.send_answer({'errno': 5})", "decoder_died"),
        ("bytearray(2**40)", "decode_memory"),
    ],
)
def test_a_decoder_that_hangs_or_dies_costs_the_frames_that_need_it(
    tmp_path: Path, action: str, reason: str
) -> None:
    path = film(tmp_path / "a.mkv", 80, options={"bf": "0"})
    expected, pool = straight(path), hostile(75 * 40, action)
    video = opened(path, pool)
    assert outcome(video, 74) == expected[74]
    assert outcome(video, 75) == reason
    if reason != "decode_memory":
        assert [outcome(video, n) for n in (76, 79)] == [reason] * 2  # without another try
    assert [outcome(video, n) for n in (5, 63)] == [expected[5], expected[63]]
    video.close()
    pool.close()


def test_without_pyav_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: VideoPool
) -> None:
    path = film(tmp_path / "a.mp4", 2)
    monkeypatch.setattr(frame_process, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"normpipe\[video\]\".*ingest.videos=false"):
        opened(path, pool)


def test_animations_are_read_as_pictures_of_their_formats_are(
    tmp_path: Path, pool: VideoPool
) -> None:
    frames = [Image.new("RGB", (20, 10), (number * 50, 9, 9)) for number in range(4)]
    for suffix in ("gif", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, **options)
        video = opened(path, pool)
        assert list(video.table.times) == pytest.approx([0, 0.2, 0.4, 0.6]), suffix
        for number in (0, 1, 3, 2, 0):
            assert pixels(video, number)[5, 5, 0] == number * 50, suffix
        video.close()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 4)
    (tmp_path / "b.mp4").write_bytes(b"text")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for isolate in (True, False):
        pool = VideoPool(Decoding(isolate=isolate))
        opened(path, pool).close()
        refusal(tmp_path / "b.mp4", pool)
        pool.close()
        del pool
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
