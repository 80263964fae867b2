"""A retrained attacker: identifies people after training on their normalized pictures.

Closed-set identification, split within people. What counts is how much more often the attacker is
right than one who knows only the expression: people differ in how often they smile, and normalizing
must not hide that.
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

MIN_PICTURES, MAX_PICTURES = 6, 8  # per person
FOLDS = 3
#: Random folds and choices of pictures to average over.
REPEATS = 3
RESAMPLES = 1000
COMPONENTS = 80
#: Side of the small grey picture that the attacker uses besides HOG.
_PIXELS = 24
GOAL = "<= 0.02"


@dataclass(frozen=True)
class Gallery:
    """People with enough pictures.

    Attributes:
        rows: (M,) indices of their pictures, at most ``MAX_PICTURES`` per person.
        who: (M,) people as numbers from 0.
    """

    rows: NDArray[np.int64]
    who: NDArray[np.int64]

    @property
    def people(self) -> int:
        """Return how many people there are."""
        return int(self.who.max()) + 1 if len(self.who) else 0


def choose_gallery(
    people: NDArray[Any], min_pictures: int = MIN_PICTURES, seed: int = 0
) -> Gallery:
    """Choose at most ``MAX_PICTURES`` pictures of each person with at least ``min_pictures``.

    ``people``: (N,) who is in each picture.
    """
    rng = np.random.default_rng([seed, 43])
    rows: list[NDArray[np.int64]] = []
    for name in np.unique(people):
        own = np.flatnonzero(people == name)
        if len(own) >= min_pictures:
            rows.append(np.sort(rng.permutation(own)[:MAX_PICTURES]))
    who = [np.full(len(own), number, dtype=np.int64) for number, own in enumerate(rows)]
    nothing = np.zeros(0, dtype=np.int64)
    return Gallery(np.concatenate([nothing, *rows]), np.concatenate([nothing, *who]))


def measure_attacker(
    originals: Pixels,
    normalized: Pixels,
    coefficients: Numbers,
    emotions: NDArray[Any],
    people: NDArray[Any],
    min_pictures: int = MIN_PICTURES,
) -> list[Figure]:
    """Measure the balanced accuracy of attackers with different inputs, and the excess.

    Args:
        originals: (N, H, W, 3) uint8 RGB, aligned: the upper bound.
        normalized: (N, S, S, 3) uint8 RGB.
        coefficients: (N, E) of the frozen reader from the normalized pictures.
        emotions: (N,) labels.
        people: (N,) who is in each picture.
        min_pictures: people with fewer pictures are left out.
    """
    galleries = [choose_gallery(people, min_pictures, seed) for seed in range(REPEATS)]
    if galleries[0].people < 2:
        note = f"fewer than two people have {min_pictures} pictures"
        return [Figure("attacker", "normalized", float("nan"), note=note)]
    expression = np.hstack([one_hot(emotions), scaled(coefficients)])
    used = np.unique(np.concatenate([gallery.rows for gallery in galleries]))
    inputs = {
        "normalized": spread(appearance(normalized[used]), used, len(people)),
        "expression only (label and coefficients)": expression,
        "emotion label only": one_hot(emotions),
        "original": spread(appearance(originals[used]), used, len(people)),
    }
    inputs["normalized, given the expression"] = np.hstack([inputs["normalized"], expression])
    recalls = {name: recall(features, galleries) for name, features in inputs.items()}
    return _figures(recalls, galleries[0])


def appearance(images: Pixels) -> Numbers:
    """Return (M, D) features: HOG, and a small grey picture for tone and texture."""
    size = np.linspace(0, images.shape[1], _PIXELS + 1).astype(int)
    grey = images.astype(np.float32).mean(3)
    cells = np.add.reduceat(np.add.reduceat(grey, size[:-1], 1), size[:-1], 2)
    area = np.diff(size)[:, None] * np.diff(size)[None]
    pixels = (cells / area).reshape(len(images), -1)
    return np.hstack([_level(hog_features(images)), _level(pixels)])


def _level(features: Numbers) -> Numbers:
    """Centre, and scale by one factor, so that each kind of feature has equal weight."""
    centred = features - features.mean(0)
    return centred / max(float(np.sqrt((centred**2).sum(1).mean())), 1e-6)


def spread(features: Numbers, rows: NDArray[Any], count: int) -> Numbers:
    """Return (N, D) with the features at their rows and zeros elsewhere."""
    whole = np.zeros((count, features.shape[1]), dtype=np.float32)
    whole[rows] = features
    return whole


def one_hot(labels: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) labels → (N, K)."""
    return (labels[:, None] == np.unique(labels)[None]).astype(np.float64)


def scaled(coefficients: Numbers) -> Numbers:
    """Scale (N, E), each column in units of its standard deviation."""
    return coefficients / np.maximum(coefficients.std(0), 1e-6)


def recall(features: Numbers, galleries: list[Gallery]) -> NDArray[np.float64]:
    """Return (P,) how often each person is recognized, over folds and repeats.

    Linear discriminant analysis with Ledoit-Wolf shrinkage on PCA, both fitted on the training
    folds.
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
        text = note or f"{count} people, chance {1 / count:.3f}"
        return Figure(
            "attacker", name, float(each.mean()), low, high, count=len(gallery.rows), goal=goal,
            note=text,
        )  # fmt: skip

    ours, only, _label, _original, given = recalls
    excess = "normalized − expression only"
    more = "normalized, given the expression − expression only"
    return [
        *(figure(name, each) for name, each in recalls.items()),
        Figure("attacker", "chance", 1 / count, count=len(gallery.rows)),
        figure(excess, recalls[ours] - recalls[only], GOAL, "paired by person"),
        figure(more, recalls[given] - recalls[only], GOAL, "what pictures add to the expression"),
    ]
