"""A probe for identity: planted leaks."""

from dataclasses import replace

import numpy as np
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.judging.criteria.crossed import expressions_of, measure_crossed, probe_hits
from normpipe.stages.judging.renders import normalize_all

from . import toys

PEOPLE = 6


def probed(normalize):
    renders = toys.toy_renders(people=PEOPLE, each=10, crossed=True)
    made = {"clean": normalize_all(normalize, renders.source)}
    found = measure_crossed(renders, made, toys.read, resamples=10)
    return {figure.group: figure for figure in found}


def test_the_exact_answer_and_the_average_face_stay_at_the_floor():
    for normalize in (toys.oracle, toys.average_face):
        figures = probed(normalize)
        assert figures["clean, pixels"].value == pytest.approx(1)
        assert figures["clean, coefficients of the reader"].value == pytest.approx(1)
        assert figures["clean, pixels"].met
    assert figures["exact renders (control)"].value == pytest.approx(1)
    assert figures["originals"].value == pytest.approx(PEOPLE)


@pytest.mark.parametrize("normalize", [toys.unchanged, toys.leaking])
def test_a_leak_is_found(normalize):
    figures = probed(normalize)
    assert figures["clean, pixels"].value > 0.9 * PEOPLE and not figures["clean, pixels"].met
    # The blocks are exact: nothing of a person is in what the reader sees.
    assert figures["clean, coefficients of the reader"].value < 2.5


def test_noise_is_no_identity():
    rng = np.random.default_rng(0)
    people, expressions = np.repeat(np.arange(8), 20), np.tile(np.arange(20), 8)
    hits = probe_hits(rng.normal(0, 1, (160, 30)), people, expressions)
    assert hits.mean() < 2 / 8


def test_a_set_that_is_not_crossed_is_refused():
    with pytest.raises(InputError, match="not a crossed set"):
        expressions_of(toys.toy_renders(people=4, each=6))


def test_an_expression_that_was_drawn_twice_is_one_that_everybody_makes_twice():
    renders = toys.toy_renders(people=4, each=7, crossed=True)
    shown = expressions_of(renders)
    assert len(np.unique(shown)) == 7
    twice = np.where((shown == shown[1])[:, None], renders.expression[0], renders.expression)
    which = expressions_of(replace(renders, expression=twice))
    assert len(np.unique(which)) == 6
    assert sorted(np.bincount(which)) == [4, 4, 4, 4, 4, 8]
    # One person alone makes the first expression twice and the second never.
    alone = np.where((renders.identity == renders.identity[0])[:, None], twice, renders.expression)
    with pytest.raises(InputError, match="not a crossed set"):
        expressions_of(replace(renders, expression=alone))
