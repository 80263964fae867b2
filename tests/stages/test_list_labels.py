"""Labels of lists as people write them: numbers, unknown words and codes, votes, 0 and 1."""

import logging
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.manifests.vocabularies import EMOTIONS, UNKNOWN_WORDS
from normpipe.pipeline.config import load_job
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.toml_text import value_text
from normpipe.stages import CONFIGS
from normpipe.stages.sources.lists.values import written_number

from .ingesting import put, refused, scan, write_list

NAMES = tuple("abcdefghij")
#: How programs write one number; each has one place for it.
SPELLINGS = (
    "{}",
    "+{}",
    "{}.0",
    "{}.",
    "{}.000",
    " {} ",
    "{}e0",
    "{}.0000000e+00",
    "{}E+00",
    "0{}",
)


def labels(folder: Path, header: str, *rows: str, **config):
    """Return the labels of rows a.jpg, b.jpg, … without their keys."""
    names = [f"{name}.jpg" for name in NAMES[: len(rows)]]
    put(folder, *names)
    lines = [f"path,{header}", *(f"{name},{row}" for name, row in zip(names, rows, strict=True))]
    found = scan(write_list(folder, "\n".join(lines) + "\n"), **config).labels
    return found.drop_columns("key").to_pydict()


def ingest_settings(*sets: str) -> dict:
    """Return settings as a user gives them behind ``--set``."""
    job = load_job(None, {"input": Path("x"), "output": Path("y")}, [*sets], CONFIGS)
    return job.stage("ingest").model_dump()


# --- numbers


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_number_is_read_in_any_spelling_everywhere(tmp_path, spelling):
    cell = spelling.format(1)
    row = ",".join([cell] * 9)
    header = "emotion,fold,frame,valence,AU1,AU2_r,fear_votes,age,x1,y1,x2,y2"
    found = labels(tmp_path, header, f"{row},2,3,4", emotion_names=("neutral", "happy"))
    age = found.pop("age")
    assert found == {"emotion": ["happiness"], "fold": [1], "frame": [1], "valence": [1.0],
                     "AU1": [1], "AU2_intensity": [1.0], "fear_votes": [1]}  # fmt: skip
    assert age == ["01"] if cell == "01" else age == [1]  # a leading zero: a code, not a number
    put(tmp_path / "classes", f"{cell.strip()}/a.jpg")
    folders = scan(tmp_path / "classes", class_per_folder=True, emotion_names=("neutral", "happy"))
    assert folders.labels["emotion"].to_pylist() == ["happiness"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 7), st.sampled_from(SPELLINGS), st.sampled_from(["", "\t", "  "]))
def test_emotion_codes_do_not_depend_on_the_spelling(code, spelling, space):
    with tempfile.TemporaryDirectory() as folder:
        cell = space + spelling.format(code) + space
        assert labels(Path(folder), "emotion", cell, emotion_names=EMOTIONS) == {
            "emotion": [EMOTIONS[code]]
        }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_numbers_are_those_that_python_writes(number):
    for text in (repr(number), f"{number:e}", f"{number:+.17g}", f" {number:.17G} "):
        assert written_number(text) == float(text)
    assert written_number(f"{number}x") is None and written_number(f"AU{number}") is None


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("1.5", "is 1.5, which is no whole number"),
        ("+8.0", "is the number +8.0, but ingest.emotion_names has names for 0 to 7"),
        ("-1", "ingest.emotion_missing='-1' if it means unknown"),
    ],
)
def test_a_code_without_a_name_is_shown_as_written_with_its_own_line(tmp_path, cell, words):
    put(tmp_path, "a.jpg", "b.jpg")
    path = write_list(tmp_path, f"path,emotion\na.jpg,1\nb.jpg,{cell}\n")
    said = refused(path, emotion_names=EMOTIONS)
    assert words in said and "line 3" in said


def test_following_the_advice_about_codes_works(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    path = write_list(tmp_path, "path,emotion\na.jpg,1\nb.jpg,-1.0\n")
    names = re.search(r"(ingest\.emotion_names=\[.*\])\)", refused(path))[1]
    given = ingest_settings(names)
    code = re.search(r"set (ingest\.emotion_missing=\S+)", refused(path, **given))[1]
    found = scan(path, **ingest_settings(names, code)).labels
    assert found["emotion"].to_pylist() == ["happiness", None]


@pytest.mark.parametrize(
    ("header", "cell", "shown"),
    [
        ("AU1", "3.50", "is 3.50, but occurrence"),
        ("AU1_r", "7.0e+00", "is 7.0e+00, but intensity"),
        ("fold", "1.50", "is 1.50, which is no whole number"),
        ("valence", " Very High ", "is 'Very High', which is not a number"),
        ("bbox_xyxy", "L" * 60, "is '" + "L" * 40 + "… and 20 more characters': expected four"),
    ],
)
def test_a_wrong_cell_is_shown_as_written(tmp_path, header, cell, shown):
    put(tmp_path, "a.jpg")
    assert shown in refused(write_list(tmp_path, f"path,{header}\na.jpg,{cell}\n"))


# --- unknown words


@pytest.mark.parametrize(
    "word", ["N/A", "NULL", "None", "NA", "-", "n/a", "#N/A", "nan", "<NA>", "?"]
)
def test_a_word_for_unknown_is_unknown_in_every_column(tmp_path, word, caplog):
    header = "subject,split,sequence,emotion,site,age,fold,valence,AU1,fear_votes"
    known = "anna,train,s1,happy,Graz,31,1,0.5,1,3"
    found = labels(tmp_path, header, known, ",".join([f" {word} "] * 10))
    assert {name: values[1] for name, values in found.items()} == dict.fromkeys(found)
    assert found["age"] == [31, None] and found["emotion"][0] == "happiness"
    said = [line for line in caplog.messages if "read as unknown" in line]
    assert len(said) == 1 and f"1 x '{word}' in 'subject'" in said[0] and "'age'" not in said[0]


def test_words_are_counted_and_those_that_are_names_can_be_kept(tmp_path, caplog):
    rows = ("KA,NA,None", "NA,happy,x", "na,None,x")  # NA is a person of JAFFE
    found = labels(tmp_path, "subject,emotion,site", *rows)
    assert found["subject"] == ["KA", None, None]
    said = next(line for line in caplog.messages if "read as unknown" in line)
    for count in ("1 x 'NA' in 'subject'", "1 x 'na' in 'subject'", "1 x 'None' in 'emotion'"):
        assert count in said
    caplog.clear()
    rows = ("KA,happy", "NA,sad", "na,")
    assert labels(tmp_path, "subject,emotion", *rows)["subject"] == ["KA", None, None]
    advice = re.search(r"--set '(.*?)' keeps it", caplog.text)[1]
    kept = labels(tmp_path, "subject,emotion", *rows, **ingest_settings(advice))
    assert kept == {"subject": ["KA", "NA", "na"], "emotion": ["happiness", "sadness", None]}
    none = ingest_settings("ingest.unknown_words=[]")
    assert labels(tmp_path, "subject", "None", "", **none) == {"subject": ["None", None]}
    own = ingest_settings("ingest.unknown_words=unknown, ?")
    assert labels(tmp_path, "subject", "Unknown", "NA", **own) == {"subject": [None, "NA"]}


def test_nothing_is_said_about_empty_cells_and_a_file_may_have_any_name(tmp_path, caplog):
    put(tmp_path, "NA", "none.jpg")
    found = scan(write_list(tmp_path, "path,subject\nNA,\nnone.jpg,anna\n"))
    assert found.rows["path"].to_pylist() == ["NA", "none.jpg"]
    assert "unknown" not in caplog.text


def test_affectnet_s_class_none_stays_one_if_its_number_is_named(tmp_path):
    names = ("neutral", "happy", "none")
    found = labels(tmp_path, "emotion", "2", "0", "None", emotion_names=names)
    assert found == {"emotion": ["none", "neutral", None]}


# --- codes


@pytest.mark.parametrize(
    ("text", "value"),
    [("9", 9.0), ("9,-1,999", (9.0, -1.0, 999.0)), ("[9, -1, 999]", (9.0, -1.0, 999.0)),
     ("-2.0", -2.0), ('""', None), ("[]", None), ("'9, -1'", (9.0, -1.0)), ("[7]", 7.0)],
)  # fmt: skip
def test_one_code_or_several_are_saved_and_read_again(text, value):
    for name in ("au_missing", "valence_arousal_missing"):
        given = ingest_settings(f"ingest.{name}={text}")[name]
        assert given == value
        assert ingest_settings(f"ingest.{name}={value_text(given)}")[name] == value


@pytest.mark.parametrize("text", ["x", "true", "9;8", "{a = 1}", "9,none"])
def test_what_is_no_code_is_refused_in_one_line(text):
    with pytest.raises(InputError, match=r"ingest\.au_missing"):
        ingest_settings(f"ingest.au_missing={text}")


def test_several_codes_mean_unknown(tmp_path):
    given = ingest_settings(
        "ingest.au_missing=9,-1,999", "ingest.valence_arousal_missing=-2,-5",
        "ingest.emotion_missing=-1,8,non-face", 'ingest.emotion_names=["neutral", "happy"]',
    )  # fmt: skip
    rows = ("9,999,-2,8.0", "-1,9,-5,-1", "1,5,0.5,1", "0,0,1,Non-Face")
    assert labels(tmp_path, "AU1,AU2_r,valence,emotion", *rows, **given) == {
        "emotion": [None, None, "happiness", None],
        "valence": [None, None, 0.5, 1.0],
        "AU1": [None, None, 1, 0],
        "AU2_intensity": [None, None, 5.0, 0.0],
    }


def test_codes_that_meet_nothing_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    given = {"au_missing": (9, 99), "valence_arousal_missing": -2, "emotion_missing": ("x", "-1")}
    found = labels(tmp_path, "AU1,emotion", "9,-1", "0,happy", **given)
    assert found == {"emotion": [None, "happiness"], "AU1": [None, 0]}
    assert "ingest.au_missing: no action unit is 99" in caplog.text
    assert "ingest.emotion_missing: no emotion is x" in caplog.text
    assert "ingest.valence_arousal_missing: there is no valence or arousal" in caplog.text
    caplog.clear()
    given = {"au_missing": 9, "valence_arousal_missing": -2, "emotion_missing": ("x", "-1")}
    labels(tmp_path, "AU1,valence,emotion", "9,-2,-1", "0,1,X", **given)
    assert "ingest." not in caplog.text


def test_class_folders_may_have_no_emotion(tmp_path):
    put(tmp_path, "happy/a.jpg", "none/b.jpg", "8/c.jpg")
    found = scan(tmp_path, class_per_folder=True, emotion_missing=("None", "8"))
    assert found.labels["emotion"].to_pylist() == [None, "happiness", None]
    said = refused(tmp_path, class_per_folder=True, emotion_missing=("8",))
    given = ingest_settings(re.search(r"set (ingest\.emotion_missing=\S+)", said)[1])
    assert given["emotion_missing"] == ("8", "none")
    given["class_per_folder"] = True
    assert scan(tmp_path, **given).labels["emotion"].to_pylist() == [None, "happiness", None]


# --- columns


@pytest.mark.parametrize(
    ("header", "name"),
    [(" AU 1", "AU1"), ("AU01_c", "AU1"), ("au-01", "AU1"), (" AU 01 ", "AU1"), ("AU_1", "AU1"),
     ("AU1_r", "AU1_intensity"), (" AU01_r", "AU1_intensity"), ("AU 1 intensity", "AU1_intensity"),
     ("AU1-int", "AU1_intensity"), ("AU 12 occurrence", "AU12")],
)  # fmt: skip
def test_action_units_in_any_spelling(tmp_path, header, name):
    assert labels(tmp_path, header, "1", "0") == {name: [1, 0]}


@pytest.mark.parametrize("header", ["AU", "AUdio 1", "AU100", "AU1b", "AU 0", "Auto 1"])
def test_what_is_no_action_unit_stays_a_label(tmp_path, header):
    assert labels(tmp_path, header, "7") == {header: [7]}


def test_the_numbers_of_rows_are_no_labels(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "a.jpg", "b.jpg")
    path = write_list(tmp_path, ",Unnamed: 0.1,path,site,,\n0,7,a.jpg,Graz,,\n1,9,b.jpg,Wien,,\n")
    found = scan(path).labels
    assert found.column_names == ["key", "site"]
    assert "ignoring numbers of rows: the column '', 'Unnamed: 0.1'" in caplog.text
    # What counts nothing is kept; so is one that the settings name.
    path = write_list(tmp_path, ",path,Unnamed: 1\nx,a.jpg,7.5\ny,b.jpg,8\n")
    assert scan(path).labels.column_names == ["key", "", "Unnamed: 1"]
    path = write_list(tmp_path, "path,Unnamed: 1\na.jpg,7\nb.jpg,8\n")
    found = scan(path, columns={"subject": "Unnamed: 1"}).labels
    assert found["subject"].to_pylist() == ["7", "8"]
    table = pa.table({"path": ["a.jpg", "b.jpg"], "site": ["x", "y"], "__index_level_0__": [5, 7]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert scan(tmp_path / "list.parquet").labels.column_names == ["key", "site"]
    # An index of paths has no name either, and the message says how to give it.
    path = write_list(tmp_path, ",site\na.jpg,x\nb.jpg,y\n")
    assert "(columns: '', site)" in refused(path)
    assert scan(path, **ingest_settings("ingest.path_column=")).rows.num_rows == 2


def test_a_column_is_named_without_the_spaces_around_it(tmp_path):
    found = labels(tmp_path, " who ", "anna", columns={"subject": "who"})
    assert found == {"subject": ["anna"]}


def test_many_columns_are_cut_short_with_their_number(tmp_path):
    names = [f"c{i}" for i in range(15)]
    text = ",".join(names) + "\n" + ",".join("x" * 15) + "\n"
    assert "c11 … and 3 more)" in refused(write_list(tmp_path, text))


@pytest.mark.parametrize(
    ("cells", "config", "emotions"),
    [
        (("Happy", "sad ", "none"), {}, ["happiness", "sadness", None]),
        (("0", "1.0", "+1"), {"emotion_names": ("neutral", "sad")},
         ["neutral", "sadness", "sadness"]),
        (("0", "-1", "1"), {"emotion_names": ("neutral", "sad"), "emotion_missing": ("-1",)},
         ["neutral", None, "sadness"]),
        (("happy", "uncertain", "neutral"), {}, ["happiness", "uncertain", "neutral"]),
    ],
)  # fmt: skip
def test_a_label_is_an_emotion_if_all_cells_are(tmp_path, cells, config, emotions, caplog):
    caplog.set_level(logging.INFO)
    for header in ("label", "Labels", "class"):
        assert labels(tmp_path, header, *cells, **config) == {"emotion": emotions}
        assert f"reading the column '{header}' as 'emotion'" in caplog.text


@pytest.mark.parametrize(
    ("cells", "config", "advice"),
    [
        (("cat", "dog"), {}, ""),
        (("0", "1"), {}, "ingest.columns.emotion='label' and ingest.emotion_names"),
        (("0", "9"), {"emotion_names": ("neutral", "sad")}, "ingest.emotion_names"),
        (("neutral", "positive"), {}, "ingest.columns.emotion='label'"),
        (("real", "fake"), {"emotion_names": ("neutral", "sad")}, ""),
    ],
)
def test_any_other_label_stays_what_it_is(tmp_path, cells, config, advice, caplog):
    caplog.set_level(logging.INFO)
    found = labels(tmp_path, "label", *cells, **config)
    assert found == {"label": [int(c) if c.isdigit() else c for c in cells]}
    assert advice in caplog.text and ("columns.emotion" in caplog.text) == bool(advice)


def test_an_emotion_beside_a_label_counts_alone(tmp_path):
    found = labels(tmp_path, "label,emotion", "sad,happy")
    assert found == {"emotion": ["happiness"], "label": ["sad"]}


def test_one_class_in_two_spellings_is_one_or_said(tmp_path, caplog):
    cells = ("Happy", "happiness", "non-face", "Non Face", "contemptuous", "scared")
    found = labels(tmp_path, "emotion", *cells)["emotion"]
    assert found == ["happiness", "happiness", "non-face", "non face", "contempt", "fear"]
    assert "'non face' and 'non-face' are two classes" in caplog.text
    assert "not among the eight emotions: Non Face, non-face" in caplog.text


# --- votes, and a column for each emotion

FERPLUS = "Usage,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def test_the_columns_of_ferplus_are_votes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = {
        "Training,4,0,0,1,3,2,0,0,0,0": None,  # not more than half
        "Training,6,0,1,1,0,0,0,0,2,0": "neutral",
        "Training,5,5,0,0,0,0,0,0,0,0": None,  # a tie
        "PublicTest,0,3,0,0,0,0,0,0,2,1": None,  # not more than unknown and NF
        "PublicTest,0,4,0,0,0,0,0,0,2,1": "happiness",
        "PrivateTest,0,0,0,0,0,0,0,0,0,10": None,
        "PrivateTest,,,,,,,,,,": None,
    }
    found = labels(tmp_path, FERPLUS, *rows)
    assert found["emotion"] == [*rows.values()]
    assert found["neutral_votes"] == [4, 6, 5, 0, 0, 0, None]
    assert found["unknown_votes"] == [0, 2, 0, 3, 3, 10, None]
    assert found["NF"] == [0, 0, 0, 1, 1, 10, None] and found["Usage"][0] == "Training"
    assert [*found][2:11] == [f"{name}_votes" for name in FERPLUS.split(",")[1:-1]]
    assert "as the votes of raters; 'NF' counts as unknown" in caplog.text
    assert "more than half of the votes for emotions" in caplog.text and "5 of 7" in caplog.text


def test_a_list_that_names_the_emotion_keeps_it(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    row = "PublicTest,10,0,0,0,0,0,0,0,0,0,"
    found = labels(tmp_path, f"{FERPLUS},emotion", f"{row}sad", row)
    assert found["emotion"] == ["sadness", None] and found["neutral"] == [10, 10]
    advice = re.search(r"set (ingest\.emotion_columns=votes)", caplog.text)[1]
    found = labels(tmp_path, f"{FERPLUS},emotion", f"{row}sad", row, **ingest_settings(advice))
    assert found["emotion"] == ["sadness", None] and found["neutral_votes"] == [10, 10]


SEVEN = "Angry,disgust,fear,happy,neutral,sad,surprise"


def test_votes_without_unknown_must_add_up_or_be_asked_for(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert labels(tmp_path, SEVEN, "3,0,0,0,1,0,1", "0,0,0,5,0,0,0")["emotion"] == [
        *("anger", "happiness")
    ]
    rows = ("3,0,0,0,1,0,1", "0,0,0,2,0,0,0")
    assert [*labels(tmp_path, SEVEN, *rows)] == SEVEN.split(",")
    assert "ingest.emotion_columns=votes" in caplog.text
    found = labels(tmp_path, SEVEN, *rows, emotion_columns="votes")
    assert found["emotion"] == ["anger", "happiness"] and found["anger_votes"] == [3, 0]
    # Scores of a network stay what they are.
    scores = ("0.1,0,0,0,0.9,0,0", "0.25,0.5,0,0,0.25,0,0")
    assert [*labels(tmp_path, SEVEN, *scores)] == SEVEN.split(",")


def test_votes_under_their_own_names_give_the_emotion_of_the_majority(tmp_path):
    votes = ",".join(f"{name}_votes" for name in (*EMOTIONS, "unknown"))
    found = labels(tmp_path, votes, "0,6,0,0,0,0,1,0,3", "0,0.6,0,0,0,0,0,0,0.7")
    assert found["emotion"] == ["happiness", None]
    found = labels(tmp_path, "happiness_votes,anger_votes", "3,1")  # no majority of a part
    assert "emotion" not in found


@pytest.mark.parametrize("prefix", ["", "emotion_", "Expression ", "is_"])
def test_a_column_of_0_and_1_for_each_emotion(tmp_path, prefix, caplog):
    caplog.set_level(logging.INFO)
    header = ",".join(prefix + name for name in SEVEN.split(","))
    rows = ("1,0,0,0,0,0,0", "False,False,False,True,False,False,False", "0,0,0,0,0,0,0",
            "0.0,,NA,0,0,+1,0")  # fmt: skip
    found = labels(tmp_path, f"site,{header}", *(f"x,{row}" for row in rows))
    assert found == {"emotion": ["anger", "happiness", None, "sadness"], "site": ["x"] * 4}
    assert "1 of 4 rows have no 1" in caplog.text


def test_two_ones_in_a_row_are_refused_with_their_line(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    path = write_list(tmp_path, f"path,{SEVEN}\na.jpg,1,0,0,0,0,0,0\nb.jpg,0,1,0,1,0,0,0\n")
    said = refused(path)
    assert "'happy' in line 3 and 'disgust' are both 1" in said
    assert scan(path, emotion_columns="labels").labels.column_names[1:] == SEVEN.split(",")
    votes = scan(path, emotion_columns="votes").labels
    assert votes["emotion"].to_pylist() == ["anger", None]
    path = write_list(tmp_path, "path,happy,sad\na.jpg,1,0\nb.jpg,2,0\n")
    assert "'happy' in line 3 is 2, but of the columns" in refused(path, emotion_columns="one_hot")
    assert "emotion" not in scan(path).labels.column_names  # two are no whole set
    path = write_list(tmp_path, "path,happy,sad,emotion\na.jpg,1,0,x\n")
    assert "both give emotions" in refused(path, emotion_columns="one_hot")
    path = write_list(tmp_path, "path,happy\na.jpg,1\n")
    assert "remove the setting" in refused(path, emotion_columns="votes")


# --- what was right before


def test_what_nobody_wrote_about_stays_as_it_was(tmp_path, caplog):
    """Columns and cells that 0.1.0 read well: no setting, nothing said, and the same values."""
    header = "subject,fold,frame,emotion,valence,AU1,AU2_r,index,zip,score,note"
    rows = ("anna,1,0643,Happy,0.5,1,3.5,0,0810,0.5,a b", ",,,,nan,,,,,,", "b,2,7,sad,,0,0,5,1,2,x")
    assert labels(tmp_path, header, *rows) == {
        "subject": ["anna", None, "b"],
        "fold": [1, None, 2],
        "frame": [643, None, 7],
        "emotion": ["happiness", None, "sadness"],
        "valence": [0.5, None, None],
        "AU1": [1, None, 0],
        "AU2_intensity": [3.5, None, 0.0],
        "index": [0, None, 5],
        "zip": ["0810", None, "1"],
        "score": [0.5, None, 2.0],
        "note": ["a b", None, "x"],
    }
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_words_for_unknown_are_in_lower_case():
    assert all(word == word.lower().strip() and "," not in word for word in UNKNOWN_WORDS)
