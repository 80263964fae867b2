"""Is identity hidden? A probe on crossed renders: every person makes the same expressions.

There an expression says nothing about the person, so whatever a probe finds above one in K is
identity.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ....manifests.arrays import Floats, Pixels
from ....pipeline.errors import InputError
from ...metrics.resampling import RESAMPLES, bootstrap
from ...networks.reader import as_images
from ..figures import Figure
from ..frozen_reader import Read
from ..renders import Renders, through_codec

SIDE_PX = 64  # side of the probe's pictures
COMPONENTS = 60
FOLDS = 5
GOAL = 1.5
#: Below this standard deviation of the features, no trace of a person is left.
_NEGLIGIBLE = 1e-6


def expressions_of(renders: Renders) -> NDArray[np.int64]:
    """Return (N,) the number of the expression in each row.

    Two of the M expressions drawn may be equal, such as two neutral faces: then every person makes
    that one twice.

    Raises:
        InputError: people do not all make each expression equally often.
    """
    _, which = np.unique(renders.expression.round(5), axis=0, return_inverse=True)
    _, who = np.unique(renders.identity, return_inverse=True)
    counts = np.zeros((who.max() + 1, which.max() + 1), int)
    np.add.at(counts, (who, which.ravel()), 1)
    if len(counts) < 2 or counts.shape[1] < FOLDS or counts.min() < 1 or np.ptp(counts, 0).any():
        raise InputError(
            "not a crossed set: people do not all make the same expressions; make one with "
            "normpipe synthesize --crossed KxM, such as 20x30"
        )
    return which.ravel().astype(np.int64)


def measure_crossed(
    renders: Renders,
    made: Mapping[str, Pixels],
    read: Read,
    resamples: int = RESAMPLES,
) -> list[Figure]:
    """Probe for identity in normalized pictures, exact targets and sources.

    Args:
        renders: a crossed set, all splits.
        made: condition → (N, S, S, 3) uint8 RGB of ``renders.normalize_all``.
        read: the frozen reader.
        resamples: for the intervals, over expressions.
    """
    expressions = expressions_of(renders)
    exact = through_codec(renders.target)
    figures: list[Figure] = []
    for condition, pictures in made.items():
        figures += [
            _probe(f"{condition}, pixels", small(pictures), renders, expressions, resamples, True),
            _probe(
                f"{condition}, coefficients of the reader",
                read(pictures).coefficients,
                renders,
                expressions,
                resamples,
                True,
            ),
        ]
    return [
        *figures,
        _probe("exact renders (control)", small(exact), renders, expressions, resamples),
        _probe("originals", small(renders.source), renders, expressions, resamples),
    ]


def small(pictures: Pixels) -> Floats:
    """Resize (N, S, S, 3) uint8 RGB → (N, 64 · 64 · 3) float32 in [0, 1]."""
    import torch
    from torch.nn import functional

    made: list[Floats] = []
    for start in range(0, len(pictures), 64):
        images = as_images(pictures[start : start + 64])
        shrunk = functional.interpolate(images, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)
        made.append(torch.flatten(shrunk, 1).numpy())
    return np.concatenate(made)


def probe_hits(
    features: Floats, people: NDArray[np.int64], expressions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return whether a linear probe, not trained on the row's expression, finds its person.

    The mean over people of each expression is subtracted first, as an attacker who knows the
    expression could do; the differences between people remain. Their principal components,
    standardized, go into a logistic regression.

    Returns:
        (N,) 1 or 0; 1/K for every row if people do not differ at all.
    """
    rest = features.astype(np.float64)
    for expression in np.unique(expressions):
        rows = expressions == expression
        rest[rows] -= rest[rows].mean(0)
    if rest.std() < _NEGLIGIBLE:
        return np.full(len(people), 1 / len(np.unique(people)))
    hits = np.zeros(len(people))
    for train, test in GroupKFold(FOLDS).split(rest, groups=expressions):
        most = min(COMPONENTS, len(train) - 1, rest.shape[1])
        probe = make_pipeline(
            PCA(most, svd_solver="randomized" if most < rest.shape[1] else "full", random_state=0),
            StandardScaler(),
            LogisticRegression(C=0.3, max_iter=300),
        )
        probe.fit(rest[train], people[train])
        hits[test] = probe.predict(rest[test]) == people[test]
    return hits


def _probe(
    group: str,
    features: Floats,
    renders: Renders,
    expressions: NDArray[np.int64],
    resamples: int,
    has_goal: bool = False,
) -> Figure:
    hits = probe_hits(features, renders.identity, expressions)
    count = len(np.unique(renders.identity))
    # Identities are the classes here, so expressions are resampled.
    low, high = bootstrap(expressions, lambda rows: count * float(hits[rows].mean()), resamples)
    return Figure(
        "crossed",
        "accuracy of a linear probe for identity, over its floor",
        count * float(hits.mean()),
        low,
        high,
        group,
        len(hits),
        f"<= {GOAL}" if has_goal else "",
        f"accuracy {hits.mean():.3f}, floor {1 / count:.3f}; {count} people, "
        f"{len(np.unique(expressions))} expressions, interval over expressions",
    )
