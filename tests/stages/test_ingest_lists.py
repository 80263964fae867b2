"""ingest from a list: columns, dialects, labels, boxes."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.keys import parse_key
from normpipe.manifests.schema import LABEL_COLUMNS

from .ingesting import keys, put, reasons, refused, scan, write_list


def test_a_list_gives_references_and_typed_labels(tmp_path):
    put(tmp_path, "a.jpg", "s/b.jpg")
    path = write_list(
        tmp_path,
        "path,subject,split,fold,sequence,frame,emotion,valence,arousal,AU12,au_01,AU06_r,site,zip\n"
        "s/b.jpg,F002,train,1,T1,0643,Happy,0.5,-1,1,0,3.5,Graz,0810\n"
        "a.jpg,F001,,,,,,nan,,,,,,\n",
    )
    found = scan(path)
    assert keys(found) == ["d/a.jpg", "d/s/b.jpg"]
    first, second = found.labels.to_pylist()
    assert first == dict.fromkeys(first) | {"key": "d/a.jpg", "subject": "F001"}
    assert second == {
        "key": "d/s/b.jpg",
        "subject": "F002",
        "split": "train",
        "fold": 1,
        "sequence": "T1",
        "frame": 643,
        "emotion": "happiness",
        "valence": 0.5,
        "arousal": -1.0,
        "AU1": 0,
        "AU6_intensity": 3.5,
        "AU12": 1,
        "site": "Graz",
        "zip": "0810",
    }
    types = dict(zip(found.labels.schema.names, found.labels.schema.types, strict=True))
    assert all(types[name] == kind for name, kind in LABEL_COLUMNS)
    assert types["AU12"] == pa.int8() and types["AU6_intensity"] == pa.float32()


def test_what_excel_writes(tmp_path, caplog):
    """A note of the separator, and rows of separators alone; lines are those of the file."""
    put(tmp_path, "a.jpg", "b.jpg")
    text = "sep=;\r\npath;frame;\r\na.jpg;1;\r\n;;\r\nb.jpg;{};\r\n;;\r\n"
    found = scan(write_list(tmp_path, text.format(2)))
    assert keys(found) == ["d/a.jpg", "d/b.jpg"] and found.labels["frame"].to_pylist() == [1, 2]
    assert "2 rows without any cell are left out" in caplog.text
    assert "'frame' in line 5 is 'x'" in refused(write_list(tmp_path, text.format("x")))


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.xlsx", "save it as 'CSV UTF-8'"), ("a.json", "name it .jsonl"), ("a.txt", "name it .csv")],
)
def test_files_that_are_nearly_lists(tmp_path, name, said):
    assert said in refused(put(tmp_path, name) / name)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_dialects_of_csv(tmp_path, delimiter, bom):
    put(tmp_path, "a.jpg", "b c.jpg")
    rows = [["path", "subject", "note"], ["a.jpg", "F1", '"1;2,3\t4"'], ['"b c.jpg"', "F2", ""]]
    text = bom + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n"
    found = scan(write_list(tmp_path, text))
    assert found.labels["note"].to_pylist() == ["1;2,3\t4", None]
    assert found.labels["subject"].to_pylist() == ["F1", "F2"]


def test_a_single_column_is_a_list_without_labels(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    found = scan(write_list(tmp_path, "path\na.jpg\nb.jpg\n"))
    assert keys(found) == ["d/a.jpg", "d/b.jpg"]
    assert found.labels is None


def test_parquet_says_the_same_as_csv(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    table = pa.table(
        {
            "path": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
            "subject": pa.array([1, None], pa.int64()),
            "emotion": pa.array(["sad", None], pa.large_string()),
            "AU1": pa.array([True, None]),
            "valence": pa.array([float("nan"), 0.25]),
            "bbox_xyxy": pa.array([[1, 2, 30, 40], None], pa.list_(pa.int32())),
            "landmarks": pa.array([[[i, i + 1] for i in range(5)], None]),
            "vector": pa.array([[1.0], [2.0]]),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    found = scan(tmp_path / "list.parquet")
    assert found.labels.drop_columns("key").to_pydict() == {
        "subject": ["1", None],
        "emotion": ["sadness", None],
        "valence": [None, 0.25],
        "AU1": [1, None],
    }
    assert found.rows["bbox_xyxy"].to_pylist() == [[1, 2, 30, 40], None]
    assert found.rows["landmarks"].to_pylist()[0] == [[i, i + 1] for i in range(5)]


def test_listed_paths_are_judged_like_found_ones(tmp_path):
    root = put(tmp_path / "in", "a.jpg", "s/b.jpg", "c.jpg", "w/d.jpg")
    put(tmp_path, "out.jpg")
    (root / "leaves.jpg").symlink_to(tmp_path / "out.jpg")
    rows = [
        "./a.jpg",
        "s/../s/b.jpg",
        str(root / "c.jpg"),
        "w\\d.jpg",
        "missing.jpg",
        "../out.jpg",
        str(tmp_path / "out.jpg"),
        "leaves.jpg",
        "s",
    ]
    found = scan(write_list(tmp_path, "path\n" + "\n".join(rows)), root=root)
    assert reasons(found) == {
        "missing.jpg": "missing_file",
        "../out.jpg": "outside_root",
        str(tmp_path / "out.jpg"): "outside_root",
        "leaves.jpg": "outside_root",
        "s": "not_a_file",
    }
    assert {"d/a.jpg", "d/s/b.jpg", "d/c.jpg", "d/w/d.jpg"} <= set(keys(found))
    for key in keys(found):
        parse_key(key)


def test_a_wrong_root_is_said_once_not_a_million_times(tmp_path):
    put(tmp_path, "images/a.jpg", "images/b.jpg")
    message = refused(write_list(tmp_path, "path\na.jpg\nb.jpg\n"))
    assert "none of the 2 files" in message
    assert f"ingest.root='{tmp_path / 'images'}'" in message


def test_columns_are_found_by_case_synonym_and_setting(tmp_path, caplog):
    put(tmp_path, "a.jpg")
    with caplog.at_level(logging.INFO, "normpipe"):
        found = scan(write_list(tmp_path, "Image,IDENTITY,Part,who\na.jpg,anna,test,x\n"))
    assert found.labels.to_pylist() == [
        {"key": "d/a.jpg", "subject": "anna", "split": "test", "who": "x"}
    ]
    assert "reading the column 'IDENTITY' as 'subject'" in caplog.text
    path = write_list(tmp_path, "Image,IDENTITY,who\na.jpg,anna,bert\n")
    found = scan(path, columns={"subject": "who"})
    assert found.labels["subject"].to_pylist() == ["bert"]
    assert found.labels["IDENTITY"].to_pylist() == ["anna"]
    assert "did you mean 'who'" in refused(path, columns={"subject": "whom"})
    assert "did you mean 'subject'" in refused(path, columns={"subjekt": "who"})
    assert "ingest.path_column" in refused(write_list(tmp_path, "img\na.jpg\n"))
    assert keys(scan(write_list(tmp_path, "img\na.jpg\n"), path_column="img")) == ["d/a.jpg"]


def test_what_looks_misspelt_is_said_and_kept(tmp_path, caplog):
    put(tmp_path, "a.jpg")
    found = scan(write_list(tmp_path, "path,subjct,AU12L\na.jpg,anna,1\n"))
    assert found.labels["subjct"].to_pylist() == ["anna"]
    assert "ingest.columns.subject='subjct'" in caplog.text
    assert "AU12L" in caplog.text


def test_names_that_are_taken_are_changed_aloud(tmp_path, caplog):
    put(tmp_path, "a.jpg")
    found = scan(write_list(tmp_path, "path,status,key\na.jpg,fine,7\n"))
    assert found.labels.to_pydict() == {
        "key": ["d/a.jpg"],
        "list_status": ["fine"],
        "list_key": [7],
    }
    assert "'list_status'" in caplog.text


@pytest.mark.parametrize(
    ("header", "row", "config", "words"),
    [
        ("AU12", "3", {}, "line 3 is 3, but occurrence is 0 or 1: set ingest.au_columns"),
        ("AU12", "9", {"au_columns": "intensity"}, "ingest.au_missing"),
        ("AU12", "yes", {}, "'yes', which is not a number"),
        ("fold", "1.5", {}, "no whole number"),
        ("valence", "-2", {}, "ingest.valence_arousal_missing"),
        ("happy_votes", "-1", {}, "'happy_votes' in line 3 is -1, but votes are numbers from 0"),
        ("fear_votes", "many", {}, "'many', which is not a number"),
        ("fear_votes", "inf", {}, "votes are numbers from 0"),
        ("emotion", "3", {}, "ingest.emotion_names"),
        ("emotion", "8", {"emotion_names": ("neutral",)}, "names for 0 to 0"),
        ("bbox_xyxy", "1 2 3", {}, "four numbers"),
        ("landmarks", '"[[1,2],[3]]"', {}, "five points"),
        ("bbox_xyxy", "left", {}, "four numbers"),
    ],
)
def test_a_wrong_cell_is_one_line_with_its_line(tmp_path, header, row, config, words):
    put(tmp_path, "a.jpg", "b.jpg")
    message = refused(write_list(tmp_path, f"path,{header}\na.jpg,\nb.jpg,{row}\n"), **config)
    assert words in message and "line 3" in message


def test_lines_are_counted_as_an_editor_does(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    text = 'path,note,fold\n\na.jpg,"two\nlines",1\n\nb.jpg,,x\n'
    assert "line 6" in refused(write_list(tmp_path, text))


def test_numbers_that_stand_for_unknown_are_named(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    path = write_list(
        tmp_path, "path,AU1,AU2_intensity,valence,emotion\na.jpg,9,9,-2,0\nb.jpg,1,5,1,2\n"
    )
    found = scan(
        path, au_missing=9, valence_arousal_missing=-2, emotion_names=("neutral", "", "none-such")
    )
    assert found.labels.drop_columns("key").to_pydict() == {
        "emotion": ["neutral", "none-such"],
        "valence": [None, 1.0],
        "AU1": [None, 1],
        "AU2_intensity": [None, 5.0],
    }


def test_occurrence_and_intensity_stand_side_by_side(tmp_path):
    put(tmp_path, "a.jpg")
    path = write_list(tmp_path, "path,AU12_c,AU12_r,AU4\na.jpg,1,2.5,1\n")
    assert scan(path).labels.column_names == ["key", "AU4", "AU12", "AU12_intensity"]
    found = scan(path, au_columns="intensity")
    assert found.labels.column_names == ["key", "AU4_intensity", "AU12", "AU12_intensity"]
    assert "mean the same" in refused(write_list(tmp_path, "path,AU1,AU01\na.jpg,1,1\n"))
    path = write_list(tmp_path, "path,AU1,AU1_occ\na.jpg,1,1\n")
    assert "second column of AU1" in refused(path)


def test_votes_are_numbers_under_standard_names(tmp_path, caplog):
    put(tmp_path, "a.jpg", "b.jpg")
    header = "path,site,Happy_votes,sadness_votes,unknown_votes,fear_votes,joy_votes,emotion"
    path = write_list(
        tmp_path, f"{header}\na.jpg,Graz,7,0.5,0,NA,1,happy\nb.jpg,Wien,,2,10,03,x,\n"
    )
    found = scan(path).labels
    assert found.column_names[2:] == [  # in their places among the other columns
        *("site", "happiness_votes", "sadness_votes", "unknown_votes", "fear_votes", "joy_votes"),
    ]
    assert found.drop_columns(["key", "emotion", "site", "joy_votes"]).to_pydict() == {
        "happiness_votes": [7, None],
        "sadness_votes": [0.5, 2.0],
        "unknown_votes": [0, 10],
        "fear_votes": [None, 3],
    }
    types = {name: str(found.schema.field(name).type) for name in found.column_names}
    assert (types["happiness_votes"], types["fear_votes"]) == ("int64", "int64")
    assert (types["sadness_votes"], types["joy_votes"]) == ("double", "string")
    assert "column 'joy_votes' as a label of that name; votes of raters" in caplog.text


def test_votes_are_found_by_setting_and_once(tmp_path):
    put(tmp_path, "a.jpg")
    path = write_list(tmp_path, "path,happy,NF,happy_votes\na.jpg,3,1,8\n")
    found = scan(path, columns={"anger_votes": "NF", "happy_votes": "happy"}).labels
    assert found.to_pylist() == [
        {"key": "d/a.jpg", "happiness_votes": 3, "anger_votes": 1, "happy_votes": 8}
    ]
    assert "did you mean 'fear_votes'" in refused(path, columns={"fears_votes": "NF"})
    path = write_list(tmp_path, "path,happy_votes,happiness_votes\na.jpg,1,1\n")
    assert "mean the same" in refused(path)
    path = write_list(tmp_path, "path,happiness_votes,h\na.jpg,1,1\n")
    said = refused(path, columns={"happiness_votes": "h"})
    assert "second label named 'happiness_votes'" in said


def test_votes_of_a_parquet_list_keep_their_types(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    votes = {
        "anger_votes": pa.array([1, None], pa.int8()),
        "fear_votes": pa.array([float("nan"), 3], pa.float32()),
    }
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], **votes}), tmp_path / "list.parquet")
    found = scan(tmp_path / "list.parquet").labels
    assert (found["anger_votes"].type, found["fear_votes"].type) == (pa.int8(), pa.float32())
    assert found["fear_votes"].to_pylist() == [None, 3.0]
    table = pa.table({"path": ["a.jpg", "b.jpg"], "fear_votes": [-0.5, 3.0]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert "'fear_votes' in row 1 is -0.5" in refused(tmp_path / "list.parquet")


def test_supplied_boxes_and_landmarks(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    boxes = {
        "x1,y1,x2,y2": ["1,2,11,22", ",,,", "3,4,,"],
        "face_x,face_y,face_width,face_height": ["1,2,10,20", ",,,", "3,4,,"],
    }
    for header, cells in boxes.items():
        lines = [
            f"{name},{cell}" for name, cell in zip(("a.jpg", "b.jpg", "c.jpg"), cells, strict=True)
        ]
        found = scan(write_list(tmp_path, f"path,{header}\n" + "\n".join(lines)))
        assert found.rows["bbox_xyxy"].to_pylist() == [[1, 2, 11, 22], None, [3, 4, None, None]]
        assert found.labels is None
    for text in ("1 2 11 22", "1;2;11;22", '"[1, 2, 11, 22]"', '"1,2,11,22"'):
        found = scan(write_list(tmp_path, f"path,bbox_xyxy\na.jpg,{text}\nb.jpg,\n"))
        assert found.rows["bbox_xyxy"].to_pylist() == [[1, 2, 11, 22], None]
    header = ",".join(f"lm{i}_{axis}" for i in range(5) for axis in "xy")
    path = write_list(tmp_path, f"path,{header}\na.jpg," + ",".join(map(str, range(10))) + "\n")
    points = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert scan(path).rows["landmarks"].to_pylist() == [points]
    path = write_list(tmp_path, "path,landmarks\na.jpg,0 1 2 3 4 5 6 7 8 9\n")
    assert scan(path).rows["landmarks"].to_pylist() == [points]
    path = write_list(tmp_path, "path,x1,y1,x2,y2,bbox_xyxy\na.jpg,1,2,3,4,1 2 3 4\n")
    assert "both give boxes" in refused(path)


def test_incomplete_coordinates_are_labels_and_said(tmp_path, caplog):
    put(tmp_path, "a.jpg")
    found = scan(write_list(tmp_path, "path,x1,y1\na.jpg,1,2\n"))
    assert found.labels.to_pylist() == [{"key": "d/a.jpg", "x1": 1, "y1": 2}]
    assert "without x2, y2" in caplog.text


def test_several_faces_of_one_image(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    head = "path,subject,x1,y1,x2,y2\n"
    path = write_list(
        tmp_path, head + "a.jpg,anna,5,5,9,9\nb.jpg,carl,1,1,2,2\na.jpg,bert,1,1,4,4\n"
    )
    found = scan(path)
    assert keys(found) == ["d/a.jpg#face0", "d/a.jpg#face1", "d/b.jpg"]
    assert found.labels["subject"].to_pylist() == ["anna", "bert", "carl"]
    assert found.labels["key"].to_pylist() == keys(found)
    assert found.rows["bbox_xyxy"].to_pylist()[1] == [1, 1, 4, 4]


def test_repeated_rows_count_once_and_contradictions_are_named(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    found = scan(write_list(tmp_path, "path,subject\na.jpg,x\nb.jpg,y\n./a.jpg,x\n"))
    assert (keys(found), found.ignored) == (["d/a.jpg", "d/b.jpg"], {"repeated row": 1})
    message = refused(write_list(tmp_path, "path,subject\na.jpg,x\nb.jpg,y\na.jpg,z\n"))
    assert "line 2 and line 4" in message
    text = "path,bbox_xyxy\na.jpg,1 2 3 4\na.jpg,\n"
    assert "once without" in refused(write_list(tmp_path, text))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"path,subject\n", "has no rows"),
        (b"path,path\na,b\n", "twice"),
        (b"path,subject\na.jpg\n", "line 2 has 1 cells, the header 2 (a.jpg)"),
        (b'sep=;\npath;subject\n"a\n.jpg";x\nb.jpg;x;y\n', "line 5 has 3 cells, the header 2 (b."),
        ("path\na.jpg\n".encode("utf-16-le"), "UTF-16"),
        (b"a.jpg,happy\nb.jpg,sad\n", "has no header: its first line names a picture (a.jpg, ha"),
        (b"path,subject\na.jpg,J\xfcrgen\n", "CSV UTF-8"),
        ("path\na.jpg\n".encode("utf-16"), "UTF-16"),
        (b"path,subject\n,anna\n", "needs the path"),
    ],
)
def test_lists_that_are_none(tmp_path, data, words):
    put(tmp_path, "a.jpg")
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    assert words in refused(path)


def test_a_parquet_that_is_none(tmp_path):
    put(tmp_path, "list.parquet")
    assert "cannot read the list" in refused(tmp_path / "list.parquet")


def test_settings_that_do_not_belong_are_refused(tmp_path):
    put(tmp_path, "a.jpg")
    assert "for lists" in refused(tmp_path, root=tmp_path)
    path = write_list(tmp_path, "path\na.jpg\n")
    assert "for folders" in refused(path, class_per_folder=True)
    assert "is no folder" in refused(path, root=tmp_path / "nowhere")


def test_numbers_that_no_column_holds_are_one_line(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    said = refused(write_list(tmp_path, "path,fold\na.jpg,1e30\n"))
    assert "'fold' in line 2 is 1e30, which is too large" in said


def test_a_parquet_list_whose_text_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "picture.jpg"]}), path, compression="NONE")
    path.write_bytes(path.read_bytes().replace(b"picture", b"p\xff\xfeture"))
    assert "cannot read the list" in refused(path)
