"""ICC(3,1), MAE and MSE: by hand, from mean squares, and as pingouin has them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error

from normpipe.stages.metrics.intensity import icc_of, intensity_scores, mean_icc_of, moments

pingouin = pytest.importorskip("pingouin")
NAN = float("nan")


def icc(truth, level) -> float:
    scores = intensity_scores(np.asarray(truth, float)[:, None], np.asarray(level, float)[:, None])
    return float(scores.icc[0])


def reference(truth, level) -> float:
    """pingouin's ICC(3,1), called ICC3 before its release 0.6 and ICC(C,1) since."""
    n = len(truth)
    table = pd.DataFrame(
        {
            "row": np.tile(np.arange(n), 2),
            "rater": np.repeat(["truth", "level"], n),
            "score": np.concatenate([truth, level]),
        }
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = pingouin.intraclass_corr(table, "row", "rater", "score")
    return float(found.loc[found["Type"].isin(["ICC3", "ICC(C,1)"]), "ICC"].iloc[0])


def from_mean_squares(truth, level) -> float:
    """The definition: two-way analysis of variance, k = 2."""
    scores = np.stack([truth, level], axis=1)
    n, k = scores.shape
    rows, raters = scores.mean(axis=1), scores.mean(axis=0)
    msr = k * np.square(rows - scores.mean()).sum() / (n - 1)
    rest = scores - rows[:, None] - raters + scores.mean()
    mse = np.square(rest).sum() / ((n - 1) * (k - 1))
    return (msr - mse) / (msr + (k - 1) * mse)


def test_by_hand():
    # Sxy = 12, Sxx = 10, Syy = 16 → 24/26, however far off the level is as a whole.
    truth, level = [0, 1, 2, 3, 4], [0, 1, 1, 3, 5]
    assert icc(truth, level) == pytest.approx(12 / 13)
    assert icc(truth, np.add(level, 7)) == pytest.approx(12 / 13)
    assert icc(truth, truth) == pytest.approx(1)
    assert icc(truth, [4, 3, 2, 1, 0]) == pytest.approx(-1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(5, 60), st.floats(0, 3))
def test_as_pingouin_and_as_defined(seed, n, noise):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, n).astype(float)
    truth[:2] = 0, 5  # not constant
    level = np.clip(truth + rng.normal(0, noise, n) + 0.3, 0, 5)
    assert icc(truth, level) == pytest.approx(reference(truth, level), abs=1e-6)
    assert icc(truth, level) == pytest.approx(from_mean_squares(truth, level), abs=1e-6)


def test_one_constant_side_gives_0_as_in_pingouin():
    varied = np.arange(6) % 5.0
    for constant in (np.zeros(6), np.full(6, 1.1)):
        assert icc(varied, constant) == 0 == pytest.approx(reference(varied, constant), abs=1e-9)
        assert icc(constant, varied) == 0 == pytest.approx(reference(constant, varied), abs=1e-9)


@pytest.mark.parametrize("level", [0.0, 3.0, 0.1, 3.3])
def test_two_constant_sides_give_0_where_pingouin_has_no_figure(level):
    truth, told = np.zeros((7, 1)), np.full((7, 1), level)
    scores = intensity_scores(truth, told)
    assert scores.icc[0] == 0 and scores.undefined[0]
    # Where the mean of a constant is not exact in binary, pingouin's 0/0 becomes -1.
    expected = reference(truth[:, 0], told[:, 0])
    assert np.isnan(expected) if level in (0, 3) else expected in (-1, 0) or np.isnan(expected)
    assert scores.mae[0] == pytest.approx(level)


def test_a_constant_difference_is_perfect_consistency():
    assert icc([0, 1, 2], [1, 2, 3]) == pytest.approx(1)


def test_unknown_truths_count_nowhere():
    rng = np.random.default_rng(3)
    truth, level = rng.integers(0, 6, (40, 3)).astype(float), rng.uniform(0, 5, (40, 3))
    truth[rng.random((40, 3)) < 0.4] = NAN
    truth[:, 2] = NAN
    scores = intensity_scores(truth, level)
    for k in (0, 1):
        rows = ~np.isnan(truth[:, k])
        known, told = truth[rows, k], level[rows, k]
        assert scores.icc[k] == pytest.approx(reference(known, told), abs=1e-6)
        assert scores.mae[k] == pytest.approx(mean_absolute_error(known, told), abs=1e-9)
        assert scores.mse[k] == pytest.approx(mean_squared_error(known, told), abs=1e-9)
    assert np.isnan([scores.icc[2], scores.mae[2], scores.mse[2]]).all()
    assert scores.mean_icc == pytest.approx(scores.icc[:2].mean())
    assert scores.mean_mae == pytest.approx(scores.mae[:2].mean())
    assert scores.mean_mse == pytest.approx(scores.mse[:2].mean())


def test_one_picture_is_undefined_and_none_is_nan():
    one = intensity_scores(np.ones((1, 1)), np.zeros((1, 1)))
    assert one.icc[0] == 0 and one.undefined[0]
    assert np.isnan(intensity_scores(np.empty((0, 1)), np.empty((0, 1))).mean_icc)


def test_many_frames_lose_no_digits():
    rng = np.random.default_rng(5)
    truth = (rng.random(150_000) < 0.001).astype(np.float32) * 5
    level = np.clip(truth * 0.9 + rng.normal(0, 0.01, len(truth)), 0, 5).astype(np.float32)
    expected = from_mean_squares(truth.astype(float), level.astype(float))
    assert icc(truth, level) == pytest.approx(expected, abs=1e-9)


def test_sums_may_be_of_many_draws_at_once():
    rng = np.random.default_rng(1)
    each = moments(rng.uniform(0, 5, (30, 2)), rng.uniform(0, 5, (30, 2)))
    stacked = np.stack([each[:9].sum(0), each.sum(0)])
    assert icc_of(stacked).shape == (2, 2)
    assert mean_icc_of(stacked) == pytest.approx(icc_of(stacked).mean(axis=1))


def test_wrong_input():
    with pytest.raises(ValueError, match="not finite"):
        moments(np.ones((1, 1)), np.full((1, 1), NAN))
    with pytest.raises(ValueError, match=r"\(N, L\)"):
        moments(np.ones(3), np.ones(3))
