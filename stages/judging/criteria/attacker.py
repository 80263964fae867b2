"""Two attackers who learn from normalized pictures.

The retrained one identifies people whose normalized pictures it has seen: closed-set
identification, split within people. The reversing one learns to go back, from a normalized picture
to a recognizer's embedding of the original, and is tried on people whom it has never seen.
What counts is how much better they are than one who knows only the expression: people differ in how
often they smile, and normalizing must not hide that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold

from ....manifests.arrays import Mask, Numbers, Pixels, Words
from ...metrics.ranking import Ranking
from ...metrics.resampling import Draws, paired_difference, percentiles
from ..figures import Figure
from ..seen_faces import RealFaces
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
#: People to learn reversing from, and to try it on.
MIN_LEARNT, MIN_TRIED = 20, 10
_PENALTIES = np.logspace(1, 5, 9)

_OURS, _ONLY = "normalized", "expression only (label and coefficients)"
_GIVEN = "normalized, given the expression"


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
        _OURS: spread(appearance(normalized[used]), used, len(people)),
        _ONLY: expression,
        "emotion label only": one_hot(emotions),
        "original": spread(appearance(originals[used]), used, len(people)),
    }
    inputs[_GIVEN] = np.hstack([inputs[_OURS], expression])
    recalls = {name: recall(features, galleries) for name, features in inputs.items()}
    return _figures(recalls, galleries[0])


def appearance(images: Pixels) -> Numbers:
    """Return (M, D) features: HOG, and a small grey picture for tone and texture."""
    parts = (images[start : start + 256] for start in range(0, len(images), 256))
    pixels = np.concatenate([_small_grey(part) for part in parts])
    return np.hstack([_level(hog_features(images)), _level(pixels)])


def _small_grey(images: Pixels) -> Numbers:
    """(M, H, W, 3) uint8 → (M, 24 · 24) means of the cells of a grid."""
    size = np.linspace(0, images.shape[1], _PIXELS + 1).astype(int)
    grey = images.astype(np.float32).mean(3)
    cells = np.add.reduceat(np.add.reduceat(grey, size[:-1], 1), size[:-1], 2)
    area = np.diff(size)[:, None] * np.diff(size)[None]
    return (cells / area).reshape(len(images), -1)


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

    excess, more = (f"{name} − expression only" for name in (_OURS, _GIVEN))
    return [
        *(figure(name, each) for name, each in recalls.items()),
        Figure("attacker", "chance", 1 / count, count=len(gallery.rows)),
        figure(excess, recalls[_OURS] - recalls[_ONLY], GOAL, "paired by person"),
        figure(more, recalls[_GIVEN] - recalls[_ONLY], GOAL, "what pictures add to the expression"),
    ]


def measure_reversal(
    faces: RealFaces, normalized: Pixels, coefficients: Numbers, originals: Numbers, made: Numbers
) -> list[Figure]:
    """Measure how well originals are found again among those of other people.

    Ridge regression on principal components of the picture and on its embedding predicts the
    embedding of the original; learnt from part train, tried on part test. The figure is the share
    of other people's originals that are less like the prediction than the right one: 0.5 by
    chance.

    Args:
        faces: N faces of named people, nobody in both parts.
        normalized: (N, S, S, 3) uint8 RGB.
        coefficients: (N, E) of the frozen reader from the normalized pictures.
        originals: (N, D) embeddings of length 1 of the original faces.
        made: (N, D) of the normalized ones.
    """
    train, test = faces.parts == "train", faces.parts == "test"
    learnt, tried = (len(np.unique(faces.people[part])) for part in (train, test))
    if learnt < MIN_LEARNT or tried < MIN_TRIED:
        note = f"fewer than {MIN_LEARNT} people to learn from, or {MIN_TRIED} to try it on"
        return [Figure("reversal", f"own original: {_OURS}", float("nan"), note=note)]
    expression = np.hstack([one_hot(faces.emotions), scaled(coefficients)])
    views = {_OURS: _seen_by_attacker(normalized, made, train)}
    inputs = {
        _OURS: views[_OURS],
        _ONLY: expression,
        "emotion label only": one_hot(faces.emotions),
        _GIVEN: np.hstack([views[_OURS], expression]),
        "original": _seen_by_attacker(faces.images, originals, train),
    }
    terms = {
        name: _found_again(reversed_embeddings(x, originals, train, test, faces.people),
                           originals[test] - originals[train].mean(0), faces.people[test])
        for name, x in inputs.items()
    }  # fmt: skip
    note = f"learnt from {learnt} people, tried on {tried}; chance 0.5"
    return _reversal_figures(terms, faces.people[test], note)


def _seen_by_attacker(images: Pixels, embedded: Numbers, train: Mask) -> Numbers:
    """Return (N, C + D) features: principal components of the pictures, and their embeddings."""
    pictures = appearance(images)
    return np.hstack([Reduction(pictures[train], COMPONENTS)(pictures), scaled(embedded)])


def reversed_embeddings(
    features: Numbers, originals: Numbers, train: Mask, test: Mask, people: Words
) -> Numbers:
    """Learn features → embedding of the original from some people, and predict it for others.

    Args:
        features: (N, F).
        originals: (N, D) embeddings.
        train, test: (N,) which rows.
        people: (N,) who is in each; the penalty is chosen on people left out.

    Returns:
        (M, D) for the rows of ``test``, relative to the mean embedding in part train.
    """
    x = (features - features[train].mean(0)) / np.maximum(features[train].std(0), 1e-6)
    folds = list(GroupKFold(FOLDS).split(x[train], groups=people[train]))
    model = Ridge(fit_intercept=False)
    search = GridSearchCV(model, {"alpha": _PENALTIES}, scoring=_mean_cosine, cv=folds)
    search.fit(x[train], originals[train] - originals[train].mean(0))
    return np.asarray(search.predict(x[test]))


def _mean_cosine(model: Any, features: Numbers, truth: Numbers) -> float:
    """Score a model by what counts for finding (M, D) embeddings again."""
    return float(np.mean(np.sum(_directions(model.predict(features)) * _directions(truth), axis=1)))


def _directions(vectors: Numbers) -> Numbers:
    """Scale (M, D) to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _found_again(predicted: Numbers, originals: Numbers, people: Words) -> Numbers:
    """Score each prediction against all originals of the tested people.

    Args:
        predicted, originals: (M, D).
        people: (M,).

    Returns:
        (M, 2, 2): for its own original, and for other pictures of the person, the share of other
        people's originals that are less alike, and 1; zeros if there is no other picture.
    """
    one, other = _directions(predicted), _directions(originals)
    terms = np.zeros((len(people), 2, 2))
    for row, who in enumerate(people):
        score, same = (one[row] @ other.T).round(6), people == who
        itself = np.arange(len(people)) == row
        for place, (rows, right) in enumerate(((itself | ~same, itself), (~itself, same))):
            share = Ranking(score[rows], right[rows]).auc()
            if np.isfinite(share):
                terms[row, place] = share, 1
    return terms


def _mean_share(sums: Numbers) -> Numbers:
    """(…, 2) sums of shares and of how many there are → (…) their mean; NaN without any."""
    return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1), np.nan)


def _reversal_figures(terms: Mapping[str, Numbers], people: Words, note: str) -> list[Figure]:
    draws = Draws(people, RESAMPLES)
    figures: list[Figure] = []
    for place, question in enumerate(("own original", "another picture of the person")):
        for name, each in terms.items():
            low, high = percentiles(_mean_share(draws.sums(each[:, place])))
            value, count = float(_mean_share(each[:, place].sum(0))), int(each[:, place, 1].sum())
            figures.append(
                Figure("reversal", f"{question}: {name}", value, low, high, "", count, "", note)
            )
        for name in (_OURS, _GIVEN):
            first, second = terms[_ONLY][:, place], terms[name][:, place]
            value, low, high = paired_difference(draws, first, second, _mean_share)
            # No more than chance: the interval reaches down to 0.
            goal = f"<= {max(value - low, 0):.3f}" if not place and np.isfinite(low) else ""
            figures.append(
                Figure(
                    "reversal", f"{question}: {name} − expression only", value, low, high, "",
                    int(first[:, 1].sum()), goal, "the goal is what chance explains: half the "
                    "interval",
                )
            )  # fmt: skip
    return figures
