"""Progress: a bar for each stage on a terminal, log lines in a pipe."""

import logging
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import printable

log = logging.getLogger("normpipe")

#: Columns of a terminal that a bar leaves free: an echoed ``^C`` must not wrap to the next line,
#: or the bar above it would stay.
_FREE = 4


class _Plain(logging.Formatter):
    """Formats each message as one line; a traceback after it stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class LogLines(logging.StreamHandler[TextIO]):
    """Writes log lines above the bars of a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Plain())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


@dataclass
class _Lane:
    total: int
    start: float
    skipped: int = 0
    counts: Counter[str] = field(default_factory=lambda: Counter[str]())
    inputs: int = 0
    spoke: float = 0.0
    bar: "tqdm[Any] | None" = None


def _close(lane: _Lane) -> None:
    if lane.bar is not None and not lane.bar.disable:
        lane.bar.close()
        lane.bar.fp.write("\r")  # tqdm leaves the cursor at the end of all bars but the first


class Progress:
    """Counts inputs by stage. Thread-safe; bars where ``stderr`` is a terminal."""

    def __init__(self, log_seconds: float = 10.0, bars: bool | None = None) -> None:
        self._seconds = log_seconds
        self._bars = sys.stderr.isatty() if bars is None else bars
        self._lanes: dict[str, _Lane] = {}
        self._lock = threading.Lock()

    def begin(self, stage: str, total: int) -> None:
        """Add a stage, with its total number of inputs."""
        with self._lock:
            lane = _Lane(total, time.monotonic())
            lane.spoke = lane.start
            if self._bars:
                lane.bar = tqdm(
                    total=total,
                    desc=f"{stage:<10}",
                    unit="img",
                    position=len(self._lanes),
                    leave=False,  # a bar that stays is drawn over by those of other stages
                    ncols=shutil.get_terminal_size().columns - _FREE,
                )
            self._lanes[stage] = lane

    def skip(self, stage: str, inputs: int) -> None:
        """Count inputs that an earlier run finished."""
        with self._lock:
            lane = self._lanes[stage]
            lane.skipped += inputs
            if lane.bar is not None:
                # ``initial`` keeps earlier inputs out of the rate.
                lane.bar.initial += inputs
                lane.bar.update(inputs)

    def advance(self, stage: str, inputs: int, statuses: Mapping[str, int]) -> None:
        """Count inputs finished now (negative if a shard is dropped) with their rows' statuses."""
        with self._lock:
            lane = self._lanes[stage]
            lane.inputs += inputs
            lane.counts.update(statuses)
            if lane.bar is not None:
                lane.bar.set_postfix_str(self._verdicts(lane), refresh=False)
                lane.bar.update(inputs)
            elif time.monotonic() - lane.spoke >= self._seconds:
                lane.spoke = time.monotonic()
                log.info(self._line(stage, lane))

    def finish(self, stage: str) -> None:
        """Close a stage's bar and log that it is finished."""
        with self._lock:
            lane = self._lanes[stage]
            _close(lane)
            log.info("%s, finished", self._line(stage, lane))

    def close(self) -> None:
        """Close bars that are still open."""
        for lane in self._lanes.values():
            _close(lane)

    @staticmethod
    def _verdicts(lane: _Lane) -> str:
        return f"rejected {lane.counts['rejected']}, failed {lane.counts['failed']}"

    def _line(self, stage: str, lane: _Lane) -> str:
        passed = max(time.monotonic() - lane.start, 1e-6)
        rate = lane.inputs / passed
        left = lane.total - lane.skipped - lane.inputs
        remaining = f"{left / rate:.0f} s left" if rate > 0 and left > 0 else "0 s left"
        return (
            f"{stage}: {lane.skipped + lane.inputs}/{lane.total} inputs, {rate:.1f}/s, "
            f"{remaining if rate > 0 or left == 0 else 'no rate yet'}, {self._verdicts(lane)}"
        )
