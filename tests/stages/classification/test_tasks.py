"""Which task labels allow, and what their truth is."""

import numpy as np
import pyarrow as pa
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.listing import class_shares, learnt_from_votes
from normpipe.stages.classification.scores.coverage import unscored_units
from normpipe.stages.classification.tasks import Task, check_labels, find_task

LABELS = pa.table({
    "key": ["a", "b", "c"],
    "emotion": ["happiness", None, "anger"],
    "AU12": pa.array([1, 0, None], pa.float32()),
    "AU2": pa.array([0, 1, 1], pa.int64()),
    "AU4": pa.nulls(3, pa.float32()),
    "AU6_intensity": pa.array([0, None, 4.5], pa.float64()),
})  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("emotion", ("happiness", "anger")),
        ("action_units", ("AU2", "AU12")),
        ("intensity", ("AU6",)),
    ],
)
def test_every_kind(kind, names):
    assert find_task(LABELS, kind, ()) == Task(kind, names)
    assert find_task(LABELS, kind, names[:1]).names == names[:1]


def test_auto_takes_the_first_kind_that_there_is():
    assert find_task(LABELS, "auto", ()).kind == "emotion"
    assert find_task(LABELS.drop_columns(["emotion"]), "auto", ()).kind == "action_units"
    assert find_task(LABELS.select(["key", "AU6_intensity"]), "auto", ()).kind == "intensity"


def test_own_classes_come_behind_the_usual_ones():
    labels = pa.table({"emotion": ["zeal", "boredom", "anger", "neutral", ""]})
    assert find_task(labels, "auto", ()).names == ("neutral", "anger", "boredom", "zeal")


def test_shares_of_the_votes():
    """Of the classes that are predicted alone; rows without such votes are unknown."""
    labels = pa.table({
        "emotion": ["anger", "happiness", None],
        "anger_votes": [3, None, None], "happiness_votes": [1, None, 2], "fear_votes": [6, 5, 0],
    })  # fmt: skip
    shares = class_shares(Task("emotion", ("happiness", "anger", "zeal")), labels)
    assert shares.dtype == np.float32
    expected = [[0.25, 0.75, 0], [np.nan] * 3, [1, 0, 0]]
    np.testing.assert_allclose(shares, expected)
    other = Task("emotion", ("Happy", "anger", "zeal"))  # as a user's own labels may spell it
    np.testing.assert_array_equal(class_shares(other, labels), shares)
    assert learnt_from_votes(other, labels).tolist() == [False, False, True]
    with pytest.raises(InputError, match="no votes for these emotions: give columns such as"):
        class_shares(Task("emotion", ("happiness", "anger")), LABELS)


def test_truth():
    emotions = find_task(LABELS, "emotion", ("anger",)).truth(LABELS)
    assert emotions.tolist() == pytest.approx([np.nan, np.nan, 0], nan_ok=True)
    units = find_task(LABELS, "action_units", ()).truth(LABELS)
    assert units.dtype == np.float32 and units.shape == (3, 2)
    assert units[2].tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert np.isnan(Task("emotion", ("anger",)).truth(LABELS.select(["key"]))).all()
    levels = Task("intensity", ("AU6", "AU9")).truth(LABELS)
    assert levels[2].tolist() == pytest.approx([4.5, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("labels", "kind", "names", "words"),
    [
        (LABELS.select(["key"]), "auto", (), "nothing to learn for task 'emotion'"),
        (LABELS.select(["key", "AU2"]), "emotion", (), "they have action_units"),
        (
            LABELS.select(["key", "AU4"]),
            "action_units",
            (),
            "every label in AU4 is missing.*au_mis",
        ),
        (LABELS.select(["key", "AU4"]), "auto", (), "every label in AU4 is missing.*au_missing"),
        (LABELS.select(["key", "AU4"]), "intensity", (), "in a column 'AU1_intensity'"),
        (LABELS.select(["key", "AU2", "AU4"]), "emotion", (), "column 'emotion'; they have action"),
        (LABELS, "emotion", ("happyness",), "never name 'happyness'.*'happiness'"),
        (LABELS, "action_units", ("AU4",), "never name 'AU4'"),
    ],
)
def test_what_labels_do_not_allow_is_one_line(labels, kind, names, words):
    with pytest.raises(InputError, match=words) as caught:
        find_task(labels, kind, names)
    assert "\n" not in str(caught.value)


def test_other_spellings_are_the_same_class():
    """Labels from elsewhere are not always through ingest, which spells them our way."""
    labels = pa.table({"emotion": ["Happy", "happiness", " sad", "fear", None]})
    truth = Task("emotion", ("happiness", "sadness")).truth(labels)
    assert np.array_equal(truth, [0, 0, 1, np.nan, np.nan], equal_nan=True)
    assert Task("emotion", ("sad", "happy")).truth(labels)[:3].tolist() == [1, 1, 0]
    both = Task("emotion", ("happy", "happiness"))  # two classes, if somebody trained them so
    assert both.truth(pa.table({"emotion": ["happiness", "happy"]})).tolist() == [1, 0]


def test_nan_is_unknown():
    labels = pa.table({"AU1": pa.array([float("nan")] * 2), "AU2": pa.array([1.0, float("nan")])})
    assert find_task(labels, "action_units", ()).names == ("AU2",)
    assert unscored_units(Task("action_units", ("AU4",)), labels) == [
        "not scored, as the model does not predict them: AU2 (1)"
    ]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("emotion", [0, 1, None], "'emotion' holds int64: name each emotion"),
        ("AU12", [0.0, 3.0, None], "'AU12' is 3, but occurrence is 0 or 1: .*AU12_intensity"),
        ("AU12", ["yes", "no", None], "'AU12' is no number"),
        ("AU12_intensity", [0.0, 9.0, None], "'AU12_intensity' is 9, but a level is from 0 to 5"),
        ("AU12_intensity", [0.0, -1.0, None], "'AU12_intensity' is -1, but a level is from 0 to"),
    ],
)
def test_labels_that_ingest_would_refuse_are_one_line(name, values, words):
    """Anybody may put a labels.parquet beside shards; levels as occurrence trained for hours."""
    with pytest.raises(InputError, match=f"^OUT: the label {words}") as caught:
        check_labels(pa.table({"key": ["a", "b", "c"], name: values}), "OUT")
    assert "\n" not in str(caught.value)
    check_labels(LABELS, "OUT")
    for good in ([True, False, None], [1.0, 0.0, float("nan")], ["1", "0", None]):
        check_labels(pa.table({"AU12": good}), "OUT")
    names = pa.array(["anger", None]).dictionary_encode()
    check_labels(pa.table({"emotion": names, "AU1": pa.nulls(2)}), "OUT")


def test_two_spellings_of_one_emotion_are_one_class(caplog):
    labels = pa.table({"emotion": ["happy", "happiness", "Sad", "sad", "dazed", None]})
    task = find_task(labels, "auto", ())
    assert task.names == ("happiness", "Sad", "dazed")
    assert task.truth(labels)[:5].tolist() == [0, 0, 1, 1, 2]
    assert "'happiness' and 'happy' are one class: happiness" in caplog.text
    assert find_task(labels, "auto", ("happy", "sad")).names == ("happy", "sad")
