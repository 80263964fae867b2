"""Who trains and who tests: no subject on both sides, the same for a seed, as published."""

import numpy as np
import pytest

from normpipe.manifests.datasets import load_description
from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.protocol import (
    Partition,
    all_of,
    check_partition,
    check_training,
    folds,
    held_out,
)
from normpipe.stages.classification.tasks import Task

from .faces import listed

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
    refused("no column 'fold'", folds, listed(people(2)), TWO, "labels", 0)
    same = listed([{**found, "fold": 1} for found in people(2)])
    refused("fewer than two folds", folds, same, TWO, "labels", 0)


@pytest.mark.parametrize(("name", "count"), [("bp4d", 41), ("disfa", 27)])
def test_published_folds(name, count):
    task = Task("action_units", ("AU1", "AU12"))
    description = load_description(name)
    names = [who for group in description.groups.values() for who in group.subjects]
    assert len(names) == count
    labels = [{"subject": who, "AU1": 1.0, "AU12": float(k)} for who in names for k in range(2)]
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
    assert found == ["the test set has no example of happiness"]


def test_all_of():
    labels = [{**found, "split": "a" if n % 2 else None} for n, found in enumerate(people(2))]
    labels[1]["emotion"] = None
    listing = listed(labels)
    assert all_of(listing, TWO).tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert all_of(listing, TWO, "a").tolist() == [3, 5, 7]
    refused("no input with a known label in split 'b'", all_of, listing, TWO, "b")
