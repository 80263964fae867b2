import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.manifests.keys import parse_key
from normpipe.manifests.schema import MANIFEST
from normpipe.pipeline.errors import InputError
from normpipe.stages.ingest import Ingest, IngestConfig

from .ingesting import keys, put, reasons, refused, scan, write_list

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
    put(tmp_path, "a.txt", "b.txt", "c.pdf")
    assert "2 .txt, 1 .pdf" in refused(tmp_path)
    (tmp_path / "bare").mkdir()
    assert "it holds no files" in refused(tmp_path / "bare")
    assert "no folder or list" in refused(tmp_path / "missing")
    assert "neither a folder nor a list" in refused(tmp_path / "a.txt")


def test_videos_can_be_left_out(tmp_path):
    put(tmp_path, "a.MP4", "b.webm", "c.jpg")
    found = scan(tmp_path, videos=False)
    assert keys(found) == ["d/c.jpg"] and found.ignored == {".mp4": 1, ".webm": 1}


def test_one_image_is_an_input_too(tmp_path):
    put(tmp_path, "a#1.JPG", "b.jpg")
    found = scan(tmp_path / "a#1.JPG")
    assert keys(found) == ["d/a%231.JPG"] and found.complete
    assert found.rows["path"].to_pylist() == ["a#1.JPG"] and reasons(found) == {}
    put(tmp_path, "empty.png", data=b"")
    assert reasons(scan(tmp_path / "empty.png")) == {"empty.png": "empty_file"}
    assert "one file" in refused(tmp_path / "b.jpg", class_per_folder=True)
    assert "one file" in refused(tmp_path / "b.jpg", root=tmp_path)


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
