"""Is it equally good for everyone? How much of the expression is kept, by groups of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Rows
from ...metrics.resampling import RESAMPLES, bootstrap
from ...synthesis.scene.person import Demographics, demographics_of
from ..figures import Figure
from ..frozen_reader import PictureReadings
from ..renders import Renders
from .synthetic import GROUPS, Readings, columns, ratio

MIN_PEOPLE = 5
_THIRDS = (1 / 3, 2 / 3)


def groups_of(kinds: Sequence[Demographics]) -> dict[str, NDArray[np.str_]]:
    """Return (N,) the group of each of N people, by skin, sex-like shape and age-like look."""

    def thirds(values: list[float], names: tuple[str, str, str]) -> NDArray[np.str_]:
        return np.array(names)[np.digitize(values, _THIRDS)]

    return {
        "skin": thirds([kind.melanin for kind in kinds], ("light", "medium", "dark")),
        "sex-like": np.array(["masculine" if k.masculine else "feminine" for k in kinds]),
        "age-like": thirds([kind.age for kind in kinds], ("young", "middle", "old")),
    }


def measure_fairness(
    renders: Renders,
    readings: Readings,
    kind: Callable[[int], Demographics] = demographics_of,
    resamples: int = RESAMPLES,
) -> list[Figure]:
    """Measure retention by group, and the spread between groups.

    Retention is the mean over the shapes of ``synthetic.GROUPS`` of the R² ratio within the group.

    Args:
        renders: people, expressions and exact targets.
        readings: of ``synthetic.read_renders``.
        kind: identity number → kind of person.
        resamples: for the intervals, over people.
    """
    people, place = np.unique(renders.identity, return_inverse=True)
    kinds = [kind(int(person)) for person in people]
    figures: list[Figure] = []
    for condition, made in readings.made.items():
        for axis, group_of in groups_of(kinds).items():
            figures += _axis(
                axis, group_of[place], renders, readings.exact, made, condition, resamples
            )
    return figures


def _axis(
    axis: str,
    groups: NDArray[np.str_],
    renders: Renders,
    exact: PictureReadings,
    made: PictureReadings,
    condition: str,
    resamples: int,
) -> list[Figure]:
    """Return the figures of one way of grouping people."""
    keep = _retention(renders, exact, made)
    figures: list[Figure] = []
    names = [str(name) for name in np.unique(groups)]
    large: list[str] = []
    for name in names:
        rows = np.flatnonzero(groups == name)
        count = len(np.unique(renders.identity[rows]))
        figure_name = f"retention, {axis} {name}"
        if count < MIN_PEOPLE:
            note = f"only {count} people: too few"
            figures.append(
                Figure(
                    "fairness",
                    figure_name,
                    float("nan"),
                    group=condition,
                    count=len(rows),
                    note=note,
                )
            )
            continue
        large.append(name)

        def here(drawn: Rows, rows: Rows = rows) -> float:
            return keep(rows[drawn])

        low, high = bootstrap(renders.identity[rows], here, resamples)
        figures.append(
            Figure(
                "fairness",
                figure_name,
                keep(rows),
                low,
                high,
                condition,
                len(rows),
                note=f"{count} people",
            )
        )

    def spread(rows: Rows) -> float:
        values = [keep(rows[groups[rows] == name]) for name in large]
        return max(values) - min(values) if len(values) > 1 else float("nan")

    low, high = bootstrap(renders.identity, spread, resamples)
    note = "largest minus smallest; above 0 by chance alone"
    everyone = np.arange(len(groups))
    figures.append(
        Figure(
            "fairness",
            f"spread of retention, {axis}",
            spread(everyone),
            low,
            high,
            condition,
            len(groups),
            note=note if len(large) > 1 else "fewer than two groups are large enough",
        )
    )
    return figures


def _retention(
    renders: Renders, exact: PictureReadings, made: PictureReadings
) -> Callable[[Rows], float]:
    """Return a function: rows → mean R² ratio of the shapes that the reader can read there."""
    where = [columns(renders.expression_names, stems) for stems, _ in GROUPS.values()]
    parts = [
        (made.coefficients[:, w], exact.coefficients[:, w], renders.expression[:, w]) for w in where
    ]

    def keep(rows: Rows) -> float:
        values = [ratio(one[rows], two[rows], truth[rows]) for one, two, truth in parts]
        known = [value for value in values if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan")

    return keep
