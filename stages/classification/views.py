"""Views of faces in batches: what a classifier is shown, in training and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import kornia.augmentation as augmentation
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...manifests.arrays import Floats, Rows
from ...pipeline.errors import InputError
from ..networks.classifier import MixtureClassifier, Second
from ..networks.compact import CompactNormalizer
from ..networks.files.normalizer_file import open_normalizer
from ..training.batching import ENDLESS, Batch, chosen
from ..training.pictures import Form
from .listing import Listing, ViewStore, normalized_by

_READ = 32


@dataclass(frozen=True)
class ViewPlan:
    """What views mean: the pictures read, and where first and second view come from."""

    reads: tuple[str, ...]
    first: str
    second: str
    kind: Second


PLANS: dict[str, ViewPlan] = {
    "original": ViewPlan(("original",), "original", "", "picture"),
    "normalized": ViewPlan(("normalized",), "", "normalized", "picture"),
    "original+normalized": ViewPlan(
        ("original", "normalized"), "original", "normalized", "picture"
    ),
    "original+original": ViewPlan(("original",), "original", "original", "picture"),
    "original+code": ViewPlan(("original",), "original", "code", "code"),
    "original+features": ViewPlan(("original",), "original", "features", "features"),
}


class ViewPool:
    """What has been read of a listing's faces, for one training or for many.

    Args:
        listing: the faces.
        rows: of the listing that may be asked for; all usable.
        memory_gb: pictures beyond this are decoded when they are asked for.
        threads: that decode.
    """

    def __init__(self, listing: Listing, rows: Rows, memory_gb: float, threads: int) -> None:
        self._faces = listing.take(rows)
        self._place = np.full(len(listing), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        self._share = memory_gb * 1e9 / 2  # two views at most
        self._threads = threads
        self._stores: dict[tuple[str, Form], ViewStore] = {}
        self._given: dict[tuple[str, Second], Floats] = {}

    def places(self, rows: Rows) -> Rows:
        """Rows of the listing (N,) → where they stand here (N,)."""
        return self._place[rows]

    def pictures(self, view: str, form: Form) -> ViewStore:
        """Pictures of a view; read once."""
        if (view, form) not in self._stores:
            store = ViewStore(self._faces, view, form, self._share, self._threads)
            self._stores[view, form] = store
        return self._stores[view, form]

    def given(self, normalizer: str, kind: Second) -> Floats:
        """What a normalizer's encoder makes of the originals, (N, E) or (N, K, H, W); made once."""
        if (normalizer, kind) not in self._given:
            self._given[normalizer, kind] = seen_by_normalizer(self._faces, normalizer, kind)
        return self._given[normalizer, kind]


class ViewData:
    """The views of some faces.

    Args:
        pool: what they are read from.
        rows: of the pool's listing.
        views: which.
        network: takes the pictures.
        normalizer: weights whose encoder makes ``code`` and ``features``.
    """

    def __init__(
        self, pool: ViewPool, rows: Rows, views: str, network: MixtureClassifier, normalizer: str
    ) -> None:
        self.plan = PLANS[views]
        form = Form(network.colour, network.image_size, exact=True)
        self._rows = pool.places(rows)
        self._stores = {view: pool.pictures(view, form) for view in self.plan.reads}
        self._given: Floats | None = None
        if self.plan.kind != "picture":
            self._given = pool.given(normalizer, self.plan.kind)
        self.count = len(rows)

    def batch(self, places: Rows) -> Batch:
        """``first``, ``second`` (pictures uint8, all else float32) and ``present`` (B, 2)."""
        rows = self._rows[places]
        found = {view: torch.from_numpy(store.take(rows)) for view, store in self._stores.items()}
        batch: Batch = {}
        if self.plan.first:
            batch["first"] = found[self.plan.first]
        if self._given is not None:
            batch["second"] = torch.from_numpy(self._given[rows])
        elif self.plan.second:
            batch["second"] = found[self.plan.second]
        there = [[bool(self.plan.first), bool(self.plan.second)]]
        batch["present"] = torch.tensor(there).expand(len(rows), 2).clone()
        return batch


def normalizer_weights(views: str, listing: Listing, normalizer: str) -> tuple[str, ...] | None:
    """Sha256 of the normalizer weights behind what is seen of a listing.

    Returns:
        Empty where views need no normalizer, or no face can be used; None where the normalized
        faces do not say what made them.
    """
    plan = PLANS[views]
    if plan.kind != "picture":
        return (open_normalizer(normalizer).digest,)
    return normalized_by(listing) if "normalized" in plan.reads else ()


def second_size(views: str, normalizer: str) -> int:
    """Channels of a second view that is no picture; 0 for pictures. Raises InputError."""
    kind = PLANS[views].kind
    if kind == "picture":
        return 0
    network = open_normalizer(normalizer).module
    if kind == "code":
        return network.expressions
    return _features(network, torch.zeros(1, 3, 64, 64)).shape[1]


def seen_by_normalizer(listing: Listing, normalizer: str, kind: Second) -> Floats:
    """What a frozen normalizer makes of the originals: (N, E) codes or (N, K, H, W) features."""
    network = open_normalizer(normalizer).module
    form = Form(network.sees_colour, network.input_size, exact=True)
    store = ViewStore(listing, "original", form, 0)
    found: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(listing), _READ):
            rows = np.arange(start, min(start + _READ, len(listing)))
            images = torch.from_numpy(store.take(rows)).float().div(255).expand(-1, 3, -1, -1)
            made = network.read(images) if kind == "code" else _features(network, images)
            found.append(made.float().numpy())
    return np.concatenate(found)


def _features(network: nn.Module, images: Tensor) -> Tensor:
    if not isinstance(network, CompactNormalizer):
        raise InputError("views = original+features: a compact normalizer's encoder alone has them")
    return network.features(images)


@dataclass(frozen=True)
class Order:
    """Which rows a batch holds: a function of the seed and the step alone.

    Attributes:
        batch_size: rows a step, over all parts.
        parts: equal parts that a batch is cut into.
        seed: of the order and of view dropout.
        view_dropout: share of rows with two views that are shown one of them.
        weights: (N,) chance of each row; None shows every one once before any comes again.
    """

    batch_size: int
    parts: int
    seed: int
    view_dropout: float = 0.0
    weights: Floats | None = None


class ClassifierBatches(Dataset[Batch]):
    """Item ``step * parts + part``: views and ``truth`` of a part of batch ``step``."""

    def __init__(self, data: ViewData, truth: Floats, order: Order) -> None:
        if order.batch_size % order.parts:
            raise InputError(
                f"batch_size = {order.batch_size} cannot be cut into {order.parts} equal parts "
                "(accumulate x processes)"
            )
        self.data = data
        self.truth = truth
        self.order = order

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, item: int) -> Batch:
        step, part = divmod(item, self.order.parts)
        share = self.order.batch_size // self.order.parts
        mine = slice(part * share, (part + 1) * share)
        rows = self.rows(step)[mine]
        batch = self.data.batch(rows)
        batch["truth"] = torch.from_numpy(np.asarray(self.truth[rows], np.float32))
        if self.order.view_dropout and "first" in batch and "second" in batch:
            rng = np.random.default_rng([self.order.seed, 42, step])
            drawn = rng.random((2, self.order.batch_size))[:, mine]
            lost = drawn[0] < self.order.view_dropout
            which = (drawn[1] < 0.5).astype(int)
            present = batch["present"].numpy()
            present[np.flatnonzero(lost), which[lost]] = False
        return batch

    def rows(self, step: int) -> Rows:
        """(B,) rows of batch ``step``."""
        order = self.order
        if order.weights is None:
            return chosen(len(self.truth), order.batch_size, step, order.seed, 41)
        rng = np.random.default_rng([order.seed, 43, step])
        return rng.choice(len(self.truth), order.batch_size, p=order.weights)


class ClassifierView(nn.Module):
    """Shows a network a batch, augmented on its device while training."""

    def __init__(self, network: MixtureClassifier, frozen_encoder: bool = False) -> None:
        super().__init__()
        self.network = network
        self.frozen_encoder = frozen_encoder
        self.augment = _augmentation()

    def train(self, mode: bool = True) -> ClassifierView:
        """Training mode, but for a frozen encoder."""
        super().train(mode)
        if self.frozen_encoder:
            self.network.encoder.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``logits``, ``balance``, ``input_gates``, ``output_gates`` and ``seen``.

        Shapes as ``networks.classifier.Judgement``; ``batch`` as ``ViewData.batch``: pictures
        (B, C, S, S) uint8, codes (B, E) or features (B, K, H, W) float32, ``present`` (B, 2) bool.
        """
        first, second = self._view(batch, "first"), self._view(batch, "second")
        return self.network(first, second, batch["present"])._asdict()

    def _view(self, batch: Batch, name: str) -> Tensor | None:
        found = batch.get(name)
        if found is None or found.dtype != torch.uint8:
            return found
        pictures = found.float() / 255
        return self.augment(pictures) if self.training else pictures


def _augmentation() -> nn.Module:
    """Mirror, shift, turn, scale, relight, cover: of each view on its own."""
    kinds: list[Any] = [
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.RandomAffine(8.0, (0.06, 0.06), (0.9, 1.1), padding_mode="border", p=0.9),
        augmentation.RandomBrightness((0.75, 1.25), p=0.5),
        augmentation.RandomContrast((0.75, 1.25), p=0.5),
        augmentation.RandomErasing((0.02, 0.12), p=0.25),
    ]
    return augmentation.AugmentationSequential(*kinds, data_keys=["input"])


def batches_in_order(data: ViewData, size: int) -> Iterator[Batch]:
    """All inputs once, in order; pictures (B, C, S, S), see ``ViewData.batch``."""
    for start in range(0, data.count, size):
        yield data.batch(np.arange(start, min(start + size, data.count)))
