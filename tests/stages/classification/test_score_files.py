"""Score files: written whole, read back alike, refused in one line."""

import json

import pytest
from pydantic import ValidationError

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.scores.score_files import ScoreCard, read_scores, write_scores
from normpipe.stages.classification.scores.score_page import write_report
from normpipe.stages.classification.tasks import Task

from .toys import TASKS, UNITS, card, drawn, table


@pytest.fixture
def written(tmp_path):
    predictions = table(UNITS, *drawn(UNITS, 12), lost={1: "no_face"})
    write_scores(tmp_path, card(UNITS, predictions), predictions)
    return tmp_path


@pytest.mark.parametrize("kind", TASKS)
def test_what_was_written_is_read(tmp_path, kind):
    task = TASKS[kind]
    predictions = table(task, *drawn(task, 12), lost={1: "no_face"})
    style = {"best_epoch": "7", "best_epoch_figure": 0.9}
    made = card(task, predictions, camera="left", fold=1, paper_style=style)
    returned = write_scores(tmp_path / "scores", made, predictions)
    found = read_scores(tmp_path / "scores")
    assert found.card == returned and found.predictions.equals(predictions)
    assert found.card.task == task and found.card.headline in found.card.scores["full"]
    assert found.card.model_copy(update={"predictions_sha256": ""}) == made
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "predictions.parquet",
        "scores.json",
    ]
    json.loads((tmp_path / "scores/scores.json").read_text(), parse_constant=pytest.fail)


def test_a_card_is_frozen_and_knows_its_fields():
    made = card(UNITS, table(UNITS, *drawn(UNITS, 4)))
    with pytest.raises(ValidationError, match="frozen"):
        made.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        ScoreCard.model_validate({**made.model_dump(), "mood": "good"})


def test_a_card_goes_with_its_predictions(tmp_path):
    predictions = table(UNITS, *drawn(UNITS, 4))
    made = card(UNITS, predictions)
    with pytest.raises(ValueError, match="3 predictions, 4 on the card"):
        write_scores(tmp_path, made, predictions.slice(1))
    assert not [*tmp_path.iterdir()]


def refused(folder, *words):
    with pytest.raises(InputError) as caught:
        read_scores(folder)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def change(folder, **values):
    path = folder / "scores.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_missing(tmp_path, written):
    refused(tmp_path / "nowhere", "no scores.json in", "give a folder")
    (written / "predictions.parquet").unlink()
    refused(written, "predictions.parquet is missing", "make the scores again")


def test_newer(written):
    change(written, schema_version=99)
    refused(written, "schema 99", "upgrade")


def test_older(tmp_path, caplog):
    """What schema 1 lacks is empty, and a line says so; AU2 stands before AU10 again."""
    caplog.set_level("INFO", "normpipe")
    task = Task("action_units", ("AU1", "AU2", "AU10"))
    predictions = table(task, *drawn(task, 9))
    made = card(task, predictions)
    write_scores(tmp_path, made, predictions)
    path = tmp_path / "scores.json"
    found = json.loads(path.read_text())
    assert [*found["per_label"]["full"]] == ["AU1", "AU10", "AU2"]  # as JSON is sorted
    new = {"precision", "recall", "ece", "prevalence"}
    for part in ("full", "kept"):
        for figures in (found["scores"][part], *found["per_label"][part].values()):
            for name in new & figures.keys():
                del figures[name]
    del found["reliability"], found["groups"]
    path.write_text(json.dumps({**found, "schema_version": 1}, sort_keys=True))
    old = read_scores(tmp_path).card
    assert [line.getMessage() for line in caplog.records] == [
        f"{path} is of an older release: it lacks calibration, precision and groups"
    ]
    assert old.schema_version == 1 and not old.reliability and not old.groups
    assert [*old.per_label["full"]] == [*task.names]
    assert old.scores["full"]["f1"] == made.scores["full"]["f1"]
    write_report(tmp_path, old)
    page = (tmp_path / "index.html").read_text()
    assert "Calibration" not in page and page.index(">AU2<") < page.index(">AU10<")


def test_damaged(written):
    change(written, names=3)
    refused(written, "'names'", "make the scores again")
    (written / "scores.json").write_text("{")
    refused(written, "is not JSON")


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": 1}'])
def test_foreign(written, text):
    (written / "scores.json").write_text(text)
    refused(written, "is not a score file", "give a folder")


def test_predictions_of_another_run(tmp_path, written):
    # As a kill between the two files would leave it.
    predictions = table(UNITS, *drawn(UNITS, 12, seed=5))
    other = tmp_path / "other"
    write_scores(other, card(UNITS, predictions), predictions)
    (other / "predictions.parquet").replace(written / "predictions.parquet")
    refused(written, "does not match scores.json")
