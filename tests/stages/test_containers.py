"""Archives and Parquet files as inputs: labels travel with them, and nothing is extracted."""

import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import ALIGNED, IMAGE
from normpipe.manifests.vocabularies import SampleError
from normpipe.stages.sources.containers import nested, picture_tables
from normpipe.stages.sources.containers.contents import named_split
from normpipe.stages.sources.containers.picture_tables import PictureTable
from normpipe.stages.sources.fetching import SourceReader

from .ingesting import keys, put, reasons, refused, scan, write_list

PICTURE = b"\xff\xd8\xff picture"
NAMES = ["angry", "happy", "neutral"]


def tar_of(path: Path, members: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            data = json.dumps(data).encode() if isinstance(data, dict) else data
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def parquet_of(
    file: Path,
    pictures: list[bytes | None],
    features: dict[str, Any] | None = None,
    group: int = 2,
    **columns: Any,
) -> Path:
    rows = [None if one is None else {"bytes": one, "path": None} for one in pictures]
    table = pa.table({"image": pa.array(rows, IMAGE), **columns})
    known = {"image": {"_type": "Image"}, **(features or {})}
    about = json.dumps({"info": {"features": known}})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata({"huggingface": about}), file, row_group_size=group
    )
    return file


def labels(found: Any) -> list[dict[str, Any]]:
    return [] if found.labels is None else found.labels.to_pylist()


def read_all(root: Path, found: Any) -> list[bytes | str]:
    """Return each row's bytes, or why it has none."""
    reader = SourceReader(root, 10_000, 1.0, allow_urls=False)
    reader.open()
    data: list[bytes | str] = []
    for row in found.rows.to_pylist():
        try:
            data.append(reader.read(row))
        except SampleError as error:
            data.append(error.reason)
    reader.close()
    return data


# WebDataset


def test_label_files_of_a_tar_are_labels(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "faces.tar",
        {
            "b/000002.jpg": PICTURE + b"2",
            "b/000002.cls": "happy\n",
            "b/000002.json": {"subject": "anna", "AU12": 1, "valence": 0.5, "bbox": [1, 2, 3, 4]},
            "b/000001.left.jpg": PICTURE + b"1",
            "b/000001.cls": b"Angry",
            "b/000001.json": {"AU12": None, "bbox_xyxy": [1, 2, 30, 40], "path": "elsewhere"},
            "b/000003.jpg": PICTURE + b"3",
            "b/notes.txt": "of nobody",
        },
    )
    found = scan(path)
    assert keys(found) == ["d/b/000001.left.jpg", "d/b/000002.jpg", "d/b/000003.jpg"]
    first, second, third = labels(found)
    assert (first["emotion"], first["subject"], first["AU12"]) == ("anger", None, None)
    assert (second["emotion"], second["subject"], second["AU12"]) == ("happiness", "anna", 1)
    assert second["valence"] == 0.5 and second["bbox"] == "[1, 2, 3, 4]"
    assert first["list_path"] == "elsewhere"
    assert {value for name, value in third.items() if name != "key"} == {None}
    assert found.rows["bbox_xyxy"].to_pylist() == [[1, 2, 30, 40], None, None]
    assert found.ignored == {".txt": 1}
    assert read_all(path, found) == [PICTURE + b"1", PICTURE + b"2", PICTURE + b"3"]


def test_numbers_of_classes_are_no_emotions_until_they_have_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar_of(tmp_path / "faces.tar", {"1.jpg": PICTURE, "1.cls": "2", "2.jpg": PICTURE})
    assert labels(scan(path)) == [{"key": "d/1.jpg", "cls": 2}, {"key": "d/2.jpg", "cls": None}]
    assert "ingest.emotion_names" in caplog.text and "ingest.columns.subject='cls'" in caplog.text
    named = scan(path, emotion_names=("neutral", "happy", "sad"))
    assert labels(named)[0] == {"key": "d/1.jpg", "emotion": "sadness"}
    people = scan(path, columns={"subject": "cls"})
    assert labels(people)[0] == {"key": "d/1.jpg", "subject": "2"}


def test_label_files_that_cannot_be_read_cost_their_labels_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {
        "1.json": b"{", "2.json": b"[1]", "3.json": b"[" * 100_000, "4.json": bytes(2**20 + 1),
        "5.cls": b"\xff\xfe", "6.json": b"", "7.json": b'{"a": "\\ud800"}', "8.cls": b"sad",
    }  # fmt: skip
    pictures = {f"{n}.jpg": PICTURE for n in range(1, 9)}
    found = scan(tar_of(tmp_path / "faces.tar", {**pictures, **bad}))
    assert len(keys(found)) == 8 and not reasons(found)
    assert [row["emotion"] for row in labels(found)] == [None] * 7 + ["sadness"]
    assert "5 label files cannot be read" in caplog.text and "first: 1.json" in caplog.text


def test_a_flood_of_fields_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normpipe.stages.sources.containers.contents.MOST_FIELDS", 3)
    members: dict[str, Any] = {}
    for n in range(9):
        members |= {f"{n}.jpg": PICTURE, f"{n}.json": {f"field{n}": 1, "subject": "a"}}
    found = scan(tar_of(tmp_path / "faces.tar", members))
    assert len(labels(found)[0]) == 4 and labels(found)[8]["subject"] == "a"


def test_a_wrong_cell_is_named_by_its_picture(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"x/1.jpg": PICTURE, "x/1.json": {"valence": 7}})
    message = refused(path)
    assert "x/1.jpg" in message and "'valence'" in message and "is 7" in message


def test_a_folder_of_tars_is_one_input(tmp_path: Path) -> None:
    for number in (10, 9):
        tar_of(
            tmp_path / f"train/shard-{number}.tar",
            {"1.jpg": PICTURE + b"%d" % number, "1.cls": "sad", "2.jpg": PICTURE},
        )
    tar_of(tmp_path / "val/shard-1.tar", {"1.jpg": PICTURE})
    (tmp_path / "broken.tar").write_bytes(b"no archive" * 99)
    (tmp_path / "empty.tar").touch()
    (tmp_path / "out.tar").symlink_to(tmp_path.parent / "secret.tar")
    tar_of(tmp_path.parent / "secret.tar", {"secret.jpg": PICTURE})
    (tmp_path / "info.json").write_text("{}")
    found = scan(tmp_path)
    assert keys(found) == [
        "d/broken.tar", "d/empty.tar", "d/out.tar",
        "d/train/shard-9.tar/1.jpg", "d/train/shard-9.tar/2.jpg",
        "d/train/shard-10.tar/1.jpg", "d/train/shard-10.tar/2.jpg",
        "d/val/shard-1.tar/1.jpg",
    ]  # fmt: skip
    assert reasons(found) == {
        "broken.tar": "unreadable", "empty.tar": "empty_file", "out.tar": "outside_root",
    }  # fmt: skip
    assert [row["emotion"] for row in labels(found)][3:] == ["sadness", None, "sadness", None, None]
    assert [row["split"] for row in labels(found)][2:] == [None, *["train"] * 4, "validation"]
    assert read_all(tmp_path, found)[3:6:2] == [PICTURE + b"9", PICTURE + b"10"]
    few = scan(tmp_path, limit=4)
    assert keys(few) == keys(found)[:4] and not few.complete
    # Pictures beside archives: the archives are as little read as before.
    put(tmp_path, "a.jpg")
    assert keys(scan(tmp_path)) == ["d/a.jpg"]


def test_a_tar_of_a_folder_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": PICTURE, "2.jpg": PICTURE})
    tar_of(tmp_path / "b.tar", {"1.jpg": PICTURE})
    found = scan(tmp_path)
    tar_of(path, {"1.jpg": PICTURE + b"!"})
    (tmp_path / "b.tar").unlink()
    assert read_all(tmp_path, found) == ["changed_since_ingest", "missing_file", "missing_file"]
    (tmp_path / "b.tar").write_bytes(b"junk" * 999)
    assert read_all(tmp_path, found)[2] == "unreadable"


# Parquet


def test_hugging_face_s_pictures_and_labels(tmp_path: Path) -> None:
    classes = {"label": {"_type": "ClassLabel", "names": NAMES}}
    for split, number in (("train", 0), ("train", 1), ("validation", 0)):
        parquet_of(
            tmp_path / f"data/{split}-0000{number}-of-00002.parquet",
            [PICTURE + b"%d" % number, PICTURE, b"", None],
            classes,
            label=pa.array([0, 1, -1, None]),
            subject=["p1", "p2", "p3", "p4"],
            embedding=[[0.1], [0.2], [0.3], [0.4]],
        )
    (tmp_path / "README.md").write_text("a card")
    pq.write_table(pa.table({"key": ["x"]}), tmp_path / "labels.parquet")
    found = scan(tmp_path)
    assert len(keys(found)) == 12
    assert keys(found)[5] == "d/data/train-00001-of-00002.parquet/1"
    rows = labels(found)
    assert [row["emotion"] for row in rows[:4]] == ["anger", "happiness", None, None]
    assert [row["subject"] for row in rows[8:]] == ["p1", "p2", "p3", "p4"]
    assert [row["split"] for row in rows] == ["train"] * 8 + ["validation"] * 4
    assert found.ignored == {".parquet without pictures": 1}
    data = read_all(tmp_path, found)
    assert data[:4] == [PICTURE + b"0", PICTURE, "empty_file", "no_picture"]
    assert data[4] == PICTURE + b"1"
    one = tmp_path / "data/validation-00000-of-00002.parquet"
    alone = scan(one)
    assert keys(alone) == ["d/0", "d/1", "d/2", "d/3"]
    assert {row["split"] for row in labels(alone)} == {"validation"}
    assert read_all(one, alone) == data[8:]
    os.utime(one, ns=(1, 1))
    assert set(read_all(one, alone)) == {"changed_since_ingest"}


def test_columns_of_several_types_become_text(tmp_path: Path) -> None:
    parquet_of(tmp_path / "a.parquet", [PICTURE], who=pa.array([1]))
    parquet_of(tmp_path / "b.parquet", [PICTURE], who=pa.array(["x"]))
    assert [row["who"] for row in labels(scan(tmp_path))] == ["1", "x"]


def test_a_list_with_paths_stays_a_list(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    path = parquet_of(tmp_path / "list.parquet", [PICTURE], path=["a.jpg"])
    assert keys(scan(path)) == ["d/a.jpg"]
    chosen = scan(path, path_column="image")
    assert keys(chosen) == ["d/0"] and labels(chosen) == [{"key": "d/0", "list_path": "a.jpg"}]


def test_paths_of_files_that_are_not_there_are_labels(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "a.parquet", [PICTURE], filename=["gone.jpg"], path=["gone.jpg"])
    found = scan(path)
    assert keys(found) == ["d/0"] and labels(found)[0]["list_path"] == "gone.jpg"
    put(tmp_path, "gone.jpg")
    assert keys(scan(path)) == ["d/gone.jpg"]
    assert "ingest.root" in refused(path, root=put(tmp_path / "x", "b.jpg"))


def test_sounds_and_long_lists_are_left_alone(tmp_path: Path) -> None:
    sound = pa.array([{"bytes": b"sound", "path": None}], IMAGE)
    columns = {"audio": sound, "label": [[1, 2]], "points": [[0.0] * 10], "who": ["a"]}
    features = {"audio": {"_type": "Audio"}}
    path = parquet_of(tmp_path / "a.parquet", [PICTURE], features, **columns)
    found = scan(path)
    assert labels(found) == [{"key": "d/0", "who": "a"}]
    found = scan(path, columns={"landmarks": "points"})
    assert found.rows["landmarks"].to_pylist() == [[[0, 0]] * 5]
    assert "is damaged" not in str(read_all(path, found))


def test_of_several_columns_of_pictures_one_is_chosen(tmp_path: Path) -> None:
    one = pa.array([{"bytes": b"one", "path": None}], IMAGE)
    two = pa.array([{"bytes": b"two", "path": None}], IMAGE)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"left": one, "right": two}), path)
    assert "left, right" in (message := refused(path)) and "ingest.path_column" in message
    for name, data in (("left", b"one"), ("right", b"two")):
        found = scan(path, path_column=name)
        assert read_all(path, found) == [data]


def test_our_own_shards_with_the_labels_beside_them(tmp_path: Path) -> None:
    rows = [
        {"key": "a/1.jpg", "parent_key": "a/1.jpg", "status": "ok", "decided_by": "align",
         "image": {"bytes": PICTURE, "path": "1.jpg"}, "bbox_xyxy": [1, 2, 3, 4]},
        {"key": "a/2.jpg#face1", "parent_key": "a/2.jpg", "status": "rejected",
         "reason": "face_too_small", "decided_by": "align"},
    ]  # fmt: skip
    out = tmp_path / "out"
    (out / "aligned").mkdir(parents=True)
    (out / "job.toml").write_text("[[flow]]\n")
    table = pa.Table.from_pylist([{n: row.get(n) for n in ALIGNED.names} for row in rows], ALIGNED)
    pq.write_table(table, out / "aligned/shard-00000.parquet")
    beside = pa.table({"key": ["a/2.jpg", "a/1.jpg"], "subject": ["p2", "p1"]})
    pq.write_table(beside, out / "labels.parquet")
    found = scan(out / "aligned")
    assert read_all(out / "aligned", found) == [PICTURE, "no_picture"]
    assert found.rows["bbox_xyxy"].to_pylist() == [None, None]  # of another picture
    first, second = labels(found)
    assert (first["subject"], first["list_key"], first["list_status"]) == ("p1", "a/1.jpg", "ok")
    assert (second["subject"], second["list_reason"]) == ("p2", "face_too_small")
    assert "sharpness" not in first and "list_image_sha256" not in first
    assert f"{out} is an output of normpipe run" in refused(out)


@pytest.mark.parametrize("group", [1, 7, 100])
@pytest.mark.parametrize("kept", [0, 10**9])
def test_rows_are_read_in_any_order_by_many_threads(
    tmp_path: Path, group: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_tables, "_KEPT_BYTES", kept)
    pictures = [b"%d" % n * (n % 5 + 1) for n in range(100)]
    table = PictureTable(parquet_of(tmp_path / "a.parquet", list(pictures), group=group))
    order = [n * 37 % 100 for n in range(100)] * 2
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: table.read(str(n), 1000), order))
    assert found == [pictures[n] for n in order]
    for path in ("100", "-1", "007", "x", "1/2", "image/x", "", "9" * 50):
        with pytest.raises(SampleError, match="missing_file"):
            table.read(path, 1000)
    with pytest.raises(SampleError, match="too_many_bytes"):
        table.read("99", 3)


def test_repeated_pictures_are_held_one_at_a_time(tmp_path: Path) -> None:
    """A dictionary stores a value once; a batch of rows would hold it as often as it occurs."""
    large = bytes(2**20)
    path = parquet_of(tmp_path / "a.parquet", [large] * 64, group=64)
    assert path.stat().st_size < 2**18
    table = PictureTable(path)
    before = pa.total_allocated_bytes()
    assert table.read("63", 2**24) == large
    assert pa.total_allocated_bytes() - before < 8 * len(large)


def test_damage_costs_a_row_group_from_there_on_and_is_not_read_again(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "a.parquet", [os.urandom(3000) for _ in range(8)], group=4)
    place = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = scan(path)
    told = read_all(path, found)
    assert told[:4] == ["truncated"] * 4 and all(isinstance(one, bytes) for one in told[4:])


def test_what_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    assert "cannot read the list" in refused(tmp_path / "a.parquet")
    found = scan(tmp_path)
    assert reasons(found) == {"a.parquet": "unreadable"}


def test_few_containers_stay_open_while_threads_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nested, "_MOST_OPEN", 1)
    for n in range(4):
        parquet_of(tmp_path / f"{n}.parquet", [b"p%d" % n] * 9)
        tar_of(tmp_path / f"{n}.tar", {f"{m}.jpg": b"t%d" % n for m in range(9)})
    reader = SourceReader(tmp_path.resolve(), 1000, 1.0, allow_urls=False)
    reader.open()
    paths = [f"{n}.{kind}" for n in range(4) for kind in ("parquet/3", "tar/3.jpg")] * 30
    threads = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: reader.read({"path": path}), paths))
    assert found == [b"%s%d" % (p[2:3].encode(), int(p[0])) for p in paths]
    reader.close()
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("train.parquet", "train"), ("default/test/0000.parquet", "test"),
        ("fer_val_01.parquet", "validation"), ("training/x.parquet", "train"),
        ("dev-0.tar", "validation"), ("contest.parquet", None), ("trainer-1.parquet", None),
        ("validated.parquet", None), ("shard-00000.parquet", None), ("latest.parquet", None),
    ],
)  # fmt: skip
def test_splits_are_read_from_names(name: str, split: str | None) -> None:
    assert named_split(name) == split


# Lists of what is in an archive, and lists in folders


def test_a_list_of_the_members_of_an_archive(tmp_path: Path) -> None:
    members = {"set/a.jpg": PICTURE, "set/b.jpg": PICTURE + b"b", "../c.jpg": PICTURE}
    archive = zip_of(tmp_path / "x.zip", members)
    path = write_list(tmp_path, "path,emotion\nset/b.jpg,sad\nset/a.jpg,happy\nset/z.jpg,fear\n")
    found = scan(path, root=archive)
    assert keys(found) == ["d/set/a.jpg", "d/set/b.jpg", "d/set/z.jpg"]
    assert reasons(found) == {"set/z.jpg": "missing_file"}
    assert [row["emotion"] for row in labels(found)] == ["happiness", "sadness", "fear"]
    assert read_all(archive, found) == [PICTURE, PICTURE + b"b", "missing_file"]
    below = write_list(tmp_path, "path\nb.jpg\n../set/a.jpg\n../../c.jpg\n/etc/x.jpg\n", "2.csv")
    found = scan(below, root=archive / "set")
    assert keys(found)[-2:] == ["d/set/a.jpg", "d/set/b.jpg"]
    assert set(reasons(found).values()) == {"outside_root"}
    wrong = write_list(tmp_path, "path\nb.jpg\n", "3.csv")
    assert f"ingest.root='{archive.resolve() / 'set'}'" in refused(wrong, root=archive)
    assert "is no folder" in refused(wrong, root=tmp_path / "none.zip")


def test_a_list_of_what_is_in_shards(tmp_path: Path) -> None:
    tar_of(tmp_path / "s/0.tar", {"a.jpg": PICTURE})
    parquet_of(tmp_path / "s/1.parquet", [PICTURE])
    text = "path,subject\ns/0.tar/a.jpg,p\ns/1.parquet/0,q\ns/1.parquet/7,r\ns/2.tar/a.jpg,s\n"
    found = scan(write_list(tmp_path, text))
    assert reasons(found) == {"s/1.parquet/7": "missing_file", "s/2.tar/a.jpg": "missing_file"}
    assert read_all(tmp_path, found)[:2] == [PICTURE, PICTURE]


def test_a_list_in_an_archive_is_pointed_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = zip_of(
        tmp_path / "x y.zip", {"s/a.jpg": PICTURE, "s/labels.csv": b"path,emotion\na.jpg,sad\n"}
    )
    assert scan(path).labels is None
    (line,) = [r.getMessage() for r in caplog.records if "has a list in it" in r.getMessage()]
    command = line.partition("not read: ")[2].partition(", then")[0]
    assert os.system(
        f"cd '{tmp_path}' && {command.replace('unzip -p', 'bsdtar -xOf')} 2>/dev/null"
    ) in (0, 32512)
    (tmp_path / "labels.csv").write_bytes(zipfile.ZipFile(path).read("s/labels.csv"))
    root = line.rpartition("ingest.root=")[2].strip("'")
    found = scan(tmp_path / "labels.csv", root=Path(root))
    assert keys(found) == ["d/s/a.jpg"] and labels(found)[0]["emotion"] == "sadness"


def test_lists_of_json_lines(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    text = '{"path": "b.jpg", "AU12": 1, "subject": "p"}\n\n{"path": "a.jpg", "AU12": null}\n'
    found = scan(write_list(tmp_path, text, "x.jsonl"))
    assert [(row["AU12"], row["subject"]) for row in labels(found)] == [(None, None), (1, "p")]
    assert "line 3" in refused(write_list(tmp_path, text.replace("null", "7"), "x.jsonl"))
    assert "line 2: " in refused(write_list(tmp_path, '{"path": "a.jpg"}\n[3]\n', "x.jsonl"))
    assert "has no rows" in refused(write_list(tmp_path, "\n", "x.jsonl"))


def test_an_image_folder_with_metadata(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "train/b.jpg", "test/a.jpg", "c.jpg")
    write_list(tmp_path / "train", "file_name,emotion\na.jpg,sad\ngone.jpg,fear\n", "metadata.csv")
    lines = '{"file_name": "a.jpg", "emotion": "happy", "bbox_xyxy": [1, 2, 3, 4]}\n'
    more = '{"file_name": "a.jpg", "emotion": "sad", "bbox_xyxy": [5, 6, 7, 8]}\n'
    write_list(tmp_path / "test", lines + more, "metadata.jsonl")
    found = scan(tmp_path)
    assert keys(found) == [
        "d/c.jpg", "d/test/a.jpg#face0", "d/test/a.jpg#face1",
        "d/train/a.jpg", "d/train/b.jpg", "d/train/gone.jpg",
    ]  # fmt: skip
    emotions = [row["emotion"] for row in labels(found)]
    assert emotions == [None, "happiness", "sadness", "sadness", None, "fear"]
    assert reasons(found) == {"train/gone.jpg": "missing_file"}
    assert found.rows["bbox_xyxy"].to_pylist()[2] == [5, 6, 7, 8]
    write_list(tmp_path / "train", "file_name,valence\na.jpg,9\n", "metadata.csv")
    assert "train/metadata.csv, line 2" in refused(tmp_path)
    write_list(
        tmp_path / "train", "file_name,emotion\n../c.jpg,sad\n../../x.jpg,sad\n", "metadata.csv"
    )
    found = scan(tmp_path)
    assert next(row for row in labels(found) if row["key"] == "d/c.jpg")["emotion"] == "sadness"
    assert reasons(found) == {"train/../../x.jpg": "outside_root"}


def test_metadata_that_is_none_is_ignored_as_before(tmp_path: Path) -> None:
    put(tmp_path, "sad/a.jpg")
    write_list(tmp_path, "camera\nx\n", "metadata.csv")
    found = scan(tmp_path)
    assert found.labels is None and found.ignored == {".csv": 1}
    write_list(tmp_path, "file_name,emotion\nsad/a.jpg,happy\n", "metadata.csv")
    assert labels(scan(tmp_path, class_per_folder=True))[0]["emotion"] == "sadness"
    write_list(tmp_path, "file_name,emotion\na.jpg,happy\n", "metadata.csv")
    assert "none of the 1 files" in refused(tmp_path)
