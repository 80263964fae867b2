"""Which task labels allow, and what their truth is."""

import numpy as np
import pyarrow as pa
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.tasks import Task, find_task

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
