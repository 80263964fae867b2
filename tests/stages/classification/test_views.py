"""Batches of views: a function of seed and step, whatever they are cut into."""

import numpy as np
import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.listing import list_faces
from normpipe.stages.classification.views import (
    PLANS,
    BatchOrder,
    ClassifierBatches,
    ClassifierView,
    ViewData,
    ViewPool,
    batches_in_order,
    second_size,
)
from normpipe.stages.networks.classifier import MixtureClassifier

from .faces import Face, opened, write_faces

COUNT = 12


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    faces = [Face(f"d/{n:02}.jpg", {"emotion": "a"}, original=10 + n, normalized=100 + n)
             for n in range(COUNT)]  # fmt: skip
    faces[3].status, faces[3].reason = "rejected", "no_face"
    folder = write_faces(tmp_path_factory.mktemp("job"), faces)
    listing = list_faces(opened(folder), ("original", "normalized"))
    return ViewPool(listing, np.flatnonzero(listing.usable), 1.0, 1)


ROWS = np.array([n for n in range(COUNT) if n not in (3, 5)])


def data(pool, views, **settings):
    plan = PLANS[views]
    size = second_size(views, "compact")
    network = MixtureClassifier(2, second=plan.kind, second_size=size, **settings)
    return ViewData(pool, ROWS, views, network, "compact")


def batches(pool, views="original+normalized", **order):
    found = data(pool, views)
    return ClassifierBatches(found, np.arange(found.count, dtype=float), BatchOrder(**order))


def greys(pictures):
    return [int(picture.float().mean()) for picture in pictures]


@pytest.mark.parametrize(
    ("views", "first", "second", "present"),
    [
        ("original", 10, None, [True, False]),
        ("normalized", None, 100, [False, True]),
        ("original+normalized", 10, 100, [True, True]),
        ("original+original", 10, 10, [True, True]),
        ("original+code", 10, (53,), [True, True]),
        ("original+features", 10, (192, 4, 4), [True, True]),
    ],
)
def test_what_views_mean(pool, views, first, second, present):
    batch = data(pool, views).batch(np.array([0, 4, 2]))
    rows = [ROWS[0], ROWS[4], ROWS[2]]
    for name, begin in (("first", first), ("second", second)):
        if begin is None:
            assert name not in batch
        elif isinstance(begin, tuple):
            assert batch[name].shape == (3, *begin) and batch[name].dtype == torch.float32
            assert batch[name].isfinite().all()
        else:
            assert batch[name].shape == (3, 1, 64, 64) and batch[name].dtype == torch.uint8
            assert greys(batch[name]) == [begin + row for row in rows]
    assert batch["present"].tolist() == [present] * 3


def test_all_in_order(pool):
    found = list(batches_in_order(data(pool, "normalized"), 4))
    assert [len(batch["present"]) for batch in found] == [4, 4, 2]
    assert [grey for batch in found for grey in greys(batch["second"])] == [100 + r for r in ROWS]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("weights", [None, np.arange(10) / 45])
def test_parts_make_the_batch(pool, parts, weights):
    order = {"batch_size": 8, "seed": 5, "view_dropout": 0.5, "weights": weights}
    whole, cut = batches(pool, parts=1, **order), batches(pool, parts=parts, **order)
    for step in (0, 7):
        pieces = [cut[step * parts + part] for part in range(parts)]
        for name, tensor in whole[step].items():
            assert torch.equal(tensor, torch.cat([piece[name] for piece in pieces])), name


def test_a_batch_depends_on_its_number_alone(pool):
    order = {"batch_size": 4, "parts": 1, "seed": 1, "view_dropout": 0.5}
    one, two = batches(pool, **order), batches(pool, **order)
    third = one[3]
    _ = two[9], two[0]
    assert all(torch.equal(value, two[3][name]) for name, value in third.items())
    assert not torch.equal(one[4]["truth"], third["truth"])
    other = batches(pool, **{**order, "seed": 2})[3]
    assert not torch.equal(other["truth"], third["truth"])


def test_every_face_comes_once_before_any_comes_again(pool):
    found = batches(pool, batch_size=5, parts=1, seed=0)
    seen = torch.cat([found[step]["truth"] for step in range(4)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_heavy_rows_are_drawn_more_often(pool):
    weights = np.array([0.5] + [0.5 / 9] * 9)
    found = batches(pool, batch_size=10, parts=1, seed=0, weights=weights)
    drawn = np.concatenate([found.rows(step) for step in range(200)])
    assert (drawn == 0).mean() == pytest.approx(0.5, abs=0.04)


def test_view_dropout_leaves_one_view(pool):
    found = batches(pool, batch_size=10, parts=1, seed=0, view_dropout=0.3)
    present = torch.cat([found[step]["present"] for step in range(100)]).float()
    assert present.sum(1).min() == 1
    assert present.mean(0).tolist() == pytest.approx([0.85, 0.85], abs=0.03)
    never = batches(pool, batch_size=10, parts=1, seed=0)
    assert never[0]["present"].all()
    single = batches(pool, "original", batch_size=10, parts=1, seed=0, view_dropout=1.0)
    assert single[0]["present"].tolist() == [[True, False]] * 10


def test_a_batch_that_cannot_be_cut_is_one_line(pool):
    with pytest.raises(InputError, match="batch_size = 10 cannot be split into 4"):
        batches(pool, batch_size=10, parts=4, seed=0)


def test_pictures_are_augmented_in_training_alone(pool):
    found = data(pool, "original+original")
    view = ClassifierView(MixtureClassifier(2))
    shown = []
    view.network.forward = lambda first, second, present: shown.append((first, second)) or Fake()  # type: ignore[method-assign]
    batch = found.batch(np.arange(4))
    view.eval()(batch)
    torch.manual_seed(0)
    view.train()(batch)
    torch.manual_seed(0)
    view.train()(batch)
    (plain, twice), (bent, other), (again, _) = shown
    assert torch.equal(plain, batch["first"].float() / 255) and torch.equal(plain, twice)
    assert not torch.equal(bent, plain) and not torch.equal(bent, other)
    assert torch.equal(bent, again)
    assert bent.shape == plain.shape and bent.min() >= 0 and bent.max() <= 1


class Fake:
    def _asdict(self):
        return {}


def test_a_frozen_encoder_stays_in_evaluation():
    view = ClassifierView(MixtureClassifier(2), frozen_encoder=True).train()
    assert not view.network.encoder.training and view.network.head.training
    assert ClassifierView(MixtureClassifier(2)).train().network.encoder.training


def test_a_normalizer_that_has_no_features_is_one_line():
    with pytest.raises(InputError, match="no weights 'compcat'"):
        second_size("original+code", "compcat")
