"""Small tables of predictions and cards around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from normpipe.stages.classification.scores.score_files import ScoreCard
from normpipe.stages.classification.scores.scoring import score, table_columns
from normpipe.stages.classification.tasks import Task

EMOTIONS = Task("emotion", ("neutral", "happiness", "anger"))
UNITS = Task("action_units", ("AU1", "AU12"))
LEVELS = Task("intensity", ("AU6", "AU12"))
TASKS = {task.kind: task for task in (EMOTIONS, UNITS, LEVELS)}


def drawn(task: Task, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and fair predictions."""
    rng = np.random.default_rng(seed)
    count = len(task.names)
    if task.kind == "emotion":
        truth = rng.integers(0, count, rows).astype(float)
        predicted = rng.dirichlet(np.ones(count), rows) + np.eye(count)[truth.astype(int)] * 0.5
        return truth, predicted / predicted.sum(axis=1, keepdims=True)
    if task.kind == "action_units":
        truth = rng.integers(0, 2, (rows, count)).astype(float)
        return truth, np.clip(truth * 0.4 + rng.uniform(0, 0.6, truth.shape), 0, 1)
    truth = rng.integers(0, 6, (rows, count)).astype(float)
    return truth, np.clip(truth + rng.normal(0, 1, truth.shape), 0, 5)


def table(
    task: Task,
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    prefix: str = "toys/",
    people: int | None = 5,
    lost: dict[int, str] | None = None,
    fold: int | None = None,
) -> pa.Table:
    """A table of predictions; ``lost`` names rows with a fallback prediction and the reason."""
    rows, lost = len(truth), lost or {}
    subjects = [None if people is None else f"{prefix}p{row % people}" for row in range(rows)]
    return pa.table(
        {
            "key": [f"{prefix}{row:04}.jpg" for row in range(rows)],
            "subject": pa.array(subjects, pa.string()),
            "fold": pa.array([fold] * rows, pa.int32()),
            "status": ["rejected" if row in lost else "ok" for row in range(rows)],
            "reason": pa.array([lost.get(row) for row in range(rows)], pa.string()),
            "predicted_by": ["fallback" if row in lost else "model" for row in range(rows)],
            **table_columns(task, truth, predicted),
        }
    )


def card(task: Task, predictions: pa.Table, **facts: Any) -> ScoreCard:
    given: dict[str, Any] = {
        "train_dataset": "toys",
        "test_dataset": "toys",
        "split": "split test",
        "seed": 0,
        "views": "original",
        "head": "mixture",
        "model_sha256": "aa",
        "data_sha256": "bb",
        "fallback": "frequencies of the training labels",
        **facts,
    }
    scored = score(task, predictions, given.get("threshold", 0.5))
    return ScoreCard(kind=task.kind, names=task.names, **{**scored, **given})
