"""Full and kept figures, coverage, warnings, fallback predictions."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.scores.figure_text import (
    figure_text,
    figure_title,
    in_order,
    in_unit,
    interval_text,
)
from normpipe.stages.classification.scores.scoring import (
    HEADLINE,
    fallback,
    headline_of,
    predicted_values,
    row_statistics,
    score,
    truth_of,
    tuned_threshold,
)
from normpipe.stages.metrics.action_units import au_f1

from .toys import EMOTIONS, LEVELS, TASKS, UNITS, drawn, table

NAN = float("nan")


@pytest.mark.parametrize("kind", TASKS)
def test_columns_and_arrays_are_inverse(kind):
    task = TASKS[kind]
    truth, predicted = drawn(task, 20)
    truth.flat[3] = NAN
    predictions = table(task, truth, predicted)
    assert truth_of(task, predictions) == pytest.approx(truth, nan_ok=True)
    assert predicted_values(task, predictions) == pytest.approx(predicted, abs=1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_the_headline_of_sums_is_that_of_the_score(kind):
    task = TASKS[kind]
    predictions = table(task, *drawn(task, 60))
    found = score(task, predictions)
    sums = row_statistics(task, predictions, 0.5).sum(axis=0)
    assert headline_of(task.kind, sums) == pytest.approx(found["scores"]["full"][HEADLINE[kind]])


def test_what_could_not_be_used_counts_in_full_and_not_in_kept():
    truth = np.array([0, 1, 2, 1.0])
    predicted = np.eye(3)[[0, 1, 0, 0]]  # the last two are wrong, and are fallbacks
    predictions = table(EMOTIONS, truth, predicted, lost={2: "no_face", 3: "no_face"})
    found = score(EMOTIONS, predictions)
    assert found["scores"]["full"]["accuracy"] == 0.5
    assert found["scores"]["kept"]["accuracy"] == 1
    assert found["coverage"] == {
        "test_rows": 4, "kept": 2, "without_truth": 0, "by_reason": {"no_face": 2},
    }  # fmt: skip
    assert found["confusion"]["anger"] == {"neutral": 1, "happiness": 0, "anger": 0}
    assert found["per_label"]["full"]["happiness"]["recall"] == 0.5
    assert found["per_label"]["kept"]["anger"]["recall"] is None


def test_nothing_kept_has_no_figure():
    truth, predicted = drawn(UNITS, 2)
    found = score(UNITS, table(UNITS, truth, predicted, lost={0: "no_face", 1: "truncated"}))
    assert found["scores"]["kept"]["f1"] is None and found["scores"]["full"]["f1"] is not None
    levels = score(LEVELS, table(LEVELS, *drawn(LEVELS, 2), lost={0: "no_face", 1: "no_face"}))
    assert levels["scores"]["kept"]["icc"] is None


def test_warnings_name_what_is_set_by_definition():
    truth, predicted = drawn(UNITS, 10)
    truth[:, 0], truth[:, 1] = 0, NAN
    notes = score(UNITS, table(UNITS, truth, predicted))["warnings"]
    assert any("AU1 occurs in no test picture" in note for note in notes)
    assert any("over 1 of 2 action units: no test face has a known AU12" in n for n in notes)
    levels = score(LEVELS, table(LEVELS, np.zeros((4, 2)), np.zeros((4, 2))))
    assert levels["scores"]["full"]["icc"] == 0
    assert any("AU6 is constant" in note for note in levels["warnings"])
    predictions = table(EMOTIONS, np.array([0, 1, NAN]), np.eye(3))
    emotions = score(EMOTIONS, predictions)
    assert emotions["warnings"] == [
        "1 test rows have no known truth and are not scored",
        "no test picture shows anger: excluded from mean class accuracy",
    ]
    assert emotions["coverage"]["without_truth"] == 1


def test_an_emotion_that_the_model_does_not_know_counts_as_wrong():
    """As scikit-learn has it, for which a class without a prediction is a class."""
    rng = np.random.default_rng(3)
    truth, predicted = drawn(EMOTIONS, 40)
    names = np.array([EMOTIONS.names[int(n)] for n in truth], object)
    names[:15] = rng.choice(["contempt", "fear"], 15)
    predictions = put(table(EMOTIONS, truth, predicted), "truth", pa.array(names.tolist()))
    found = score(EMOTIONS, predictions)
    said = [EMOTIONS.names[n] for n in predicted.argmax(1)]
    full = found["scores"]["full"]
    assert full["accuracy"] == pytest.approx(accuracy_score(names, said))
    assert full["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(names, said))
    assert full["macro_f1"] == pytest.approx(f1_score(names, said, average="macro"))
    sums = row_statistics(EMOTIONS, predictions, 0.5).sum(axis=0)
    assert headline_of("emotion", sums) == pytest.approx(full["accuracy"])
    coverage = found["coverage"]
    fear = int((names == "fear").sum())
    assert coverage["without_truth"] == 0
    assert coverage["unknown_classes"] == {"fear": fear, "contempt": 15 - fear}
    assert sum(found["confusion"]["fear"].values()) == fear
    known = accuracy_score(names[15:], said[15:])
    assert found["warnings"][0].startswith("15 of 40 labelled test faces show ")
    assert found["warnings"][0].endswith(f"on the other 25: accuracy {100 * known:.1f} %")


def test_pictures_that_trained_the_model_are_counted():
    truth, predicted = np.array([0, 1, 2, 1, 0.0]), np.eye(3)[[0, 1, 0, 0, 0]]
    predictions = table(EMOTIONS, truth, predicted, lost={4: "no_face"})
    trained = pa.array([True, True, False, None, None])
    found = score(EMOTIONS, predictions.append_column("trained", trained))
    assert found["coverage"]["trained"] == 2
    assert found["warnings"][:2] == [
        "2 of 5 test pictures also trained the model, so the score is too good for new faces; on "
        "the other 3: accuracy 33.3 %",
        "whether 1 of 5 test pictures also trained the model cannot be checked: the shards, or the "
        "model, do not record source_sha256",
    ]
    whole = score(EMOTIONS, predictions.append_column("trained", pa.array([True] * 5)))
    assert "there are no others" in whole["warnings"][0]


def test_means_over_fewer_units_say_so():
    """A unit that is never predicted has no precision: the mean is of the others."""
    truth = np.array([[1, 1], [1, 0], [0, 0.0]])
    told = np.array([[0.9, 0.1], [0.1, 0.2], [0.8, 0.3]])
    found = score(UNITS, table(UNITS, truth, told))
    assert found["scores"]["full"]["precision"] == 0.5
    less, unit = "the mean precision is over 1 of 2 action units", UNITS.names[1]
    assert found["warnings"] == [f"{less}, without {unit} (never predicted)"]
    truth[:, 1] = 0
    notes = score(UNITS, table(UNITS, truth, told))["warnings"]
    assert [note.partition(" is over 1 of 2")[0] for note in notes[1:]] == [
        f"the mean {name}" for name in ("precision", "recall", "AUC")
    ]
    truth[:, 1] = np.nan  # said once
    notes = score(UNITS, table(UNITS, truth, told))["warnings"]
    assert len(notes) == 1 and notes[0].startswith("the means are over 1 of 2 action units")


def test_scores_that_cannot_fail_are_told():
    notes = score(EMOTIONS, table(EMOTIONS, np.ones(3), np.eye(3)))["warnings"]
    assert any("all test pictures show happiness" in note for note in notes)
    truth, predicted = drawn(UNITS, 10)
    truth[:, 1] = 1
    notes = score(UNITS, table(UNITS, truth, predicted))["warnings"]
    assert notes == [
        "AU12 occurs in every test picture: a model that always says so has an F1 of 1",
        "the mean AUC is over 1 of 2 action units, without AU12 (never or always occurs)",
    ]
    truth, predicted = drawn(LEVELS, 10)
    truth[:, 0], truth[0, 0] = 3, NAN
    notes = score(LEVELS, table(LEVELS, truth, predicted))["warnings"]
    assert notes == ["AU6 has one level in all test pictures: its ICC is 0 for any prediction"]


@pytest.mark.parametrize("kind", TASKS)
def test_every_figure_has_a_unit(kind):
    found = score(TASKS[kind], table(TASKS[kind], *drawn(TASKS[kind], 40)))
    figures = {**found["scores"]["full"], **found["per_label"]["full"][TASKS[kind].names[0]]}
    for name, value in figures.items():
        assert figure_text(name, value) != "–" and figure_title(name)
    assert in_order(reversed(figures)) == in_order(figures)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("mae", 1.669, "1.669 levels"),
        ("mse", 3.302, "3.302 levels²"),
        ("icc", -0.0031, "-0.003"),
        ("icc", -0.0001, "0.000"),
        ("auc", 0.91249, "0.912"),
        ("known", 1.0, "1"),
        ("positives", 1234.0, "1234"),
        ("accuracy", 1.0, "100.0 %"),
        ("ece", 0.0416, "4.2 %"),
        ("prevalence", 0.5, "50.0 %"),
        ("best_epoch", 7.0, "7"),
        ("best_epoch_icc", 0.5, "0.500"),
        ("tuned_threshold", 0.35, "0.350"),
        ("tuned_threshold_f1", 0.5, "50.0 %"),
        ("f1", None, "–"),
        ("f1", NAN, "–"),
    ],
)
def test_a_figure_is_written_in_its_unit(name, value, text):
    assert figure_text(name, value) == text


def test_intervals_and_headings_have_the_unit_too():
    assert interval_text("f1", 0.693, (0.671, 0.7149)) == "69.3 [67.1, 71.5]"
    assert interval_text("icc", 0.1, (-0.2, 0.3), "+") == "+0.100 [-0.200, +0.300]"
    assert (in_unit("mae"), in_unit("f1"), in_unit("icc")) == (" in levels", " in %", "")
    with pytest.raises(ValueError, match="no figure is called 'beauty'"):
        figure_text("beauty", 1.0)


@pytest.mark.parametrize("kind", TASKS)
def test_no_known_truth_is_an_error(kind):
    truth, predicted = drawn(TASKS[kind], 3)
    with pytest.raises(InputError, match="no test row has a known truth"):
        score(TASKS[kind], table(TASKS[kind], truth * NAN, predicted))


def test_fallbacks_come_from_the_training_labels():
    assert fallback(EMOTIONS, np.array([0, 1, 1, NAN])) == pytest.approx([1 / 3, 2 / 3, 0])
    truth = np.array([[0, 1], [0, 1], [1, NAN]])
    assert fallback(UNITS, truth) == pytest.approx([1 / 3, 1])
    assert fallback(LEVELS, truth * 3) == pytest.approx([1, 3])
    with pytest.raises(InputError, match="no training row has a known AU12"):
        fallback(UNITS, np.array([[1, NAN]]))
    with pytest.raises(InputError, match="known emotion"):
        fallback(EMOTIONS, np.array([NAN]))


def test_a_tuned_threshold_is_at_least_as_good():
    truth, predicted = drawn(UNITS, 50)
    predictions = table(UNITS, truth, predicted * 0.5)
    tuned = tuned_threshold(UNITS, predictions)
    assert tuned["tuned_threshold_f1"] > score(UNITS, predictions)["scores"]["full"]["f1"]
    expected = au_f1(truth, predicted_values(UNITS, predictions), tuned["tuned_threshold"])[1]
    assert tuned["tuned_threshold_f1"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="no threshold"):
        tuned_threshold(EMOTIONS, predictions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["p_AU12"]), "no column 'p_AU12'"),
        (lambda t: t.drop_columns(["truth_AU1"]), "no column 'truth_AU1'"),
        (lambda t: pa.concat_tables([t, t]), "a key twice"),
        (lambda t: put(t, "predicted_by", pa.array(["guess"] * len(t))), "'guess', neither"),
        (lambda t: put(t, "p_AU1", pa.nulls(len(t), pa.float32())), "empty cells"),
        (lambda t: put(t, "p_AU1", pa.array([NAN] * len(t))), "not finite"),
        (lambda t: put(t, "p_AU1", pa.array([1.5] * len(t))), "within 0 and 1"),
    ],
)
def test_a_wrong_table_is_refused(change, words):
    predictions = change(table(UNITS, *drawn(UNITS, 4)))
    with pytest.raises(ValueError, match=words):
        score(UNITS, predictions)


def put(predictions, name, column):
    return predictions.set_column(predictions.column_names.index(name), name, column)
