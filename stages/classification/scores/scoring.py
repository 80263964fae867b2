"""Scores of a table of predictions: on the full test set, and on the usable faces.

A table of predictions has one row for each row of the test set, whether its face is usable or not
(``docs/protocols.md`` lists the columns). The full figures count all rows; unusable ones have a
fallback prediction, so that nothing is dropped silently.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ....manifests.arrays import Mask, Numbers
from ....pipeline.errors import InputError
from ...metrics import action_units, calibration, emotion, intensity
from ..tasks import Kind, Task
from .coverage import coverage_of, partial_means, unknown_classes, unknown_units
from .figure_text import figure_text
from .groups import group_figures

Figures = dict[str, float | None]

#: The main figure in publications, by kind of task.
HEADLINE: dict[Kind, str] = {"emotion": "accuracy", "action_units": "f1", "intensity": "icc"}
#: Columns of every table of predictions, besides truth and predictions.
COLUMNS = ("key", "subject", "fold", "status", "reason", "predicted_by")
MODEL, FALLBACK = "model", "fallback"


def truth_columns(task: Task) -> tuple[str, ...]:
    """Return the columns of the truth: ``truth`` (a name) or ``truth_AU12`` … (numbers)."""
    return ("truth",) if task.kind == "emotion" else tuple(f"truth_{name}" for name in task.names)


def predicted_columns(task: Task) -> tuple[str, ...]:
    """Return the columns of the predictions: ``p_<name>``, or ``level_<name>`` for intensities."""
    prefix = "level_" if task.kind == "intensity" else "p_"
    return tuple(prefix + name for name in task.names)


def table_columns(task: Task, truth: Numbers, predicted: Numbers) -> dict[str, pa.Array]:
    """Return truth and predictions as columns of a table of predictions.

    Args:
        truth: as ``Task.truth``: (N,) index of the class or (N, L), NaN where unknown.
        predicted: (N, L) probabilities, or levels.
    """
    columns: dict[str, pa.Array] = {}
    if task.kind == "emotion":
        names = [None if np.isnan(place) else task.names[int(place)] for place in truth]
        columns["truth"] = pa.array(names, pa.string())
    else:
        for place, name in enumerate(truth_columns(task)):
            columns[name] = pa.array(truth[:, place], pa.float32(), from_pandas=True)
    for place, name in enumerate(predicted_columns(task)):
        columns[name] = pa.array(predicted[:, place], pa.float32())
    return columns


def check_predictions(task: Task, predictions: pa.Table) -> None:
    """Raise ValueError, in one line, unless this is a table of predictions of the task."""
    wanted = [*COLUMNS, *truth_columns(task), *predicted_columns(task)]
    if missing := [name for name in wanted if name not in predictions.column_names]:
        raise ValueError(f"the predictions have no column '{missing[0]}'")
    for name in ("key", "predicted_by", *predicted_columns(task)):
        if predictions[name].null_count:
            raise ValueError(f"the predictions have empty cells in column '{name}'")
    if len({*predictions["key"].to_pylist()}) < predictions.num_rows:
        raise ValueError("the predictions hold a key twice")
    if other := {*predictions["predicted_by"].to_pylist()} - {MODEL, FALLBACK}:
        raise ValueError(f"'predicted_by' is '{min(other)}', neither '{MODEL}' nor '{FALLBACK}'")
    predicted = predicted_values(task, predictions)
    if not np.isfinite(predicted).all():
        raise ValueError("a prediction is not finite")
    if task.kind != "intensity" and not np.all((predicted >= 0) & (predicted <= 1)):
        raise ValueError("a probability is not within 0 and 1")


def truth_of(task: Task, predictions: pa.Table) -> Numbers:
    """Return the truth of predictions, float64, NaN where unknown: (N,) index, or (N, L).

    Classes that the model does not know come after its own.
    """
    if task.kind == "emotion":
        every = (*task.names, *unknown_classes(task, predictions))
        places = {name: float(place) for place, name in enumerate(every)}
        names = predictions["truth"].to_pylist()
        return np.array([places.get(name, np.nan) for name in names], np.float64)
    return _matrix(predictions, truth_columns(task))


def predicted_values(task: Task, predictions: pa.Table) -> Numbers:
    """Return the predictions: (N, L) float64 probabilities, or levels."""
    return _matrix(predictions, predicted_columns(task))


def row_statistics(task: Task, predictions: pa.Table, threshold: float) -> Numbers:
    """Return each row's part of the sums that the headline is computed from: (N, …) float64."""
    truth, predicted = truth_of(task, predictions), predicted_values(task, predictions)
    if task.kind == "emotion":
        return emotion.hits(truth, predicted)
    if task.kind == "action_units":
        return action_units.outcomes(truth, predicted, threshold)
    return intensity.moments(truth, predicted)


def headline_of(kind: Kind, sums: Numbers) -> Any:
    """Return the headline of summed ``row_statistics``; leading axes are kept: (…) float64."""
    if kind == "emotion":
        return emotion.accuracy_of(sums)
    if kind == "action_units":
        return action_units.mean_f1_of(sums)
    return intensity.mean_icc_of(sums)


def score(task: Task, predictions: pa.Table, threshold: float = 0.5) -> dict[str, Any]:
    """Score predictions, as fields of a ``ScoreCard``.

    Args:
        task: what was predicted.
        predictions: see ``docs/protocols.md``.
        threshold: of action units; other tasks ignore it.

    Returns:
        ``scores`` and ``per_label`` (each ``full`` and ``kept``), ``confusion`` (of the full set,
        emotions only), ``reliability`` (of the full set), ``groups`` (for each column of
        ``group_columns``), ``coverage`` and ``warnings``. Undefined figures are None. Classes that
        the model does not know count as wrong.

    Raises:
        InputError: no row has a known truth.
        ValueError: it is not a table of predictions of this task.
    """
    check_predictions(task, predictions)
    truth, predicted = truth_of(task, predictions), predicted_values(task, predictions)
    known = ~np.isnan(truth) if truth.ndim == 1 else ~np.isnan(truth).all(axis=1)
    if not known.any():
        raise InputError(
            f"no test row has a known truth for task '{task.kind}' ({', '.join(task.names)}): "
            "nothing to score"
        )
    kept = np.array([by == MODEL for by in predictions["predicted_by"].to_pylist()], bool)
    # A class that the model does not know is one that it never predicts.
    others = unknown_classes(task, predictions)
    every = Task(task.kind, (*task.names, *others))
    predicted = np.pad(predicted, ((0, 0), (0, len(others))))
    full, labels, notes, confusion = _measure(every, truth, predicted, threshold)
    part, part_labels, *_ = _measure(every, truth[kept], predicted[kept], threshold)
    statistics = row_statistics(task, predictions, threshold)

    def headline(rows: Mask) -> str:
        value = float(headline_of(task.kind, statistics[rows].sum(axis=0)))
        return f"{HEADLINE[task.kind]} {figure_text(HEADLINE[task.kind], value)}"

    covered, more = coverage_of(task, predictions, headline)
    unknown = int((~known).sum())
    if unknown:
        more.append(f"{unknown} test rows have no known truth and are not scored")
    return {
        "scores": {"full": full, "kept": part},
        "per_label": {"full": labels, "kept": part_labels},
        "confusion": confusion,
        "reliability": _reliability(task, truth, predicted),
        "groups": group_figures(
            predictions,
            kept,
            lambda rows: _measure(every, truth[rows], predicted[rows], threshold)[0],
        ),
        "coverage": {
            "test_rows": predictions.num_rows,
            "kept": int(kept.sum()),
            "without_truth": unknown,
            "by_reason": _reasons(predictions, ~kept),
            **covered,
        },
        "warnings": [*more, *notes],
    }


def fallback(task: Task, train_truth: Numbers) -> Numbers:
    """Return the prediction for unusable faces, from the training labels alone.

    Emotions: the class frequencies, so that the most frequent one is predicted. Action units: the
    rate of each. Intensities: the mean of each.

    Args:
        train_truth: as ``Task.truth`` of the training rows.

    Returns:
        (L,) float64 probabilities, or levels.

    Raises:
        InputError: the training rows have no known label, or none of an action unit.
    """
    known = ~np.isnan(train_truth)
    if task.kind == "emotion":
        if not known.any():
            raise InputError("no training row has a known emotion: check split and fold")
        counts = np.bincount(train_truth[known].astype(np.int64), minlength=len(task.names))
        return counts / counts.sum()
    for place, name in enumerate(task.names):
        if not known[:, place].any():
            raise InputError(f"no training row has a known {name}: leave it out of classify.labels")
    return np.nanmean(train_truth.astype(np.float64), axis=0)


def tuned_threshold(task: Task, predictions: pa.Table) -> dict[str, float | None]:
    """Return the best threshold on the test set and its F1, for ``paper_style`` only.

    Raises:
        ValueError: the task is not ``action_units``.
    """
    if task.kind != "action_units":
        raise ValueError(f"task '{task.kind}' has no threshold")
    threshold, f1 = action_units.best_threshold(
        truth_of(task, predictions), predicted_values(task, predictions)
    )
    return {"tuned_threshold": threshold, "tuned_threshold_f1": _plain(f1)}


def _measure(
    task: Task, truth: Numbers, predicted: Numbers, threshold: float
) -> tuple[Figures, dict[str, Figures], list[str], dict[str, dict[str, int]] | None]:
    """Return figures, figures by label, warnings, and the confusion matrix (emotions only)."""
    if task.kind == "emotion":
        return _measure_emotion(task, truth, predicted)
    if task.kind == "action_units":
        units = action_units.unit_scores(truth, predicted, threshold)
        known, odd = units.known, units.without_positives
        names = ("f1", "precision", "recall", "accuracy", "auc", "ece", "prevalence")
        figures = {name: getattr(units, name) for name in names}
        counts = {"known": known, "positives": units.positives}
        what = "occurs in no test picture: its F1 is 0 for any prediction"
        one_sided = (known > 0) & (units.positives == known)
        why = "occurs in every test picture: a model that always says so has an F1 of 1"
    else:
        levels = intensity.intensity_scores(truth, predicted)
        known, odd = levels.known, levels.undefined
        figures = {"icc": levels.icc, "mae": levels.mae, "mse": levels.mse}
        counts = {"known": known}
        what = "is constant in truth and prediction: its ICC is set to 0"
        highest = np.nan_to_num(truth, nan=-np.inf).max(0, initial=-np.inf)
        spread = highest > np.nan_to_num(truth, nan=np.inf).min(0, initial=np.inf)
        one_sided = (known > 1) & ~spread & ~odd
        why = "has one level in all test pictures: its ICC is 0 for any prediction"
    means = {name: _plain(action_units.mean_known(values)) for name, values in figures.items()}
    notes = [f"{name} {what}" for name, flag in zip(task.names, odd, strict=True) if flag]
    notes += [f"{name} {why}" for name, flag in zip(task.names, one_sided, strict=True) if flag]
    notes += unknown_units(task, known.tolist())
    notes += partial_means(task, known, figures)
    return means, _by_label(task, {**figures, **counts}), notes, None


def _measure_emotion(
    task: Task, truth: Numbers, predicted: Numbers
) -> tuple[Figures, dict[str, Figures], list[str], dict[str, dict[str, int]]]:
    scores = emotion.emotion_scores(truth, predicted)
    figures: Figures = {
        "accuracy": _plain(scores.accuracy),
        "mean_class_accuracy": _plain(scores.mean_class_accuracy),
        "macro_f1": _plain(scores.macro_f1),
        "ece": _plain(
            calibration.expected_calibration_error(*calibration.top_label(truth, predicted))
        ),
    }
    absent = [n for n, count in zip(task.names, scores.known, strict=True) if not count]
    notes = [f"no test picture shows {name}: excluded from mean class accuracy" for name in absent]
    if len(absent) == len(task.names) - 1:
        (only,) = {*task.names} - {*absent}
        notes.append(f"all test pictures show {only}: an answer that is always the same is perfect")
    confusion = {
        name: dict(zip(task.names, map(int, row), strict=True))
        for name, row in zip(task.names, scores.confusion, strict=True)
    }
    columns = {name: getattr(scores, name) for name in ("f1", "precision", "recall", "known")}
    return figures, _by_label(task, columns), notes, confusion


def _reliability(task: Task, truth: Numbers, predicted: Numbers) -> dict[str, dict[str, Any]]:
    """Return the numbers of a reliability diagram: of the predicted class, or of each unit."""
    if task.kind == "intensity":
        return {}
    if task.kind == "emotion":
        pairs = {"predicted class": calibration.top_label(truth, predicted)}
    else:
        known = ~np.isnan(truth)
        pairs = {
            name: (predicted[known[:, k], k], truth[known[:, k], k])
            for k, name in enumerate(task.names)
        }
    diagrams = {name: calibration.reliability(*pair) for name, pair in pairs.items()}
    return {
        name: {
            "counts": [int(count) for count in one.counts],
            "confidence": [_plain(value) for value in one.confidence],
            "observed": [_plain(value) for value in one.observed],
        }
        for name, one in diagrams.items()
    }


def _by_label(task: Task, columns: dict[str, Numbers]) -> dict[str, Figures]:
    return {
        name: {figure: _plain(values[place]) for figure, values in columns.items()}
        for place, name in enumerate(task.names)
    }


def _reasons(predictions: pa.Table, lost: NDArray[np.bool_]) -> dict[str, int]:
    reasons = predictions["reason"].to_pylist()
    found = Counter(reasons[row] or "no reason given" for row in np.flatnonzero(lost))
    return dict(found.most_common())


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _matrix(table: pa.Table, names: tuple[str, ...]) -> Numbers:
    columns = [table[name].cast(pa.float64()).to_numpy().astype(np.float64) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0))
