"""A retrained attacker: who is it, among people whose normalized pictures the attacker has seen?

Closed-set identification, split within people. What counts is not how often the attacker is right
but by how much more often than one who is given the expression alone: people differ in how often
they smile, and that no normalizer may hide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold

from ....manifests.arrays import Numbers, Pixels
from ...metrics.resampling import Draws, percentiles
from ..figures import Figure
from .appearance import Reduction, hog_features

FEWEST, MOST = 6, 8
FOLDS = 3
#: Cuts into folds and choices of pictures that are averaged, so that luck weighs less.
REPEATS = 3
RESAMPLES = 1000
COMPONENTS = 80
#: Pixels that the attacker looks at beside HOG: grey, this wide and high.
_PIXELS = 24
GOAL = "<= 0.02"


@dataclass(frozen=True)
class Gallery:
    """People with enough pictures.

    Attributes:
        rows: (M,) numbers of their pictures, at most ``MOST`` a person.
        who: (M,) people as numbers from 0.
    """

    rows: NDArray[np.int64]
    who: NDArray[np.int64]

    @property
    def people(self) -> int:
        """Return how many people there are."""
        return int(self.who.max()) + 1 if len(self.who) else 0


def choose_gallery(people: NDArray[Any], fewest: int = FEWEST, seed: int = 0) -> Gallery:
    """Take at most ``MOST`` seeded pictures of each person with at least ``fewest``.

    ``people``: (N,) who is in every picture.
    """
    rng = np.random.default_rng([seed, 43])
    rows: list[NDArray[np.int64]] = []
    for name in np.unique(people):
        own = np.flatnonzero(people == name)
        if len(own) >= fewest:
            rows.append(np.sort(rng.permutation(own)[:MOST]))
    who = [np.full(len(own), number, dtype=np.int64) for number, own in enumerate(rows)]
    nothing = np.zeros(0, dtype=np.int64)
    return Gallery(np.concatenate([nothing, *rows]), np.concatenate([nothing, *who]))


def measure_attacker(
    originals: Pixels,
    normalized: Pixels,
    coefficients: Numbers,
    emotions: NDArray[Any],
    people: NDArray[Any],
    fewest: int = FEWEST,
) -> list[Figure]:
    """Balanced accuracy of attackers who see different things, and the excess that has a goal.

    Args:
        originals: (N, H, W, 3) uint8 RGB, aligned: the ceiling.
        normalized: (N, S, S, 3) uint8 RGB.
        coefficients: (N, E) of the frozen reader from the normalized pictures.
        emotions: (N,) labels.
        people: (N,) who.
        fewest: people with fewer pictures take no part.
    """
    galleries = [choose_gallery(people, fewest, seed) for seed in range(REPEATS)]
    if galleries[0].people < 2:
        note = f"fewer than two people have {fewest} pictures"
        return [Figure("attacker", "normalized", float("nan"), note=note)]
    expression = np.hstack([one_hot(emotions), scaled(coefficients)])
    used = np.unique(np.concatenate([gallery.rows for gallery in galleries]))
    seen = {
        "normalized": spread(appearance(normalized[used]), used, len(people)),
        "expression only (label and coefficients)": expression,
        "emotion label only": one_hot(emotions),
        "original": spread(appearance(originals[used]), used, len(people)),
    }
    seen["normalized, given the expression"] = np.hstack([seen["normalized"], expression])
    recalls = {name: recall(features, galleries) for name, features in seen.items()}
    return _figures(recalls, galleries[0])


def appearance(images: Pixels) -> Numbers:
    """(M, D) what the attacker sees: HOG, and small grey pixels for tone and texture."""
    size = np.linspace(0, images.shape[1], _PIXELS + 1).astype(int)
    grey = images.astype(np.float32).mean(3)
    cells = np.add.reduceat(np.add.reduceat(grey, size[:-1], 1), size[:-1], 2)
    area = np.diff(size)[:, None] * np.diff(size)[None]
    pixels = (cells / area).reshape(len(images), -1)
    return np.hstack([_level(hog_features(images)), _level(pixels)])


def _level(features: Numbers) -> Numbers:
    """Centre, and scale as a whole, so that every kind of feature weighs the same."""
    centred = features - features.mean(0)
    return centred / max(float(np.sqrt((centred**2).sum(1).mean())), 1e-6)


def spread(features: Numbers, rows: NDArray[Any], count: int) -> Numbers:
    """(N, D) with the features at their rows and zeros elsewhere."""
    whole = np.zeros((count, features.shape[1]), dtype=np.float32)
    whole[rows] = features
    return whole


def one_hot(labels: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) words → (N, K)."""
    return (labels[:, None] == np.unique(labels)[None]).astype(np.float64)


def scaled(coefficients: Numbers) -> Numbers:
    """(N, E), each in units of its standard deviation."""
    return coefficients / np.maximum(coefficients.std(0), 1e-6)


def recall(features: Numbers, galleries: list[Gallery]) -> NDArray[np.float64]:
    """(P,) how often each person is recognized, over folds and repeats.

    Linear discriminant analysis with Ledoit-Wolf shrinkage on PCA; both are fitted on the training
    folds alone.
    """
    total = np.zeros(galleries[0].people)
    for seed, gallery in enumerate(galleries):
        x, who = features[gallery.rows], gallery.who
        right = np.zeros(len(who))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(x, who):
            reduce = Reduction(x[train], COMPONENTS)
            model = LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage="auto", priors=np.full(gallery.people, 1 / gallery.people)
            )
            model.fit(reduce(x[train]), who[train])
            right[test] = model.predict(reduce(x[test])) == who[test]
        total += np.bincount(who, right) / np.bincount(who)
    return total / len(galleries)


def _figures(recalls: Mapping[str, NDArray[np.float64]], gallery: Gallery) -> list[Figure]:
    count = gallery.people
    draws = Draws(np.arange(count), RESAMPLES).all_weights() / count

    def figure(name: str, each: NDArray[np.float64], goal: str = "", note: str = "") -> Figure:
        low, high = percentiles(draws @ each)
        words = note or f"{count} people, chance {1 / count:.3f}"
        return Figure(
            "attacker", name, float(each.mean()), low, high, count=len(gallery.rows), goal=goal,
            note=words,
        )  # fmt: skip

    ours, only, _label, _original, given = recalls
    excess = "normalized − expression only"
    more = "normalized, given the expression − expression only"
    return [
        *(figure(name, each) for name, each in recalls.items()),
        Figure("attacker", "chance", 1 / count, count=len(gallery.rows)),
        figure(excess, recalls[ours] - recalls[only], GOAL, "of the same people"),
        figure(more, recalls[given] - recalls[only], GOAL, "what pictures add to the expression"),
    ]
