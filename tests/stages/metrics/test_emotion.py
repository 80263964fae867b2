"""Emotion scores: by hand, and as scikit-learn has them."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)

from normpipe.stages.metrics.emotion import accuracy_of, emotion_scores, hits

NAN = float("nan")


def one_hot(predicted, classes=3):
    return np.eye(classes)[np.asarray(predicted)]


def test_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, NAN])
    scores = emotion_scores(truth, one_hot([0, 0, 0, 1, 1, 2, 2]))
    assert scores.confusion.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.recall[:2] == pytest.approx([3 / 4, 1 / 2]) and np.isnan(scores.recall[2])
    assert scores.mean_class_accuracy == pytest.approx(5 / 8)
    assert scores.precision == pytest.approx([1, 1 / 2, 0])
    assert scores.macro_f1 == pytest.approx((6 / 7 + 2 / 4 + 0) / 3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 8), st.floats(0, 0.9))
def test_as_scikit_learn(seed, n, classes, unknown):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n).astype(float)
    truth[1:][rng.random(n - 1) < unknown] = NAN
    probability = rng.dirichlet(np.ones(classes), n)
    scores = emotion_scores(truth, probability)
    known = ~np.isnan(truth)
    label, told = truth[known].astype(int), probability[known].argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = confusion_matrix(label, told, labels=range(classes))
        assert scores.confusion.tolist() == matrix.tolist()
        assert scores.accuracy == pytest.approx(accuracy_score(label, told), abs=1e-6)
        balanced = balanced_accuracy_score(label, told)
        assert scores.mean_class_accuracy == pytest.approx(balanced, abs=1e-6)
        macro = f1_score(label, told, average="macro", zero_division=0)
        assert scores.macro_f1 == pytest.approx(macro, abs=1e-6)
        recall = recall_score(label, told, labels=range(classes), average=None, zero_division=NAN)
        assert scores.recall == pytest.approx(recall, abs=1e-6, nan_ok=True)
        right = precision_score(label, told, labels=range(classes), average=None, zero_division=NAN)
        assert scores.precision == pytest.approx(right, abs=1e-6, nan_ok=True)
    sums = hits(truth, probability).sum(axis=0)
    assert accuracy_of(sums) == pytest.approx(scores.accuracy)


def test_a_single_class():
    scores = emotion_scores(np.zeros(4), np.ones((4, 1)))
    assert scores.accuracy == scores.mean_class_accuracy == scores.macro_f1 == 1
    always = emotion_scores(np.ones(4), one_hot([1, 1, 1, 1]))
    assert always.accuracy == always.mean_class_accuracy == always.macro_f1 == 1


def test_no_known_truth():
    scores = emotion_scores(np.full(3, NAN), one_hot([0, 1, 2]))
    assert np.isnan([scores.accuracy, scores.mean_class_accuracy, scores.macro_f1]).all()
    assert np.isnan(accuracy_of(np.zeros(2)))


def test_wrong_input():
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        emotion_scores(np.zeros(2), np.ones((3, 2)))
    with pytest.raises(ValueError, match="NaN"):
        emotion_scores(np.zeros(1), np.full((1, 2), NAN))
