"""Who trains and who tests: no subject on both sides, the same for a seed, as published."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from normpipe.manifests.datasets import load_description
from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.early_checks import (
    check_partition,
    check_training,
    without_duplicates,
)
from normpipe.stages.classification.protocol import (
    Partition,
    all_of,
    folds,
    foreign_part,
    held_out,
    task_of,
)
from normpipe.stages.classification.tasks import Task

from .faces import listed

NAN = float("nan")
TWO = Task("emotion", ("neutral", "happiness"))


def people(count=20, each=4, **more):
    return [
        {"subject": f"p{n:02}", "emotion": TWO.names[k % 2], **more}
        for n in range(count)
        for k in range(each)
    ]


def subjects(listing, rows):
    return {listing.subjects()[row] for row in rows}


def refused(words, call, *args):
    with pytest.raises(InputError, match=words) as caught:
        call(*args)
    assert "\n" not in str(caught.value)


def test_held_out_by_split():
    labels = people(6)
    for row, found in enumerate(labels):
        found["split"] = ["train", "test", "validation"][row // 4 % 3]
    labels[0]["emotion"], labels[4]["emotion"] = None, "contempt"  # unknown, and not predicted
    listing = listed(labels)
    part = held_out(listing, TWO, "train", "test", 0)
    assert subjects(listing, part.train) == {"p00", "p03"} and 0 not in part.train
    assert subjects(listing, part.test) == {"p01", "p04"} and 4 not in part.test
    assert part.name == "split test" and part.fold is None and part.folder == ""
    other = held_out(listing, TWO, "train", "validation", 0)
    assert subjects(listing, other.test) == {"p02", "p05"}


def test_inputs_without_a_majority_train_on_their_votes_and_are_not_tested():
    rows = people(6)
    for row, found in enumerate(rows):
        found["split"] = ["train", "test"][row // 4 % 2]
        found |= {"neutral_votes": 9, "happiness_votes": 1}
    rows[0] |= {"emotion": None, "neutral_votes": 4, "happiness_votes": 3, "unknown_votes": 3}
    rows[1] |= {"emotion": None, "neutral_votes": 2, "happiness_votes": 2, "unknown_votes": 6}
    rows[2] |= {"emotion": None, "neutral_votes": 4, "happiness_votes": 0, "contempt_votes": 4}
    rows[3] |= {"emotion": "contempt"}  # of another class, whatever its votes
    rows[4] |= {"emotion": None}
    listing = listed(rows)
    for votes, trained in ((False, []), (True, [0])):
        part = held_out(listing, replace(TWO, votes=votes), "train", "test", 0)
        assert [row for row in part.train if row < 4] == trained
        assert 4 not in part.test and len(part.test) == 11


def test_a_split_that_is_not_there_is_named():
    listing = listed([{**found, "split": "train"} for found in people(2)])
    refused("no labelled input has the split 'test'.*train", held_out, listing, TWO, "train",
            "test", 0)  # fmt: skip
    refused("split 'training'.*did you mean 'train'", held_out, listing, TWO, "training", "train",
            0)  # fmt: skip


def test_a_split_does_not_train_and_test():
    """Without subjects nothing else would notice."""
    listing = listed([{"emotion": "neutral", "split": "train"}] * 4)
    refused("cannot both train and test", held_out, listing, TWO, "train", "train", 0)


def test_held_out_by_seed():
    listing = listed(people())
    part = held_out(listing, TWO, "train", "test", 3)
    assert not subjects(listing, part.train) & subjects(listing, part.test)
    assert len(subjects(listing, part.test)) == 4
    assert sorted([*part.train, *part.test]) == list(range(80))
    again = held_out(listing, TWO, "train", "test", 3)
    assert again.test.tolist() == part.test.tolist()
    others = [held_out(listing, TWO, "train", "test", s).test.tolist() for s in range(5)]
    assert len({tuple(rows) for rows in others}) > 1
    assert "seed 3" in part.name


def test_held_out_without_subjects_counts_every_input_as_a_person():
    listing = listed([{"emotion": TWO.names[n % 2]} for n in range(50)])
    part = held_out(listing, TWO, "train", "test", 0)
    assert len(part.test) == 10 and not {*part.test} & {*part.train}
    few = listed(people(3))
    refused("no column 'split', and fewer than 5 subjects", held_out, few, TWO, "train", "test", 0)


def test_folds_by_number_test_everyone_once():
    listing = listed(people())
    parts = folds(listing, TWO, "4", 0)
    assert [part.fold for part in parts] == [1, 2, 3, 4]
    assert [part.folder for part in parts] == [f"fold-{n}" for n in range(1, 5)]
    assert sorted(np.concatenate([part.test for part in parts])) == list(range(80))
    for part in parts:
        assert not subjects(listing, part.train) & subjects(listing, part.test)
        assert len(subjects(listing, part.test)) == 5
    again = folds(listing, TWO, "4", 0)
    assert all(
        one.test.tolist() == two.test.tolist() for one, two in zip(parts, again, strict=True)
    )
    refused("at least two", folds, listing, TWO, "1", 0)
    refused("cannot split 20 subjects into 21", folds, listing, TWO, "21", 0)


def test_folds_of_the_labels():
    labels = [{**found, "fold": [3, 5, None][n // 4 % 3]} for n, found in enumerate(people(6))]
    listing = listed(labels)
    one, two = folds(listing, TWO, "labels", 0)
    assert subjects(listing, one.test) == {"p00", "p03"} == subjects(listing, two.train)
    assert subjects(listing, two.test) == {"p01", "p04"}  # rows without a fold do nothing
    said = ("8 labelled inputs have no fold: they neither train nor test",)
    assert one.notes == two.notes == said
    labels = [{**found, "split": ["train", "test", None][n // 4 % 3]} for n, found in
              enumerate([*people(6), {"emotion": None}])]  # fmt: skip
    part = held_out(listed(labels), TWO, "train", "test", 0)
    assert part.notes == ("8 labelled inputs have no split: they neither train nor test",)
    assert not held_out(listed(people(2, split="train") + people(2, split="test")), TWO, "train",
                        "test", 0).notes  # fmt: skip
    refused("no column 'fold'", folds, listed(people(2)), TWO, "labels", 0)
    same = listed([{**found, "fold": 1} for found in people(2)])
    refused("fewer than two folds", folds, same, TWO, "labels", 0)


@pytest.mark.parametrize(("name", "count"), [("bp4d", 41), ("disfa", 27)])
def test_published_folds(name, count):
    task = Task("action_units", ("AU1", "AU12"))
    description = load_description(name)
    names = [who for group in description.groups.values() for who in group.subjects]
    assert len(names) == count
    labels = [{"subject": who, "AU1": 1.0 - k, "AU12": float(k)} for who in names for k in (0, 1)]
    labels.append({"subject": None, "AU1": None, "AU12": None})  # nobody asks who this is
    listing = listed(labels)
    parts = folds(listing, task, name, 7)
    groups = description.protocol("action_units").folds
    assert [subjects(listing, part.test) for part in parts] == [
        {*description.groups[group].subjects} for group in groups
    ]
    for part in parts:
        assert len(part.train) + len(part.test) == 2 * count
        assert not check_partition(task, listing, part, False)
    assert name in parts[0].name and f"of {len(groups)}" in parts[0].name


def test_published_folds_know_their_subjects():
    task = Task("action_units", ("AU1",))
    listing = listed([{"subject": who, "AU1": 1.0} for who in ("F001", "Anna", "Bert")])
    refused(r"no fold for the subject 'Anna' \(2 in all\)", folds, listing, task, "bp4d", 0)
    nobody = listed([{"subject": who, "AU1": 1.0} for who in ("F001", None, None)])
    refused("2 labelled inputs have no subject, .* bp4d", folds, nobody, task, "bp4d", 0)
    refused("no description of dataset 'bp5d'.*bp4d", folds, listing, task, "bp5d", 0)
    refused("has no task 'emotion'", folds, listing, Task("emotion", ("a",)), "bp4d", 0)


def test_a_published_split_is_the_only_part():
    task = Task("intensity", ("AU6",))
    protocol = load_description("bp4d").protocol("intensity")
    names = [*protocol.train, *protocol.test]
    labels = [{"subject": who, "AU6_intensity": float(k)} for who in names for k in (0, 2)]
    labels.append({"subject": "nobody", "AU6_intensity": None})
    listing = listed(labels)
    (found,) = folds(listing, task, "bp4d", 0)
    assert subjects(listing, found.train) == {*protocol.train}
    assert subjects(listing, found.test) == {*protocol.test} and found.folder == ""


def part(train, test):
    return Partition("split test", "", None, np.array(train, np.int64), np.array(test, np.int64))


def test_subjects_on_both_sides_are_refused():
    listing = listed(people(3))
    both = part(range(6), range(6, 12))
    refused(
        "1 subjects are in both training and test.*p01.*shared_subjects",
        check_partition,
        TWO,
        listing,
        both,
        False,
    )
    assert check_partition(TWO, listing, both, True) == []
    unknown = listed([{"emotion": TWO.names[n % 2]} for n in range(8)])
    assert check_partition(TWO, unknown, part(range(4), range(4, 8)), False) == []


def test_a_label_that_never_occurs_is_refused():
    listing = listed(people(4), ["ok"] * 8 + ["rejected"] * 8)
    task = Task("emotion", ("neutral", "happiness", "anger"))
    refused("no example of anger among the 8 training", check_partition, task, listing,
            part(range(8), range(8, 16)), False)  # fmt: skip
    # What is not usable does not teach.
    refused("no example of happiness", check_partition, TWO, listing, part([0, 2, 9], [12]), True)
    refused(
        "no usable labelled input to train on", check_partition, TWO, listing, part([9], [0]), True
    )
    refused("no labelled input to test on", check_partition, TWO, listing, part([0, 1], []), True)
    units = Task("action_units", ("AU1", "AU2"))
    absent = listed([{"AU1": 1.0, "AU2": 0.0}, {"AU1": None, "AU2": None}])
    refused("no example of AU2", check_training, units, absent, part([0, 1], []))


def test_a_label_that_the_test_lacks_is_said():
    listing = listed(people(4))
    found = check_partition(TWO, listing, part(range(4), [4, 6]), False)
    assert found == [
        "the test set has no example of happiness",
        "neutral is the only class in the test set: its score says nothing",
    ]


def test_all_of():
    labels = [{**found, "split": "a" if n % 2 else None} for n, found in enumerate(people(2))]
    labels[1]["emotion"] = None
    listing = listed(labels)
    whole = all_of(listing, TWO)
    assert whole.train.tolist() == whole.test.tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert whole.left_out == {"without a label": 1}
    assert all_of(listing, TWO, "a").test.tolist() == [3, 5, 7]
    refused("no input with a known label in split 'b'", all_of, listing, TWO, "b")


def test_classes_that_the_model_does_not_know_are_tested_or_counted():
    names = ["neutral", "happiness", "fear", "Happy", None, "contempt", "fear"]
    listing = listed(
        [{"emotion": name, "split": "a" if n else "b"} for n, name in enumerate(names)]
    )
    asked = foreign_part(listing, TWO, "", leave_out=True)
    assert asked.test.tolist() == [0, 1, 3] and not len(asked.train)
    assert asked.left_out == {"fear": 2, "without a label": 1, "contempt": 1}
    every = foreign_part(listing, TWO, "", leave_out=False)
    assert every.test.tolist() == [0, 1, 2, 3, 5, 6] and every.left_out == {"without a label": 1}
    assert every.name == "all of d"
    some = foreign_part(listing, TWO, "a", leave_out=False)
    assert some.test.tolist() == [1, 2, 3, 5, 6] and some.name == "split a of d"
    three = Task("emotion", ("sadness", "anger", "surprise"))
    refused("knows sadness, anger, surprise; there are", foreign_part, listing, three, "", False)


def test_one_class_or_a_label_that_is_always_there_teaches_nothing():
    smiles = listed([{"emotion": "happiness"} for _ in range(4)])
    only = Task("emotion", ("happiness",))
    refused("happiness is the only class among the 3 training", check_training, only, smiles,
            part(range(3), [3]))  # fmt: skip
    units = Task("action_units", ("AU1", "AU12"))
    coded = listed([{"AU1": float(n % 2), "AU12": 1.0 if n < 4 else n - 4.0} for n in range(6)])
    refused("AU12 occurs in every input that codes it among the 4.*classify.labels",
            check_training, units, coded, part(range(4), [4, 5]))  # fmt: skip
    assert check_partition(units, coded, part([2, 3, 4, 5], [0, 1]), True) == [
        "AU12 occurs in every input that codes it in the test set: its score says nothing"
    ]
    levels = Task("intensity", ("AU6",))
    flat = listed([{"AU6_intensity": 2.0}, {"AU6_intensity": 2.0}, {"AU6_intensity": None}])
    refused("AU6 has one level", check_training, levels, flat, part([0, 1, 2], []))


def test_random_parts_say_so_and_whether_people_are_known():
    (note,) = held_out(listed(people(10, 2)), TWO, "train", "test", 3).notes
    assert "drawn at random (a fifth tests, drawn by seed 3): 20 inputs; 10 people" in note
    strangers = listed([{"emotion": TWO.names[n % 2]} for n in range(10)])
    found = held_out(strangers, TWO, "train", "test", 0)
    assert found.name == "a fifth of the inputs, seed 0"
    assert "people are unknown" in found.notes[0] and "'subject' or 'split'" in found.notes[0]
    for one in folds(strangers, TWO, "2", 0):
        assert "inputs dealt out" in one.name and "people are unknown" in one.notes[0]
    some = listed([{"subject": f"p{n}" if n < 8 else None, "emotion": TWO.names[n % 2]}
                   for n in range(10)])  # fmt: skip
    assert "8 people, and 2 inputs without a subject" in held_out(some, TWO, "a", "b", 0).notes[0]
    split = listed([{"split": ("train", "test")[n % 2], "emotion": TWO.names[n // 2 % 2]}
                    for n in range(8)])  # fmt: skip
    assert held_out(split, TWO, "train", "test", 0).notes == ()


def test_folders_that_are_named_like_splits_are_not_mixed_without_a_word():
    keys = [f"d/{('train', 'Test')[n % 2]}/{TWO.names[n % 2]}/{n}.jpg" for n in range(10)]
    listing = listed([{"emotion": TWO.names[n % 2]} for n in range(10)])
    place = listing.labels.column_names.index("key")
    labels = listing.labels.set_column(place, "key", pa.array(keys))
    notes = held_out(replace(listing, labels=labels), TWO, "train", "test", 0).notes
    assert len(notes) == 2 and "the folders Test, train are mixed" in notes[1]
    alone = pa.array([key.replace("Test", "train") for key in keys])
    listing = replace(listing, labels=listing.labels.set_column(place, "key", alone))
    assert len(held_out(listing, TWO, "train", "test", 0).notes) == 1


def test_pictures_of_both_parts_are_counted_and_dropped():
    both = part([0, 1, 2, 3], [4, 5])
    sources = ["a", "b", None, "c", "b", "x"]
    test = [sources[row] for row in both.test]
    same, warnings = without_duplicates(both, sources, test, drop=False)
    assert same == both and "1 training inputs have pictures that are also" in warnings[0]
    assert "--drop-duplicates" in warnings[0]
    fewer, warnings = without_duplicates(both, sources, test, drop=True)
    assert fewer.train.tolist() == [0, 2, 3] and fewer.dropped == 1
    assert "1 training inputs are dropped" in warnings[0]
    none, _ = without_duplicates(both, ["a"] * 6, ["a"] * 2, drop=True)
    refused(
        "all usable training inputs have pictures", check_training, TWO, listed(people(2)), none
    )
    assert without_duplicates(both, sources, ["y"], drop=True) == (both, [])
    unknown = without_duplicates(both, [None] * 6, [None] * 2, drop=False)
    assert unknown[0] == both and "cannot be checked" in unknown[1][0]
    refused("do not record source_sha256", without_duplicates, both, [None] * 6, [None] * 2, True)


def coded(names, units, **more):
    """Two rows a subject: the first has every unit, the second none."""
    return [
        {"subject": who, **dict.fromkeys(units, level), **more}
        for who in names
        for level in (1.0, 0.0)
    ]


def whole(name):
    description = load_description(name)
    return description, [who for group in description.groups.values() for who in group.subjects]


def test_published_folds_score_the_units_of_the_protocol(caplog):
    """Fifteen are coded, in another order; the protocol has twelve."""
    caplog.set_level("INFO", "normpipe")
    description, names = whole("bp4d")
    twelve = description.protocol("action_units").names
    listing = listed(coded(names, ["AU28", *twelve[::-1], "AU9", "AU20"], emotion="neutral"))
    for kind in ("action_units", "auto"):  # BP4D has no protocol for emotions
        found, task = task_of(listing, kind, (), "bp4d")
        assert task == Task("action_units", twelve) and found.labels.equals(listing.labels)
    (line,) = {record.getMessage() for record in caplog.records}
    assert line.startswith("bp4d: scored on AU1, AU2, AU4") and "its 12 action units" in line
    parts = folds(listing, task, "bp4d", 0)
    assert parts[0].name == "fold 1 of 3 (bp4d, its 12 action units)"
    _, named = task_of(listing, "action_units", ("AU9", "AU1"), "bp4d")
    assert named.names == ("AU9", "AU1")
    assert "2 action units, not its 12" in folds(listing, named, "bp4d", 0)[0].name
    _, fewer = task_of(listing, "auto", ("AU1", "AU4"), "bp4d")
    assert "2 of its 12 action units" in folds(listing, fewer, "bp4d", 0)[0].name
    # Without a protocol, all that is coded.
    assert len(task_of(listing, "action_units", (), "3")[1].names) == 15
    assert len(task_of(listing, "action_units", (), "")[1].names) == 15


def test_units_of_the_protocol_that_nobody_coded_are_asked_about():
    description, names = whole("bp4d")
    twelve = description.protocol("action_units").names
    listing = listed(coded(names, twelve[:-2]))
    refused(r"scored on 12 .*never name AU23, AU24.*classify\.labels=\[\"AU1\",.*\"AU17\"\]",
            task_of, listing, "auto", (), "bp4d")  # fmt: skip
    assert len(task_of(listing, "auto", twelve[:-2], "bp4d")[1].names) == 10
    other = listed(coded(names, ["AU5", "AU20"]))
    refused(r"never name AU1, .*labels=\[\"AU5\",\"AU20\"\]", task_of, other, "auto", (), "bp4d")


def test_occurrence_follows_the_levels_of_disfa(caplog):
    caplog.set_level("INFO", "normpipe")
    description, names = whole("disfa")
    twelve = description.protocol("intensity").names
    levels = [0.0, 1.0, 2.0, 5.0, None, NAN]  # tables of users have NaN where unknown
    labels = [
        {"subject": who, **{f"{u}_intensity": level for u in twelve}}
        for who in names
        for level in levels
    ]
    listing = listed(labels)
    found, task = task_of(listing, "action_units", (), "disfa")
    assert task.names == description.protocol("action_units").names
    truth = task.truth(found.labels)[:6, 0].tolist()
    assert truth == pytest.approx([0, 0, 1, 1, NAN, NAN], nan_ok=True)
    assert "occurs from level 2 on: AU1, AU2" in caplog.text
    parts = folds(found, task, "disfa", 0)
    assert [len(part.test) for part in parts] == [9 * 4] * 3
    assert "its 8 action units" in parts[0].name
    assert task_of(listing, "auto", (), "disfa")[1] == Task("intensity", twelve)
    # Other folds know of no level that counts as present.
    refused("nothing to learn for task 'action_units'", task_of, listing, "action_units", (), "3")


def test_occurrence_that_is_given_counts_and_a_difference_is_said(caplog):
    caplog.set_level("INFO", "normpipe")
    rows = [{"AU1": 1.0, "AU1_intensity": 1.0}, {"AU1": 0.0, "AU1_intensity": 0.0},
            {"AU1": None, "AU1_intensity": 3.0}, {"AU1": 1.0, "AU1_intensity": None}]  # fmt: skip
    found, task = task_of(listed(rows), "action_units", ("AU1",), "disfa")
    assert task.truth(found.labels)[:, 0].tolist() == [1, 0, 1, 1]
    assert "1 labels of occurrence differ from level 2 on and count as given" in caplog.text


def test_a_level_that_is_not_coded_leaves_the_picture_out(caplog):
    """As the protocol of BP4D's levels has it."""
    caplog.set_level("INFO", "normpipe")
    description, names = whole("bp4d")
    five = description.protocol("intensity").names
    coded_all = {f"{unit}_intensity": 2.0 for unit in five}
    labels = [{"subject": who, **coded_all} for who in [*names, *names]]
    labels[0]["AU17_intensity"] = None
    found, task = task_of(listed(labels), "intensity", (), "bp4d")
    assert task.names == five and np.isnan(task.truth(found.labels)[0]).all()
    assert np.isfinite(task.truth(found.labels)[1:]).all()
    (only,) = folds(found, task, "bp4d", 0)
    assert len(only.train) + len(only.test) == 2 * 41 - 1
    assert "1 faces lack one of these" in caplog.text
    kept, _ = task_of(listed(labels), "intensity", ("AU6",), "bp4d")
    assert np.isfinite(Task("intensity", ("AU6",)).truth(kept.labels)).all()


def test_a_dataset_without_folds_says_what_to_do():
    plus = load_description("bp4d_plus").protocol("action_units").names
    listing = listed(coded(["F001", "F002"], plus[:20]))
    _, task = task_of(listing, "auto", (), "bp4d_plus")
    refused("no folds of BP4D. are published.*give a number.*folds = labels", folds, listing, task,
            "bp4d_plus", 0)  # fmt: skip
    faces = listed(people(4))
    _, task = task_of(faces, "auto", (), "raf_db")
    refused("no folds of RAF-DB are published.*column 'split'", folds, faces, task, "raf_db", 0)
