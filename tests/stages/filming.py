"""Makes small videos, and decodes them straight through, for tests."""

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from normpipe.stages.videos.films import _CONVERSION

#: Ending and codec of videos that come out of the decoder in every order that there is.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "reordered": (".mp4", "libx264", {"bf": "2", "preset": "ultrafast"}),
    "open groups": (".mkv", "libx264", {"x264-params": "open-gop=1:bframes=3:keyint=10"}),
    "no times": (".avi", "libx264", {"bf": "2", "preset": "ultrafast"}),
    "no times, old": (".avi", "mpeg4", {"bf": "2"}),
    "keyframes alone": (".avi", "mjpeg", {}),
    "streamed": (".ts", "mpeg2video", {"bf": "2"}),
    "web": (".webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}


def pattern(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture that tells its number: by its grey, and by where its bar is."""
    picture = np.full((height, width, 3), 40 + number % 170, np.uint8)
    picture[:, (number * 3) % (width - 4) :][:, :4] = (200, 30, 30)
    return picture


def film(
    path: Path,
    pictures: int | Sequence[np.ndarray] = 80,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    times: Callable[[int], int] = lambda number: number,
    muxing: dict[str, str] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> Path:
    """Write pictures at 25 per second; ``times``: number → place in 25ths of a second."""
    if isinstance(pictures, int):
        pictures = [pattern(number) for number in range(pictures)]
    height, width = pictures[0].shape[:2]
    kind = "mpegts" if path.suffix == ".ts" else None
    with av.open(str(path), "w", format=kind, options=muxing or {}) as container:
        stream: Any = container.add_stream(
            codec, rate=25, options={"g": "10", "sc_threshold": "0", **(options or {})}
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        prepare(stream)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times(number), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def kind_of_film(root: Path, kind: str, pictures: int = 80) -> Path:
    suffix, codec, options = KINDS[kind]
    return film(root / f"{kind}{suffix}".replace(" ", "_"), pictures, codec, options)


def straight(path: Path) -> list[str]:
    """The digest of each frame, decoded from the first to the last by PyAV alone."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = container.decode(container.streams.video[0])
        return [
            digest(frame.to_ndarray(format="rgb24", interpolation=_CONVERSION)) for frame in frames
        ]


def digest(pixels: np.ndarray) -> str:
    """What align writes as ``source_sha256`` of a frame."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def packets(path: Path) -> list[tuple[int, int]]:
    """Place and size in the file of each packet of pictures, in the order of the file."""
    with av.open(str(path)) as container:
        found = container.demux(container.streams.video[0])
        return [(packet.pos or 0, packet.size) for packet in found if packet.size]
