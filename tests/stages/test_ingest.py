import logging
import os
import socket
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.manifests.keys import parse_key
from normpipe.manifests.schema import LABEL_COLUMNS, MANIFEST
from normpipe.pipeline.errors import InputError
from normpipe.stages.ingest import Ingest, IngestConfig


def put(root: Path, *names: str, data: bytes = b"picture") -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def scan(source: Path, **config):
    return Ingest(IngestConfig(**config), source, "d").scan()


def write_list(root: Path, text: str, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def keys(found):
    return found.rows["key"].to_pylist()


def reasons(found):
    rows = found.rows.to_pylist()
    return {row["path"]: row["reason"] for row in rows if row["status"] != "ok"}


def refused(source: Path, **config) -> str:
    with pytest.raises(InputError) as caught:
        scan(source, **config)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- folders


def test_a_folder_gives_references_in_natural_order(tmp_path):
    put(tmp_path, "v10/f1.jpg", "v2/f10.jpg", "v2/f9.PNG", "a#1.jpg")
    found = scan(tmp_path)
    assert keys(found) == ["d/a%231.jpg", "d/v2/f9.PNG", "d/v2/f10.jpg", "d/v10/f1.jpg"]
    assert found.rows.schema.equals(MANIFEST, check_metadata=True)
    assert found.labels is None
    row = found.rows.to_pylist()[1]
    status = (tmp_path / "v2/f9.PNG").stat()
    assert row["path"] == "v2/f9.PNG"
    assert row["parent_key"] == row["key"]
    assert (row["status"], row["reason"], row["decided_by"]) == ("ok", None, "ingest")
    assert (row["size_bytes"], row["modified_ns"]) == (status.st_size, status.st_mtime_ns)
    assert row["bbox_xyxy"] is None and row["landmarks"] is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.from_regex(r"[a-c0-2]{1,3}", fullmatch=True), min_size=1, unique=True))
def test_the_order_never_depends_on_the_disk(names):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        put(Path(one), *(f"{name}.jpg" for name in names))
        put(Path(other), *(f"{name}.jpg" for name in reversed(names)))
        found = keys(scan(Path(one)))
        assert found == keys(scan(Path(other)))
        assert sorted(found) == sorted(f"d/{name}.jpg" for name in names)


def test_what_is_passed_over_is_counted(tmp_path):
    put(tmp_path, "a.jpg", "b.txt", "c.TXT", "Makefile", ".DS_Store", ".cache/x.jpg")
    assert scan(tmp_path).ignored == {
        ".txt": 2,
        "hidden file": 1,
        "hidden folder": 1,
        "no extension": 1,
    }


def test_broken_files_become_rows(tmp_path):
    put(tmp_path, "good.jpg")
    put(tmp_path, "empty.jpg", data=b"")
    (tmp_path / "hollow.jpg").mkdir()
    put(tmp_path, "clip.jpg/0001.png")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = scan(tmp_path)
    assert reasons(found) == {
        "empty.jpg": "empty_file",
        "hollow.jpg": "not_a_file",
        "dangling.jpg": "missing_file",
        "circle.jpg": "unreadable",
        "pipe.jpg": "not_a_file",
    }
    # A folder with images is a folder, whatever its name.
    assert "d/clip.jpg/0001.png" in keys(found) and "d/clip.jpg" not in keys(found)


def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # socket names are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jpg")
        assert reasons(scan(tmp_path)) == {"s.jpg": "not_a_file"}


def test_a_name_that_is_not_utf8_becomes_a_row(tmp_path):
    name = os.fsencode(tmp_path) + b"/bad\xff.jpg"
    try:
        Path(os.fsdecode(name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = scan(tmp_path)
    row = found.rows.to_pylist()[0]
    assert (row["key"], row["path"], row["reason"]) == ("d/bad%FF.jpg", None, "path_not_utf8")
    parse_key(row["key"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed_becomes_a_row(tmp_path):
    put(tmp_path, "a.jpg", "shut/b.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        assert reasons(scan(tmp_path)) == {"shut": "unreadable"}
    finally:
        (tmp_path / "shut").chmod(0o700)


def test_a_folder_that_cannot_be_listed_becomes_a_row_for_root_too(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "shut/b.jpg")
    listing = os.scandir

    def guarded(path):
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert reasons(scan(tmp_path)) == {"shut": "unreadable"}


def test_a_failing_disk_ends_the_scan(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg")
    real = os.stat

    def broken(path, *args, **options):
        if str(path).endswith("a.jpg"):
            raise OSError(5, "Input/output error")
        return real(path, *args, **options)

    monkeypatch.setattr("normpipe.stages.sources.files.os.stat", broken)
    assert "Input/output error" in refused(tmp_path)


def test_links(tmp_path):
    root = put(tmp_path / "in", "a/1.jpg", "b/2.jpg")
    put(tmp_path, "out/3.jpg")
    (root / "inside.jpg").symlink_to("a/1.jpg")
    (root / "leaves.jpg").symlink_to("../out/3.jpg")
    (root / "folder").symlink_to("b")
    (root / "away").symlink_to("../out")
    (root / "a/up").symlink_to("..")
    found = scan(root)
    assert keys(found) == ["d/a/1.jpg", "d/b/2.jpg", "d/inside.jpg", "d/leaves.jpg"]
    assert reasons(found) == {"leaves.jpg": "outside_root"}
    assert found.ignored == {"folder link": 2, "folder link out of the input": 1}
    followed = scan(root, follow_symlinks=True)
    assert "d/folder/2.jpg" in keys(followed)
    assert followed.ignored == {
        "folder link in a circle or seen before": 1,
        "folder link out of the input": 1,
    }


def test_the_root_itself_may_be_a_link(tmp_path):
    put(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to("real")
    assert reasons(scan(tmp_path / "link")) == {}


def test_limit_takes_the_first_ones(tmp_path):
    put(tmp_path, *(f"{i}.jpg" for i in range(12)))
    found = scan(tmp_path, limit=3)
    assert keys(found) == ["d/0.jpg", "d/1.jpg", "d/2.jpg"]
    assert not found.complete and scan(tmp_path, limit=12).complete


def test_extensions_may_be_named_without_dot(tmp_path):
    put(tmp_path, "a.jpg", "b.raw")
    found = scan(tmp_path, extensions=("RAW",))
    assert (keys(found), found.ignored) == (["d/b.raw"], {".jpg": 1})


def test_nothing_to_take_is_one_line(tmp_path):
    put(tmp_path, "a.txt", "b.txt", "c.mp4")
    assert "2 .txt, 1 .mp4" in refused(tmp_path)
    (tmp_path / "bare").mkdir()
    assert "it holds no files" in refused(tmp_path / "bare")
    assert "--input" in refused(tmp_path / "missing")
    assert "neither a folder nor a list" in refused(tmp_path / "a.txt")
    put(tmp_path, "photo.jpg")
    assert "give the folder" in refused(tmp_path / "photo.jpg")


def test_dataset_names_fit_into_keys(tmp_path):
    for name in ("", "a/b", "a#b"):
        with pytest.raises(InputError, match="name"):
            Ingest(IngestConfig(), tmp_path, name)


def test_class_folders_name_the_emotion(tmp_path):
    put(tmp_path, "train/Happy/1.jpg", "train/anger/2.jpg")
    found = scan(tmp_path, class_per_folder=True)
    assert found.labels.to_pylist() == [
        {"key": "d/train/Happy/1.jpg", "emotion": "happiness"},
        {"key": "d/train/anger/2.jpg", "emotion": "anger"},
    ]
    put(tmp_path, "train/sadnes/3.jpg")
    message = refused(tmp_path, class_per_folder=True)
    assert "train/sadnes" in message and "sadness" in message


def test_class_folders_may_be_numbers_with_names(tmp_path):
    put(tmp_path, "1/a.jpg", "3/b.jpg")
    names = ("", "surprise", "fear", "disgust")
    found = scan(tmp_path, class_per_folder=True, emotion_names=names)
    assert found.labels["emotion"].to_pylist() == ["surprise", "disgust"]
    assert "ingest.emotion_names" in refused(tmp_path, class_per_folder=True)
    put(tmp_path, "c.jpg")
    assert "no class folder" in refused(tmp_path, class_per_folder=True, emotion_names=names)


# --- lists


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
        ("AU12", "yes", {}, "'yes', which is no number"),
        ("fold", "1.5", {}, "no whole number"),
        ("valence", "-2", {}, "ingest.valence_arousal_missing"),
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
        (b"path,subject\na.jpg\n", "cannot read the list"),
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


# --- later runs


def test_changed_names_what_differs(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    stage = Ingest(IngestConfig(), tmp_path, "d")
    before = stage.scan().rows
    assert stage.changed(before, stage.scan().rows) == []
    put(tmp_path, "b.jpg", data=b"another picture")
    os.utime(tmp_path / "c.jpg", ns=(1, 1))
    assert stage.changed(before, stage.scan().rows) == ["d/b.jpg", "d/c.jpg"]


def test_changed_sees_boxes(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    head = "path,bbox_xyxy\n"
    path = write_list(tmp_path, head + "a.jpg,1 2 3 4\nb.jpg,\n")
    stage = Ingest(IngestConfig(), path, "d")
    before = stage.scan().rows
    write_list(tmp_path, head + "a.jpg,1 2 3 5\nb.jpg,\n")
    assert stage.changed(before, stage.scan().rows) == ["d/a.jpg"]


def test_only_the_length_of_shards_shapes_the_manifest(tmp_path):
    config = IngestConfig(limit=5, root=tmp_path, au_missing=9, extensions=("png",))
    assert config.shaping() == {"shard_rows": 1024}


def test_the_root_is_where_paths_count_from(tmp_path):
    put(tmp_path, "images/a.jpg")
    path = write_list(tmp_path, "path\na.jpg\n")
    stage = Ingest(IngestConfig(root=tmp_path / "images"), path, "d")
    assert stage.root == (tmp_path / "images").resolve()
    assert Ingest(IngestConfig(), path, "d").root == tmp_path.resolve()
    assert Ingest(IngestConfig(), tmp_path / "images", "d").root == stage.root
