import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normpipe.manifests.keys import Key, face_key, natural_order, parse_key, sample_id

# Anything that a Linux file name can be, as Python reads it: undecodable bytes as surrogates.
file_paths = st.binary(min_size=1).map(lambda data: os.fsdecode(data.replace(b"\0", b"\1")))
names = st.text(min_size=1).filter(lambda text: not set(text) & {"/", "#"})
numbers = st.none() | st.integers(0, 10**9)


@given(names, file_paths, numbers, numbers)
def test_a_key_is_read_back_as_it_was_written(dataset, path, frame, face):
    key = Key(dataset, sample_id(path), frame, face)
    assert parse_key(str(key)) == key


@given(file_paths, file_paths)
def test_two_paths_never_share_a_key(one, other):
    assert (sample_id(one) == sample_id(other)) == (one == other)


@given(file_paths)
def test_a_sample_id_is_plain_text(path):
    text = sample_id(path)
    text.encode()
    assert "#" not in text
    assert all(ord(char) >= 0x20 for char in text)


def test_escapes():
    assert sample_id("a b/Ärger.jpg") == "a b/Ärger.jpg"
    assert sample_id("50%#1.jpg") == "50%25%231.jpg"
    assert sample_id(os.fsdecode(b"bad\xff.jpg")) == "bad%FF.jpg"
    assert sample_id("bad%FF.jpg") == "bad%25FF.jpg"


def test_parts():
    assert parse_key("bp4d/F001/T1/2440.jpg#frame7#face1") == Key("bp4d", "F001/T1/2440.jpg", 7, 1)
    assert parse_key(face_key("d/x.jpg", 2)) == Key("d", "x.jpg", None, 2)


@pytest.mark.parametrize(
    "text", ["", "dataset", "/x", "d/", "d/#face1", "d/x#face", "d/x#face1#frame2"]
)
def test_what_is_no_key_is_refused(text):
    with pytest.raises(ValueError, match="is not a key"):
        parse_key(text)


def test_natural_order_keeps_video_order():
    frames = ["v2/f10", "v2/f9", "v10/f1", "v2/f1"]
    assert sorted(frames, key=natural_order) == ["v2/f1", "v2/f9", "v2/f10", "v10/f1"]


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_the_numbers(values):
    texts = [f"frame{value}.jpg" for value in values]
    assert sorted(texts, key=natural_order) == [f"frame{v}.jpg" for v in sorted(values)]
