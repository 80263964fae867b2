import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from normpipe.stages.metrics.ranking import Ranking
from normpipe.stages.metrics.resampling import Draws


def sample(ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = rng.random(400) < 0.3
    scores = rng.normal(size=400) + truth
    return (scores.round(1) if ties else scores), truth, rng.integers(0, 4, 400)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_that_of_scikit_learn(ties: bool) -> None:
    scores, truth, weights = sample(ties)
    ranking = Ranking(scores, truth)
    assert ranking.auc() == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    expected = roc_auc_score(truth, scores, sample_weight=weights)
    assert ranking.auc(weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_rates_lie_on_the_curve_of_scikit_learn(ties: bool) -> None:
    scores, truth, weights = sample(ties)
    false, true, _ = roc_curve(truth, scores, sample_weight=weights, drop_intermediate=False)
    ranking = Ranking(scores, truth)
    assert ranking.tpr_at(0.1, weights) == pytest.approx(true[false <= 0.1].max())
    eer = ranking.eer(weights)
    assert np.interp(eer, false, 1 - true) == pytest.approx(eer, abs=1e-9)


def test_perfect_useless_and_undefined() -> None:
    truth = np.array([True, True, False, False])
    perfect, useless = Ranking(np.array([3, 4, 1, 2]), truth), Ranking(np.zeros(4), truth)
    assert (perfect.auc(), perfect.eer(), perfect.tpr_at(0.001)) == (1, 0, 1)
    assert (useless.auc(), useless.eer(), useless.tpr_at(0.001)) == (0.5, 0.5, 0)
    nothing = Ranking(np.zeros(2), np.ones(2, bool))
    assert np.isnan([nothing.auc(), nothing.eer(), nothing.tpr_at(0.1)]).all()


def test_draws_are_of_people() -> None:
    # One picture each of 100 people, then 20 copies of each: copies must not narrow the interval.
    rng = np.random.default_rng(0)
    values = rng.normal(size=100)
    people = np.arange(100)

    def width(copies: int) -> float:
        repeated = np.repeat(values, copies)
        draws = Draws(np.repeat(people, copies), 400)
        low, high = draws.interval(lambda w: float((repeated * w).sum() / w.sum()))
        return high - low

    assert width(20) == pytest.approx(width(1), rel=1e-6)
    assert width(1) == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.2)
