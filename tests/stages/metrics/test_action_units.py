"""F1 of action units: by hand, and as scikit-learn counts it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torchmetrics.functional.classification import binary_calibration_error, multilabel_f1_score

from normpipe.stages.metrics.action_units import (
    au_f1,
    best_threshold,
    f1_of,
    mean_f1_of,
    outcomes,
    unit_scores,
)

NAN = float("nan")


def test_by_hand():
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, NAN]])
    probability = np.array([[0.9, 0.6], [0.4, 0.1], [0.7, 0.8], [0.1, 0.9], [0.8, 0.9]])
    # AU 0: TP 2, FP 1, FN 1 → 4/6. AU 1: TP 2, FP 1, FN 0 → 4/5; the last row is unknown.
    scores = unit_scores(truth, probability)
    assert scores.f1 == pytest.approx([2 / 3, 0.8])
    assert scores.mean_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert scores.accuracy == pytest.approx([3 / 5, 3 / 4])
    assert scores.auc == pytest.approx([5 / 6, 1])
    assert scores.known.tolist() == [5, 4] and scores.positives.tolist() == [3, 2]
    assert scores.precision == pytest.approx([2 / 3, 2 / 3])
    assert scores.recall == pytest.approx([2 / 3, 1])
    assert scores.prevalence == pytest.approx([3 / 5, 1 / 2])
    # The gaps 0.1, 0.6, 0.7, 0.1 and 0.2 of five bins; then 0.6, 0.1, and 0.2 and 0.1 of two.
    assert scores.ece == pytest.approx([1.7 / 5, (0.6 + 0.1 + 0.2 + 0.1) / 4])


def test_exactly_at_the_threshold_is_not_detected():
    assert au_f1(np.ones((1, 1)), np.full((1, 1), 0.5))[1] == 0
    assert au_f1(np.ones((1, 1)), np.full((1, 1), 0.5), 0.49)[1] == 1


def test_an_action_unit_that_never_occurs_is_0_and_reported():
    truth = np.array([[0, 0, NAN, 1], [0, 0, NAN, 1]])
    probability = np.array([[0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9]])
    f1, mean, never = au_f1(truth, probability)
    assert f1[:2].tolist() == [0, 0] and np.isnan(f1[2]) and f1[3] == 1
    assert mean == pytest.approx(1 / 3)  # the third is unknown, and so not in the mean
    assert never.tolist() == [True, True, True, False]
    assert np.isnan(unit_scores(truth, probability).auc[:3]).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 0.95))
def test_as_scikit_learn(seed, rate, unknown, threshold):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 60)), 3)
    truth = (rng.random(shape) < rate).astype(float)
    truth[rng.random(shape) < unknown] = NAN
    probability = rng.random(shape).round(2)
    scores = unit_scores(truth, probability, threshold)
    for k in range(3):
        rows = ~np.isnan(truth[:, k])
        if not rows.any():
            assert np.isnan(scores.f1[k]) and np.isnan(scores.accuracy[k])
            continue
        told, label = probability[rows, k], truth[rows, k]
        expected = f1_score(label, told > threshold, zero_division=0)
        assert scores.f1[k] == pytest.approx(expected, abs=1e-6)
        assert scores.accuracy[k] == pytest.approx(accuracy_score(label, told > threshold))
        for figure, wanted in (("precision", precision_score), ("recall", recall_score)):
            value = wanted(label, told > threshold, zero_division=NAN)
            assert getattr(scores, figure)[k] == pytest.approx(value, abs=1e-6, nan_ok=True)
        assert scores.prevalence[k] == pytest.approx(label.mean())
        error = binary_calibration_error(
            torch.from_numpy(told), torch.from_numpy(label.astype(int)), n_bins=15
        )
        assert scores.ece[k] == pytest.approx(float(error), abs=1e-6)
        if len({*label}) == 2:
            assert scores.auc[k] == pytest.approx(roc_auc_score(label, told), abs=1e-6)


def test_as_torchmetrics():
    rng = np.random.default_rng(7)
    truth = rng.integers(-1, 2, (80, 5))
    probability = rng.random((80, 5)).round(1)
    expected = multilabel_f1_score(
        torch.from_numpy(probability), torch.from_numpy(truth), 5, average=None, ignore_index=-1
    )
    ours = au_f1(np.where(truth < 0, NAN, truth), probability)[0]
    assert ours == pytest.approx(expected.numpy(), abs=1e-6)


def test_sums_may_be_of_many_draws_at_once():
    rng = np.random.default_rng(0)
    counts = outcomes(rng.integers(0, 2, (50, 4)).astype(float), rng.random((50, 4)))
    stacked = np.stack([counts[:20].sum(0), counts.sum(0)])
    assert f1_of(stacked).shape == (2, 4)
    assert mean_f1_of(stacked) == pytest.approx([f1_of(each).mean() for each in stacked])


def test_no_pictures_and_wrong_input():
    assert np.isnan(au_f1(np.empty((0, 2)), np.empty((0, 2)))[1])
    with pytest.raises(ValueError, match=r"\(N, L\)"):
        au_f1(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="within 0 and 1"):
        au_f1(np.ones((1, 1)), np.full((1, 1), 3.0))
    with pytest.raises(ValueError, match="within 0 and 1"):
        au_f1(np.ones((1, 1)), np.full((1, 1), NAN))


def test_the_tuned_threshold_is_the_best_one():
    truth = np.array([[1], [1], [0], [0]], float)
    probability = np.array([[0.35], [0.3], [0.2], [0.1]])
    assert best_threshold(truth, probability) == (pytest.approx(0.2), 1)
    assert au_f1(truth, probability)[1] == 0
    assert np.isnan(best_threshold(np.full((2, 1), NAN), np.zeros((2, 1)))[1])


def test_the_tuned_threshold_is_the_best_of_all_tried():
    rng = np.random.default_rng(8)
    truth = np.where(rng.random((90, 3)) < 0.2, NAN, rng.integers(0, 2, (90, 3)))
    probability = rng.random((90, 3)).round(2)
    found = [au_f1(truth, probability, t / 100)[1] for t in range(1, 100)]
    best = int(np.argmax(found))
    assert best_threshold(truth, probability) == pytest.approx(((best + 1) / 100, found[best]))
