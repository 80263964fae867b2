"""Calibration: by hand, as torchmetrics has it, and as scikit-learn bins it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from normpipe.stages.metrics.calibration import (
    BINS,
    expected_calibration_error,
    reliability,
    top_label,
)

NAN = float("nan")


def test_by_hand():
    # Two bins: 0.9 and 0.9 of which one happened, 0.1 and 0.1 of which none did.
    confidence, happened = np.array([0.9, 0.9, 0.1, 0.1]), np.array([1, 0, 0, 0])
    assert expected_calibration_error(confidence, happened) == pytest.approx((0.4 + 0.1) / 2)
    found = reliability(confidence, happened)
    assert found.counts[[1, 13]].tolist() == [2, 2] and found.counts.sum() == 4
    assert found.confidence[[1, 13]] == pytest.approx([0.1, 0.9])
    assert found.observed[[1, 13]].tolist() == [0, 0.5]
    assert np.isnan(found.observed[[0, 2, 14]]).all()


def test_certain_and_right_is_calibrated():
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([1, 0])) == 0
    assert expected_calibration_error(np.ones(3), np.zeros(3)) == 1
    assert reliability(np.array([1.0, 0.0]), np.array([1, 0])).counts[[0, -1]].tolist() == [1, 1]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(2, 8), st.floats(0, 0.9))
def test_as_torchmetrics_and_scikit_learn(seed, n, classes, unknown):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n).astype(float)
    truth[1:][rng.random(n - 1) < unknown] = NAN
    probability = rng.dirichlet(np.ones(classes), n)
    confidence, right = top_label(truth, probability)
    known = ~np.isnan(truth)
    wanted = multiclass_calibration_error(
        torch.from_numpy(probability[known]), torch.from_numpy(truth[known].astype(int)), classes,
        n_bins=BINS,
    )  # fmt: skip
    ours = expected_calibration_error(confidence, right)
    assert ours == pytest.approx(float(wanted), abs=1e-6)
    found = reliability(confidence, right)
    assert found.counts.sum() == known.sum()
    gaps = np.abs(np.nan_to_num(found.confidence - found.observed))
    assert ours == pytest.approx((gaps * found.counts).sum() / known.sum(), abs=1e-6)
    happened, told = calibration_curve(right.astype(int), confidence, n_bins=BINS)
    filled = found.counts > 0
    assert found.observed[filled] == pytest.approx(happened)
    assert found.confidence[filled] == pytest.approx(told)


def test_nothing_known():
    assert np.isnan(expected_calibration_error(np.empty(0), np.empty(0)))
    confidence, right = top_label(np.full(2, NAN), np.eye(2))
    assert not len(confidence) and not len(right)
    assert reliability(confidence, right).counts.tolist() == [0] * BINS
