"""Is the expression kept? The frozen reader on normalized renders, compared with exact ones.

Every R² is compared with the reader's own on the exact renders of the same people and expressions.
Goals are on the ratio of the two, so that a normalizer is not blamed for the reader's errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....manifests.arrays import Floats, Pixels, Rows
from ...metrics.resampling import RESAMPLES, bootstrap
from ...synthesis.scene.expressions import RENDERED_UNITS
from ..figures import Figure
from ..frozen_reader import PictureReadings, Read, units
from ..renders import Renders, through_codec

#: Groups of shapes, with the goal for their ratio.
GROUPS: dict[str, tuple[tuple[str, ...], float]] = {
    "jaw": (("jawOpen",), 0.92),
    "smile": (("mouthSmile",), 0.92),
    "brow raise": (("browInnerUp", "browOuterUp"), 0.92),
    "blink": (("eyeBlink",), 0.92),
    "eyeWide": (("eyeWide",), 0.75),
    "press": (("mouthPress",), 0.75),
    "dimple": (("mouthDimple",), 0.75),
    "frown": (("mouthFrown",), 0.75),
}
#: iBUG points by part of the face.
PARTS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
#: Below this, the ratio depends more on the reader than on the normalizer.
MIN_R2 = 0.2
_SECTION = "synthetic"


@dataclass(frozen=True)
class Readings:
    """The reader's outputs for all pictures that are compared.

    Attributes:
        exact: for the exact targets, through the same codec.
        made: for the normalized pictures, by condition (``clean``, ``degraded``).
    """

    exact: PictureReadings
    made: dict[str, PictureReadings]


def read_renders(renders: Renders, made: Mapping[str, Pixels], read: Read) -> Readings:
    """Read exact targets and normalized pictures.

    Args:
        renders: with the exact targets.
        made: condition → (N, S, S, 3) uint8 RGB of ``renders.normalize_all``.
        read: the frozen reader.
    """
    exact = read(through_codec(renders.target))
    return Readings(exact, {condition: read(pictures) for condition, pictures in made.items()})


def r2(prediction: Floats, truth: Floats) -> float:
    """Return R² over (N, C) columns, weighted by the truth's variance; NaN if none varies."""
    spread = float(((truth - truth.mean(0)) ** 2).sum())
    if len(truth) < 2 or spread <= 1e-9 * truth.size:
        return float("nan")
    return 1 - float(((prediction - truth) ** 2).sum()) / spread


def ratio(made: Floats, exact: Floats, truth: Floats) -> float:
    """Return R² on normalized pictures over that on exact ones; NaN if the latter is too low.

    All (N, C): the readings of both, and the truth.
    """
    possible = r2(exact, truth)
    return r2(made, truth) / possible if possible >= MIN_R2 else float("nan")


def columns(names: Sequence[str], stems: Sequence[str]) -> list[int]:
    """Return the indices of shapes, both sides of each."""
    return [
        place
        for place, name in enumerate(names)
        if name.removesuffix("_L").removesuffix("_R") in stems
    ]


def measure_synthetic(
    renders: Renders, readings: Readings, resamples: int = RESAMPLES
) -> list[Figure]:
    """Measure shapes, landmarks and action units by condition, and the average face (the floor)."""
    figures: list[Figure] = []
    for condition, made in readings.made.items():
        figures += _shapes(renders, readings.exact, made, condition, resamples)
        figures += _landmarks(renders, readings.exact, made, condition, resamples)
    for condition, made in readings.made.items():
        figures += _action_units(renders, readings.exact, made, condition, resamples)
    return [*figures, *_average_face(renders, readings.exact)]


def _shapes(
    renders: Renders, exact: PictureReadings, made: PictureReadings, condition: str, resamples: int
) -> list[Figure]:
    figures: list[Figure] = []
    for name, (stems, goal) in GROUPS.items():
        where = columns(renders.expression_names, stems)
        three = (
            made.coefficients[:, where],
            exact.coefficients[:, where],
            renders.expression[:, where],
        )
        figures.append(
            _ratio_figure(f"{name}, R² ratio", three, renders, condition, f">= {goal}", resamples)
        )
    return figures


def _ratio_figure(
    name: str,
    three: tuple[Floats, Floats, Floats],
    renders: Renders,
    condition: str,
    goal: str,
    resamples: int,
) -> Figure:
    made, exact, truth = three
    own = r2(exact, truth)
    low, high = bootstrap(
        renders.identity, lambda rows: ratio(made[rows], exact[rows], truth[rows]), resamples
    )
    value = ratio(made, exact, truth)
    note = f"R² {r2(made, truth):.2f}; the reader on exact renders {own:.2f}"
    if np.isnan(value):
        note = (
            "constant in these renders"
            if np.isnan(own)
            else f"R² {r2(made, truth):.2f}, but the reader itself reaches only {own:.2f}"
        )
    return Figure(_SECTION, name, value, low, high, condition, len(truth), goal, note)


def _action_units(
    renders: Renders, exact: PictureReadings, made: PictureReadings, condition: str, resamples: int
) -> list[Figure]:
    names = renders.expression_names
    found = [units(names, part) for part in (made.coefficients, exact.coefficients)]
    truth = units(names, renders.expression)
    figures: list[Figure] = []
    for place, unit in enumerate(RENDERED_UNITS):
        column = slice(place, place + 1)
        one = truth[:, column]
        if one.std() < 1e-6:  # AU25 is measured on the head; others may not occur
            continue
        three = (found[0][:, column], found[1][:, column], one)
        correlation = _correlation(three[0][:, 0], one[:, 0])
        figures += [
            Figure(_SECTION, f"{unit} R²", r2(three[0], one), group=condition, count=len(one)),
            Figure(_SECTION, f"{unit} correlation", correlation, group=condition, count=len(one)),
            _ratio_figure(f"{unit} R² ratio", three, renders, condition, "", resamples),
        ]
    return figures


def _correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's correlation; 0 for a constant reading."""
    if one.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _landmarks(
    renders: Renders, exact: PictureReadings, made: PictureReadings, condition: str, resamples: int
) -> list[Figure]:
    """Return errors in % of the inter-ocular distance, noting the reader's own on exact renders."""
    own, error = (landmark_errors(renders, found.points) for found in (exact, made))  # (N, 68)
    figures: list[Figure] = []
    for name, part in {"": slice(0, 68), **PARTS}.items():
        means = error[:, part].mean(1)

        def mean(rows: Rows, means: Floats = means) -> float:
            return float(means[rows].mean())

        low, high = bootstrap(renders.identity, mean, resamples)
        figures.append(
            Figure(
                _SECTION,
                f"landmark error{', ' + name if name else ''}, % of the inter-ocular distance",
                float(means.mean()),
                low,
                high,
                condition,
                len(means),
                "" if name else "<= 1.0",
                f"the reader's own on exact renders {own[:, part].mean():.2f}",
            )
        )
    return figures


def landmark_errors(renders: Renders, points: Floats) -> Floats:
    """(N, 68, 2) points as fractions of the side → (N, 68) errors in % of the inter-ocular."""
    size = renders.target.shape[1]
    away = np.linalg.norm(points * size - renders.target_landmarks, axis=2)
    return 100 * away / renders.inter_ocular


def _average_face(renders: Renders, exact: PictureReadings) -> list[Figure]:
    """Return the figures of always showing the average expression: the floor of all others."""
    size = renders.target.shape[1]
    mean = np.broadcast_to(renders.target_landmarks.mean(0) / size, renders.target_landmarks.shape)
    error = landmark_errors(renders, mean)
    figures = [
        Figure(
            _SECTION,
            f"landmark error{', ' + name if name else ''}, % of the inter-ocular distance",
            float(error[:, part].mean()),
            group="average face",
            count=len(error),
            note="the floor: one face for everything",
        )
        for name, part in {"": slice(0, 68), **PARTS}.items()
    ]
    always = np.broadcast_to(exact.coefficients.mean(0), exact.coefficients.shape)
    where = [columns(renders.expression_names, stems) for stems, _ in GROUPS.values()]
    ratios = [
        ratio(always[:, w], exact.coefficients[:, w], renders.expression[:, w]) for w in where
    ]
    known = [value for value in ratios if np.isfinite(value)]
    return [
        Figure(
            _SECTION,
            "R² ratio, mean of the shapes",
            float(np.mean(known)) if known else float("nan"),
            group="average face",
            count=len(renders),
            note="the floor: one face for everything",
        ),
        *figures,
    ]


def reader_scores(
    names: Sequence[str], readings: PictureReadings, renders: Renders
) -> dict[str, dict[str, float] | float]:
    """Score a reader on exact renders: R² by action unit, by shape, and landmark error.

    ``readings``: coefficients (N, E) and points (N, 68, 2) of the renders.
    """
    truth, found = units(names, renders.expression), units(names, readings.coefficients)
    scores: dict[str, Any] = {
        "action_units": {
            unit: r2(found[:, i : i + 1], truth[:, i : i + 1])
            for i, unit in enumerate(RENDERED_UNITS)
        },
        "shapes": {
            name: r2(readings.coefficients[:, i : i + 1], renders.expression[:, i : i + 1])
            for i, name in enumerate(names)
        },
    }
    result: dict[str, dict[str, float] | float] = {
        kind: {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}
        for kind, values in scores.items()
    }
    error = float(landmark_errors(renders, readings.points).mean())
    result["landmark_error_percent"] = round(error, 3)
    return result
