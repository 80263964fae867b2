import numpy as np
import pytest

from normpipe.stages.metrics.folds import over_folds


def test_pooled_and_mean_of_folds_differ_where_sizes_do():
    right = np.array([1, 1, 1, 0, 0.0])
    figures = over_folds(np.array([1, 1, 1, 1, 3]), lambda rows: float(right[rows].mean()))
    assert figures.each == {1: 0.75, 3: 0.0}
    assert figures.pooled == pytest.approx(0.6)
    assert figures.mean_of_folds == pytest.approx(0.375)


def test_a_fold_without_a_figure_is_not_passed_over():
    figures = over_folds(np.array([1, 2]), lambda rows: float("nan") if rows[0] else 1.0)
    assert np.isnan(figures.mean_of_folds)


def test_no_pictures():
    with pytest.raises(ValueError, match="no pictures"):
        over_folds(np.array([], int), lambda rows: 0.0)
