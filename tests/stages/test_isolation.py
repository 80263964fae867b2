"""Decoding in processes of their own: what hangs, dies or lies takes down nothing else."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.errors import NormpipeError
from normpipe.stages.faces import isolation
from normpipe.stages.faces.isolation import DecoderPool, ProcessLimits
from normpipe.stages.faces.pixels import Limits, decode, to_pixels

from ..corpus import ODD, SPOILT, SWELLING, saved, with_chunk

SAMPLES = Path(__file__).parent.parent.parent / "stages/samples"
PHOTOGRAPH = (SAMPLES / "person01_happiness.jpg").read_bytes()
HOSTILE = (sys.executable, "-P", str(Path(__file__).with_name("hostile_decoder.py")))
LIMITS = Limits(max_bytes=2**20)


@pytest.fixture
def decoders() -> Iterator[DecoderPool]:
    made = DecoderPool(LIMITS, ProcessLimits())
    yield made
    made.close()


@pytest.fixture
def hostile() -> Iterator[DecoderPool]:
    made = DecoderPool(LIMITS, ProcessLimits(seconds=0.5, memory_bytes=256 * 2**20), HOSTILE)
    yield made
    made.close()


def outcome(call: object) -> object:
    try:
        return call().tobytes()  # type: ignore[operator]
    except SampleError as error:
        return error.reason


def pids(made: DecoderPool) -> list[int]:
    return [decoder._process.pid for decoder in made._idle]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_the_same_pixels_and_reasons_as_in_place(decoders: DecoderPool) -> None:
    """Over every way of the corpus: what a process may not load any more would show here."""
    rng = random.Random(5)
    ways = [way for way in (*ODD, *SPOILT) if way.spoil is not None]
    files = [way.spoil(PHOTOGRAPH, rng) for way in ways if way.spoil is not None]
    names = [way.name for way in ways]
    for kind in ("AVIF", "JPEG2000", "PPM", "TIFF", "PNG"):
        with contextlib.suppress(KeyError):  # a build of Pillow without it
            files.append(saved(Image.open(SAMPLES / "no_face.jpg"), kind))
            names.append(kind)
    big_endian = Image.fromarray(np.arange(64, dtype=">u2").reshape(8, 8) * 1000)
    files.append(saved(big_endian, "TIFF"))
    names.append("big-endian 16 bits")
    for name, data in zip(names, files, strict=True):
        here = outcome(lambda data=data: decode(data, LIMITS))
        there = outcome(lambda data=data: to_pixels(decoders.decode(data)))
        assert here == there, name
    assert len(pids(decoders)) == 1


@pytest.mark.parametrize("chunk", SWELLING)
def test_what_swells_in_a_chunk_takes_no_memory(chunk: str) -> None:
    made = DecoderPool(LIMITS, ProcessLimits(memory_bytes=128 * 2**20))
    made.start()
    (process,) = pids(made)
    found = outcome(lambda: to_pixels(made.decode(with_chunk(PHOTOGRAPH, SWELLING[chunk]))))
    assert isinstance(found, bytes) or found in ("not_an_image", "truncated")
    assert pids(made) == [process]
    peak = Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) < 150_000  # kB; each chunk holds 256 MB
    made.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HANG", "decode_timeout"),
        (b"DIE", "decoder_died"),
        (b"LEAVE", "decoder_died"),
        (b"EAT", "decode_memory"),
        (b"OPEN", "decoder_died"),
        (b"SOCKET", "decoder_died"),
        (b"LIE size", "decoder_died"),
        (b"LIE negative", "decoder_died"),
        (b"LIE kind", "decoder_died"),
        (b"LIE reason", "decoder_died"),
        (b"LIE json", "decoder_died"),
        (b"LIE list", "decoder_died"),
        (b"LIE flood", "decoder_died"),
    ],
)
def test_a_hostile_file_costs_itself_alone(hostile: DecoderPool, data: bytes, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        hostile.decode(data)
    assert caught.value.reason == reason
    assert np.array_equal(to_pixels(hostile.decode(PHOTOGRAPH)), decode(PHOTOGRAPH, LIMITS))


def test_a_file_is_tried_again_where_the_machine_was_at_fault(
    hostile: DecoderPool, tmp_path: Path
) -> None:
    marker = tmp_path / "once"
    marker.mkdir()
    with pytest.raises(SampleError) as caught:
        hostile.decode(b"ONCE " + str(marker).encode())
    assert (caught.value.reason, caught.value.detail) == ("truncated", "the second time")


def test_neighbours_do_not_wait_for_what_hangs(hostile: DecoderPool) -> None:
    with ThreadPoolExecutor(3) as pool:
        hostile.start()
        hung = pool.submit(hostile.decode, b"HANG")
        other = [pool.submit(hostile.decode, PHOTOGRAPH) for _ in range(4)]
        for one in other:
            assert one.result(timeout=20).kind == "rgb"
        with pytest.raises(SampleError):
            hung.result(timeout=20)


def test_real_pictures_meet_the_limits(tmp_path: Path) -> None:
    large = saved(Image.new("L", (6000, 6000), 90), "PNG", compress_level=1)
    narrow = DecoderPool(LIMITS, ProcessLimits(memory_bytes=100 * 2**20))
    with pytest.raises(SampleError) as caught:
        narrow.decode(large)
    assert caught.value.reason == "decode_memory"
    hasty = DecoderPool(LIMITS, ProcessLimits(seconds=0.01))
    with pytest.raises(SampleError) as caught:
        hasty.decode(large)
    assert caught.value.reason == "decode_timeout"
    with pytest.raises(SampleError) as caught:
        narrow.decode(bytes(2**20 + 1))
    assert caught.value.reason == "too_many_bytes"


def test_a_large_picture_s_memory_is_given_back(decoders: DecoderPool) -> None:
    data = saved(Image.new("RGB", (3000, 3000), "red"), "PNG", compress_level=1)
    assert decoders.decode(data).data[:3] == b"\xff\0\0"
    (decoder,) = decoders._idle
    assert os.fstat(decoder._file).st_blocks * 512 < 2**20
    assert np.array_equal(to_pixels(decoders.decode(PHOTOGRAPH)), decode(PHOTOGRAPH, LIMITS))


def test_processes_are_as_many_as_callers_and_end_with_close(decoders: DecoderPool) -> None:
    barrier = threading.Barrier(2)

    def one() -> None:
        barrier.wait()
        decoders.decode(PHOTOGRAPH)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one) for _ in range(2)]:
            done.result()
    started = pids(decoders)
    assert 1 <= len(started) <= 2
    for pid in started:  # a batch system's signals go to all processes of a job
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    decoders.decode(PHOTOGRAPH)
    assert set(pids(decoders)) == set(started)
    decoders.close()
    assert not any(alive(pid) for pid in started)


def test_processes_end_with_their_parent_however_it_ends() -> None:
    code = f"""if True:
        import threading, time
        from normpipe.stages.faces.isolation import ProcessLimits, DecoderPool, Limits
        made = DecoderPool(Limits(max_bytes=2**20), ProcessLimits(seconds=0.5), {HOSTILE!r})
        idle = made._take()
        made.start()
        busy = made._idle[0]._process.pid
        threading.Thread(target=made.decode, args=(b"HANG",), daemon=True).start()
        time.sleep(0.1)
        print(idle._process.pid, busy, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    idle, busy = map(int, parent.stdout.readline().split())
    assert alive(idle) and alive(busy)
    parent.kill()
    parent.wait()
    assert gone(idle, 5)
    assert gone(busy, 0.5 + isolation._SLACK_SECONDS + 5)


def test_a_process_that_does_not_start_says_what_to_do() -> None:
    made = DecoderPool(LIMITS, ProcessLimits(), (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(NormpipeError, match=r"does not start .*align\.isolate=false"):
        made.start()
