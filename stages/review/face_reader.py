"""Reads expression, head pose and gaze off aligned faces, with a normalizer's encoder.

How good the readings are is said by the weights' card, the JSON file beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from ...manifests.arrays import Floats, Pixels
from ...pipeline.errors import InputError
from ..networks.base import NormalizerNetwork
from ..networks.devices import resolve_device
from ..networks.files.normalizer_file import LoadedNormalizer, open_normalizer
from ..networks.reader import as_images
from ..synthesis.scene.expressions import action_units, stems
from ..synthesis.surface.gaze import gaze_angles
from ..training.pictures import POSE_UNIT_DEG

log = logging.getLogger(__name__)

_GAZE = ("gaze_yaw_deg", "gaze_pitch_deg")
#: R² from which ``ReadingScores.lines`` calls readings good, and from which fair.
GOOD, FAIR = 0.7, 0.5


class ShapeScores(BaseModel):
    """R² of readings of rendered people, by action unit and by shape (without its side)."""

    action_units: dict[str, float] = {}
    shapes: dict[str, float] = {}


class RenderScores(BaseModel):
    """R² of renders as they are, and of degraded ones: small, blurred, covered, compressed."""

    clean: ShapeScores = ShapeScores()
    degraded: ShapeScores = ShapeScores()


class PhotographScore(BaseModel):
    """How well a shape, or a sum of shapes, tells an emotion's photographs from neutral ones.

    Attributes:
        emotion: of the photographs, as they are labelled.
        auc: area under the ROC curve of the mean of left and right.
        low, high: its 95 % interval over people, if known.
        set: which photographs.
    """

    emotion: str
    auc: float
    low: float | None = None
    high: float | None = None
    set: str = ""

    def words(self, shapes: str) -> str:
        """Return ``happiness by mouthSmile 0.96 [0.94, 0.97]``."""
        known = self.low is not None and self.high is not None
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if known else ""
        return f"{self.emotion} by {shapes} {self.auc:.2f}{interval}"


class AngleScore(BaseModel):
    """How far angles of rendered people are off, in degrees.

    Attributes:
        error: mean absolute error.
        spread: mean absolute deviation of the true angles: the error of a constant.
        set: which renders.
    """

    error: float
    spread: float
    set: str = ""


class ReadingScores(BaseModel):
    """What a weights' card says about how good the readings are; empty where it says nothing.

    Attributes:
        sha256: of the weights that the card is about.
        scores: on renders.
        photographs: shape, or shapes joined by ``+`` → its scores.
        angles: column, such as ``yaw_deg`` → its score.
    """

    sha256: str = ""
    scores: RenderScores = RenderScores()
    photographs: dict[str, list[PhotographScore]] = {}
    angles: dict[str, AngleScore] = {}

    def r2(self, units: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return column → R² on renders, ``clean`` and ``degraded``; without unknown ones."""
        found: dict[str, dict[str, float]] = {}
        for kind, scores in (("clean", self.scores.clean), ("degraded", self.scores.degraded)):
            known = [(unit, scores.action_units.get(unit)) for unit in units]
            known += [(name, scores.shapes.get(stems([name])[0])) for name in names]
            for column, value in known:
                if value is not None:
                    found.setdefault(column, {})[kind] = value
        return found


class FaceReadings(NamedTuple):
    """The readings of N faces.

    Attributes:
        coefficients: (N, E) float32 in [0, 1], in the order of ``FaceReader.names``.
        yaw_deg: (N,) float32, positive to the person's left.
        pitch_deg: (N,) float32, positive up.
    """

    coefficients: Floats
    yaw_deg: Floats
    pitch_deg: Floats


@dataclass(frozen=True)
class FaceReader:
    """An encoder that reads aligned faces.

    Attributes:
        network: in evaluation mode, on ``device``.
        device: where it computes.
        names: the E coefficients, such as ``browDown_L``.
        units: the action units that some of these shapes perform, in the order of their numbers.
        gaze: the names of the gaze angles; empty if the shapes say nothing about gaze.
        weights: name and sha256 of the network's weights.
        scores: how good its readings are.
    """

    network: NormalizerNetwork
    device: torch.device
    names: tuple[str, ...]
    units: tuple[str, ...]
    gaze: tuple[str, ...]
    weights: dict[str, str]
    scores: ReadingScores

    def read(self, crops_rgb_u8: Pixels) -> FaceReadings:
        """Read aligned faces, (N, H, W, 3) uint8 RGB, all at once.

        A face's readings do not depend on the others, beyond rounding.
        """
        with torch.inference_mode():
            seen = self.network.read_whole(as_images(crops_rgb_u8).to(self.device))
            pose = (seen.pose.float() * POSE_UNIT_DEG).cpu().numpy()
            coefficients = seen.coefficients.float().cpu().numpy()
        # The roll is left out: alignment has taken it away, and the encoder can only guess it.
        return FaceReadings(coefficients, pose[:, 0], pose[:, 1])

    def action_units(self, coefficients: Floats) -> Floats:
        """Return (N, U) action units in [0, 1] of (N, E) coefficients, in the order of ``units``.

        They are coefficients, a fifth of the intensities that renders are labelled with.
        """
        found = np.zeros((len(coefficients), len(self.units)), np.float32)
        for row, amounts in enumerate(coefficients):
            value = action_units(self.names, amounts)
            found[row] = [value[unit] / 5 for unit in self.units]
        return found

    def gaze_deg(self, coefficients: Floats) -> Floats:
        """Return (N, 2) degrees in the head, the mean of both eyes: to the person's left, and up.

        (N, 0) if the shapes of the (N, E) coefficients say nothing about gaze.
        """
        found = np.zeros((len(coefficients), len(self.gaze)), np.float32)
        if self.gaze:
            for row, amounts in enumerate(coefficients):
                found[row] = gaze_angles(self.names, amounts).mean(0)
        return found


def open_face_reader(weights: str | Path = "compact", device: str = "auto") -> FaceReader:
    """Open the encoder of a normalizer, and the card beside its weights.

    Args:
        weights: a ``.safetensors`` file that ``normpipe fit-normalizer`` wrote, or a shipped name.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: no such weights, weights that do not name their shapes, or a missing device.
    """
    found = resolve_device(device, "--device")
    loaded = open_normalizer(weights)
    names = loaded.expression_names
    if len(names) != loaded.module.expressions:
        raise InputError(
            f"{loaded.path} does not name the shapes that it reads: give weights that normpipe "
            "fit-normalizer wrote"
        )
    # fp32 means fp32, and the same bytes every time: no TF32, no kernel autotuning.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return FaceReader(
        network=loaded.module.requires_grad_(False).to(found),
        device=found,
        names=names,
        units=_units(names),
        gaze=_GAZE if any(name.startswith("eyeLook") for name in names) else (),
        weights={"network": loaded.network, "weights_sha256": loaded.digest},
        scores=read_scores_of(loaded),
    )


def _units(names: Sequence[str]) -> tuple[str, ...]:
    """Return the action units that a face with these shapes can show.

    A jaw shows AU26 or AU27, so two amounts are tried. AU25 is measured on the head, not a shape.
    """
    shown = [action_units(names, np.full(len(names), amount)) for amount in (0.5, 1.0)]
    return tuple(unit for unit in shown[0] if any(values[unit] > 0 for values in shown))


def read_scores_of(loaded: LoadedNormalizer) -> ReadingScores:
    """Return what the card beside weights says; nothing if there is none for these weights."""
    card = loaded.path.with_suffix(".json")
    try:
        found = ReadingScores.model_validate_json(card.read_bytes())
    except FileNotFoundError:
        return ReadingScores()
    except OSError as error:
        return _unknown(card, error.strerror or "it cannot be read")
    except ValidationError as error:
        return _unknown(card, error.errors()[0]["msg"])
    if found.sha256 != loaded.digest:
        return _unknown(card, "it is about other weights")
    return found


def _unknown(card: Path, why: str) -> ReadingScores:
    log.warning("%s cannot be used: %s; how good the readings are is not known", card, why)
    return ReadingScores()
