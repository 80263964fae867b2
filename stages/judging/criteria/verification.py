"""Verification: does a face recognizer still recognize the person in the normalized picture?

The recognizer is one that the user supplies, such as an ArcFace network of an insightface pack; it
is only used to judge. What the expression alone reveals is measured on the same pairs: people
differ in how often they smile, and pictures of one person were often taken on one day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Numbers, Pixels
from ....pipeline.errors import InputError
from ...faces import onnx as runtime
from ...faces.detectors.detector import DetectorSettings
from ...faces.detectors.insightface import InsightFace
from ...faces.geometry import TEMPLATE, similarity
from ...metrics.ranking import Ranking
from ...metrics.resampling import Draws, percentiles
from ..figures import Figure

#: (B, 112, 112, 3) uint8 RGB in the ArcFace frame → (B, D) embeddings of any length.
Embedder = Callable[[Pixels], Numbers]

#: Where ArcFace networks expect eyes, nose and mouth corners on 112 x 112 pixels: the frame of
#: insightface's recognition networks.
FRAME_PX = 112
FRAME = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip
FPR = 0.001
RESAMPLES = 200
#: Number of pairs of different people; pairs of one person are all used.
DIFFERENT_PAIRS = 60_000


def open_recognizer(pack: Path) -> Embedder:
    """Open the recognition network of an insightface pack with insightface, on one CPU thread.

    Raises:
        InputError: no such folder, or no recognition network in it.
    """
    from insightface.model_zoo import get_model

    if not pack.is_dir():
        raise InputError(f"no folder {pack}: give the folder of an insightface pack with --pack")
    for path in sorted(pack.glob("*.onnx")):
        model: Any = get_model(
            str(path),  # a path, never a name: names may start a download
            providers=runtime.providers_for("cpu"),
            sess_options=runtime.session_options(intra_op_threads=1),
        )
        if model is not None and model.taskname == "recognition":
            break
    else:
        raise InputError(f"{pack} holds no recognition network (*.onnx): verification needs one")

    def embed(crops: Pixels) -> Numbers:
        # insightface takes BGR.
        return np.asarray(model.get_feat([np.ascontiguousarray(crop[..., ::-1]) for crop in crops]))

    return embed


def crops_by_landmarks(images: Pixels, landmarks: Numbers) -> Pixels:
    """Crop faces to the ArcFace frame.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        landmarks: (N, 5, 2) x and y in their pixels; if NaN, the common frame of aligned faces is
            used.

    Returns:
        (N, 112, 112, 3) uint8 RGB.
    """
    size = images.shape[1]
    crops: list[Pixels] = []
    for image, points in zip(images, landmarks, strict=True):
        known = bool(np.isfinite(points).all())
        transform = similarity(points, FRAME) if known else fixed_transform(size)
        crops.append(_cut(image, transform))
    return np.stack(crops)


def locate(pack: Path, normalized: Pixels) -> Numbers | None:
    """Find the five landmarks of the mean normalized face with the pack's detection network.

    All pictures share one frame, so that expressions cannot move the crop. It is detected because
    not all target faces are placed like aligned ones: a crop that is off by a few pixels weakens
    the recognizer, and makes a normalizer look good.

    Args:
        pack: folder of an insightface pack.
        normalized: (N, S, S, 3) uint8 RGB.

    Returns:
        (5, 2) x and y in pixels, or None if no face is found.
    """
    mean = normalized.mean(0).round().astype(np.uint8)
    detector = InsightFace(DetectorSettings(pack=str(pack), threshold=0.3, device="cpu"))
    detector.open()
    try:
        faces = detector.detect([detector.prepare(mean, {})])[0]
    finally:
        detector.close()
    return faces[0].landmarks if faces else None


def crops_by_frame(images: Pixels, points: Numbers | None = None) -> Pixels:
    """Crop pictures of one identity and pose to the ArcFace frame, with one transform.

    Args:
        images: (N, S, S, 3) uint8 RGB.
        points: (5, 2) eyes, nose and mouth corners in all of them; None for eyes and nose as in
            aligned faces.

    Returns:
        (N, 112, 112, 3) uint8 RGB.
    """
    fixed = fixed_transform(images.shape[1]) if points is None else similarity(points, FRAME)
    return np.stack([_cut(image, fixed) for image in images])


def fixed_transform(size_px: int) -> NDArray[np.float64]:
    """Return (2, 3) from an aligned square of this size to the ArcFace frame, by eyes and nose."""
    return similarity(TEMPLATE * size_px, FRAME[:3])


def _cut(image: Pixels, transform: NDArray[np.float64]) -> Pixels:
    # OpenCV counts from the centre of the first pixel.
    centred = transform.copy()
    centred[:, 2] += transform[:, :2] @ [0.5, 0.5] - 0.5
    return cv2.warpAffine(image, centred, (FRAME_PX, FRAME_PX), flags=cv2.INTER_LINEAR).astype(
        np.uint8
    )


def embed_all(embed: Embedder, crops: Pixels, batch: int = 64) -> NDArray[np.float32]:
    """Embed (N, 112, 112, 3) uint8 RGB → (N, D) float32 of length 1 (zeros stay zeros)."""
    found = np.concatenate([embed(crops[i : i + batch]) for i in range(0, len(crops), batch)])
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.maximum(length, 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures: rows ``a`` and ``b`` (P,), and whether one person is in both."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    same: NDArray[np.bool_]

    def take(self, rows: NDArray[Any]) -> Pairs:
        """Return some of the pairs: numbers (M,) or a mask (P,)."""
        return Pairs(self.a[rows], self.b[rows], self.same[rows])

    def __len__(self) -> int:
        return len(self.a)


def draw_pairs(people: NDArray[Any], different: int = DIFFERENT_PAIRS, seed: int = 0) -> Pairs:
    """Return all pairs of one person, and a seeded sample of pairs of two.

    ``people``: (N,) who is in each picture.

    Raises:
        InputError: no person has two pictures, or there is only one person.
    """
    _, who = np.unique(people, return_inverse=True)
    who = who.reshape(-1)
    order = np.argsort(who, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(who))[:-1])
    same = [np.stack(np.triu_indices(len(group), 1)) for group in groups]
    inside = np.concatenate([group[pair] for group, pair in zip(groups, same, strict=True)], axis=1)
    if not inside.size or len(groups) < 2:
        raise InputError("verification needs at least two people, and two pictures of one of them")
    rng = np.random.default_rng([seed, 41])
    drawn = np.sort(rng.integers(0, len(who), (2, 2 * different)), axis=0)
    drawn = np.unique(drawn[:, who[drawn[0]] != who[drawn[1]]], axis=1)
    keep = np.sort(rng.permutation(drawn.shape[1])[:different])
    both = np.concatenate([inside, drawn[:, keep]], axis=1)
    truth = np.arange(both.shape[1]) < inside.shape[1]
    return Pairs(both[0], both[1], truth)


def measure_verification(
    originals: Numbers,
    normalized: Numbers,
    coefficients: Numbers | None,
    emotions: NDArray[Any],
    people: NDArray[Any],
    resamples: int | None = None,
) -> list[Figure]:
    """Measure AUC, EER and TPR at FPR 0.001 of each comparison, with intervals over people.

    Args:
        originals: (N, D) embeddings of length 1 of the original faces.
        normalized: (N, D) of the normalized ones.
        coefficients: (N, E) of the frozen reader from the normalized pictures; None without one.
        emotions: (N,) labels; faces without one are not in emotion-matched pairs.
        people: (N,) who is in each picture.
        resamples: draws of people; None for ``RESAMPLES``.
    """
    pairs = draw_pairs(people)
    matched = pairs.take((emotions[pairs.a] == emotions[pairs.b]) & (emotions[pairs.a] != ""))
    draws = Draws(people, resamples or RESAMPLES)
    compare = {
        "original ↔ original": (_cosine(originals, originals), pairs, ""),
        "original ↔ normalized": (_cosine(originals, normalized, both=True), pairs, ""),
        "normalized ↔ normalized": (_cosine(normalized, normalized), pairs, ""),
        "normalized ↔ normalized, same emotion": (
            _cosine(normalized, normalized), matched, "<= 0.55",
        ),
        "emotion label alone": (_equal(emotions), pairs, ""),
    }  # fmt: skip
    if coefficients is not None:
        alike = _nearness(coefficients)
        compare["coefficients alone"] = (alike, pairs, "")
        compare["coefficients alone, same emotion"] = (alike, matched, "")
    figures: list[Figure] = []
    for name, (score, chosen, goal) in compare.items():
        figures += _measures(name, score(chosen), chosen, draws, goal)
    return figures


def _cosine(a: Numbers, b: Numbers, both: bool = False) -> Callable[[Pairs], Numbers]:
    """Score pairs by cosine; with ``both``, the mean of a with b and b with a."""

    def score(pairs: Pairs) -> Numbers:
        found = np.einsum("ij,ij->i", a[pairs.a], b[pairs.b])
        if both:
            found = (found + np.einsum("ij,ij->i", b[pairs.a], a[pairs.b])) / 2
        return found.round(6)  # so that equal pictures tie exactly

    return score


def _equal(labels: NDArray[Any]) -> Callable[[Pairs], Numbers]:
    return lambda pairs: (labels[pairs.a] == labels[pairs.b]).astype(np.float64)


def _nearness(coefficients: Numbers) -> Callable[[Pairs], Numbers]:
    """Score pairs by closeness of coefficients, each in units of its standard deviation."""
    scaled = coefficients / np.maximum(coefficients.std(0), 1e-6)

    def score(pairs: Pairs) -> Numbers:
        return -np.linalg.norm(scaled[pairs.a] - scaled[pairs.b], axis=1).round(6)

    return score


def _measures(name: str, scores: Numbers, pairs: Pairs, draws: Draws, goal: str) -> list[Figure]:
    """Return AUC, EER, TPR; people are resampled, and pairs are weighted by both their people."""
    if not pairs.same.any() or pairs.same.all():
        note = "no pairs of one person, or none of two people"
        return [Figure("verification", f"AUC {name}", float("nan"), note=note)]
    ranking = Ranking(scores, pairs.same)
    measures: Mapping[str, Callable[[Numbers | None], float]] = {
        "AUC": ranking.auc,
        "EER": ranking.eer,
        f"TPR at FPR {FPR}": lambda weights: ranking.tpr_at(FPR, weights),
    }
    found: dict[str, list[float]] = {what: [] for what in measures}
    for draw in range(len(draws)):
        of = draws.weights(draw)
        # A person drawn twice counts its own pairs twice, not four times.
        weights = np.where(pairs.same, of[pairs.a], of[pairs.a] * of[pairs.b])
        for what, measure in measures.items():
            found[what].append(measure(weights))
    note = f"{int(pairs.same.sum())} pairs of one person, {int((~pairs.same).sum())} of two"
    return [
        Figure("verification", f"{what} {name}", measure(None), *percentiles(np.array(found[what])),
               count=len(pairs), goal=goal if what == "AUC" else "", note=note)
        for what, measure in measures.items()
    ]  # fmt: skip
