"""Releases as they lie on disk: every column of every known one, and what contradicts them."""

import logging
from pathlib import Path

import pytest

from normpipe.manifests.datasets import described, load_description
from normpipe.manifests.keys import parse_key
from normpipe.pipeline.errors import InputError
from normpipe.stages.ingest import Ingest, IngestConfig
from normpipe.stages.sources.fetching import SourceReader
from normpipe.stages.sources.lists.label_columns import RESERVED

from . import release_trees as trees
from .filming import film
from .ingesting import reasons


def read(root: Path, release: str, **config):
    found = Ingest(IngestConfig(release=release, **config), root, "d").scan()
    for key in found.rows["key"].to_pylist():
        parse_key(key)
    return found


def table(found) -> dict:
    """Return key → the labels that are known."""
    return {
        row.pop("key"): {name: value for name, value in row.items() if value is not None}
        for row in found.labels.to_pylist()
    }


def refused(root: Path, release: str = "", **config) -> str:
    with pytest.raises(InputError) as caught:
        Ingest(IngestConfig(release=release, **config), root, "d").scan()
    message = str(caught.value)
    assert "\n" not in message
    return message


def own(tmp_path: Path, text: str, name: str = "my.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_raf_db(tmp_path, caplog):
    caplog.set_level(logging.INFO, "normpipe")
    found = read(trees.raf(tmp_path), "raf_db")
    assert table(found) == {
        "d/Image/aligned/test_0001_aligned.jpg": {"split": "test", "emotion": "neutral"},
        "d/Image/aligned/train_00001_aligned.jpg": {"split": "train", "emotion": "sadness"},
        "d/Image/aligned/train_00002_aligned.jpg": {"split": "train", "emotion": "surprise"},
        "d/Image/aligned/train_00009_aligned.jpg": {"split": "train"},
    }
    assert found.labels.column_names == ["key", "split", "emotion"]
    assert reasons(found) == {"Image/aligned/train_00002_aligned.jpg": "missing_file"}
    assert "2 of 12,271 train, 1 of 3,068 test labelled" in caplog.text
    assert "1 pictures have no label" in caplog.text
    assert "1 pictures that labels name are not there" in caplog.text
    assert found.ignored["picture of another kind"] == 3


def test_raf_db_originals_and_labelled_only(tmp_path):
    root = trees.raf(tmp_path)
    found = read(root, "raf_db", layout="original")
    assert list(table(found)) == [
        f"d/Image/original/{name}.jpg" for name in ("test_0001", "train_00001", "train_00002")
    ]
    assert not reasons(found)
    found = read(root, "raf_db", labelled_only=True)
    assert found.rows.num_rows == 3
    assert found.ignored["picture without a label"] == 1
    assert "did you mean 'original'" in refused(root, "raf_db", layout="originals")


def test_raf_db_compound(tmp_path):
    found = read(trees.raf(tmp_path, (8, 11, 1)), "raf_db_compound")
    assert found.labels["emotion"].to_pylist() == [
        *("happily surprised", "fearfully surprised", "disgustedly surprised", None)
    ]


def test_affectnet_lists(tmp_path):
    found = read(trees.affectnet_lists(tmp_path), "affectnet")
    root = "d/Manually_Annotated_Images"
    assert table(found) == {
        f"{root}/1/a.jpg": {
            **{"split": "train", "emotion": "happiness", "valence": 0.5, "arousal": -0.25},
        },
        f"{root}/1/b.JPG": {"split": "train"},
        f"{root}/2/c.png": {
            **{"split": "test", "emotion": "contempt", "valence": -0.5, "arousal": 0.125},
        },
        f"{root}/3/d.jpg": {},
    }
    assert found.labels.column_names == ["key", "split", "emotion", "valence", "arousal"]
    assert found.rows["bbox_xyxy"].to_pylist() == [
        *([1, 2, 5, 7], [0, 0, 8, 8], [2, 2, 6, 6], None)
    ]


def test_affectnet_arrays(tmp_path):
    found = read(trees.affectnet_arrays(tmp_path), "affectnet")
    assert table(found) == {
        "d/train_set/images/7.jpg": {
            **{"split": "train", "emotion": "sadness", "valence": -0.5, "arousal": 0.25},
        },
        "d/train_set/images/12.jpg": {"split": "train", "emotion": "neutral"},
        "d/val_set/images/0.jpg": {
            **{"split": "test", "emotion": "anger", "valence": 0.75, "arousal": 0.5},
        },
    }
    assert reasons(found) == {"train_set/images/12.jpg": "missing_file"}
    assert found.labels.column_names == ["key", "split", "emotion", "valence", "arousal"]


DISFA = {
    1: {"AU1": 0, "AU1_intensity": 0, "AU5_intensity": 0, "AU12": 0, "AU12_intensity": 1},
    2: {"AU1": 1, "AU1_intensity": 2, "AU5_intensity": 0, "AU12": 1, "AU12_intensity": 3},
    3: {"AU1": 1, "AU1_intensity": 5, "AU5_intensity": 4, "AU12": 0, "AU12_intensity": 0},
}
FOLDS = {"SN001": 3, "SN003": 1}


@pytest.mark.parametrize("first", [0, 1])
def test_disfa_frames(tmp_path, first):
    trees.disfa_labels(tmp_path)
    for subject in FOLDS:
        trees.picture(tmp_path, *(f"{subject}/{n + first}.png" for n in range(3)))
    found = read(tmp_path, "disfa")
    assert table(found) == {
        f"d/{subject}/{n + first}.png": {
            **{"subject": subject, "fold": fold, "frame": n + 1, **DISFA[n + 1]},
        }
        for subject, fold in FOLDS.items()
        for n in range(3)
    }
    assert found.labels.column_names == [
        *("key", "subject", "fold", "frame"),
        *("AU1", "AU1_intensity", "AU5_intensity", "AU12", "AU12_intensity"),
    ]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left/SN001/{}.jpg", "right/SN001/{}.jpg"),
        ("Images_LeftCamera/SN001/{:04}.jpg", "Images_RightCamera/SN001/{:04}.jpg"),
        ("LeftVideoSN001_comp/{:05}.jpg", "RightVideoSN001_comp/{:05}.jpg"),
        (
            "LeftVideoSN001_comp/LeftVideoSN001_comp_{:04}.jpg",
            "RightVideoSN001_comp/RightVideoSN001_comp_{:04}.jpg",
        ),
    ],
)
def test_disfa_has_two_cameras(tmp_path, left, right):
    trees.disfa_labels(tmp_path)
    trees.picture(tmp_path, *(form.format(n) for form in (left, right) for n in (1, 2, 3)))
    for layout, form in (("", left), ("left_frames", left), ("right_frames", right)):
        found = table(read(tmp_path, "disfa", layout=layout))
        seen = {key: row for key, row in found.items() if row["subject"] == "SN001"}
        assert list(seen) == [f"d/{form.format(n)}" for n in (1, 2, 3)]
        side = "right" if layout == "right_frames" else "left"
        assert {row["camera"].lower() for row in seen.values()} == {side}
        assert [row["AU12_intensity"] for row in seen.values()] == [1, 3, 0]


def test_disfa_videos(tmp_path):
    """Labels count from 1; a key's frame counts from 0. A person without a video is missing."""
    trees.disfa_labels(tmp_path)
    film(tmp_path / "LeftVideoSN001_comp.avi", 5, "mpeg4")
    found = read(tmp_path, "disfa")
    rows = table(found)
    seen = {key: row for key, row in rows.items() if row["subject"] == "SN001"}
    assert seen == {
        f"d/LeftVideoSN001_comp.avi#frame{n}": {
            **{"subject": "SN001", "fold": 3, "frame": n + 1, "camera": "Left"},
            **{"sequence": "LeftVideoSN001_comp", **DISFA[n + 1]},
        }
        for n in range(3)
    }
    missing = {path for path, reason in reasons(found).items() if reason == "missing_file"}
    assert missing == {"LeftVideoSN003_comp.avi"}
    assert {row["frame"] for row in rows.values() if row["subject"] == "SN003"} == {1, 2, 3}


def test_two_pictures_of_a_frame_are_an_error(tmp_path):
    trees.disfa_labels(tmp_path)
    trees.picture(tmp_path, "a/SN001/1.png", "b/SN001/01.png")
    message = refused(tmp_path, "disfa")
    assert "a/SN001/1.png and b/SN001/01.png are both the picture of subject SN001, frame 1" in (
        message
    )


def test_bp4d(tmp_path):
    found = read(trees.bp4d(tmp_path), "bp4d")
    first = {"subject": "F001", "fold": 3, "sequence": "T1"}
    assert table(found) == {
        "d/F001/T1/0643.jpg": {
            **{**first, "frame": 643, "AU1": 1, "AU12": 1},
            **{"AU6_intensity": 3, "AU12_intensity": 0},
        },
        "d/F001/T1/644.jpg": {
            **{**first, "frame": 644, "AU1": 0, "AU7": 0, "AU12": 1, "AU12_intensity": 5},
        },
        "d/F001/T1/645.jpg": {**first, "frame": 645},
        "d/F003/T8/2440.jpg": {
            **{"subject": "F003", "fold": 2, "sequence": "T8", "frame": 2440},
            **{"AU1": 0, "AU7": 0, "AU12": 1},
        },
    }
    assert "AU2" not in found.labels.column_names  # coded nowhere


def test_bp4d_names_its_subjects(tmp_path):
    root = trees.bp4d(tmp_path)
    (root / "AUCoding/AU_OCC/F003_T8.csv").rename(root / "AUCoding/AU_OCC/F099_T8.csv")
    assert "'F099'" in refused(root, "bp4d") and "no subject of BP4D" in refused(root, "bp4d")


def test_bp4d_plus(tmp_path):
    found = read(trees.bp4d_plus(tmp_path), "bp4d_plus")
    common = {"subject": "F041", "sequence": "T7"}
    assert table(found) == {
        "d/2D/F041/T7/0009.jpg": {
            **{**common, "frame": 10, "AU1": 1, "AU2": 0, "AU4": 0, "AU5": 1, "AU6": 0},
            **{"AU6_intensity": 0, "AU39": 1},
        },
        "d/F041/T7/10.jpg": {
            **{**common, "frame": 11, "AU1": 0, "AU2": 1, "AU4": 0, "AU5": 0, "AU6": 0},
            **{"AU6_intensity": 4, "AU39": 0},
        },
    }
    assert reasons(found) == {"F041/T7/10.jpg": "missing_file"}


def test_fer2013_pixels(tmp_path):
    root = trees.fer2013(tmp_path)
    for source in (root, root / "fer2013.csv"):
        found = read(source, "fer2013")
        assert table(found) == {
            "d/test/00003": {"split": "test", "emotion": "disgust"},
            "d/train/00000": {"split": "train", "emotion": "anger"},
            "d/train/00001": {"split": "train", "emotion": "happiness"},
            "d/validation/00002": {"split": "validation", "emotion": "neutral"},
        }
    stage = Ingest(IngestConfig(release="fer2013"), root, "d")
    assert stage.root == root / "fer2013.csv"
    reader = SourceReader(stage.root, 10**6, 1, allow_urls=False)
    reader.open()
    for row in found.rows.to_pylist():
        data = reader.read(row)
        number = int(row["path"][-1])
        assert data == b"P5\n8 8\n255\n" + trees.fer2013_pixels(number).tobytes()
        assert row["size_bytes"] == len(data)
    reader.close()


def test_fer2013_folders(tmp_path):
    trees.picture(tmp_path, "train/angry/1.jpg", "test/happy/2.jpg", "valid/surprise/3.png")
    expected = {
        "d/test/happy/2.jpg": {"split": "test", "emotion": "happiness"},
        "d/train/angry/1.jpg": {"split": "train", "emotion": "anger"},
        "d/valid/surprise/3.png": {"split": "validation", "emotion": "surprise"},
    }
    assert table(read(tmp_path, "fer2013")) == expected
    assert table(read(tmp_path, "folders")) == expected


VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")


def test_ferplus_pictures(tmp_path):
    root = trees.ferplus_votes(tmp_path)
    trees.picture(root, "FER2013Train/fer0000000.png", "FER2013Train/fer0000001.png")
    found = read(root, "ferplus")
    rows = table(found)
    assert list(rows) == [
        "d/FER2013Train/fer0000000.png",
        "d/FER2013Train/fer0000001.png",
        "d/fer0028638.png",
    ]
    first, second, third = rows.values()
    assert "emotion" not in first and second["emotion"] == "neutral" and "emotion" not in third
    assert [first[f"{name}_votes"] for name in VOTES] == [4, 0, 0, 1, 3, 2, 0, 0]
    assert (second["unknown_votes"], second["NF"], second["split"]) == (2, 0, "train")
    assert third["split"] == "validation"
    assert reasons(found) == {"fer0028638.png": "missing_file"}
    assert found.ignored == {"row of labels without a picture": 1}


def test_ferplus_with_pixels(tmp_path):
    root = trees.fer2013(trees.ferplus_votes(tmp_path))
    rows = table(read(root, "ferplus"))
    assert list(rows) == [*("d/test/00003", "d/train/00000", "d/train/00001", "d/validation/00002")]
    assert rows["d/train/00001"]["emotion"] == "neutral"
    assert rows["d/test/00003"]["NF"] == 10 and "emotion" not in rows["d/test/00003"]
    # Another order of rows would give every picture another's votes.
    lines = (root / "fer2013new.csv").read_text().splitlines()
    (root / "fer2013new.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert "'split' is 'Training' in line 2 of fer2013.csv but 'PrivateTest' in line 2" in refused(
        root, "ferplus"
    )


def test_ck_plus(tmp_path):
    found = read(trees.ck_plus(tmp_path), "ck_plus")
    root = "d/cohn-kanade-images"
    assert table(found) == {
        f"{root}/S005/001/S005_001_00000001.png": {
            **{"subject": "S005", "sequence": "001", "frame": 1},
        },
        f"{root}/S005/001/S005_001_00000002.png": {
            **{"subject": "S005", "sequence": "001", "frame": 2, "emotion": "disgust"},
        },
        f"{root}/S010/002/S010_002_00000001.png": {
            **{"subject": "S010", "sequence": "002", "frame": 1},
        },
    }


@pytest.mark.parametrize(
    ("layout", "split", "labels"),
    [
        ("expression", "train", [{"emotion": "happiness"}, {}, {"emotion": "other"}]),
        (
            "valence_arousal",
            "validation",
            [{"valence": 0.5, "arousal": -0.25}, {}, {"valence": 0, "arousal": 1}],
        ),
        (
            "action_units",
            "train",
            [{"AU1": 0, "AU2": 1, "AU12": 0}, {}, {"AU1": 1, "AU2": 1, "AU12": 1}],
        ),
    ],
)
def test_aff_wild2(tmp_path, layout, split, labels):
    found = read(trees.aff_wild2(tmp_path), "aff_wild2", layout=layout)
    assert table(found) == {
        f"d/cropped_aligned/12-24/0000{n}.jpg": {
            **{"split": split, "sequence": "12-24", "frame": n, **row},
        }
        for n, row in enumerate(labels, 1)
    }
    assert reasons(found) == {"cropped_aligned/12-24/00003.jpg": "missing_file"}


def test_labels_that_contradict_the_description(tmp_path):
    root = trees.raf(tmp_path / "raf", (0, 1, 2))
    message = refused(root, "raf_db")
    assert "line 1 of EmoLabel/list_patition_label.txt is 0, which is no class of RAF-DB" in message
    root = trees.raf(tmp_path / "other", (1, 2, 3))
    facts = load_description("raf_db").layouts["aligned"]
    text = (
        "[class_numbers]\n0 = 'neutral'\n1 = 'happiness'\n2 = 'sadness'\n3 = 'surprise'\n"
        f"[layouts.mine]\npictures = '{facts.pictures[0]}'\npath = '{facts.path}'\n"
        "[[layouts.mine.labels]]\nfiles = 'EmoLabel/*.txt'\nheader = ['path', 'emotion']\n"
    )
    message = refused(root, release_file=own(tmp_path, text))
    assert "says that 0 is neutral" in message and "--release raf_db" in message


def test_basic_emotions_are_not_read_as_compound_ones(tmp_path, caplog):
    """Both releases lie on disk alike; the classes that never occur tell them apart."""
    root = trees.raf(tmp_path / "few", (5, 1, 7))
    read(root, "raf_db_compound")
    assert "classes of RAF-DB, too: is it --release raf_db?" in caplog.text
    rows = [f"train_{n:05}.jpg {n % 7 + 1}" for n in range(1000)]
    trees.text(root, "EmoLabel/list_patition_label.txt", *rows)
    message = refused(root, "raf_db_compound")
    assert "no row is angrily disgusted or" in message and "use --release raf_db" in message
    trees.text(root, "EmoLabel/list_patition_label.txt", *rows, "train_01000.jpg 11")
    caplog.clear()
    read(root, "raf_db_compound")
    assert "does the release number its classes as described" in caplog.text
    assert "no class of RAF-DB" in refused(root, "raf_db")


def test_counts_that_cannot_be(tmp_path):
    """A RAF folder read with AffectNet's order has another number of neutral faces."""
    root = trees.raf(tmp_path)
    rows = [f"train_{n:05}.jpg 1" for n in range(12_272)]
    trees.text(root, "EmoLabel/list_patition_label.txt", *rows)
    assert "has 12,272 labelled rows in split train, but RAF-DB has 12,271" in refused(
        root, "raf_db"
    )
    rows = [f"test_{n:04}.jpg 2" for n in range(75)]
    trees.text(root, "EmoLabel/list_patition_label.txt", *rows, "test_9999.jpg 1")
    trees.picture(root, "Image/aligned/test_9999_aligned.jpg")
    assert "75 test rows of fear, but RAF-DB has 74" in refused(root, "raf_db")


def test_a_folder_that_is_not_laid_out_so(tmp_path):
    raf = trees.raf(tmp_path / "release/basic")
    assert f"give --input {raf}" in refused(tmp_path / "release", "raf_db")
    message = refused(raf, "affectnet")
    assert "it has no Manually_Annotated_file_lists" in message and "--release raf_db" in message
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "normpipe releases bp4d says" in refused(empty, "bp4d")
    assert "no folder" in refused(tmp_path / "none", "bp4d")
    assert "did you mean 'bp4d'" in refused(empty, "bp4")


def test_a_release_without_its_pictures(tmp_path):
    root = trees.raf(tmp_path)
    for path in (root / "Image/aligned").iterdir():
        path.unlink()
    message = refused(root, "raf_db")
    assert "no pictures of RAF-DB: they belong at Image/aligned/" in message


def hostile(root: Path, name: str, data: bytes) -> str:
    """Return the one line about a RAF-DB whose list is so."""
    (root / name).write_bytes(data)
    return refused(root, "raf_db")


def test_broken_label_files_are_one_line(tmp_path):
    root, name = trees.raf(tmp_path), "EmoLabel/list_patition_label.txt"
    assert "is not UTF-8" in hostile(root, name, b"\xff\xfea\x00")
    assert "has 1 cells, not 2 (path, emotion)" in hostile(root, name, b"train_00001.jpg\n")
    assert "no file EmoLabel/list_patition_label.txt with rows" in hostile(root, name, b"")
    message = hostile(root, name, b"../../x.jpg 1\n")
    assert "none of the 3 pictures" in message and "the first is Image/aligned/x_aligned" in message
    outside = tmp_path.parent / f"{tmp_path.name}.txt"
    outside.write_text("secret 1\n")
    (root / name).unlink()
    (root / name).symlink_to(outside)
    message = refused(root, "raf_db")
    assert "outside root" in message and "secret" not in message


def test_numbers_and_line_ends_as_people_write_them(tmp_path):
    root, name = trees.raf(tmp_path), "EmoLabel/list_patition_label.txt"
    text = "\ufefftrain_00001.jpg  5.0000e+00 \r\n\r\ntest_0001.jpg\t+7\r\n"
    (root / name).write_text(text, encoding="utf-8", newline="")
    found = table(read(root, "raf_db", labelled_only=True))
    assert [row["emotion"] for row in found.values()] == ["neutral", "sadness"]
    (root / name).write_text("train_00001.jpg 5\n\ntest_0001.jpg 9\n")
    assert "line 3 of EmoLabel" in refused(root, "raf_db")


def test_a_release_of_one_s_own(tmp_path):
    """Patterns alone, votes, one-hot columns, words for emotions."""
    root = tmp_path / "in"
    trees.picture(root, "a/p1/AN/1.jpg", "b/p2/x/2.jpg")
    text = (
        "[class_names]\nan = 'anger'\nx = ''\n[splits]\na = 'train'\n"
        "[layouts.mine]\npictures = '{split}/{subject}/{emotion}/*.jpg'\n"
    )
    found = table(read(root, "", release_file=own(tmp_path, text)))
    assert list(found.values()) == [
        {"subject": "p1", "split": "train", "emotion": "anger"},
        {"subject": "p2", "split": "b"},
    ]
    message = refused(root, release_file=own(tmp_path, text.replace("x = ''", "")))
    assert "the emotion in b/p2/x/2.jpg is 'x'" in message
    trees.text(root, "hot.csv", "file,hap,ang,n", "a/p1/AN/1.jpg,0,1,3", "b/p2/x/2.jpg,0,0,1")
    text = (
        "[layouts.mine]\npath = '{path}'\npictures = '**'\n[[layouts.mine.labels]]\n"
        "files = 'hot.csv'\ncolumns = {path = 'file', fear_votes = 'n'}\n"
        "one_hot = {happiness = 'hap', anger = 'ang'}\n"
    )
    found = table(read(root, "", release_file=own(tmp_path, text)))
    assert list(found.values()) == [{"emotion": "anger", "fear_votes": 3}, {"fear_votes": 1}]
    trees.text(root, "hot.csv", "file,hap,ang,n", "a/p1/AN/1.jpg,1,1,3")
    message = refused(root, release_file=own(tmp_path, text))
    assert "line 2 of hot.csv is marked as happiness and anger" in message
    trees.text(root, "hot.csv", "file,hap,n", "a/p1/AN/1.jpg,1,3")
    assert "has no column 'ang'" in refused(root, release_file=own(tmp_path, text))


OWN = (
    "[layouts.a]\npictures = '{split}/{subject}/{_n}.jpg'\npath = 'a/{subject}/{_n}.jpg'\n"
    "match = ['subject', '_n']\n[[layouts.a.labels]]\nfiles = 'l.csv'\n"
)


@pytest.mark.parametrize(
    ("text", "lines", "said"),
    [
        (OWN, ["subject,_n,emotion", "x,1,sad", "x,1,happy"], "line 2 of l.csv and line 3 of l.cs"),
        (OWN, ["subject,_n,bbox_xyxy", "x,1,b"], "'bbox_xyxy' in line 2 of l.csv is 'b'"),
        (OWN, ["subject,_n,emotion"], "no file l.csv with rows"),
        (OWN.replace("'_n']", "'_m']"), [], "match = '_m': no pattern of pictures has {_m}"),
        ("[layouts.a]\npictures = '{path}/*.jpg'", [], "{path} in pictures: choose another name"),
        (
            OWN + "one_hot = { anger = 'a', fear = 'f' }",
            ["subject,_n,a,f", "y,2,0,0", "x,1,1,1.0"],
            "line 3 of l.csv is marked as anger and fear",
        ),
        (
            OWN + "one_hot = { anger = 'a', fear = 'f' }",
            ["subject,_n,a,f", "x,1,0,2"],
            "'f' in line 2 of l.csv is '2', but one-hot columns are 0 or 1",
        ),
    ],
)
def test_messages_about_one_s_own_release_say_where(tmp_path, text, lines, said):
    trees.picture(tmp_path, "train/x/1.jpg")
    trees.text(tmp_path, "l.csv", *lines)
    assert said in refused(tmp_path, release_file=own(tmp_path, text))


def test_a_pattern_that_would_never_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("normpipe.manifests.layouts.SECONDS", 0.05)
    trees.picture(tmp_path, f"{'a' * 60}bx.jpg")
    text = "[layouts.a]\npictures = '{_a}{_b}{_c}{_d}{_e}{_a}{_b}{_c}{_d}{_e}x.jpg'"
    message = refused(tmp_path, release_file=own(tmp_path, text))
    assert "takes longer than 0.05 s to compare with 'aaaaaa" in message
    # ** that share their folders: each is entered once.
    trees.picture(tmp_path, f"{'d/' * 40}1.jpg")
    stars = f"[layouts.a]\nneeds = '{'**/' * 9}x.jpg'\npictures = '**/*.jpg'"
    assert "it has no **/**" in refused(tmp_path, release_file=own(tmp_path, stars))


def test_settings_of_lists_are_not_of_releases(tmp_path):
    root = trees.raf(tmp_path)
    assert "ingest.emotion_names is for lists" in refused(root, "raf_db", emotion_names=("a",))
    assert "ingest.class_per_folder" in refused(root, "raf_db", class_per_folder=True)
    found = read(root, "raf_db", limit=2)
    assert found.rows.num_rows == 2 and not found.complete


def test_a_known_release_is_recognized(tmp_path, caplog):
    for name, build in (
        ("raf_db", trees.raf),
        ("affectnet", trees.affectnet_lists),
        ("affectnet", trees.affectnet_arrays),
        ("bp4d", trees.bp4d),
        ("ck_plus", trees.ck_plus),
        ("aff_wild2", trees.aff_wild2),
    ):
        caplog.clear()
        root = build(tmp_path / build.__name__)
        Ingest(IngestConfig(), root, "d").scan()
        assert f"normpipe run --release {name} --input {root} --output " in caplog.text


def test_folders_of_splits_and_emotions_get_advice(tmp_path, caplog):
    trees.picture(tmp_path / "a", "happy/1.jpg", "sad/2.jpg")
    Ingest(IngestConfig(), tmp_path / "a", "d").scan()
    assert "--set ingest.class_per_folder=true" in caplog.text
    caplog.clear()
    Ingest(IngestConfig(class_per_folder=True), tmp_path / "a", "d").scan()
    assert not caplog.text
    trees.picture(tmp_path / "b", "train/x/1.jpg", "test/2.jpg")
    Ingest(IngestConfig(), tmp_path / "b", "d").scan()
    assert "--release folders" in caplog.text
    found = Ingest(IngestConfig(release="folders"), tmp_path / "b", "d").scan()
    assert found.labels["split"].to_pylist() == ["test", "train"]
    trees.picture(tmp_path / "c", "anna/1.jpg", "happy/2.jpg")
    caplog.clear()
    Ingest(IngestConfig(), tmp_path / "c", "d").scan()
    assert not caplog.text


@pytest.mark.parametrize("name", described())
def test_columns_of_descriptions_are_labels(name):
    for layout in load_description(name).layouts.values():
        columns = [column for one in layout.labels for column in one.columns]
        assert not {*columns} & RESERVED - {"path"}
