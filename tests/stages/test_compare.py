"""Scores side by side: intervals over people, paired differences, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from normpipe.pipeline.commands.app import app
from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.scores.compare import compare
from normpipe.stages.classification.scores.pooling import pool
from normpipe.stages.classification.scores.score_files import write_scores
from normpipe.stages.classification.tasks import Task

from .classification.test_pooling import folds
from .classification.toys import EMOTIONS, LEVELS, TASKS, UNITS, card, drawn, table


def scored(folder, task, truth, predicted, facts=None, **details):
    predictions = table(task, truth, predicted, **{"people": 12, **details})
    write_scores(folder, card(task, predictions, **(facts or {})), predictions)
    return folder


@pytest.mark.parametrize("kind", TASKS)
def test_a_better_model_beats_a_worse_one(tmp_path, kind):
    task = TASKS[kind]
    truth, predicted = drawn(task, 400)
    better = np.eye(3)[truth.astype(int)] if kind == "emotion" else truth
    one = scored(tmp_path / "one", task, truth, predicted)
    two = scored(tmp_path / "two", task, truth, better)
    found = compare([one, two], 300)
    first, second = found.rows
    assert first.difference is None and first.rows == 400 and first.people == 12
    assert second.full.value == pytest.approx(1)
    assert second.difference.value == pytest.approx(second.full.value - first.full.value)
    assert 0 < second.difference.low < second.difference.value < second.difference.high
    assert first.full.low < first.full.value < first.full.high
    assert second.common == 400 and not second.notes and not second.refused


def test_the_same_scores_differ_by_nothing(tmp_path):
    truth, predicted = drawn(UNITS, 60)
    one = scored(tmp_path / "one", UNITS, truth, predicted)
    assert compare([one, one], 50).rows[1].difference.as_json() == {
        "value": 0, "low": 0, "high": 0,
    }  # fmt: skip


def test_rows_in_another_order_are_matched_by_key(tmp_path):
    truth, predicted = drawn(UNITS, 60)
    one = scored(tmp_path / "one", UNITS, truth, predicted)
    predictions = table(UNITS, truth, predicted, people=12).take(np.arange(60)[::-1])
    write_scores(tmp_path / "two", card(UNITS, predictions), predictions)
    assert compare([one, tmp_path / "two"], 50).rows[1].difference.value == pytest.approx(0)


def test_labels_in_another_order_are_matched_by_name(tmp_path):
    truth, predicted = drawn(EMOTIONS, 60)
    one = scored(tmp_path / "one", EMOTIONS, truth, predicted)
    turned = Task("emotion", EMOTIONS.names[::-1])
    two = scored(tmp_path / "two", turned, 2 - truth, predicted[:, ::-1])
    assert compare([one, two], 50).rows[1].difference.value == pytest.approx(0)


def test_other_rows_are_compared_on_those_in_common(tmp_path):
    truth, predicted = drawn(UNITS, 60)
    one = scored(tmp_path / "one", UNITS, truth, predicted)
    two = scored(tmp_path / "two", UNITS, truth[:40], predicted[:40], {"camera": "left"})
    line = compare([one, two], 50).rows[1]
    assert line.common == 40 and line.difference.value == pytest.approx(0)
    assert line.notes == (
        "compared on the 40 rows in common, of 40 here and 60 of the first",
        "camera is left, that of the first is None",
    )


def test_no_common_rows_is_an_error(tmp_path):
    one = scored(tmp_path / "one", UNITS, *drawn(UNITS, 6))
    two = scored(tmp_path / "two", UNITS, *drawn(UNITS, 6), prefix="others/")
    with pytest.raises(InputError, match="no row in common: compare"):
        compare([one, two], 50)
    with pytest.raises(InputError, match="nothing to compare"):
        compare([])


def test_what_cannot_be_compared_is_refused_and_the_rest_stands(tmp_path):
    truth, predicted = drawn(UNITS, 60)
    paths = [
        scored(tmp_path / "units", UNITS, truth, predicted),
        scored(tmp_path / "levels", LEVELS, *drawn(LEVELS, 60)),
        scored(tmp_path / "other", Task("action_units", ("AU1", "AU2")), truth, predicted),
        scored(tmp_path / "relabelled", UNITS, 1 - truth, predicted),
        scored(tmp_path / "fine", UNITS, truth, truth),
    ]
    found = compare(paths, 50)
    assert [line.refused for line in found.rows] == [
        "",
        "its task is intensity, that of the first is action_units",
        "its labels differ (AU2, AU12 only on one side)",
        "60 of 60 common rows have other labels",
        "",
    ]
    assert found.rows[1].full.value > 0 and found.rows[1].measure == "icc"
    text = found.table()
    assert text.count("refused") == 3 and "not compared with the first: its task is" in text


def test_rows_without_subject_are_people_of_their_own(tmp_path):
    one = scored(tmp_path / "one", EMOTIONS, *drawn(EMOTIONS, 30), people=None)
    found = compare([one], 50)
    assert found.rows[0].people == found.rows[0].without_subject == 30
    assert "30 rows without a subject count as one person each" in found.table()


def test_few_people_are_named(tmp_path):
    one = scored(tmp_path / "one", EMOTIONS, *drawn(EMOTIONS, 30), people=3)
    assert "based on 3 people only" in compare([one], 50).table()


def test_pooled_folds_show_the_mean_beside(tmp_path):
    merged = pool(folds(UNITS))
    write_scores(tmp_path / "pooled", merged.card, merged.predictions)
    found = compare([tmp_path / "pooled"], 50)
    assert found.rows[0].mean_of_folds == merged.card.folds["full"].mean_of_folds
    mean = 100 * merged.card.folds["full"].mean_of_folds
    assert f"mean of folds {mean:.2f} %" in found.table()


def test_fallback_rows_count_in_the_headline(tmp_path):
    truth = np.array([0, 1, 1, 1.0])
    one = scored(tmp_path / "one", EMOTIONS, truth, np.eye(3)[[0, 0, 1, 1]], lost={1: "no_face"})
    line = compare([one], 50).rows[0]
    assert line.full.value == 0.75 and line.kept == 1


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    truth, predicted = drawn(UNITS, 60)
    one = scored(tmp_path / "one", UNITS, truth, predicted)
    two = scored(tmp_path / "two", UNITS, truth, truth)
    three = scored(tmp_path / "three", LEVELS, *drawn(LEVELS, 9))
    result = call(one, two, three, "--json", tmp_path / "found.json", "--resamples", 50)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0].split()[:4] == ["scores", "measure", "rows", "people"]
    assert len([line for line in result.stdout.splitlines() if str(tmp_path) in line]) >= 3
    text = (tmp_path / "found.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["resamples"] == 50 and len(found["scores"]) == 3
    assert found["scores"][1]["difference"]["value"] > 0
    assert found["scores"][2]["difference"] is None and found["scores"][2]["refused"]


def test_the_command_refuses_in_one_line(tmp_path):
    result = call(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.strip().startswith("normpipe: no scores.json in")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_subject_called_like_a_number_is_no_row(tmp_path):
    truth, predicted = drawn(EMOTIONS, 3)
    predictions = table(EMOTIONS, truth, predicted)
    names = pa.array([None, "0", None], pa.string())
    at = predictions.column_names.index("subject")
    predictions = predictions.set_column(at, "subject", names)
    write_scores(tmp_path, card(EMOTIONS, predictions), predictions)
    assert compare([tmp_path], 50).rows[0].people == 3
