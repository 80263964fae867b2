"""Expression kept, on renders: planted answers."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from normpipe.stages.judging.criteria import synthetic
from normpipe.stages.judging.renders import degraded, normalize_all

from . import toys


def figures_of(normalize):
    renders = toys.toy_renders()
    made = {"clean": normalize_all(normalize, renders.source)}
    readings = synthetic.read_renders(renders, made, toys.read)
    found = synthetic.measure_synthetic(renders, readings, resamples=20)
    return {(figure.group, figure.name): figure for figure in found}


def ratios(figures, name="ratio"):
    return [f for (group, what), f in figures.items() if what.endswith(name) and group == "clean"]


def test_the_exact_answer_keeps_everything():
    figures = figures_of(toys.oracle)
    found = ratios(figures)
    assert len(found) >= 2 * len(synthetic.GROUPS)
    assert all(figure.value == pytest.approx(1, abs=0.01) for figure in found)
    assert all(figure.met for figure in found if figure.goal)
    error = figures["clean", "landmark error, % of the inter-ocular distance"]
    assert error.note == f"the reader's own on exact renders {error.value:.2f}" and error.met
    assert figures["clean", "AU12 correlation"].value > 0.99


def test_the_average_face_keeps_nothing_and_says_so():
    figures = figures_of(toys.average_face)
    for figure in ratios(figures):
        assert figure.value < 0.02  # a figure, not a gap in the table
        assert figure.met in (False, None)
    assert figures["clean", "AU12 correlation"].value == 0
    error = figures["clean", "landmark error, % of the inter-ocular distance"]
    floor = figures["average face", "landmark error, % of the inter-ocular distance"]
    assert not error.met and error.value == pytest.approx(floor.value, rel=0.1)
    assert figures["average face", "R² ratio, mean of the shapes"].value == pytest.approx(
        0, abs=0.01
    )


def test_half_the_movement_keeps_three_quarters():
    """Truth t, reading m + (t - m) / 2: the error is a quarter of the variance."""

    def halved(images):
        return 0.5 * toys.oracle(images) + 0.5 * 120 / 255  # the grey of coefficient 0.5

    found = [figure.value for figure in ratios(figures_of(halved)) if figure.goal]
    assert found == pytest.approx([0.75] * len(found), abs=0.02)


def test_what_the_reader_cannot_see_is_held_against_nobody():
    rng = np.random.default_rng(0)
    truth = rng.random((50, 1))
    assert np.isnan(synthetic.ratio(truth, rng.random((50, 1)), truth))
    assert np.isnan(synthetic.r2(truth, np.ones((50, 1))))


def test_r2_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth, guess = rng.random((30, 3)) * [1, 2, 0.1], rng.random((30, 3))
    wanted = r2_score(truth, guess, multioutput="variance_weighted")
    assert synthetic.r2(guess, truth) == pytest.approx(wanted, abs=1e-12)


def test_degraded_copies_are_the_same_every_time_and_never_mirrored():
    renders = toys.toy_renders(people=4, each=6)
    left = renders.source.copy()
    left[:, :, :HALF_WIDTH], left[:, :, HALF_WIDTH:] = 200, 20
    bright = renders.__class__(**{**vars(renders), "source": left})
    once, again = degraded(bright), degraded(bright)
    np.testing.assert_array_equal(once, again)
    assert (degraded(bright, seed=1) != once).any()
    middle = once[:, 24:40].astype(int)  # covers and frame edges may take a corner
    assert (middle[:, :, 8:24].mean((1, 2, 3)) > middle[:, :, 40:56].mean((1, 2, 3))).mean() > 0.9


HALF_WIDTH = toys.SIZE // 2
