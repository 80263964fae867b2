"""Scores: computed, pooled over folds, written, compared and plotted."""
