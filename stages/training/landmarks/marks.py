"""Where a detector that learnt from people's clicks marks five points, told from a face's 68.

Measured on renders: the detector marks them, the landmark network reads them, and a linear map goes
from what is read to the marks. No photograph is looked at.
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
_AS_GOOD = 1.02  # times the least error
# Farther from our points than this share of the distance between the eyes, one of both is wrong.
_FARTHEST = 0.15
_FEWEST = 50
_PEOPLE = 1 << 40  # more than a set has
# A detector marks a face otherwise where it sees it smaller, with more about it.
_MARGINS = (0.0, 0.5)  # of the side, drawn about a picture


@dataclass(frozen=True)
class Marked:
    """Renders with a detector's marks and with what the landmark network reads.

    A render counts once for every size at which the detector finds it.

    Attributes:
        marks: (N, 5, 2) in picture pixels.
        points68: (N, 68, 2) likewise.
        people: (N,) whom they show.
    """

    marks: Floats
    points68: Floats
    people: NDArray[np.int64]


def learn_marks(network: LandmarkNet, heads: list[Path], pack: str) -> dict[str, float]:
    """Fit the network's ``mark_weight`` and ``mark_bias``, in place.

    The strongest ridge within 2 % of the best counts, by folds of people: photographs are further
    from the renders than those are from each other.

    Args:
        network: trained.
        heads: synthesized sets, cut closely or with a margin; their training people count.
        pack: insightface pack whose detector marks them.

    Returns:
        ``looks`` that count, two a picture at most, and the medians over them of the mean of the
        five distances between network and detector, in percent of the distance between the eyes:
        ``means_percent`` of the plain means, ``marks_percent`` of people that the map was not
        fitted on; ``ridge``, its strength.

    Raises:
        InputError: too few looks are marked.
    """
    found = read_marks(network, heads, pack)
    seen, moved, apart = _upright(found)
    near = np.linalg.norm(moved.reshape(-1, 5, 2), axis=2).mean(1) < _FARTHEST
    if near.sum() < _FEWEST:
        raise InputError(
            f"the detector of {pack} marks heads at {near.sum()} looks, {_FEWEST} are needed: give "
            "more --heads"
        )
    seen, moved, apart, people = seen[near], moved[near], apart[near], found.people[near]
    errors = {alpha: _crossed(alpha, seen, moved, apart, people) for alpha in _ALPHAS}
    alpha = max(alpha for alpha in _ALPHAS if errors[alpha] <= _AS_GOOD * min(errors.values()))
    fitted = Ridge(alpha=alpha).fit(*_with_mirror_images(seen, moved))
    network.mark_weight.copy_(torch.from_numpy(fitted.coef_.astype(np.float32)))
    network.mark_bias.copy_(torch.from_numpy(np.float32(fitted.intercept_)))
    return {
        "looks": int(near.sum()),
        "ridge": alpha,
        "means_percent": round(_error(moved, apart), 3),
        "marks_percent": round(errors[alpha], 3),
    }


@torch.inference_mode()
def read_marks(network: LandmarkNet, heads: list[Path], pack: str) -> Marked:
    """Marks and readings of all training heads that the detector finds, at each size."""
    detector = InsightFace(DetectorSettings(pack=pack, device="cpu"))
    detector.open()
    marks: list[Points] = []
    points: list[Points] = []
    people: list[int] = []
    try:
        for picture, identity in _pictures(heads):
            (faces,) = detector.detect([detector.look(picture, {})])
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
    log.info("the detector marks heads at %d looks", len(marks))
    return Marked(
        np.reshape(marks, (-1, 5, 2)), np.reshape(points, (-1, 68, 2)), np.array(people, np.int64)
    )


def _pictures(heads: list[Path]) -> Iterator[tuple[Pixels, int]]:
    """(H, W, 3) uint8 RGB, every picture with each margin, and whom it shows."""
    for place, folder in enumerate(heads):
        pairs = load_pairs([folder], "train", source=Form(colour=True))
        for row, identity in enumerate(pairs.identity.tolist()):
            picture = np.ascontiguousarray(pairs.source[row])
            for margin in _MARGINS:
                edge = round(margin * len(picture))
                framed = cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
                yield np.asarray(framed, np.uint8), identity + place * _PEOPLE


def _read(network: LandmarkNet, picture: Pixels, five: Points) -> Points:
    """(68, 2) picture pixels: a second look after a first about ``five``, as detecting does."""
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    points68 = np.zeros((68, 2))
    for _ in range(2):
        transform = transform_from_landmarks(five, INPUT_SIZE)
        crop = warp(grey, transform, INPUT_SIZE, "black")
        both = np.stack([crop, crop[:, ::-1]])[:, None]
        told = network(torch.from_numpy(both).float() / 255).points68.double().numpy()
        mean = (told[0] + told[1][MIRRORED_POINTS] * [-1, 1]) / 2
        points68 = apply(inverse(transform), (mean + 1) * INPUT_SIZE / 2)
        five = FIVE_OF_68 @ points68
    return points68


def _upright(found: Marked) -> tuple[Floats, Floats, Floats]:
    """(N, 136) points and (N, 10) ways from the means to the marks, in upright faces.

    And (N,) the distance between our eyes over that between the detector's.
    """
    face = UprightFace.of(_tensor(found.points68))
    marks = _tensor(found.marks)
    moved = (marks - face.five) @ face.axes / face.apart
    apart = face.apart[:, 0, 0] / (marks[:, 1] - marks[:, 0]).norm(dim=-1).clamp_min(1e-3)
    return face.points.flatten(1).numpy(), moved.flatten(1).numpy(), apart.numpy()


def _tensor(points: Floats) -> Tensor:
    return torch.from_numpy(points.astype(np.float32))


def _with_mirror_images(seen: Floats, moved: Floats) -> tuple[Floats, Floats]:
    other_seen = seen.reshape(-1, 68, 2)[:, MIRRORED_POINTS] * [-1, 1]
    other_moved = moved.reshape(-1, 5, 2)[:, MIRRORED] * [-1, 1]
    return (
        np.concatenate([seen, other_seen.reshape(seen.shape)]),
        np.concatenate([moved, other_moved.reshape(moved.shape)]),
    )


def _crossed(
    alpha: float,
    seen: Floats,
    moved: Floats,
    apart: Floats,
    people: NDArray[np.int64],
) -> float:
    """Error on people that the map was not fitted on."""
    left = np.empty_like(moved)
    for train, test in GroupKFold(_FOLDS).split(seen, moved, people):
        fitted = Ridge(alpha=alpha).fit(*_with_mirror_images(seen[train], moved[train]))
        left[test] = moved[test] - fitted.predict(seen[test])
    return _error(left, apart)


def _error(moved: Floats, apart: Floats) -> float:
    """Median over faces of the mean distance, percent of the distance between marked eyes."""
    distances = np.linalg.norm(moved.reshape(-1, 5, 2), axis=2).mean(1)
    return 100 * float(np.median(distances * apart))
