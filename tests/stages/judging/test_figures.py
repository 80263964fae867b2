"""Intervals and goals."""

import json
import math

import numpy as np
import pytest

from normpipe.stages.judging.figures import Figure
from normpipe.stages.metrics.resampling import bootstrap


def test_an_interval_counts_people_not_pictures():
    """One person with 1,000 pictures is one person: the interval stays as wide as for 20 people."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 20)
    few = bootstrap(np.arange(20), lambda rows: float(values[rows].mean()))
    people, many = np.repeat(np.arange(20), 50), np.repeat(values, 50)
    again = bootstrap(people, lambda rows: float(many[rows].mean()))
    assert few == pytest.approx(again)
    expected = 1.96 * values.std() / math.sqrt(20)
    assert (few[1] - few[0]) / 2 == pytest.approx(expected, rel=0.15)


def test_a_figure_that_is_rarely_defined_has_no_interval():
    assert all(np.isnan(bootstrap(np.arange(4), lambda rows: float("nan"), 20)))


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [(0.95, ">= 0.95", True), (0.94, ">= 0.95", False), (2.1, "<= 2", False), (1, "<= 2", True),
     (float("nan"), "<= 2", None), (3, "", None)],
)  # fmt: skip
def test_goals(value, goal, met):
    figure = Figure("transfer", "happiness", value, goal=goal)
    assert figure.met is met
    assert json.loads(json.dumps(figure.as_json(), allow_nan=False))["met"] is met
