"""Whose picture is which: names, folders, numbers, patterns; never by chance."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normpipe.pipeline.errors import InputError
from normpipe.stages.importing.name_matching import (
    NameRule,
    Names,
    best_rule,
    by_patterns,
    by_rule,
    refuse_shifted,
)

ENDINGS = (".jpg", ".png")


def names(*found: str, suffixes: tuple[str, ...] = (), shift: int = 0) -> Names:
    return Names(found, ENDINGS, suffixes, shift)


def paired(ours: list[str], theirs: list[str], *suffixes: str) -> dict[str, str]:
    return best_rule(names(*ours, suffixes=suffixes), names(*theirs, suffixes=suffixes))[1].found


NFC, NFD = (unicodedata.normalize(form, "josé") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("original", "picture", "rule"),
    [
        ("train_00001.jpg", "train_00001.png", NameRule("exact", 1)),
        ("a/b/train_00001.jpg", "x/train_00001.png", NameRule("exact", 1)),
        ("train_00001_aligned.jpg", "train_00001.jpg", NameRule("suffix", 1)),
        ("train_00001.jpg", "train_00001_aligned.jpg", NameRule("suffix", 1)),
        (f"{NFC}.jpg", f"{NFD}.jpg", NameRule("form", 1)),
        ("Anna.JPG", "anna.png", NameRule("case", 1)),
        ("F001/T1/2440.jpg", "F001/T1/02440.png", NameRule("number", 2)),
        ("clip.mp4#frame12", "clip/12.jpg", NameRule("form", 2)),
        ("a/clip.mp4#frame12", "clip/frame_0012.jpg", NameRule("number", 2)),
        ("img_000123.jpg", "123.png", NameRule("number", 1)),
        ("x.jpg#face1", "x_face1.jpg", NameRule("exact", 1)),
        ("a.b.jpg", "a.b.png", NameRule("exact", 1)),
        ("noending", "noending.png", NameRule("exact", 1)),
    ],
)  # fmt: skip
def test_names_that_belong_together(original: str, picture: str, rule: NameRule) -> None:
    found = best_rule(names(original), names(picture))
    assert found[0] == rule and found[1].found == {original: picture}


@pytest.mark.parametrize(
    ("original", "picture"),
    [
        ("SN001/001.jpg", "SN002/001.jpg"),  # mere numbers say nothing of whose they are
        ("SN001/frame_1.jpg", "SN002/frame_1.jpg"),
        ("a.jpg", "b.jpg"),
        ("train_1.jpg", "test_1.jpg"),
        ("clip.mp4#frame1", "other/1.jpg"),
        ("a10.jpg", "a1.jpg"),
        ("x.jpg#face1", "x.jpg"),
    ],
)  # fmt: skip
def test_names_that_do_not(original: str, picture: str) -> None:
    with pytest.raises(InputError, match="no picture has the name of an original") as caught:
        best_rule(names(original), names(picture))
    assert "--list" in str(caught.value)


def test_as_many_folders_as_it_takes() -> None:
    ours = ["f/SN1/1.jpg", "f/SN1/2.jpg", "f/SN2/1.jpg", "f/SN2/2.jpg"]
    assert paired(ours, ["SN1/1.png", "SN2/1.png"]) == {ours[0]: "SN1/1.png", ours[2]: "SN2/1.png"}
    # One person's folder of the release: the other's frames have no picture.
    assert paired(ours, ["x/SN1/1.png"]) == {ours[0]: "x/SN1/1.png"}
    # Frames with the same number in two videos, and one file more than both have.
    more = [f"c{c}.mp4#frame{n}" for c in (1, 2) for n in (1, 2, 3)] + ["c1.mp4#frame10000"]
    theirs = [one.replace(".mp4#frame", "/0000")[-8:] + ".jpg" for one in more[:-1]]
    theirs.append("c1/10000.jpg")
    assert len(paired(more, theirs)) == len(more)


def test_a_name_that_fits_two_files_is_refused_with_both() -> None:
    with pytest.raises(InputError) as caught:
        paired(["a.jpg"], ["id1/a.png", "id2/a.png"])
    assert "two pictures fit a.jpg: id1/a.png and id2/a.png" in str(caught.value)
    with pytest.raises(InputError) as caught:
        paired(["a.jpg", "b.jpg"], ["a.png", "a.jpg", "b.png"])
    assert "a.png and a.jpg" in str(caught.value)
    with pytest.raises(InputError) as caught:
        paired(["SN1/1.jpg", "SN2/1.jpg"], ["1.jpg"])
    assert "1.jpg, fits two originals: SN1/1.jpg and SN2/1.jpg" in str(caught.value)
    # What a looser rule would pair for most, and ambiguously, is not left out unsaid.
    with pytest.raises(InputError, match="two pictures fit"):
        paired(
            ["x1.jpg", *(f"a{i}_aligned.jpg" for i in range(5))],
            ["x1.jpg", *(f"a{i}.jpg" for i in range(5)), "a0_aligned.png", "A0.png"],
        )


def test_files_that_differ_by_case_or_form_alone_are_told_apart() -> None:
    both = ["Anna.jpg", "anna.jpg", f"{NFC}.jpg", f"{NFD}.jpg"]
    assert paired(both, both) == {one: one for one in both}


def test_suffixes_of_ones_own() -> None:
    assert paired(["a.jpg"], ["a_norm_v2.png"], "_norm_v2") == {"a.jpg": "a_norm_v2.png"}


@given(
    st.lists(
        st.tuples(st.sampled_from("AB"), st.integers(0, 30)), min_size=1, max_size=30, unique=True
    ),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_any_zeros_and_missing_files_pair_each_with_its_own(found, width, random) -> None:
    ours = [f"set/{who}/{number:03d}.jpg" for who, number in found]
    theirs = [f"{who}/{number:0{width}d}.png" for who, number in found]
    kept = [i for i in range(len(ours)) if random.random() < 0.7] or [0]
    pictures = [theirs[i] for i in kept]
    random.shuffle(pictures)
    assert paired(ours, pictures) == {ours[i]: theirs[i] for i in kept}


def test_frames_counted_from_another_number_are_noticed() -> None:
    ours = names(*(f"{c}.mp4#frame{n}" for c in "ab" for n in range(5)))
    theirs = names(*(f"{c}/{n:03d}.jpg" for c in "ab" for n in range(1, 6)))
    rule, _ = best_rule(ours, theirs)
    with pytest.raises(InputError, match="numbered 0 to 4, their pictures 1 to 5: give --shift 1"):
        refuse_shifted(ours, theirs, rule)
    moved = names(*ours.parts, shift=1)
    found = by_rule(moved, theirs, rule).found
    assert found["a.mp4#frame0"] == "a/001.jpg" and len(found) == 10
    refuse_shifted(moved, theirs, rule)
    refuse_shifted(ours, names(*(f"a/{n}.jpg" for n in range(3))), rule)  # only some are missing


def test_patterns() -> None:
    ours = [f"v/LeftVideoSN00{s}_comp.avi#frame{n}" for s in (1, 2) for n in (0, 1)]
    theirs = ["SN001/00001.jpg", "SN002/00001.jpg", "SN002/00002.jpg", "cover.jpg"]
    rules = (r"(SN\d+).*#frame(\d+)", r"(SN\d+)/(\d+)")
    found = by_patterns(ours, theirs, rules, 1).found
    assert found == {ours[0]: theirs[0], ours[2]: theirs[1], ours[3]: theirs[2]}
    assert by_patterns(["x/7.jpg"], ["out_007.png"], ("", r"_(\d+)"), 0).found
    assert by_patterns(["c.mp4#frame7"], ["out_007.png"], ("", r"_(\d+)"), 0).found
    assert by_patterns(["id_b.jpg"], ["b.png"], (r"_(.)\.", ""), 0).found
    for wrong, words in (
        (("(", ""), "--original '\\(' is no regular expression"),
        (("(a)(b)", "(a)"), "2 groups and --picture 1"),
        (("SN", "SN"), "two pictures fit"),
    ):
        with pytest.raises(InputError, match=words):
            by_patterns(ours, theirs, wrong, 0)


def test_a_regular_expression_that_would_never_end_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("normpipe.manifests.layouts.SECONDS", 0.05)
    with pytest.raises(InputError, match=r"'\(a\|aa\)\+b1\$' takes longer than 0.05 s"):
        by_patterns(["a" * 60 + "b1!"], ["b1.png"], ("(a|aa)+b1$", "(b1)"), 0)
