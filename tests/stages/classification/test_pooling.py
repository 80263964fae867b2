"""Folds into one score."""

import numpy as np
import pyarrow as pa
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.scores.pooling import pool
from normpipe.stages.classification.scores.score_files import ScoreFile, read_scores, write_scores
from normpipe.stages.classification.scores.scoring import score

from .toys import EMOTIONS, LEVELS, TASKS, UNITS, card, drawn, table


def folds(task, sizes=(10, 20, 30), **facts):
    runs = []
    for fold, rows in enumerate(sizes, 1):
        truth, predicted = drawn(task, rows, seed=fold)
        predictions = table(task, truth, predicted, prefix=f"toys/f{fold}/", lost={0: "no_face"})
        split = f"fold {fold} of {len(sizes)}"
        runs.append(
            ScoreFile(card(task, predictions, fold=fold, split=split, **facts), predictions)
        )
    return runs


@pytest.mark.parametrize("kind", TASKS)
def test_pooled_and_mean(kind, tmp_path):
    task = TASKS[kind]
    runs = folds(task)
    pooled = pool([runs[2], runs[0], runs[1]])
    found, name = pooled.card, pooled.card.headline
    each = [run.card.scores["full"][name] for run in runs]
    full = found.folds["full"]
    assert full.each == pytest.approx({1: each[0], 2: each[1], 3: each[2]})
    assert full.mean_of_folds == pytest.approx(np.mean(each))
    assert full.pooled == pytest.approx(found.scores["full"][name])
    assert found.folds["kept"].pooled == pytest.approx(found.scores["kept"][name])
    kept = [run.card.scores["kept"][name] for run in runs]
    assert found.folds["kept"].mean_of_folds == pytest.approx(np.mean(kept))
    assert found.coverage.test_rows == 60 and found.coverage.by_reason == {"no_face": 3}
    assert found.split == "folds 1, 2, 3 pooled" and found.fold is None
    assert pooled.predictions["fold"].to_pylist() == [1] * 10 + [2] * 20 + [3] * 30
    again = score(task, pooled.predictions)
    assert again["scores"] == found.scores
    write_scores(tmp_path, found, pooled.predictions)
    assert read_scores(tmp_path).card.folds == found.folds


def test_what_all_folds_say_in_brackets_stays():
    note = "(bp4d, its 12 action units)"
    runs = [
        ScoreFile(
            run.card.model_copy(update={"split": f"{run.card.split} {note}"}), run.predictions
        )
        for run in folds(UNITS)
    ]
    assert pool(runs).card.split == f"folds 1, 2, 3 pooled {note}"


def test_groups_are_pooled_if_all_folds_have_them():
    runs = folds(UNITS)
    for place, run in enumerate(runs):
        count = run.predictions.num_rows
        table = run.predictions.append_column("by_sex", pa.array(["f", "m"] * (count // 2)))
        if place:
            table = table.append_column("by_source", pa.array(["x"] * count))
        runs[place] = ScoreFile(run.card, table)
    pooled = pool(runs)
    assert [*pooled.card.groups] == ["sex"]
    found = pooled.card.groups["sex"]
    assert {name: one.rows for name, one in found.items()} == {"f": 30, "m": 30}
    rows = pooled.predictions.filter(pa.array([n % 2 == 0 for n in range(60)]))
    assert found["f"].scores == score(UNITS, rows)["scores"]


def test_the_order_of_folds_does_not_matter():
    runs = folds(LEVELS)
    assert pool(runs).card == pool(runs[::-1]).card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda runs: runs[:1], "at least two folds"),
        (lambda runs: [runs[0], runs[0]], "fold 1 is given twice"),
        (lambda runs: [runs[0], folds(EMOTIONS, views="normalized")[1]], "another 'views'"),
        (lambda runs: [runs[0], folds(LEVELS)[1]], "another 'kind'"),
        (lambda runs: [runs[0], other_fold(runs[0], fold=None)], "is not a fold"),
        (lambda runs: [runs[0], other_fold(runs[0], fold=2)], "a key twice"),
    ],
)
def test_folds_that_do_not_go_together(change, words):
    with pytest.raises(InputError, match=words):
        pool(change(folds(EMOTIONS)))


def other_fold(run, fold):
    return ScoreFile(run.card.model_copy(update={"fold": fold}), run.predictions)
