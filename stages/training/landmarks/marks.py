"""A linear map from a face's 68 points to the five landmarks of a detector trained on annotations.

Fitted on renders: the detector gives the five landmarks (marks), the landmark network the 68
points. No photograph is used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from torch import Tensor

from ....manifests.arrays import Floats, Pixels, Points
from ....pipeline.errors import InputError
from ...faces.detectors.detector import DetectorSettings, choose
from ...faces.detectors.insightface import InsightFace
from ...faces.geometry import MIRRORED, apply, inverse, transform_from_landmarks, warp
from ...networks.landmarks import FIVE_OF_68, INPUT_SIZE, LandmarkNet, UprightFace
from ..pictures import MIRRORED_POINTS, Form
from ..synthesized import load_pairs

log = logging.getLogger(__name__)


_ALPHAS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
_FOLDS = 5
_TOLERANCE = 1.02  # times the least error
# Marks farther from our points than this share of the distance between the eyes are outliers.
_MAX_DISTANCE = 0.15
_MIN_LOOKS = 50
_PEOPLE = 1 << 40  # more than a set has
# A detector's marks depend on how much of the picture the face fills.
_MARGINS = (0.0, 0.5)  # of the side, added around a picture


@dataclass(frozen=True)
class Marked:
    """Renders with a detector's marks and the landmark network's points.

    A render counts once for every margin with which the detector finds it (a "look").

    Attributes:
        marks: (N, 5, 2) in picture pixels.
        points68: (N, 68, 2) likewise.
        people: (N,) who is in each.
    """

    marks: Floats
    points68: Floats
    people: NDArray[np.int64]


def learn_marks(network: LandmarkNet, heads: list[Path], pack: str) -> dict[str, float]:
    """Fit the network's ``mark_weight`` and ``mark_bias``, in place.

    Takes the strongest ridge within 2 % of the best in cross-validation by people: photographs
    differ more from the renders than renders from each other.

    Args:
        network: trained.
        heads: synthesized sets, cropped tightly or with a margin; only training people are used.
        pack: insightface pack whose detector marks them.

    Returns:
        ``looks``, the number used, at most two per picture, and the medians over them of the mean
        of the five distances between network and detector, in percent of the distance between the
        eyes: ``means_percent`` without the map, ``marks_percent`` with it, on people that it was
        not fitted on; ``ridge``, its strength.

    Raises:
        InputError: too few looks are marked.
    """
    found = read_marks(network, heads, pack)
    points, offsets, eye_ratio = _upright(found)
    near = np.linalg.norm(offsets.reshape(-1, 5, 2), axis=2).mean(1) < _MAX_DISTANCE
    if near.sum() < _MIN_LOOKS:
        raise InputError(
            f"the detector of {pack} marks only {near.sum()} heads, {_MIN_LOOKS} are needed: give "
            "more --heads"
        )
    points, offsets, eye_ratio, people = (
        points[near],
        offsets[near],
        eye_ratio[near],
        found.people[near],
    )
    errors = {
        alpha: _cross_validated(alpha, points, offsets, eye_ratio, people) for alpha in _ALPHAS
    }
    alpha = max(alpha for alpha in _ALPHAS if errors[alpha] <= _TOLERANCE * min(errors.values()))
    fitted = Ridge(alpha=alpha).fit(*_with_mirror_images(points, offsets))
    network.mark_weight.copy_(torch.from_numpy(fitted.coef_.astype(np.float32)))
    network.mark_bias.copy_(torch.from_numpy(np.float32(fitted.intercept_)))
    return {
        "looks": int(near.sum()),
        "ridge": alpha,
        "means_percent": round(_error(offsets, eye_ratio), 3),
        "marks_percent": round(errors[alpha], 3),
    }


@torch.inference_mode()
def read_marks(network: LandmarkNet, heads: list[Path], pack: str) -> Marked:
    """Return marks and points of all training heads that the detector finds, with each margin."""
    detector = InsightFace(DetectorSettings(pack=pack, device="cpu"))
    detector.open()
    marks: list[Points] = []
    points: list[Points] = []
    people: list[int] = []
    try:
        for picture, identity in _pictures(heads):
            (faces,) = detector.detect([detector.prepare(picture, {})])
            if not faces:
                continue
            height, width = picture.shape[:2]
            five = choose(faces, "largest", width, height)[0].landmarks
            assert five is not None
            marks.append(five)
            points.append(_read(network, picture, five))
            people.append(identity)
    finally:
        detector.close()
    log.info("the detector marks %d heads", len(marks))
    return Marked(
        np.reshape(marks, (-1, 5, 2)), np.reshape(points, (-1, 68, 2)), np.array(people, np.int64)
    )


def _pictures(heads: list[Path]) -> Iterator[tuple[Pixels, int]]:
    """Yield every picture with each margin, (H, W, 3) uint8 RGB, and who is in it."""
    for place, folder in enumerate(heads):
        pairs = load_pairs([folder], "train", source=Form(colour=True))
        for row, identity in enumerate(pairs.identity.tolist()):
            picture = np.ascontiguousarray(pairs.source[row])
            for margin in _MARGINS:
                edge = round(margin * len(picture))
                framed = cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
                yield np.asarray(framed, np.uint8), identity + place * _PEOPLE


def _read(network: LandmarkNet, picture: Pixels, five: Points) -> Points:
    """Return (68, 2) picture pixels, in two passes from ``five``, as the detector does."""
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    points68 = np.zeros((68, 2))
    for _ in range(2):
        transform = transform_from_landmarks(five, INPUT_SIZE)
        crop = warp(grey, transform, INPUT_SIZE, "black")
        both = np.stack([crop, crop[:, ::-1]])[:, None]
        found = network(torch.from_numpy(both).float() / 255).points68.double().numpy()
        mean = (found[0] + found[1][MIRRORED_POINTS] * [-1, 1]) / 2
        points68 = apply(inverse(transform), (mean + 1) * INPUT_SIZE / 2)
        five = FIVE_OF_68 @ points68
    return points68


def _upright(found: Marked) -> tuple[Floats, Floats, Floats]:
    """Return (N, 136) points and (N, 10) offsets from the means to the marks, in upright faces.

    And (N,) the distance between our eyes over that between the detector's.
    """
    face = UprightFace.of(_tensor(found.points68))
    marks = _tensor(found.marks)
    offsets = (marks - face.five) @ face.axes / face.apart
    eye_ratio = face.apart[:, 0, 0] / (marks[:, 1] - marks[:, 0]).norm(dim=-1).clamp_min(1e-3)
    return face.points.flatten(1).numpy(), offsets.flatten(1).numpy(), eye_ratio.numpy()


def _tensor(points: Floats) -> Tensor:
    return torch.from_numpy(points.astype(np.float32))


def _with_mirror_images(points: Floats, offsets: Floats) -> tuple[Floats, Floats]:
    other_seen = points.reshape(-1, 68, 2)[:, MIRRORED_POINTS] * [-1, 1]
    other_moved = offsets.reshape(-1, 5, 2)[:, MIRRORED] * [-1, 1]
    return (
        np.concatenate([points, other_seen.reshape(points.shape)]),
        np.concatenate([offsets, other_moved.reshape(offsets.shape)]),
    )


def _cross_validated(
    alpha: float,
    points: Floats,
    offsets: Floats,
    eye_ratio: Floats,
    people: NDArray[np.int64],
) -> float:
    """Return the cross-validated error, on people that the map was not fitted on."""
    left = np.empty_like(offsets)
    for train, test in GroupKFold(_FOLDS).split(points, offsets, people):
        fitted = Ridge(alpha=alpha).fit(*_with_mirror_images(points[train], offsets[train]))
        left[test] = offsets[test] - fitted.predict(points[test])
    return _error(left, eye_ratio)


def _error(offsets: Floats, eye_ratio: Floats) -> float:
    """Return the median over faces of the mean distance, in % of that between marked eyes."""
    distances = np.linalg.norm(offsets.reshape(-1, 5, 2), axis=2).mean(1)
    return 100 * float(np.median(distances * eye_ratio))
