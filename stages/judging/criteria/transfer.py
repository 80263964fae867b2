"""Transfer: a simple classifier on originals and on normalized faces, split by person.

An emotion against neutral; HOG, PCA and logistic regression, trained on part train and tested on
other people. Sources without the emotion or without neutral are left out: there the look of the
source would reveal the label (among the faces used by this project, sadness is from films, all
neutral faces from the press), which helps originals only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from ....manifests.arrays import Floats, Pixels
from ...metrics.resampling import Draws, percentiles
from ..figures import Figure
from .appearance import COARSE_PX, FINE_PX, Reduction, hog_features
from .zero_shot import NEUTRAL

EMOTIONS = ("happiness", "surprise", "anger", "sadness")
#: Goal: better on normalized faces. The others: keep 95 % of the accuracy above chance.
BETTER_ON = ("happiness", "surprise", "anger")
RESAMPLES = 1000
COMPONENTS = 100
_STRENGTHS = (1e-3, 1e-2, 1e-1)
_FOLDS = 4
#: Minimum number of pictures of a class in each part.
MIN_PICTURES = 5


@dataclass(frozen=True)
class Setting:
    """Views that a classifier is trained and tested on: one, or two concatenated."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


#: Second views use coarser cells, so both pairs have equally many features of the same kinds.
_DOUBLED, _BOTH = ("original", "original coarse"), ("original", "normalized coarse")
SETTINGS = (
    Setting("original → original", ("original",), ("original",)),
    Setting("normalized → normalized", ("normalized",), ("normalized",)),
    Setting("original → normalized", ("original",), ("normalized",)),
    Setting("normalized → original", ("normalized",), ("original",)),
    Setting("original + original", _DOUBLED, _DOUBLED),
    Setting("original + normalized", _BOTH, _BOTH),
)


@dataclass(frozen=True)
class _Test:
    """Results on the test pictures of one emotion; (M,) each."""

    truth: NDArray[np.bool_]
    people: NDArray[Any]
    sources: NDArray[Any]
    right: Mapping[str, NDArray[np.bool_]]


def balanced_accuracy(
    right: NDArray[np.bool_], truth: NDArray[np.bool_], weights: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Return the mean over both classes of the weighted recall; NaN if a class is missing.

    Args:
        right: (M,) whether each prediction is right.
        truth: (M,) the class.
        weights: (M,) or (R, M), for R draws at once; None counts each picture once.

    Returns:
        () or (R,).
    """
    weight = np.ones(len(right)) if weights is None else weights
    with np.errstate(invalid="ignore"):
        shares = [(weight @ (of & right)) / (weight @ of) for of in (truth, ~truth)]
    return (shares[0] + shares[1]) / 2


def measure_transfer(
    originals: Pixels,
    normalized: Pixels,
    emotions: NDArray[Any],
    people: NDArray[Any],
    sources: NDArray[Any],
    parts: NDArray[Any],
) -> list[Figure]:
    """Measure balanced accuracies by emotion, setting and source, and differences with goals.

    Args:
        originals: (N, H, W, 3) uint8 RGB, aligned.
        normalized: (N, S, S, 3) uint8 RGB.
        emotions, people, sources: (N,) labels.
        parts: (N,) ``train`` or ``test``; a person is in only one of them. Others are left out.
    """
    views = _views(originals, normalized, parts == "train")
    figures: list[Figure] = []
    for emotion in EMOTIONS:
        wanted = np.isin(emotions, [emotion, NEUTRAL])
        usable = _usable_sources(emotion, emotions, sources, parts)
        rows = wanted & np.isin(sources, usable)
        if not usable:
            figures.append(_undefined(emotion))
            continue
        train, test = rows & (parts == "train"), rows & (parts == "test")
        truth = emotions == emotion
        weights = cell_weights(truth[train], sources[train])
        right = {
            setting.name: _train_and_test(setting, views, train, test, truth, people, weights)
            for setting in SETTINGS
        }
        found = _Test(truth[test], people[test], sources[test], right)
        left_out = sorted({str(s) for s in sources[wanted]} - set(usable))
        figures += _figures(emotion, found, usable, left_out)
    return figures


def _views(
    originals: Pixels, normalized: Pixels, train: NDArray[np.bool_]
) -> dict[tuple[str, str], Floats]:
    """Return features by (view that PCA was fitted on, view it is applied to)."""
    cells = {"": FINE_PX, " coarse": COARSE_PX}
    views: dict[tuple[str, str], Floats] = {}
    for suffix, cell in cells.items():
        raw = {
            "original": hog_features(originals, cell),
            "normalized": hog_features(normalized, cell),
        }
        for fitted, features in raw.items():
            reduction = Reduction(features[train], COMPONENTS)
            for view, others in raw.items():
                views[fitted + suffix, view + suffix] = reduction(others)
    return views


def _usable_sources(
    emotion: str, emotions: NDArray[Any], sources: NDArray[Any], parts: NDArray[Any]
) -> list[str]:
    def count(source: str, label: str, part: str) -> int:
        return int(((sources == source) & (emotions == label) & (parts == part)).sum())

    return [
        source
        for source in sorted({str(s) for s in sources})
        if all(
            count(source, label, part) >= MIN_PICTURES
            for label in (emotion, NEUTRAL)
            for part in ("train", "test")
        )
    ]


def cell_weights(truth: NDArray[np.bool_], sources: NDArray[Any]) -> NDArray[np.float64]:
    """Return (N,) weights that balance both classes within each source.

    A source then reveals nothing about the class, and keeps its total weight.
    """
    weights = np.zeros(len(truth))
    for source in np.unique(sources):
        here = sources == source
        for of_class in (truth, ~truth):
            cell = here & of_class
            weights[cell] = here.sum() / (2 * max(cell.sum(), 1))
    return weights


def _train_and_test(
    setting: Setting,
    views: Mapping[tuple[str, str], Floats],
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    people: NDArray[Any],
    weights: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return (M,) whether each test picture is classified correctly."""
    fit = np.hstack([views[view, view][train] for view in setting.train])
    pairs = zip(setting.train, setting.test, strict=True)
    held = np.hstack([views[pair][test] for pair in pairs])
    strength = _best_strength(fit, truth[train], people[train], weights)
    model = _fit(fit, truth[train], weights, strength)
    return model.predict(held) == truth[test]


def _fit(features: Floats, truth: NDArray[np.bool_], weights: Floats, strength: float) -> Any:
    model = LogisticRegression(C=strength, max_iter=500)
    return model.fit(features, truth, sample_weight=weights)


def _best_strength(
    features: Floats, truth: NDArray[np.bool_], people: NDArray[Any], weights: Floats
) -> float:
    """Choose the regularization by cross-validation on the training people."""
    folds = GroupKFold(min(_FOLDS, len(np.unique(people))))
    splits = list(folds.split(features, truth, people))

    def score(strength: float) -> float:
        right = np.zeros(len(truth), dtype=bool)
        for fit, held in splits:
            if len(np.unique(truth[fit])) < 2:
                continue
            model = _fit(features[fit], truth[fit], weights[fit], strength)
            right[held] = model.predict(features[held]) == truth[held]
        return float(balanced_accuracy(right, truth, weights))

    return max(_STRENGTHS, key=score)


def _figures(emotion: str, found: _Test, usable: list[str], left_out: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    for group in ["", *usable] if len(usable) > 1 else [""]:
        here = found.sources == group if group else np.ones(len(found.truth), dtype=bool)
        part = _Test(
            found.truth[here], found.people[here], found.sources[here],
            {name: right[here] for name, right in found.right.items()},
        )  # fmt: skip
        note = f"{int(part.truth.sum())} {emotion}, {int((~part.truth).sum())} neutral"
        if left_out and not group:
            note += f"; without {', '.join(left_out)}: one class is missing there"
        figures += _of_group(emotion, group, part, note)
    return figures


def _of_group(emotion: str, group: str, part: _Test, note: str) -> list[Figure]:
    draws = Draws(part.people, RESAMPLES).all_weights()
    values = {
        name: float(balanced_accuracy(right, part.truth)) for name, right in part.right.items()
    }
    drawn = {
        name: balanced_accuracy(right, part.truth, draws) for name, right in part.right.items()
    }
    count = len(part.truth)
    figures = [
        Figure(
            "transfer",
            f"{emotion}: {name}",
            values[name],
            *percentiles(drawn[name]),
            group=group,
            count=count,
            note=note,
        )
        for name in values
    ]
    alone, ours, doubled, both = (SETTINGS[i].name for i in (0, 1, 4, 5))
    for title, a, b, goal in (
        ("normalized − original", ours, alone, ">= 0.001" if emotion in BETTER_ON else ""),
        ("(original + normalized) − (original + original)", both, doubled, ">= 0.03"),
    ):
        low, high = percentiles(drawn[a] - drawn[b])  # of the same people: paired
        figures.append(
            Figure(
                "transfer",
                f"{emotion}: {title}",
                values[a] - values[b],
                low,
                high,
                group,
                count,
                goal if not group else "",
                note,
            )
        )
    if emotion not in BETTER_ON:
        figures.append(_kept(emotion, group, values[ours], values[alone], note, count))
    return figures  # fmt: skip


def _kept(emotion: str, group: str, ours: float, alone: float, note: str, count: int) -> Figure:
    """Return the share of the originals' above-chance accuracy; undefined if they are at chance."""
    name = f"{emotion}: share of above-chance accuracy kept"
    goal = ">= 0.95" if not group else ""
    if not alone > 0.5 + 0.01:
        note = "the originals are at chance"
        return Figure("transfer", name, float("nan"), group=group, count=count, note=note)
    value = (ours - 0.5) / (alone - 0.5)
    return Figure("transfer", name, value, group=group, count=count, goal=goal, note=note)


def _undefined(emotion: str) -> Figure:
    note = f"no source has {MIN_PICTURES} of {emotion} and of neutral in parts train and test"
    return Figure("transfer", f"{emotion}: {SETTINGS[0].name}", float("nan"), note=note)
