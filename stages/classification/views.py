"""Batches of views of faces: the inputs of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kornia.augmentation as augmentation
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...manifests.arrays import Floats, Pixels, Rows
from ...pipeline.errors import InputError
from ..networks.base import NormalizerNetwork
from ..networks.classifier import MixtureClassifier, Second
from ..networks.compact import CompactNormalizer
from ..networks.files.normalizer_file import open_normalizer
from ..training.batching import ENDLESS, Batch, batch_rows
from ..training.pictures import Form, decode_picture
from ..training.trainer import keep_norms
from .listing import Listing, ViewStore, normalized_by

_READ = 32


@dataclass(frozen=True)
class ViewPlan:
    """The meaning of ``views``: the pictures to read, and the sources of first and second view."""

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
    """Cached views of a listing's faces, shared by one or several trainings.

    Args:
        listing: the faces.
        rows: of the listing that may be requested; all usable.
        memory_gb: pictures beyond this are decoded on demand.
        threads: for decoding.
    """

    def __init__(self, listing: Listing, rows: Rows, memory_gb: float, threads: int) -> None:
        self._faces = listing.take(rows)
        self._index = np.full(len(listing), -1, np.int64)
        self._index[rows] = np.arange(len(rows))
        self._share = memory_gb * 1e9 / 2  # two views at most
        self._threads = threads
        self._stores: dict[tuple[str, Form], ViewStore] = {}
        self._given: dict[tuple[str, Second], Floats] = {}

    def indices(self, rows: Rows) -> Rows:
        """Return the indices (N,) in this pool of rows (N,) of the listing."""
        return self._index[rows]

    def pictures(self, view: str, form: Form) -> ViewStore:
        """Return the pictures of a view, reading them once."""
        if (view, form) not in self._stores:
            store = ViewStore(self._faces, view, form, self._share, self._threads)
            self._stores[view, form] = store
        return self._stores[view, form]

    def encoded(self, normalizer: str, kind: Second) -> Floats:
        """Return a normalizer's encoding of the originals, (N, E) or (N, K, H, W), made once."""
        if (normalizer, kind) not in self._given:
            self._given[normalizer, kind] = encode_originals(self._faces, normalizer, kind)
        return self._given[normalizer, kind]


class ViewData:
    """The views of some faces.

    Args:
        pool: to read them from.
        rows: of the pool's listing.
        views: a key of ``PLANS``.
        network: defines size and colour of the pictures.
        normalizer: weights whose encoder makes ``code`` and ``features``.
    """

    def __init__(
        self, pool: ViewPool, rows: Rows, views: str, network: MixtureClassifier, normalizer: str
    ) -> None:
        self.plan = PLANS[views]
        form = Form(network.colour, network.image_size, exact=True)
        self._rows = pool.indices(rows)
        self._stores = {view: pool.pictures(view, form) for view in self.plan.reads}
        self._given: Floats | None = None
        if self.plan.kind != "picture":
            self._given = pool.encoded(normalizer, self.plan.kind)
        self.count = len(rows)

    def batch(self, places: Rows) -> Batch:
        """Return ``first``, ``second`` (pictures uint8, else float32), ``present`` (B, 2) bool."""
        rows = self._rows[places]
        found = {view: store.take(rows) for view, store in self._stores.items()}
        return _batch(self.plan, found, None if self._given is None else self._given[rows])


def view_batch(
    encoded: Mapping[str, Sequence[bytes]], views: str, network: MixtureClassifier, normalizer: str
) -> Batch:
    """Return a batch of faces that are in no dataset: pictures (N, C, S, S), as ``ViewData.batch``.

    Args:
        encoded: files of N faces for each picture that ``PLANS[views]`` reads.
        views, network, normalizer: as for ``ViewData``.
    """
    plan = PLANS[views]
    form = Form(network.colour, network.image_size, exact=True)
    found = {view: _decoded(files, form) for view, files in encoded.items()}
    given = None
    if plan.kind != "picture":
        module = open_normalizer(normalizer).module
        form = Form(module.sees_colour, module.input_size, exact=True)
        given = _encoded(module, plan.kind, _decoded(encoded["original"], form))
    return _batch(plan, found, given)


def _decoded(files: Sequence[bytes], form: Form) -> Pixels:
    """Return (N, C, S, S) uint8, as ``ViewStore.take``."""
    pixels = np.stack([decode_picture(data, form) for data in files])
    return pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2).copy()


def _batch(plan: ViewPlan, found: Mapping[str, Pixels], given: Floats | None) -> Batch:
    """Return the batch of pictures (B, C, S, S) by view, and of what is given as second view."""
    batch: Batch = {}
    if plan.first:
        batch["first"] = torch.from_numpy(found[plan.first])
    if given is not None:
        batch["second"] = torch.from_numpy(given)
    elif plan.second:
        batch["second"] = torch.from_numpy(found[plan.second])
    count = len(next(iter(batch.values())))
    there = [[bool(plan.first), bool(plan.second)]]
    batch["present"] = torch.tensor(there).expand(count, 2).clone()
    return batch


def normalizer_weights(views: str, listing: Listing, normalizer: str) -> tuple[str, ...] | None:
    """Return the sha256 of the normalizer weights behind the views of a listing.

    Returns:
        Empty if the views need no normalizer, or no face is usable; None if the normalized faces
        do not record their weights.
    """
    plan = PLANS[views]
    if plan.kind != "picture":
        return (open_normalizer(normalizer).digest,)
    return normalized_by(listing) if "normalized" in plan.reads else ()


def second_size(views: str, normalizer: str) -> int:
    """Return the channels of a second view; 0 for pictures. Raises InputError."""
    kind = PLANS[views].kind
    if kind == "picture":
        return 0
    network = open_normalizer(normalizer).module
    if kind == "code":
        return network.expressions
    return _features(network, torch.zeros(1, 3, 64, 64)).shape[1]


def encode_originals(listing: Listing, normalizer: str, kind: Second) -> Floats:
    """Return a frozen normalizer's (N, E) codes or (N, K, H, W) features of the originals."""
    network = open_normalizer(normalizer).module
    form = Form(network.sees_colour, network.input_size, exact=True)
    store = ViewStore(listing, "original", form, 0)
    found: list[Floats] = []
    for start in range(0, len(listing), _READ):
        rows = np.arange(start, min(start + _READ, len(listing)))
        found.append(_encoded(network, kind, store.take(rows)))
    return np.concatenate(found)


def _encoded(network: NormalizerNetwork, kind: Second, pictures: Pixels) -> Floats:
    """Return the codes or features of pictures (N, C, S, S) uint8."""
    with torch.inference_mode():
        images = torch.from_numpy(pictures).float().div(255).expand(-1, 3, -1, -1)
        made = network.read(images) if kind == "code" else _features(network, images)
        return made.float().numpy()


def _features(network: nn.Module, images: Tensor) -> Tensor:
    if not isinstance(network, CompactNormalizer):
        raise InputError(
            "views = original+features: only a compact normalizer's encoder has features"
        )
    return network.features(images)


@dataclass(frozen=True)
class BatchOrder:
    """How batches are drawn: their rows depend on the seed and the step alone.

    Attributes:
        batch_size: rows per step, over all parts.
        parts: equal parts that a batch is split into.
        seed: of the order and of view dropout.
        view_dropout: share of rows with two views that lose one of them.
        weights: (N,) probability of each row; None draws without replacement in each epoch.
    """

    batch_size: int
    parts: int
    seed: int
    view_dropout: float = 0.0
    weights: Floats | None = None


class ClassifierBatches(Dataset[Batch]):
    """Item ``step * parts + part``: views and ``truth`` of one part of batch ``step``.

    ``shares``: (N, C) of the raters, to be learnt; None for none.
    """

    def __init__(
        self, data: ViewData, truth: Floats, order: BatchOrder, shares: Floats | None = None
    ) -> None:
        if order.batch_size % order.parts:
            raise InputError(
                f"batch_size = {order.batch_size} cannot be split into {order.parts} equal parts "
                "(accumulate x processes)"
            )
        self.data = data
        self.truth = truth
        self.order = order
        self.shares = shares

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, item: int) -> Batch:
        step, part = divmod(item, self.order.parts)
        share = self.order.batch_size // self.order.parts
        mine = slice(part * share, (part + 1) * share)
        rows = self.rows(step)[mine]
        batch = self.data.batch(rows)
        batch["truth"] = torch.from_numpy(np.asarray(self.truth[rows], np.float32))
        if self.shares is not None:
            batch["shares"] = torch.from_numpy(self.shares[rows])
        if self.order.view_dropout and "first" in batch and "second" in batch:
            rng = np.random.default_rng([self.order.seed, 42, step])
            drawn = rng.random((2, self.order.batch_size))[:, mine]
            lost = drawn[0] < self.order.view_dropout
            which = (drawn[1] < 0.5).astype(int)
            present = batch["present"].numpy()
            present[np.flatnonzero(lost), which[lost]] = False
        return batch

    def rows(self, step: int) -> Rows:
        """Return (B,) the rows of batch ``step``."""
        order = self.order
        if order.weights is None:
            return batch_rows(len(self.truth), order.batch_size, step, order.seed, 41)
        rng = np.random.default_rng([order.seed, 43, step])
        return rng.choice(len(self.truth), order.batch_size, p=order.weights)


class ClassifierView(nn.Module):
    """Runs a network on a batch, augmented on its device while training.

    Args:
        network: to run.
        frozen_encoder: the encoder stays in evaluation mode.
        norms_frozen: only its batch norms do: they keep the statistics that they began with.
    """

    def __init__(
        self, network: MixtureClassifier, frozen_encoder: bool = False, norms_frozen: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.frozen_encoder = frozen_encoder
        self.norms_frozen = norms_frozen
        self.augment = _augmentation()

    def train(self, mode: bool = True) -> ClassifierView:
        """Set training mode, except for what is frozen."""
        super().train(mode)
        if self.frozen_encoder:
            self.network.encoder.eval()
        elif self.norms_frozen:
            keep_norms(self.network.encoder)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``logits``, ``balance``, ``input_gates``, ``output_gates`` and ``seen``.

        Shapes as ``classifier.ClassifierOutput``; ``batch`` as ``ViewData.batch``: pictures
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
    """Return random flips, affine moves, brightness, contrast and erasing, for each view alone."""
    kinds: list[Any] = [
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.RandomAffine(8.0, (0.06, 0.06), (0.9, 1.1), padding_mode="border", p=0.9),
        augmentation.RandomBrightness((0.75, 1.25), p=0.5),
        augmentation.RandomContrast((0.75, 1.25), p=0.5),
        augmentation.RandomErasing((0.02, 0.12), p=0.25),
    ]
    return augmentation.AugmentationSequential(*kinds, data_keys=["input"])


def batches_in_order(data: ViewData, size: int) -> Iterator[Batch]:
    """Yield all inputs once, in order; pictures (B, C, S, S), see ``ViewData.batch``."""
    for start in range(0, data.count, size):
        yield data.batch(np.arange(start, min(start + size, data.count)))
