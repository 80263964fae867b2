"""Listed files that are missing: which settings find them, and that following the advice works."""

import logging
import re
import unicodedata

import pytest

from normpipe.pipeline.config import load_job
from normpipe.stages import CONFIGS

from .ingesting import keys, put, reasons, refused, scan, write_list


def settings_of(text):
    """Return the settings that a message advises, read as the command line reads them."""
    found = re.findall(r"(ingest\.(?:root|match_names)=(?:'[^']*'|\"[^\"]*\"|[a-z,]+))", text)
    assert found, text
    job = load_job(None, {"input": "x", "output": "y"}, found, CONFIGS)
    return job.stage("ingest").model_dump(exclude_defaults=True)


def listed(folder, *names, where="list.csv"):
    path = folder / where
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_list(path.parent, "\n".join(["path", *names]) + "\n", path.name)


NFC, NFD = (unicodedata.normalize(form, "zoë/é.jpg") for form in ("NFC", "NFD"))
#: What a list says, the file that is there, and the difference.
NEAR = [
    ("train_00001.jpg", "train_00001_aligned.jpg", "aligned"),
    ("train_00001_aligned.jpg", "train_00001.jpg", "aligned"),
    ("a.jpg", "a.png", "ending"),
    ("a", "a.jpeg", "ending"),
    ("a.b", "a.b.jpg", "ending"),
    ("S1/A.JPG", "s1/a.jpg", "case"),
    ("Zoë.jpg", "ZOË.jpg", "case"),
    (NFD, NFC, "unicode"),
    (NFC, NFD, "unicode"),
    ("F001/T1/643.jpg", "F001/T1/0643.jpg", "zeros"),
    ("F001/T01/0643.jpg", "F001/T1/643.jpg", "zeros"),
    ("/data/of/somebody/faces/s1/a.jpg", "s1/a.jpg", "folders"),
    ("C:\\faces\\s1\\a.jpg", "s1/a.jpg", "folders"),
    ("faces/s1/a.jpg", "s1/a.jpg", "folders"),
    ("Train/0001.PNG", "train/1_aligned.jpg", "aligned,ending,case,zeros"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "there", "ways"), NEAR)
def test_a_near_name_is_advice_that_works(tmp_path, caplog, said, there, ways):
    put(tmp_path, there, "other.jpg")
    path = listed(tmp_path, said, "other.jpg")
    found = scan(path)
    assert "missing_file" in reasons(found).values() or "outside_root" in reasons(found).values()
    line = next(line for line in caplog.messages if "are missing" in line)
    assert line.startswith("1 of the 2 files listed in list.csv are missing") and there in line
    given = settings_of(line)
    assert given == {"match_names": tuple(ways.split(","))}
    found = scan(path, **given)
    assert reasons(found) == {} and sorted(found.rows["path"].to_pylist()) == sorted(
        [there, "other.jpg"]
    )
    # The same where nothing else is listed: then it is an error.
    path = listed(tmp_path, said)
    message = refused(path)
    assert "none of the 1 files" in message and settings_of(message) == given
    assert reasons(scan(path, **given)) == {}


def test_a_difference_that_was_not_named_finds_nothing(tmp_path):
    put(tmp_path, "a_aligned.PNG", "b.jpg", "b.png", "s/c.jpg")
    path = listed(tmp_path, "a.png", "b.jpg", "c.jpg")
    lost = {"a.png": "missing_file", "c.jpg": "missing_file"}
    assert reasons(scan(path)) == lost
    for ways in (("case",), ("aligned",), ("ending",), ("unicode", "zeros", "folders", "ending")):
        assert reasons(scan(path, match_names=ways)) == lost
    both = scan(path, match_names=("case", "aligned"))
    assert reasons(both) == {"c.jpg": "missing_file"} and "d/a_aligned.PNG" in keys(both)


def test_nothing_is_guessed_where_two_files_would_do(tmp_path, caplog):
    put(tmp_path, "a.png", "a.bmp", "b.jpg", "b.png", "x.png")
    everything = ("folders", "aligned", "ending", "case", "unicode", "zeros")
    # a: two files; b.png is listed itself; x.gif and x.bmp would be one file.
    path = listed(tmp_path, "a.jpg", "b.gif", "b.png", "b.jpg", "x.gif", "x.bmp")
    assert len(reasons(scan(path))) == 4
    assert "match_names" not in caplog.text and "4 of the 6 files" in caplog.text
    assert len(reasons(scan(path, match_names=everything))) == 4


def test_a_name_that_is_right_stays_whatever_is_near(tmp_path):
    put(tmp_path, "a.jpg", "A.jpg", "a_aligned.jpg", "a.png")
    path = listed(tmp_path, "a.jpg", "A.jpg")
    assert keys(scan(path, match_names=("case", "aligned", "ending"))) == ["d/A.jpg", "d/a.jpg"]


def test_near_names_never_leave_the_root(tmp_path):
    put(tmp_path, "out/a.jpg")
    root = put(tmp_path / "in", "b.jpg")
    (root / "s").symlink_to("../out")
    path = listed(tmp_path / "in", "S/A.jpg", "b.jpg", "../out/A.jpg")
    found = scan(path, match_names=("case", "folders"))
    assert reasons(found) == {"S/A.jpg": "missing_file", "../out/A.jpg": "outside_root"}


def test_labels_stay_with_their_rows(tmp_path):
    put(tmp_path, "b_aligned.jpg", "a.jpg")
    path = write_list(tmp_path, "path,subject\nb.jpg,bert\na.jpg,anna\n")
    found = scan(path, match_names=("aligned",))
    assert found.labels.to_pydict() == {
        "key": ["d/a.jpg", "d/b_aligned.jpg"],
        "subject": ["anna", "bert"],
    }


# --- the folder


@pytest.mark.parametrize(
    ("there", "said", "where"),
    [
        ("images/a.jpg", "a.jpg", "list.csv"),
        ("Image/aligned/a.jpg", "a.jpg", "list.csv"),
        ("Image/aligned/a.jpg", "a.jpg", "EmoLabel/list.csv"),
        ("Manually_Annotated_Images/1/a.jpg", "1/a.jpg", "lists/training.csv"),
        ("it's/a.jpg", "a.jpg", "list.csv"),
        ("Image/aligned/train_1_aligned.jpg", "train_1.jpg", "EmoLabel/list.csv"),
    ],
)
def test_a_wrong_root_is_advice_that_works(tmp_path, there, said, where):
    put(tmp_path / "raf", there)
    path = listed(tmp_path / "raf", said, where=where)
    given = settings_of(refused(path))
    found = scan(path, **given)
    assert reasons(found) == {} and there.endswith(found.rows["path"][0].as_py())


def test_the_folder_with_most_of_the_files_is_named_with_their_number(tmp_path):
    put(tmp_path, "one/a.jpg", "two/a.jpg", "two/b.jpg")
    path = listed(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    said = refused(path)
    assert f"ingest.root='{tmp_path / 'two'}' (it has 2 of them)" in said
    put(tmp_path, "three/a.jpg", "three/b.jpg")
    said = refused(path)
    assert f"one of '{tmp_path / 'three'}', '{tmp_path / 'two'}'" in said  # both, none is guessed
    path = listed(tmp_path, "nowhere.jpg")
    assert refused(path).endswith("set ingest.root to the folder they are relative to")


def test_missing_files_are_counted_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "a.jpg")
    scan(listed(tmp_path, *(f"m{i}.jpg" for i in range(500)), "a.jpg"))
    lines = [line for line in caplog.messages if "missing" in line]
    assert lines == ["500 of the 501 files listed in list.csv are missing (the first: m0.jpg)"]


def test_an_unknown_difference_is_refused_in_one_line():
    with pytest.raises(Exception, match=r"ingest\.match_names\.0 = 'endings'"):
        load_job(None, {"input": "x", "output": "y"}, ["ingest.match_names=endings"], CONFIGS)
