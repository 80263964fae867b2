"""Patterns of paths, and what a layout must say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from normpipe.manifests.layouts import LabelFiles, Pattern, ReleaseLayout, fields_of, fill

NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("{split}/{emotion}/*.jpg", "train/happy/1.jpg", {"split": "train", "emotion": "happy"}),
        ("{split}/{emotion}/*.jpg", "train/happy/a/1.jpg", None),
        ("{split}/**", "train/a/b/1.jpg", {"split": "train"}),
        ("**/{subject:SN*}/{frame}.*", "SN001/07.PNG", {"subject": "SN001", "frame": "07"}),
        ("**/{subject:SN*}/{frame}.*", "a/b/sn001/07.png", {"subject": "sn001", "frame": "07"}),
        ("**/{subject:SN*}/{frame}.*", "a/XN001/07.png", None),
        ("**/{subject:SN*}/{frame}.*", "SN001/x7.png", None),
        ("{split}_*_aligned.jpg", "train_1_2_aligned.jpg", {"split": "train"}),
        ("{a}/{a}_{b}.txt", "S1/S1_x.txt", {"a": "S1", "b": "x"}),
        ("{a}/{a}_{b}.txt", "S1/S2_x.txt", None),
        ("a?c/[x].jpg", "abc/[x].jpg", {}),
        ("a?c/[x].jpg", "abc/x.jpg", None),
    ],
)
def test_a_pattern_gives_the_fields_of_a_path(pattern, path, fields):
    assert Pattern(pattern).match(path) == fields


def test_words_limit_a_field():
    pattern = Pattern("{split}/{name}", {"split": ["train", "test"]})
    assert pattern.match("Train/x") == {"split": "Train", "name": "x"}
    assert pattern.match("anna/x") is None


@pytest.mark.parametrize(
    "text", ["", "/a", "a/", "../a", "a\\b", "{a", "a}", "{a b}", "{1}", "a**b/c", "a//b"]
)
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValueError, match="'"):
        Pattern(text)


@given(NAME, NAME)
def test_a_field_takes_back_what_a_template_filled_in(first, second):
    assert fill("{a}/{b}", {"a": first, "b": second}) == f"{first}/{second}"
    assert Pattern("{a}/{b}").match(f"{first}/{second}") == {"a": first, "b": second}


def test_templates():
    assert fields_of("x/{a}_{_b:05}") == ["a", "_b"]
    assert fill("x/{a}_{_b:05}", {"a": "1", "_b": "23"}) == "x/1_00023"
    assert fill("x/{a}", {"a": None}) is None and fill("x/{a}", {}) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "where the pictures are"),
        ({"pictures": "*", "labels": [{"files": "x.csv"}]}, "labels need path"),
        ({"path": "{a}", "match": ["a"]}, "match needs"),
        ({"path": "{a}", "labels": [{"files": "a"}, {"files": "b"}]}, "need match"),
        ({"path": "{a}", "pixels": True}, "pixels need"),
        ({"pictures": "a/../b"}, "below the folder"),
    ],
)
def test_a_layout_says_what_joins_what(values, message):
    with pytest.raises(ValidationError, match=message):
        ReleaseLayout.model_validate(values)


def test_a_separator_is_one_character():
    assert LabelFiles(files="a", separator="space").separator == "space"
    with pytest.raises(ValidationError, match="one character"):
        LabelFiles(files="a", separator="tab")
