"""Retention by groups of people: a planted failure."""

import numpy as np
import pytest

from normpipe.stages.judging.criteria.fairness import measure_fairness
from normpipe.stages.judging.criteria.synthetic import read_renders
from normpipe.stages.judging.renders import normalize_all

from . import toys


def figures_of(normalize, people=24):
    renders = toys.toy_renders(people=people, each=6)
    made = {"clean": normalize_all(normalize, renders.source)}
    readings = read_renders(renders, made, toys.read)

    def kind(identity):
        return toys.kind(identity * 12 // people)

    return {f.name: f for f in measure_fairness(renders, readings, kind, resamples=50)}


def test_alike_for_everybody_is_no_spread():
    figures = figures_of(toys.oracle)
    for axis in ("skin", "sex-like", "age-like"):
        assert figures[f"spread of retention, {axis}"].value == pytest.approx(0, abs=0.01)


def test_a_failure_on_dark_skin_is_a_spread_by_skin():
    figures = figures_of(toys.blind_to_the_dark)
    spread = figures["spread of retention, skin"]
    assert spread.value > 0.7 and spread.low > 0.5
    assert figures["retention, skin dark"].value < 0.3
    assert figures["retention, skin light"].value == pytest.approx(1, abs=0.01)
    assert figures["spread of retention, sex-like"].value < 0.4


def test_few_people_are_no_group():
    figures = figures_of(toys.oracle, people=6)
    assert np.isnan(figures["retention, skin dark"].value)
    assert "too few" in figures["retention, skin dark"].note
