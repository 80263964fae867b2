"""The facts about datasets add up."""

import itertools
import random
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from normpipe.manifests.datasets import (
    Description,
    described,
    described_in,
    load_description,
    seeded_folds,
)
from normpipe.manifests.vocabularies import ACTION_UNITS, EMOTIONS

GOLDEN = {"F001": 1, "F002": 1, "F003": 2, "F004": 3, "F005": 2, "F006": 2, "F007": 1, "F008": 3}
ALL = [
    *("aff_wild2", "affectnet", "bp4d", "bp4d_plus", "ck_plus", "disfa", "fer2013", "ferplus"),
    *("folders", "raf_db", "raf_db_compound"),
]
#: Those with classes that are no emotions of ours.
OTHER_CLASSES = {"aff_wild2", "raf_db_compound"}


def test_these_are_described():
    assert described() == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_name_is_in_the_vocabulary(name):
    description = load_description(name)
    assert description.sources
    for protocol in description.tasks.values():
        known = EMOTIONS if protocol.kind == "emotion" else ACTION_UNITS
        assert {*protocol.names} <= {*known}
        assert len({*protocol.names}) == len(protocol.names)
    assert {*description.class_numbers.values()} <= {*EMOTIONS} or name in OTHER_CLASSES
    assert description.layouts and all(one.about for one in description.layouts.values())
    assert {*description.split_names.values()} == {"train", "validation", "test"}


@pytest.mark.parametrize("name", ALL)
def test_groups_and_splits_are_disjoint_and_whole(name):
    description = load_description(name)
    people = [s for group in description.groups.values() for s in group.subjects]
    assert len({*people}) == len(people)
    assert not people or len(people) == description.subject_count
    for protocol in description.tasks.values():
        both = [*protocol.train, *protocol.test]
        assert len({*both}) == len(both)
        assert not both or {*both} == {*people}
        assert not protocol.folds or {*protocol.folds} == {*description.groups}
        if protocol.test_counts:
            assert {*protocol.test_counts} == {*protocol.names}
            assert sum(protocol.test_counts.values()) == protocol.test_rows


def test_bp4d():
    bp4d = load_description("bp4d")
    assert bp4d.subject_count == 41 and bp4d.frames == 146_847 and bp4d.missing == 9
    folds = bp4d.fold_of("action_units")
    # Fold 1 tests P3, fold 3 tests P1.
    assert (folds["F004"], folds["M018"], folds["F001"]) == (1, 2, 3)
    assert [sum(f == k for f in folds.values()) for k in (1, 2, 3)] == [13, 14, 14]
    assert len(bp4d.protocol("action_units").names) == 12
    split = bp4d.split_of("intensity")
    assert len(split) == 41
    assert all((part == "train") == (int(subject[1:]) % 2 == 1) for subject, part in split.items())
    with pytest.raises(ValueError, match="fixed split"):
        bp4d.fold_of("intensity")
    with pytest.raises(ValueError, match="no fixed split"):
        bp4d.split_of("action_units")
    with pytest.raises(ValueError, match="did you mean 'intensity'"):
        bp4d.fold_of("intensities")


def test_bp4d_plus_has_no_folds():
    plus = load_description("bp4d_plus")
    assert plus.subject_count == 140 and plus.missing is None  # not confirmed
    assert len(plus.protocol("action_units").names) == 34
    with pytest.raises(ValueError, match="give a number"):
        plus.fold_of("action_units")


def test_disfa():
    disfa = load_description("disfa")
    assert disfa.subject_count == 27 and disfa.frames == 130_814
    assert disfa.frames == 27 * 4845 - 1  # SN010 has one frame fewer
    folds = disfa.fold_of("action_units")
    assert (folds["SN003"], folds["SN006"], folds["SN001"]) == (1, 2, 3)
    assert [sum(f == k for f in folds.values()) for k in (1, 2, 3)] == [9, 9, 9]
    detection, intensity = disfa.protocol("action_units"), disfa.protocol("intensity")
    assert len(detection.names) == 8 and detection.present_from == 2 and detection.canonical
    assert len(intensity.names) == 12 and not intensity.canonical
    assert disfa.cameras == ("left", "right")


def test_raf_db():
    raf = load_description("raf_db")
    protocol = raf.protocol("emotion")
    assert (protocol.train_rows, protocol.test_rows) == (12_271, 3_068)
    assert [*protocol.test_counts.values()] == [329, 74, 160, 1185, 478, 162, 680]
    assert raf.emotion_names[:2] == ("", "surprise") and len(raf.emotion_names) == 8


def test_affectnet():
    affectnet = load_description("affectnet")
    eight, seven = affectnet.protocol("emotion"), affectnet.protocol("emotion_7")
    assert affectnet.emotion_names == (*EMOTIONS, "", "", "")
    assert (eight.train_rows, eight.test_rows, eight.verified) == (287_651, 3_999, True)
    assert {*eight.names} - {*seven.names} == {"contempt"} and not seven.verified


def test_a_user_s_file_is_checked_like_ours():
    made = described_in("[class_names]\nan = 'anger'\nun = ''\n[splits]\nA = 'train'", "my")
    assert made.name == "my" and made.emotion_words == {"an": "anger", "un": ""}
    assert made.split_names["a"] == made.split_names["training"] == "train"
    assert described_in("name = 'x'", "my").name == "x"
    assert described_in("missing = [9, -1]", "my").missing_numbers == (9, -1)
    for text, message in (
        ("class_number = 3", "unknown key 'class_number'; did you mean 'class_numbers'"),
        ("[layouts.a]\npicture = 'x'", "unknown key 'layouts.a.picture'; did you mean 'pictures'"),
        ("[layouts.a]\npictures = '../x'", "layouts.a.pictures: '../x': write a path below"),
        ("[layouts.a]\nabout = 'x'", "say where the pictures are"),
        ("[class_numbers]\none = 'x'", "class_numbers.one"),
        ("a = ", "Invalid value"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
            described_in(text, "my")
        assert message in str(caught.value)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'disfa'"):
        load_description("disfaa")
    with pytest.raises(ValueError, match="known: aff_wild2"):
        load_description("x")
    with pytest.raises(ValueError, match="no description"):
        load_description("../vocabularies")


def test_a_description_forbids_what_it_does_not_know():
    facts = load_description("disfa").model_dump()
    with pytest.raises(ValidationError, match="extra"):
        Description.model_validate({**facts, "colour": "blue"})
    with pytest.raises(ValidationError, match="no groups"):
        Description.model_validate({**facts, "groups": {}})


def test_the_descriptions_are_in_the_wheel():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "datasets/*.toml" in project["tool"]["setuptools"]["package-data"]["normpipe.manifests"]


def test_seeded_folds_are_these_forever():
    people = [f"F{n:03}" for n in range(1, 9)]
    assert seeded_folds(people, 3, 0) == GOLDEN
    assert seeded_folds(people, 3, 1) != GOLDEN


@given(st.sets(st.text(min_size=1), min_size=5, max_size=40), st.integers(2, 5), st.integers(0, 99))
def test_seeded_folds_are_balanced_and_know_no_order(people, folds, seed):
    ordered = sorted(people)
    found = seeded_folds(ordered, folds, seed)
    shuffled = [*ordered, *ordered]
    random.Random(seed).shuffle(shuffled)
    assert seeded_folds(shuffled, folds, seed) == found
    assert {*found} == people
    sizes = [sum(fold == k for fold in found.values()) for k in range(1, folds + 1)]
    assert sum(sizes) == len(people)
    assert all(abs(a - b) <= 1 for a, b in itertools.pairwise(sizes))


def test_folds_need_people():
    with pytest.raises(ValueError, match="cannot split 2 subjects into 3"):
        seeded_folds(["a", "b"], 3)
    with pytest.raises(ValueError, match="cannot split"):
        seeded_folds(["a", "b"], 1)
