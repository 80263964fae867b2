"""People are drawn, differences are paired, and sums say what weights say."""

import time

import numpy as np
import pytest

from normpipe.stages.metrics.action_units import mean_f1_of, outcomes
from normpipe.stages.metrics.resampling import Draws, bootstrap, paired_difference, percentiles


def mean_of(sums):
    return sums[..., 0] / sums[..., 1]


def rows_of(values):
    return np.stack([values, np.ones(len(values))], axis=-1)


def test_sums_are_those_of_the_weights():
    rng = np.random.default_rng(0)
    people, values = rng.integers(0, 9, 100), rng.normal(size=(100, 3, 2))
    draws = Draws(people, 20, seed=4)
    assert len(draws) == 20 and draws.people == 9
    expected = np.tensordot(draws.all_weights(), values, axes=1)
    assert draws.sums(values) == pytest.approx(expected)


def test_sums_and_rows_give_the_same_interval():
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(30), 5)
    values = np.repeat(rng.normal(size=30), 5)
    by_sums = percentiles(mean_of(Draws(people, 4000).sums(rows_of(values))))
    by_rows = bootstrap(people, lambda rows: float(values[rows].mean()), 4000)
    assert by_sums == pytest.approx(by_rows, abs=0.04)


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(40), 10)
    first = np.repeat(rng.normal(size=40), 10)
    second = first + 0.1
    draws = Draws(people, 500)
    value, low, high = paired_difference(draws, rows_of(first), rows_of(second), mean_of)
    assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))
    alone = percentiles(mean_of(draws.sums(rows_of(first))))
    assert alone[1] - alone[0] > 0.3
    assert paired_difference(draws, rows_of(first), rows_of(first), mean_of) == (0, 0, 0)


def test_the_same_seed_draws_the_same():
    people = np.array(list("aabbcc"))
    first, second = Draws(people, 5, 1), Draws(people, 5, 1)
    assert (first.all_weights() == second.all_weights()).all()
    assert (first.all_weights() != Draws(people, 5, 2).all_weights()).any()


def test_what_is_rarely_defined_has_no_interval():
    assert np.isnan(percentiles(np.array([np.nan, np.nan, 1.0]))).all()
    assert np.isnan(percentiles(np.array([]))).all()
    assert percentiles(np.array([np.nan, 1.0, 1.0])) == (1, 1)


def test_a_thousand_draws_of_three_thousand_rows_take_seconds_at_most():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, (3000, 12)).astype(float)
    counts = outcomes(truth, rng.random(truth.shape))
    start = time.perf_counter()
    drawn = mean_f1_of(Draws(np.arange(3000), 1000).sums(counts))
    assert drawn.shape == (1000,)
    assert time.perf_counter() - start < 5
