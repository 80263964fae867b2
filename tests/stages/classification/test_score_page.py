"""The page of a score, as a browser shows it: each figure in its unit, in the usual order."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pyarrow as pa
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.scores import groups as grouping
from normpipe.stages.classification.scores import plots
from normpipe.stages.classification.scores.pooling import pool
from normpipe.stages.classification.scores.score_files import (
    ReliabilityBins,
    read_scores,
    write_scores,
)
from normpipe.stages.classification.scores.score_page import write_report
from normpipe.stages.classification.tasks import Task

from ...browsing import rendered
from .test_pooling import folds
from .toys import EMOTIONS, card, table

NAN = float("nan")


class Tables(HTMLParser):
    """Tables by id or class: rows of cells; and the pictures."""

    def __init__(self):
        super().__init__()
        self.tables, self.pictures, self.cell = {}, [], False

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "table":
            self.rows = self.tables.setdefault(given.get("id") or given.get("class") or "", [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.cell = tag in ("td", "th")
        if tag == "img":
            self.pictures.append(given["src"])

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data.strip()


def shown(folder, task, predictions, **facts):
    """The page's tables, of scores that were written and read again."""
    write_scores(folder, card(task, predictions, **facts), predictions)
    write_report(folder, read_scores(folder).card)
    return seen(folder)


def seen(folder):
    dom = rendered(folder / "index.html", folder / "profile")
    assert "http" not in re.sub(r"data:[^\"]+", "", dom)  # nothing is loaded from elsewhere
    found = Tables()
    found.feed(dom)
    found.dom = dom
    return found


def columns(table):
    """Row → heading → cell."""
    head, *rows = table
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_levels_have_levels_and_counts_are_counts(tmp_path):
    """What was 166.9 %, 330.2 %, -0.3 % and 100.0 %."""
    task = Task("intensity", ("AU1", "AU2", "AU10", "AU12"))
    truth = np.array([[0, 0, 0, 2], [1, 2, 1, NAN], [2, 4, 2, NAN], [3, 5, 5, NAN]], float)
    level = np.array([[2, 1, 2, 1], [3, 2, 2, 1], [4, 3, 2, 1], [5, 5, 1.5, 1]], float)
    found = shown(tmp_path, task, table(task, truth, level))
    assert list(columns(found.tables["labels"])) == ["AU1", "AU2", "AU10", "AU12"]
    labels = columns(found.tables["labels"])
    one = {"ICC(3,1)": "1.000", "MAE in levels": "2.000", "MSE in levels²": "4.000",
           "labelled faces": "4"}  # fmt: skip
    assert labels["AU1"] == one
    assert labels["AU12"] == {**one, "ICC(3,1)": "0.000", "MAE in levels": "1.000",
                              "MSE in levels²": "1.000", "labelled faces": "1"}  # fmt: skip
    assert labels["AU10"]["ICC(3,1)"].startswith("-0.")
    figures = columns(found.tables["figures"])
    # (2 + 0.5 + 6.5 / 4 + 1) / 4 and (4 + 0.5 + 17.25 / 4 + 1) / 4
    assert figures["MAE"] == {"all faces": "1.281 levels", "usable faces": "1.281 levels"}
    assert figures["MSE"]["all faces"] == "2.453 levels²"
    assert re.fullmatch(r"0\.\d{3}", figures["ICC(3,1)"]["all faces"])
    assert "%" not in found.dom.partition("<body>")[2] and not found.pictures


def test_units_have_auc_prevalence_and_a_diagram_each(tmp_path):
    task = Task("action_units", ("AU1", "AU2", "AU10"))
    truth = np.array([[1, 0, 1], [0, 1, NAN], [1, 0, NAN], [0, 0, NAN]], float)
    told = np.array([[0.9, 0.1, 0.8], [0.6, 0.4, 0.5], [0.7, 0.3, 0.5], [0.2, 0.2, 0.5]])
    predictions = table(task, truth, told, lost={3: "no_face"})
    found = shown(tmp_path, task, predictions, paper_style={"best_epoch": 7.0, "best_epoch_f1": 0.5,
                  "tuned_threshold": 0.35, "tuned_threshold_f1": 1.0})  # fmt: skip
    labels = columns(found.tables["labels"])
    assert list(labels) == ["AU1", "AU2", "AU10"]
    assert labels["AU1"] == {
        "F1 in %": "80.0", "precision in %": "66.7", "recall in %": "100.0",
        "accuracy in %": "75.0", "AUC": "1.000", "ECE in %": "30.0", "prevalence in %": "50.0",
        "positives": "2", "labelled faces": "4",
    }  # fmt: skip
    assert labels["AU2"]["precision in %"] == "–" and labels["AU2"]["positives"] == "1"
    assert labels["AU10"]["AUC"] == "–" and labels["AU10"]["labelled faces"] == "1"
    figures = columns(found.tables["figures"])
    assert figures["AUC"]["all faces"] == "1.000"
    assert figures["F1"] == {"all faces": "60.0 %", "usable faces": "60.0 %"}
    assert figures["accuracy"] == {"all faces": "83.3 %", "usable faces": "77.8 %"}
    style = {row[0]: row[1] for row in found.tables[""] if len(row) == 2}
    assert style["best epoch"] == "7" and style["best epoch f1"] == "50.0 %"
    assert style["tuned threshold"] == "0.350" and style["tuned threshold f1"] == "100.0 %"
    (diagram,) = found.pictures
    assert decoded(diagram).shape[2] == 3


def test_emotions_have_precision_confusion_calibration_and_groups(tmp_path):
    truth = np.array([0, 0, 1, 1, 2, NAN])
    told = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0], [0, 1, 0], [0.6, 0.2, 0.2],
                     [1, 0, 0]])  # fmt: skip
    predictions = table(EMOTIONS, truth, told)
    labels = {"sex": ["f", "m", "f", None, "m", "f"], "source": ["a10", "a2"] * 3}
    for name, column in grouping.group_columns(pa.table(labels), ["sex", "source"]).items():
        predictions = predictions.append_column(name, column)
    found = shown(tmp_path, EMOTIONS, predictions)
    each = columns(found.tables["labels"])
    assert list(each) == [*EMOTIONS.names]
    assert each["happiness"] == {"F1 in %": "80.0", "precision in %": "66.7",
                                 "recall in %": "100.0", "labelled faces": "2"}  # fmt: skip
    assert each["anger"]["precision in %"] == "–"
    assert found.tables["confusion"] == [
        ["", *EMOTIONS.names], ["neutral", "1", "1", "0"], ["happiness", "0", "2", "0"],
        ["anger", "1", "0", "0"],
    ]  # fmt: skip
    figures = columns(found.tables["figures"])
    assert figures["accuracy"]["all faces"] == "60.0 %"
    # The gaps 0.2, 0.7, 0.1, 0 and 0.6 of five bins.
    assert figures["ECE"]["all faces"] == "32.0 %"
    assert found.dom.count("<h2>By ") == 3  # label, sex, source
    rows = columns(found.tables["groups"])
    assert list(rows) == ["f", "m", "unknown", "source", "a2", "a10"]
    assert rows["f"]["accuracy in %"] == "100.0" and rows["f"]["faces"] == "3"
    assert rows["m"]["accuracy in %"] == "0.0" and rows["unknown"]["accuracy in %"] == "100.0"
    assert decoded(found.pictures[0]).size


def test_pooled_folds_have_a_page(tmp_path):
    merged = pool(folds(EMOTIONS)).card
    write_report(tmp_path, merged)
    found = columns(seen(tmp_path).tables["folds"])
    assert list(found) == ["fold 1", "fold 2", "fold 3", "mean of the folds", "pooled"]
    mean = merged.folds["full"].mean_of_folds
    assert found["mean of the folds"]["all faces"] == f"{100 * mean:.1f} %"
    assert found["pooled"]["all faces"] == f"{100 * merged.scores['full']['accuracy']:.1f} %"


def test_another_task_in_the_same_folder_leaves_no_diagram(tmp_path):
    for kind in ("emotion", "intensity"):
        task = EMOTIONS if kind == "emotion" else Task("intensity", ("AU1",))
        truth = np.array([0, 1.0]) if kind == "emotion" else np.array([[0], [1.0]])
        told = np.eye(3)[:2] if kind == "emotion" else truth
        write_report(tmp_path, card(task, table(task, truth, told)))
        assert (tmp_path / "reliability.png").is_file() == (kind == "emotion")


def decoded(source):
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_a_unit_that_nobody_coded_has_an_empty_diagram(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    counts = {"counts": (0, 2), "confidence": (None, 0.75), "observed": (None, 0.5)}
    none = {"counts": (0, 0), "confidence": (None, None), "observed": (None, None)}
    bins = {name: ReliabilityBins(**found) for name, found in (("AU1", counts), ("AU2", none))}
    plots.draw_reliability(bins, tmp_path / "drawn.png")
    one, two = drawn[0].axes
    assert one.get_title() == "AU1" and two.get_title() == "AU2: no label"
    assert one.lines[-1].get_xydata().tolist() == [[0.75, 0.5]] and not len(
        two.lines[-1].get_xdata()
    )
    ticks = [[label.get_text() for label in axes.get_yticklabels()] for axes in (one, two)]
    assert ticks[0] == ticks[1]


def test_groups_are_labels_with_few_values():
    labels = pa.table({"key": ["a", "b"], "sex": ["f", None], "AU1": [1.0, 0.0]})
    found = grouping.group_columns(labels, ["AU1", "sex"])
    assert {name: one.to_pylist() for name, one in found.items()} == {
        "by_AU1": ["1", "0"], "by_sex": ["f", "unknown"],
    }  # fmt: skip
    numbers = pa.table({"id": [1234567.0, 1234568.0, 2.5, NAN]})
    made = grouping.group_columns(numbers, ["id"])["by_id"].to_pylist()
    assert made == ["1234567", "1234568", "2.5", "unknown"]
    with pytest.raises(InputError, match="no column 'sexx' to group by; did you mean 'sex'"):
        grouping.group_columns(labels, ["sexx"])
    many = pa.table({"frame": [*range(60)]})
    with pytest.raises(InputError, match="'frame' has 60 values: group by one with at most 50"):
        grouping.group_columns(many, ["frame"])


def test_a_class_that_the_model_does_not_know_is_a_row_and_a_warning(tmp_path):
    predictions = table(EMOTIONS, np.array([0, 1.0, 2.0]), np.eye(3))
    names = pa.array(["neutral", "happiness", "contempt"])
    place = predictions.column_names.index("truth")
    predictions = predictions.set_column(place, "truth", names)
    found = shown(tmp_path, EMOTIONS, predictions)
    assert found.tables["confusion"][-1] == ["contempt", "0", "0", "1"]
    assert found.tables["confusion"][0] == ["", *EMOTIONS.names]
    assert columns(found.tables["labels"])["contempt"]["recall in %"] == "0.0"
    assert "1 of 3 labelled test faces show contempt (1), which the model does not" in found.dom
    assert columns(found.tables["figures"])["accuracy"]["all faces"] == "66.7 %"
