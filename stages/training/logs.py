"""Training logs: a CSV file, and the same values for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from ...pipeline.store.commit import write_bytes

_HEADER = ["part", "step", "name", "value"]


class Logs:
    """``log.csv`` (part, step, name, value) and ``tensorboard/`` of one output folder.

    Args:
        folder: output folder.
        part: what is trained: decoder, encoder or network.
        writing: whether to write; only the first of several processes does.
    """

    def __init__(self, folder: Path, part: str, writing: bool = True) -> None:
        self.folder = folder
        self.part = part
        self.writing = writing
        self._writer: SummaryWriter | None = None

    def begin(self, step: int) -> None:
        """Start after ``step``, dropping what a killed run wrote about later steps."""
        if not self.writing:
            return
        path = self.folder / "log.csv"
        kept = [row for row in read_log(path) if row[0] != self.part or int(row[1]) <= step]
        text = io.StringIO()
        csv.writer(text).writerows([_HEADER, *kept])
        write_bytes(path, text.getvalue().encode())
        self._writer = SummaryWriter(
            str(self.folder / "tensorboard" / self.part), purge_step=step + 1
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name."""
        if self._writer is None:
            return
        rows = [(self.part, step, name, repr(float(value))) for name, value in values.items()]
        with (self.folder / "log.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def picture(self, step: int, name: str, pixels_rgb_u8: NDArray[np.uint8]) -> None:
        """Write an (H, W, 3) RGB picture to TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, pixels_rgb_u8, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_log(path: Path) -> list[list[str]]:
    """Return the rows of a log, without its header or a truncated last line."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(_HEADER)]
    return rows[1:]
