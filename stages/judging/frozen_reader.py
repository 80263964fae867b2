"""The frozen reader: reads coefficients and landmarks off pictures of the target face."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from ..networks.files.checkpoint import find_weights, load_weights, read_notes
from ..networks.reader import ExpressionReader, as_images
from ..synthesis.scene.expressions import RENDERED_UNITS, action_units


class PictureReadings(NamedTuple):
    """A reader's output for N pictures.

    Attributes:
        coefficients: (N, E) float32, not clamped.
        points: (N, 68, 2) float32 landmarks as fractions of the picture's side, 0 at left or top.
    """

    coefficients: Floats
    points: Floats


#: (N, S, S, 3) uint8 RGB pictures of the target face → reader output; tests use fakes.
Read = Callable[[Pixels], PictureReadings]


@dataclass(frozen=True)
class LoadedReader:
    """A trained reader, callable on pictures.

    Attributes:
        module: the network, in evaluation mode.
        expression_names: the E shapes, in the order of the coefficients.
        target_note: the target face it was trained on.
        digest: sha256 of its file; empty if it was just trained.
    """

    module: ExpressionReader
    expression_names: tuple[str, ...]
    target_note: dict[str, Any]
    digest: str = ""

    @torch.inference_mode()
    def __call__(self, pictures: Pixels, batch: int = 64) -> PictureReadings:
        """Read pictures, (N, S, S, 3) uint8 RGB."""
        device = self.module.code_mean.device
        parts = [
            self.module(as_images(pictures[start : start + batch]).to(device))
            for start in range(0, len(pictures), batch)
        ]
        coefficients = torch.cat([part.coefficients for part in parts]).float().cpu().numpy()
        points = torch.cat([part.points for part in parts]).float().cpu().numpy()
        return PictureReadings(coefficients, (points.reshape(-1, 68, 2) + 1) / 2)


def open_reader(name_or_path: str | Path = "reader") -> LoadedReader:
    """Load the shipped reader, or one from a file that ``normpipe fit-reader`` wrote.

    Raises:
        InputError: no such file, or not a reader.
    """
    from ...pipeline.stage import sha256_file

    path = find_weights(name_or_path)
    notes = read_notes(path)
    if notes.get("network") != "reader":
        raise InputError(f"{path} is not a reader: give weights that normpipe fit-reader wrote")
    module = ExpressionReader(**json.loads(notes["settings"]))
    load_weights(module, path)
    names = tuple(notes["expression_names"].split(","))
    target = json.loads(notes["target"])
    return LoadedReader(module.eval(), names, target, sha256_file(path))


def units(names: Sequence[str], coefficients: Floats) -> Floats:
    """(N, E) coefficients → (N, U) action-unit intensities in [0, 5], as ``RENDERED_UNITS``.

    AU25 is 0: it is measured on the head, not part of the coefficients.
    """
    clipped = coefficients.clip(0, 1)
    values = [[*action_units(names, row).values()] for row in clipped]
    return np.array(values, np.float32).reshape(-1, len(RENDERED_UNITS))
