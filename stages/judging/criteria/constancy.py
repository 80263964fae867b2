"""Is everything else constant? Pose and background of normalized pictures, and idempotence."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats, Pixels
from ...faces.detectors.detector import Detector
from ...metrics.resampling import RESAMPLES, bootstrap
from ..figures import Figure
from ..renders import Normalize, Renders, normalize_all, through_codec

#: Pictures → (N, 5, 2) pixels in the order of ``geometry.LANDMARK_NAMES``; NaN: no face found.
FivePoints = Callable[[Pixels], Floats]

# Eye centres, nose tip and mouth corners of the resting mean head of ICT-FaceKit Light, from its 68
# landmarks (about cm; camera frame, y down and z away).
MEAN_HEAD = np.array(
    [[-3.26, -3.39, 1.16], [3.26, -3.39, 1.16], [0.0, -0.36, -2.69],
     [-2.53, 3.57, 0.19], [2.53, 3.57, 0.19]]
)  # fmt: skip
# A long focal length, so that a face's distance and size hardly affect its pose.
_FOCAL_SIDES = 6.0
GOAL = 1.2
MAX_CHANGE = 2  # grey levels: pixels that differ less among exact renders are background
MIN_DEVIATION = 12**-0.5  # grey levels, of rounding to 8 bits: smallest denominator
MIN_ANGLE_DEG = 0.05  # smallest denominator
_SECTION = "constancy"


def measure_constancy(
    renders: Renders,
    made: Mapping[str, Pixels],
    detect: FivePoints | None = None,
    resamples: int = RESAMPLES,
) -> list[Figure]:
    """Measure the spread of pose and background, relative to the exact targets' in the same codec.

    Args:
        renders: people and exact targets.
        made: condition → (N, S, S, 3) uint8 RGB of ``renders.normalize_all``.
        detect: finds five points in each picture; None skips the pose.
        resamples: for the intervals, over people.
    """
    exact = through_codec(renders.target)
    figures: list[Figure] = []
    for condition, pictures in made.items():
        if detect is not None:
            figures += _pose(renders, exact, pictures, detect, condition, resamples)
        figures.append(_background(renders, exact, pictures, condition, resamples))
    return figures


def pose_deg(points: Floats, size_px: int) -> Floats:
    """Return yaw, pitch and roll of faces, by fitting the mean head to five points.

    Args:
        points: (N, 5, 2) pixels; NaN where there is no face.
        size_px: side of the square pictures.

    Returns:
        (N, 3) degrees; positive where the face looks to the picture's right, looks up, and
        leans clockwise; NaN where there is no face.
    """
    middle, focal = size_px / 2, _FOCAL_SIDES * size_px
    camera = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    angles = np.full((len(points), 3), np.nan)
    for row, five in enumerate(np.asarray(points, np.float64)):
        if not np.isfinite(five).all():
            continue
        found, turn, shift = cv2.solvePnP(
            MEAN_HEAD, five, camera, np.empty(0), flags=cv2.SOLVEPNP_SQPNP
        )
        if not found:
            continue
        turn, _ = cv2.solvePnPRefineLM(MEAN_HEAD, five, camera, np.empty(0), turn, shift)
        matrix = cv2.Rodrigues(turn)[0]
        # R = Rz(roll) Ry(-yaw) Rx(-pitch) in a frame with x right, y down, z away.
        angles[row] = np.rad2deg(
            [
                np.arcsin(np.clip(matrix[2, 0], -1, 1)),
                -np.arctan2(matrix[2, 1], matrix[2, 2]),
                np.arctan2(matrix[1, 0], matrix[0, 0]),
            ]
        )
    return angles


def five_points(detector: Detector) -> FivePoints:
    """Adapt an open detector of the align stage to ``measure_constancy``."""

    def detect(pictures: Pixels) -> Floats:
        points = np.full((len(pictures), 5, 2), np.nan)
        for row, picture in enumerate(pictures):
            prepared = detector.prepare(picture, {})
            faces = detector.detect([prepared])[0]
            if faces and faces[0].landmarks is not None:
                points[row] = faces[0].landmarks
        return points

    return detect


def _pose(
    renders: Renders,
    exact: Pixels,
    made: Pixels,
    detect: FivePoints,
    condition: str,
    resamples: int,
) -> list[Figure]:
    own = pose_deg(detect(exact), exact.shape[1])
    turned = pose_deg(detect(made), made.shape[1])
    found = np.asarray(np.isfinite(turned).all(1))
    figures = [
        Figure(
            _SECTION,
            "faces that the detector finds",
            float(found.mean()),
            group=condition,
            count=len(found),
            note=f"in exact renders {np.isfinite(own).all(1).mean():.3f}",
        )
    ]
    for place, name in enumerate(("yaw", "pitch", "roll")):
        least = max(_deviation(own[:, place]), MIN_ANGLE_DEG)

        def over(rows: NDArray[np.int64], place: int = place, least: float = least) -> float:
            return _deviation(turned[rows, place]) / least

        low, high = bootstrap(renders.identity, over, resamples)
        every = np.arange(len(turned))
        figures.append(
            Figure(
                _SECTION,
                f"deviation of {name}, over that of exact renders",
                over(every),
                low,
                high,
                condition,
                int(np.count_nonzero(found)),
                f"<= {GOAL}",
                f"{_deviation(turned[:, place]):.2f} degrees, exact "
                f"{_deviation(own[:, place]):.2f}",
            )
        )
    return figures


def _deviation(values: Floats) -> float:
    """Return the standard deviation of the finite values; NaN for fewer than two."""
    there = values[np.isfinite(values)]
    return float(there.std()) if len(there) > 1 else float("nan")


def background(exact: Pixels) -> NDArray[np.bool_]:
    """Return (S, S) where exact renders (N, S, S, 3) hardly change, away from the face."""
    change = exact.max(0).astype(int) - exact.min(0)
    still = (change.max(-1) <= 2 * MAX_CHANGE).astype(np.uint8)
    # JPEG spreads changes over blocks of 8 pixels.
    return cv2.erode(still, np.ones((9, 9), np.uint8), borderValue=1) > 0


def _background(
    renders: Renders, exact: Pixels, made: Pixels, condition: str, resamples: int
) -> Figure:
    name = "deviation of the background, over that of exact renders"
    still = background(exact)
    if still.mean() < 0.02:
        note = "no part of the exact renders is constant"
        return Figure(_SECTION, name, float("nan"), group=condition, note=note)
    size = made.shape[1]
    there = cv2.resize(still.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    own = _pixel_deviation(exact[:, still])
    pixels = made[:, there]
    least = max(own, MIN_DEVIATION)

    def over(rows: NDArray[np.int64]) -> float:
        return _pixel_deviation(pixels[rows]) / least

    low, high = bootstrap(renders.identity, over, min(resamples, 200))
    return Figure(
        _SECTION,
        name,
        over(np.arange(len(pixels))),
        low,
        high,
        condition,
        len(made),
        f"<= {GOAL}",
        f"{_pixel_deviation(pixels):.2f} of 255, exact {own:.2f}; {still.mean():.0%} of its area",
    )


def _pixel_deviation(pixels: Pixels) -> float:
    """Return the standard deviation over pictures (N, P, 3), mean over pixels and colours."""
    return float(pixels.std(0, dtype=np.float32).mean())


def measure_idempotence(
    normalize: Normalize,
    made: Mapping[str, Pixels],
    people: NDArray[np.int64],
    resamples: int = RESAMPLES,
) -> list[Figure]:
    """Measure how much a normalized picture changes when normalized again, in grey levels.

    Args:
        normalize: the normalizer.
        made: condition → (N, S, S, 3) uint8 RGB of ``renders.normalize_all``.
        people: (N,) who is in each picture.
        resamples: for the intervals, over people.
    """
    figures: list[Figure] = []
    for condition, pictures in made.items():
        again = normalize_all(normalize, pictures)
        if again.shape != pictures.shape:
            raise ValueError("the normalizer made pictures of different sizes")
        change = np.array(
            [np.abs(a.astype(int) - b).mean() for a, b in zip(again, pictures, strict=True)]
        )

        def mean(rows: NDArray[np.int64], change: Floats = change) -> float:
            return float(change[rows].mean())

        low, high = bootstrap(people, mean, resamples)
        figures.append(
            Figure(
                _SECTION,
                "change by normalizing again, of 255",
                float(change.mean()),
                low,
                high,
                condition,
                len(change),
                "<= 2",
                "mean absolute difference over all pixels",
            )
        )
    return figures
