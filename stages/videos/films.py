"""Videos that FFmpeg reads, through PyAV. ``frame_server.py`` runs this where it can be killed.

Frames are numbered from 0 in the order in which they are shown. The packets that can be read count,
never the number in a header. Where each packet has a time of its own, a frame's number is the
place of its time among all of them, and decoding may begin at some keyframes, the *starts*. These
are a property of the file alone, and the decoder is emptied at each of them, so what a frame looks
like never depends on which frames were asked for before. Where packets have no reliable times
(most AVI files), frames are counted from the beginning.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, count, islice
from typing import Any, Final, NamedTuple

import av
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from ..faces.decoder import DAMAGE, RGB, Decoded, Limits, Undecodable, check_size
from .file_length import ends_early
from .frame_file import FrameFile

#: Containers that hold videos of people. Others (playlists, image sequences, devices …) are attack
#: surface, and some of them open further files.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,h264,hevc,m4v,dv"
)
#: How files of these kinds begin: if such a file cannot be opened, a part of it is missing.
_BEGINNINGS: Final = (b"\x1a\x45\xdf\xa3", b"RIFF", b"OggS", b"\x30\x26\xb2\x75", b"FLV")
_ATOMS: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
#: Least number of frames between two starts.
_START_FRAMES: Final = 64
#: Packets that are passed over in one step.
_PASSED_AT_ONCE: Final = 1024
#: Errors in a row after which the rest of a file counts as unreadable.
_MOST_ERRORS: Final = 16
#: What PyAV raises on damaged data. A MemoryError may not be the video's fault.
_ERRORS: Final = (FFmpegError, *DAMAGE)
#: Bit of a VP8 packet's first byte: the frame is shown.
_VP8_SHOWN: Final = 0x10
#: Codecs whose decoder tells of damage only when asked.
_STRICT: Final = frozenset({"mjpeg"})
_TURNS: Final = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
#: The conversion of colours that gives the same bytes on every processor.
_CONVERSION: Final = int(
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
)


class _Shown(NamedTuple):
    """What the decoder showed: a frame, or None where it is damaged."""

    number: int
    frame: Any


class _Segment(NamedTuple):
    """Frames from ``lower`` to ``upper`` (exclusive): decode packets ``first`` to ``last``."""

    first: int
    last: int
    lower: int
    upper: int


class Film:
    """A video; see ``Clip``."""

    def __init__(self, file: FrameFile, limits: Limits, count_all: bool) -> None:
        """Open a video.

        ``count_all``: ``times`` is wanted, even if all must be decoded for it.
        Raises Undecodable.
        """
        self.times: list[float] = []
        self.tail = "truncated" if ends_early(file) else ""
        self._file, self._limits, self._count_all = file, limits, count_all
        self._segments: list[_Segment] = []
        self._number: dict[int, int] = {}
        self._wanted, self._latest = 0, -1
        self._convert: Any = VideoReformatter().reformat
        self._open()
        self._work = self._scan()

    def _open(self) -> None:
        """Open the file, or open it again to begin anew."""
        options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
        try:
            self._container: Any = av.open(
                self._file.stream(), "r", options=options, metadata_errors="ignore"
            )
        except MemoryError:
            raise
        except _ERRORS as error:
            self._file.check()
            raise Undecodable(self._why_not(), str(error)[:200]) from error
        covers = Disposition.attached_pic
        streams = [
            one
            for one in self._container.streams.video
            if not one.disposition & covers and one.codec_context is not None
        ]
        if not streams:
            sound = bool(self._container.streams.audio)
            raise Undecodable("not_a_video" if sound else self._why_not(), "no pictures in it")
        self._stream: Any = streams[0]
        self._context: Any = streams[0].codec_context
        check_size((self._context.width, self._context.height), self._limits)
        # One thread: damage is told with the packet that has it. More threads need more videos.
        self._context.thread_count = 1
        strict = {"err_detect": "explode"} if self._context.name in _STRICT else {}
        most = {"max_pixels": str(self._limits.max_pixels)}
        self._context.options = {"flags": "+bitexact", **most, **strict}
        self._frames: Iterator[_Shown | None] = self._timed() if self._number else self._counted()
        self._waiting: _Shown | None = None
        self._at = -1  # the latest frame that was shown

    def _why_not(self) -> str:
        start = self._file.start()
        known = start.startswith(_BEGINNINGS) or start[4:8] in _ATOMS
        return "truncated" if known else "not_a_video"

    def _packets(self) -> Iterator[Any]:
        """Yield packets in the order of the file."""
        errors = read = 0
        while errors < _MOST_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    errors, read = 0, read + bool(packet.size)
                    if packet.size:
                        yield packet
                break
            except EOFError:
                break
            except MemoryError:
                raise
            except _ERRORS:
                self._file.check()
                errors += 1
        # This header is no claim, but the list of packets by which the file is read.
        listed = self._stream.frames if "mp4" in self._container.format.name else 0
        if errors == _MOST_ERRORS or read < listed:
            self.tail = "truncated"

    # ---------------------------------------------------------------- scan

    def scan(self, most_frames: int) -> bool:
        """See ``Clip``."""
        for frames in islice(self._work, 1):
            if frames > most_frames:
                raise Undecodable("too_many_frames", f"more than {most_frames}")
            return False
        return True

    def _scan(self) -> Iterator[int]:
        """Look through the file; yield the number of frames so far."""
        times, keys = list[int | None](), list[bool]()
        timed, may_hide, latest = True, self._context.name == "vp8", None
        for packet in self._packets():
            # Other frames need what such a packet holds, but it is not shown.
            hidden = packet.is_discard or (may_hide and not bytes(packet)[0] & _VP8_SHOWN)
            timed = timed and (hidden or packet.pts is not None)
            times.append(None if hidden else packet.pts)
            keys.append(packet.is_keyframe)
            latest = packet.dts
            if not len(times) % _PASSED_AT_ONCE:
                yield len(times)
        yield len(times)
        if not times:
            raise Undecodable(self.tail or self._why_not(), "no pictures in it")
        if self.tail and latest is not None:
            # What is missing would be decoded later than all this, and may be shown before these.
            times = [None if pts is None or pts > latest else pts for pts in times]
        shown = [pts for pts in times if pts is not None]
        timed = timed and bool(shown) and len(set(shown)) == len(shown)
        # AVI has no times; what stands for them is the order of the file.
        if timed and (self._container.format.name != "avi" or all(keys)):
            self._index(times, keys)
        elif self._count_all:
            yield from self._count()
        self._open()

    def _index(self, times: list[int | None], keys: list[bool]) -> None:
        """Number the frames, and find where decoding may begin; ``times``: None if hidden."""
        base = self._stream.time_base or Fraction(1, 1)
        ordered = sorted(pts for pts in times if pts is not None)
        self.times = [float((pts - ordered[0]) * base) for pts in ordered]
        self._number = {pts: number for number, pts in enumerate(ordered)}
        self._order = [-1 if pts is None else self._number[pts] for pts in times]
        self._keys = keys
        starts, latest = [(0, 0)], -1
        for place, number in enumerate(self._order):
            # Whatever comes before a start in the file is shown before it.
            if keys[place] and latest < number and number >= starts[-1][1] + _START_FRAMES:
                starts.append((place, number))
            latest = max(latest, number)
        place_of = {number: place for place, number in enumerate(self._order)}
        uppers = [*(number for _, number in starts[1:]), len(ordered)]
        for (first, lower), upper in zip(starts, uppers, strict=True):
            last = max(place_of[number] for number in range(lower, upper))
            self._segments.append(_Segment(first, last, lower, upper))
        self._place_of = place_of

    def _count(self) -> Iterator[int]:
        self._open()
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        for shown in self._frames:
            if shown is None:
                yield len(self.times)
            else:
                self.times.append(shown.number / rate)
        if not self.times:
            raise Undecodable("truncated", "no frame can be decoded")

    # ---------------------------------------------------------------- frames

    def until(self, number: int) -> int:
        """See ``Clip``: the start after that frame."""
        after = bisect_right(self._segments, number, key=lambda segment: segment.lower)
        return self._segments[after - 1].upper if self._segments else 2**62

    def step(self, number: int) -> Decoded | None:
        """See ``Clip``."""
        if number <= self._at and (self._waiting is None or self._waiting.number > number):
            self._open()
        self._wanted = number
        shown = self._waiting or next(self._frames, _Shown(2**62, None))
        self._waiting = None
        if shown is None or shown.number < number:
            self._at = self._at if shown is None else shown.number
            return None
        if shown.number > number:
            self._waiting, self._at = shown, number
            ended = shown.number == 2**62 and number >= len(self._number)
            missing = self.tail or "missing_frame"
            raise Undecodable(missing if ended else "bad_frame", f"frame {number}")
        self._at = number
        if shown.frame is None:
            raise Undecodable("bad_frame", f"frame {number}")
        return self._picture(shown.frame)

    def _timed(self) -> Iterator[_Shown | None]:
        """Yield frames by their times, None between pieces of work."""
        packets, held = enumerate(self._packets()), dict[int, Any]()
        for at, segment in enumerate(self._segments):
            if self._wanted >= segment.upper:
                continue
            following = self._segments[at + 1].first if at + 1 < len(self._segments) else 2**62
            spoilt, self._latest = set[int](), segment.lower - 1
            yield None  # so that it is known how far this goes before a decoder can crash
            for place in range(segment.first, segment.last + 1):
                while place not in held and (read := next(packets, None)):
                    if read[0] >= segment.first:
                        held[read[0]] = read[1]
                    elif not read[0] % _PASSED_AT_ONCE:
                        yield None
                # The next segment begins with packets that this one needs, too.
                packet = held.get(place) if place >= following else held.pop(place, None)
                if packet is None or self._wanted >= segment.upper:
                    break
                yield from self._decode(packet, place, segment, spoilt)
            yield from self._decode(None, segment.last, segment, spoilt)
            self._context.flush_buffers()
            held = {place: packet for place, packet in held.items() if place >= following}

    def _decode(
        self, packet: Any, place: int, segment: _Segment, spoilt: set[int]
    ) -> Iterator[_Shown | None]:
        frames, damaged = self._decoded(packet)
        # What is not the segment's own lacks what it needs, and is left out.
        if damaged and not 0 <= self._order[place] < segment.lower:
            spoilt.update(self._suffering(place))
        for frame in frames:
            number = self._number.get(frame.pts, -1)
            if not segment.lower <= number < segment.upper:
                continue
            for lost in range(self._latest + 1, number):  # left out without a word
                spoilt.update(self._suffering(self._place_of[lost]))
            self._latest = number
            if frame.is_corrupt:
                spoilt.update(self._suffering(self._place_of[number]))
            yield _Shown(number, None if number in spoilt else frame)
        yield None

    def _suffering(self, place: int) -> Iterator[int]:
        """Yield the frames that damage of a packet may reach: up to the next keyframe."""
        yield self._order[place]
        for later in range(place + 1, len(self._order)):
            if self._keys[later]:
                return
            yield self._order[later]

    def _counted(self) -> Iterator[_Shown | None]:
        """Yield frames as they come; a packet that cannot be decoded counts as one."""
        numbers, broken = count(), False
        yield None
        for packet in chain(self._packets(), [None]):
            frames, damaged = self._decoded(packet)
            if damaged and packet is not None:
                broken = True
                if not frames:
                    yield _Shown(next(numbers), None)
            # As in ``_scan``: frames of what is missing may belong before those that still wait.
            early = packet is None and bool(self.tail) and bool(self._context.has_b_frames)
            for frame in frames if not early else ():
                broken = frame.is_corrupt or (broken and not frame.key_frame)
                yield _Shown(next(numbers), None if broken else frame)
            yield None

    def _decoded(self, packet: Any) -> tuple[list[Any], bool]:
        """Return the frames that a packet completes, and whether it is damaged."""
        try:
            # The last packet of a file that was cut off: its decoder may not tell.
            partial = bool(self.tail) and packet is not None and packet.is_corrupt
            return self._context.decode(packet), partial
        except EOFError:
            return [], False
        except MemoryError:
            raise
        except _ERRORS:
            return [], True

    def _picture(self, frame: Any) -> Decoded:
        """Return a frame as upright RGB with square pixels."""
        ratio = float(self._stream.sample_aspect_ratio or 1)
        width = frame.width if not 0.25 <= ratio <= 4 else round(frame.width * ratio)
        check_size((width, frame.height), self._limits)
        try:
            rgb = self._convert(frame, width, format="rgb24", interpolation=_CONVERSION, threads=1)
        except _ERRORS as error:
            raise Undecodable("bad_frame", str(error)[:200]) from error
        height, plane = rgb.height, rgb.planes[0]
        rows, bytes_of_row = memoryview(plane), 3 * width
        if plane.line_size != bytes_of_row:
            starts = range(0, height * plane.line_size, plane.line_size)
            rows = b"".join(rows[start : start + bytes_of_row] for start in starts)
        turn = _TURNS.get(frame.rotation % 360)
        if turn is None:
            return Decoded(width, height, RGB, bytes(rows))
        image = Image.frombytes("RGB", (width, height), bytes(rows)).transpose(turn)
        return Decoded(*image.size, RGB, image.tobytes())
