"""Losses against formulas written down anew, unknown labels, and parts of a batch."""

import numpy as np
import pandas as pd
import pingouin
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from normpipe.stages.classification import classifier_losses as losses
from normpipe.stages.classification.classifier_losses import ClassifierObjective

from .toys import EMOTIONS, LEVELS, TASKS, UNITS

NAN = float("nan")
WEIGHTS = torch.tensor([0.5, 1.0, 2.5])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def drawn():
    rng = np.random.default_rng(3)
    return rng.normal(0, 2, (12, 3)), rng.integers(0, 2, (12, 3)).astype(float), rng


def tensor(x):
    return torch.tensor(np.asarray(x), dtype=torch.float32)


def test_asymmetric_is_the_formula(drawn):
    logits, truth, rng = drawn
    truth[rng.random(truth.shape) < 0.3] = NAN
    p, total, known = sigmoid(logits), 0.0, 0
    for row in range(12):
        for label in range(3):
            y = truth[row, label]
            if np.isnan(y):
                continue
            term = np.log(p[row, label]) if y else p[row, label] * np.log(1 - p[row, label])
            total += float(WEIGHTS[label]) * term
            known += 1
    found = losses.weighted_asymmetric(tensor(logits), tensor(truth), WEIGHTS)
    assert float(found) == pytest.approx(-total / known, rel=1e-5)


def test_asymmetric_does_not_learn_through_its_own_weight():
    logits = torch.tensor([[1.3]], requires_grad=True)
    losses.weighted_asymmetric(logits, torch.zeros(1, 1), torch.ones(1)).backward()
    p = sigmoid(1.3)  # d/dx −p̄·log(1 − p) = p̄·p
    assert float(logits.grad) == pytest.approx(p * p, rel=1e-5)


def test_cross_entropy_is_the_formula(drawn):
    logits, _, rng = drawn
    truth = rng.integers(0, 3, 12).astype(float)
    truth[[2, 5]] = NAN
    known = np.isfinite(truth)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    w = WEIGHTS.numpy()[truth[known].astype(int)]
    chosen = p[known, truth[known].astype(int)]
    found = losses.cross_entropy(tensor(logits), tensor(truth), WEIGHTS)
    assert float(found) == pytest.approx((w * -np.log(chosen)).sum() / w.sum(), rel=1e-5)
    same = torch.nn.functional.cross_entropy(
        tensor(logits[known]), torch.tensor(truth[known]).long(), WEIGHTS
    )
    assert float(found) == pytest.approx(float(same), rel=1e-5)


def test_cross_entropy_of_votes_is_the_formula(drawn):
    """Rows with votes learn their shares; the others their class, smoothed."""
    logits, _, rng = drawn
    truth = rng.integers(0, 3, 12).astype(float)
    truth[[2, 9]] = NAN  # one with votes and one without
    shares = rng.dirichlet([1, 1, 1], 12)
    shares[[2, 4, 7]] = NAN
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    total, weight = 0.0, 0.0
    for row in range(12):
        if row == 2:
            continue
        q = one = shares[row]
        if row in (4, 7):
            one = np.eye(3)[int(truth[row])]
            q = np.full(3, 0.1 / 3) + 0.9 * one
        w = float(one @ WEIGHTS.numpy())
        total, weight = total - w * (q * log_p[row]).sum(), weight + w
    given = tensor(logits).requires_grad_()
    found = losses.cross_entropy(given, tensor(truth), WEIGHTS, tensor(shares), 0.1)
    assert float(found.detach()) == pytest.approx(total / weight, rel=1e-5)
    found.backward()
    assert given.grad.isfinite().all() and not given.grad[2].any()


def test_class_targets_are_shares_or_the_class():
    shares = np.array([[NAN, NAN], [0.25, 0.75], [0.5, 0.5], [NAN, NAN]])
    found = losses.class_targets(np.array([1, 0, NAN, NAN]), shares, 2)
    np.testing.assert_array_equal(found, [[0, 1], [0.25, 0.75], [0.5, 0.5], [0, 0]])
    one_hot = losses.class_targets(np.array([1.0, 0.0]), None, 2)
    np.testing.assert_array_equal(one_hot, [[0, 1], [1, 0]])


def test_squared_and_huber_are_the_formulas(drawn):
    levels, _, rng = drawn
    truth = rng.uniform(0, 5, levels.shape)
    truth[0, 1] = NAN
    error = (levels - truth)[np.isfinite(truth)]
    rough = np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5)
    assert float(losses.squared(tensor(levels), tensor(truth))) == pytest.approx(
        (error**2).mean(), rel=1e-5
    )
    assert float(losses.huber(tensor(levels), tensor(truth))) == pytest.approx(
        rough.mean(), rel=1e-5
    )


def test_icc_is_that_of_pingouin(drawn):
    _, _, rng = drawn
    truth = rng.integers(0, 6, (20, 3)).astype(float)
    predicted = np.clip(truth + rng.normal(0.7, 1, truth.shape), 0, 5)
    values = []
    for label in range(3):
        frame = pd.DataFrame({
            "face": np.tile(np.arange(20), 2),
            "rater": np.repeat(["truth", "predicted"], 20),
            "level": np.concatenate([truth[:, label], predicted[:, label]]),
        })  # fmt: skip
        table = pingouin.intraclass_corr(frame, targets="face", raters="rater", ratings="level")
        kinds = table.set_index("Type")["ICC"]
        values.append(float(kinds["ICC(C,1)" if "ICC(C,1)" in kinds.index else "ICC3"]))
    found = losses.icc(tensor(predicted), tensor(truth))
    assert float(found) == pytest.approx(1 - np.mean(values), abs=1e-4)


def test_icc_leaves_out_labels_that_do_not_vary():
    truth = torch.tensor([[1.0, 2, NAN], [3, 2, NAN], [5, 2, 4]])
    predicted = torch.tensor([[1.0, 0, 1], [3, 4, 2], [5, 1, 3]], requires_grad=True)
    found = losses.icc(predicted, truth)
    assert float(found.detach()) == pytest.approx(0, abs=1e-5)
    found.backward()
    assert predicted.grad.isfinite().all() and not predicted.grad[:, 1:].any()
    nothing = losses.icc(predicted, torch.full((3, 3), NAN))
    assert float(nothing.detach()) == 0


LOSSES = {
    "asymmetric": lambda x, y: losses.weighted_asymmetric(x, y, WEIGHTS),
    "squared": losses.squared,
    "huber": losses.huber,
    "icc": losses.icc,
}


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_labels_teach_nothing(name, drawn):
    logits, truth, _ = drawn
    truth[:, 0] = np.arange(12) % 2
    truth[3], truth[5, 1] = NAN, NAN
    x = tensor(logits).requires_grad_()
    found = LOSSES[name](x, tensor(truth))
    found.backward()
    assert found.isfinite() and x.grad.isfinite().all()
    assert not x.grad[torch.tensor(np.isnan(truth))].any()
    assert x.grad[0].any()
    changed = logits.copy()
    changed[np.isnan(truth)] = 50  # what is predicted where nothing is known does not count
    assert float(LOSSES[name](tensor(changed), tensor(truth))) == pytest.approx(
        float(found.detach()), rel=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_known_is_no_loss(name):
    x = torch.randn(4, 3, requires_grad=True)
    found = LOSSES[name](x, torch.full((4, 3), NAN))
    found.backward()
    assert float(found.detach()) == 0 and not x.grad.any()


def test_an_unknown_class_teaches_nothing():
    x = torch.randn(4, 3, requires_grad=True)
    losses.cross_entropy(x, torch.tensor([0.0, NAN, 2, 1]), WEIGHTS).backward()
    assert not x.grad[1].any() and x.grad[[0, 2, 3]].any(1).all()
    found = losses.cross_entropy(x, torch.full((4,), NAN), WEIGHTS)
    assert float(found.detach()) == 0


@pytest.mark.parametrize("name", ["asymmetric", "squared", "huber"])
def test_parts_of_equal_knowledge_make_the_batch(name, drawn):
    logits, truth, _ = drawn
    truth[:, 2] = NAN
    x = tensor(logits)
    whole = LOSSES[name](x, tensor(truth))
    parts = [LOSSES[name](x[s : s + 4], tensor(truth[s : s + 4])) for s in (0, 4, 8)]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(whole), rel=1e-5)


def test_parts_of_equal_weight_make_the_batch(drawn):
    x = tensor(drawn[0])
    truth = torch.tensor([0.0, 1, 2] * 4)
    whole = losses.cross_entropy(x, truth, WEIGHTS)
    parts = [losses.cross_entropy(x[s : s + 6], truth[s : s + 6], WEIGHTS) for s in (0, 6)]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(whole), rel=1e-5)


def test_class_weights_are_scikit_learns():
    truth = np.array([0] * 7 + [1] * 2 + [2] * 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=truth)
    found = losses.class_weights(np.append(truth, NAN), 4)
    # Of three classes that occur; a fourth one makes each weigh 3 / 4.
    assert found == pytest.approx([*(expected * 3 / 4), 0])
    assert losses.class_weights(truth.astype(float), 3) == pytest.approx(expected)
    assert losses.class_weights(truth, 3, 0.5) == pytest.approx(np.sqrt(expected))


def test_label_weights_are_the_formula():
    truth = np.array([[1, 0, NAN], [0, 0, 1], [0, 1, 1], [1, 0, NAN]], np.float32)
    inverse = np.array([2, 4, 1.0])
    assert losses.label_weights(truth) == pytest.approx(3 * inverse / inverse.sum())
    assert losses.label_weights(truth, 0.5) == pytest.approx(
        3 * np.sqrt(inverse) / np.sqrt(inverse).sum()
    )
    never = losses.label_weights(np.array([[1, 0], [1, 0.0]]))
    assert np.isfinite(never).all() and never.mean() == pytest.approx(1)


def objective(task, truth, weights=None, power=1.0, robust=False):
    return ClassifierObjective(task, truth, weights or {"labels": 1.0}, power, robust)


@pytest.mark.parametrize("kind", TASKS)
def test_the_objective_is_the_sum_of_its_terms(kind):
    task, rng = TASKS[kind], np.random.default_rng(0)
    truth = rng.integers(0, 2, 6 if kind == "emotion" else (6, 2)).astype(np.float32)
    weights = {"labels": 1.0, "icc": 0.5 if kind == "intensity" else 0.0, "balance": 0.25}
    found = objective(task, truth, weights)
    assert set(found.weights) == {name for name, value in weights.items() if value}
    seen = {"logits": torch.randn(6, len(task.names)), "balance": torch.tensor(1.5)}
    terms = found(seen, {"truth": torch.from_numpy(truth)})
    total = sum(weights[name] * float(terms[name]) for name in found.weights)
    assert float(terms["total"]) == pytest.approx(total, rel=1e-5)


def test_rare_labels_weigh_more_only_where_asked_for():
    truth = np.array([0, 0, 0, 1, 2], np.float32)
    assert objective(EMOTIONS, truth).rare.tolist() == pytest.approx(
        losses.class_weights(truth, 3).tolist()
    )
    assert objective(EMOTIONS, truth, power=0.0).rare.tolist() == [1, 1, 1]
    units = np.array([[1, 0], [0, 0], [0, 1], [1, 0]], np.float32)
    assert objective(UNITS, units).rare.tolist() == pytest.approx([2 / 3, 4 / 3])
    assert objective(LEVELS, units).rare.tolist() == [1, 1]


def test_intensities_are_from_0_to_5():
    truth = torch.tensor([[0.0, 5.0]])
    seen = {"logits": torch.tensor([[-20.0, 20.0]])}
    for robust in (False, True):
        terms = objective(LEVELS, truth.numpy(), robust=robust)(seen, {"truth": truth})
        assert float(terms["total"]) == pytest.approx(0, abs=1e-6)
