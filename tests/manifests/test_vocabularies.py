from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normpipe.manifests.vocabularies import (
    ACTION_UNITS,
    EMOTION_SYNONYMS,
    EMOTIONS,
    REASONS,
    VOTE_COLUMNS,
    SampleError,
    Status,
    emotion_name,
    status_of,
    vote_column,
    vote_columns,
)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_status_and_a_sentence(reason):
    assert status_of(reason) in set(get_args(Status)) - {"ok"}
    assert reason == reason.lower() and " " not in reason
    words = REASONS[reason][1]
    assert words and words[0].islower() and not words.endswith(".")


def test_a_reason_outside_the_vocabulary_cannot_be_given():
    with pytest.raises(ValueError, match="vocabulary"):
        SampleError("bad_hair_day")


@pytest.mark.parametrize("name", EMOTIONS)
def test_standard_names_stay(name):
    assert emotion_name(name) == emotion_name(f" {name.upper()} ") == name


def test_synonyms_lead_to_standard_names():
    assert set(EMOTION_SYNONYMS.values()) <= set(EMOTIONS)
    assert not set(EMOTION_SYNONYMS) & set(EMOTIONS)
    assert emotion_name("Happy") == "happiness"


@given(st.text())
def test_naming_twice_changes_nothing(text):
    assert emotion_name(emotion_name(text)) == emotion_name(text)


def test_every_emotion_and_unknown_have_votes():
    assert [name.removesuffix("_votes") for name in VOTE_COLUMNS] == [*EMOTIONS, "unknown"]
    assert all(vote_column(name) == name for name in VOTE_COLUMNS)
    assert vote_column(" Happy_Votes ") == "happiness_votes"
    none = ("votes", "_votes", "happiness", "joy_votes", "happinessvotes", "key_votes")
    assert not any(map(vote_column, none))
    given = ["key", "unknown_votes", "fear_votes", "happy_votes", "neutral_votes"]
    assert vote_columns(given) == ["neutral_votes", "fear_votes", "unknown_votes"]


def test_action_units_are_named_without_leading_zeros():
    assert all(name == f"AU{int(name[2:])}" for name in ACTION_UNITS)
