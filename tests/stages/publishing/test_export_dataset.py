"""Exports open in other tools, have every row or say why not, and survive kills."""

import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import datasets
import mlcroissant
import numpy as np
import pandas
import pytest
import webdataset
from PIL import Image, PngImagePlugin

from normpipe.manifests.datasets import load_description
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.store.labels import LABELS_FILE
from normpipe.stages.faces.picture_bytes import without_texts
from normpipe.stages.publishing import export_dataset, export_files
from normpipe.stages.publishing.export_plan import choose_variant, file_stem
from normpipe.stages.publishing.export_sums import changed_files
from normpipe.stages.publishing.hashed_keys import hash_text

from ...pipeline.calling import call, refused
from .exports import NAMES, export, facts, make_job, plan_of, tree

SALT = bytes(range(32))
SPLITS = {"train": 14, "test": 8, "unassigned": 2}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("job"), dataset="faces")


@pytest.fixture(scope="module")
def hub(job, tmp_path_factory):
    target = tmp_path_factory.mktemp("hub") / "set"
    export(job, target, file_rows=5, with_originals=True)
    return target


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def grey(picture: Image.Image) -> int:
    return int(np.asarray(picture.convert("L")).mean())


def test_every_row_is_exported_or_counted(job, tmp_path):
    done = export(job, tmp_path / "out")
    assert done.about["splits"] == SPLITS
    assert done.about["rows"] == 26 and done.about["exported"] == 24
    assert done.about["left_out"] == {"failed: truncated": 1, "rejected: no_face": 1}
    assert done.lines()[:2] == [
        "24 of 26 rows exported: train 14, test 8, unassigned 2",
        "2 left out: failed: truncated 1, rejected: no_face 1",
    ]
    card = (tmp_path / "out/README.md").read_text()
    assert "| rejected: no\\_face | 1 | no face was found |" in card
    assert "| train | 14 |" in card and "Licence: CC-BY-4.0" in card


def test_datasets_opens_a_hub_export(hub, caplog):
    found = datasets.load_dataset(str(hub))
    assert {name: len(rows) for name, rows in found.items()} == SPLITS
    assert "Ignoring" not in caplog.text  # of the card's head
    rows = found["train"]
    names = rows.features["emotion"].names
    assert names == ["neutral", "happiness", "anger"]
    assert isinstance(rows.features["image"], datasets.Image)
    first = rows[0]
    assert first["key"] == "faces/bert/0.smile.jpg" and names[first["emotion"]] == "happiness"
    assert (grey(first["image"]), grey(first["original"])) == (100, 10)
    assert first["AU12"] is None and "subject" not in first and "camera" not in first
    by_key = {row["key"]: row for part in found.values() for row in part}
    assert by_key["faces/anna/7.smile.jpg"]["emotion"] is None
    assert (hub / "data/train-00002-of-00003.parquet").is_file()


def test_classes_have_the_order_of_the_task(job):
    plan = plan_of(job, load_description("raf_db"))
    assert [*plan.classes][:4] == ["surprise", "fear", "disgust", "happiness"]
    assert sum(plan.classes.values()) == 19 and plan.classes["fear"] == 0


def test_checksums_are_those_of_sha256sum(hub):
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=hub, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {line.split("  ")[1] for line in (hub / "SHA256SUMS").read_text().splitlines()}
    assert listed | {"SHA256SUMS"} == tree(hub).keys()
    assert changed_files(hub) == []


def test_croissant_is_valid_and_reads_records(hub):
    found = mlcroissant.Dataset(jsonld=str(hub / "croissant.json"))
    assert not found.metadata.issues.errors
    rows = [*found.records(record_set="test")]
    assert len(rows) == SPLITS["test"]
    assert rows[0]["test/key"] == b"faces/bert/2.smile.jpg" and grey(rows[0]["test/image"]) == 102


def test_webdataset_reads_the_archives(job, tmp_path):
    export(job, tmp_path / "out", "webdataset", file_rows=5, with_originals=True)
    files = sorted(str(path) for path in (tmp_path / "out").glob("set-train-*.tar"))
    assert len(files) == 3
    rows = [*webdataset.WebDataset(files, shardshuffle=False).decode("pil")]
    assert len(rows) == 14
    assert rows[0]["json"] == {
        "key": "faces/bert/0.smile.jpg",
        "split": "train",
        "emotion": "happiness",
        "AU12": None,
    }
    assert (grey(rows[0]["png"]), grey(rows[0]["original.png"])) == (100, 10)
    with tarfile.open(files[0]) as archive:
        assert {(one.uid, one.mtime, one.uname) for one in archive} == {(0, 0, "")}


def test_imagefolder_opens_a_folder(job, tmp_path):
    export(
        job, tmp_path / "out", "folder", with_originals=True, columns=("split", "emotion", "AU12")
    )
    assert (tmp_path / "out/test/anger/bert=2F2=2Esmile.png").is_file()
    found = datasets.load_dataset(str(tmp_path / "out"))
    assert {name: len(rows) for name, rows in found.items()} == SPLITS
    row = found["train"][0]
    assert (row["key"], row["emotion"], row["AU12"]) == (
        "faces/bert/0.smile.jpg",
        "happiness",
        None,
    )
    assert (grey(row["image"]), grey(row["original"])) == (100, 10)
    found = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 14, "test": 8}


def test_pandas_reads_plain_parquet(job, tmp_path):
    export(job, tmp_path / "out", "parquet", file_rows=5)
    rows = pandas.read_parquet(tmp_path / "out/train")
    assert [*rows.columns] == ["key", "split", "emotion", "AU12", "image"]
    assert len(rows) == 14 and grey(Image.open(io.BytesIO(rows["image"][0]))) == 100
    assert "original" not in rows


@pytest.mark.parametrize("layout", export_files.FORMATS)
def test_a_stopped_export_ends_with_the_same_bytes(layout, job, tmp_path, monkeypatch):
    export(job, tmp_path / "whole", layout, file_rows=4)
    steps = 0

    class Killed(BaseException):
        pass

    def stop_at(real, last):
        def step(*values, **more):
            nonlocal steps
            steps += 1
            if steps == last:
                raise Killed
            return real(*values, **more)

        return step

    last = 1
    while True:
        steps = 0
        with monkeypatch.context() as patch:
            for module, name in (
                (export_dataset, "write_json"),
                (export_dataset, "write_bytes"),
                (export_files, "commit_file"),
                (export_files, "_write_picture"),
                (export_dataset, "fsync_folder"),
            ):
                patch.setattr(module, name, stop_at(getattr(module, name), last))
            try:
                export(job, tmp_path / "out", layout, file_rows=4)
                break
            except Killed:
                last += 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert export(job, tmp_path / "out", layout, file_rows=4).again


def test_parts_that_are_whole_are_not_made_again(job, tmp_path, monkeypatch):
    target = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(export_dataset, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(job, target)
    with monkeypatch.context() as patch:
        patch.setattr(export_files, "_write_whole", lambda *_: 1 / 0)
        assert not export(job, target).again
    assert not (target / ".export").exists()


def test_other_contents_are_refused_or_replaced(job, tmp_path):
    target = tmp_path / "out"
    export(job, target, "folder")
    with pytest.raises(OutputError, match=r"another export.*--overwrite"):
        export(job, target, "hub")
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not of the export \(mine.txt\)"):
        export(job, target, "hub", overwrite=True)
    (target / "mine.txt").unlink()
    export(job, target, "hub", overwrite=True)
    export(job, tmp_path / "fresh", "hub")
    assert tree(target) == tree(tmp_path / "fresh")
    (target / "README.md").write_text("changed")
    with pytest.raises(OutputError, match=r"changed since.*README.md"):
        export(job, target, "hub")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        export(job, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("layout", export_files.FORMATS)
def test_hashed_exports_name_nobody(layout, job, tmp_path):
    columns = ("split", "emotion", "subject", "camera")
    for name in ("one", "two"):
        export(job, tmp_path / name, layout, salt=SALT, columns=columns, with_originals=True)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    secret = re.compile("|".join([*NAMES, "smile", str(tmp_path), SALT.hex()]).encode())
    for name, data in tree(tmp_path / "one").items():
        assert not secret.search(name.encode() + data), name
    if layout == "hub":
        rows = datasets.load_dataset(str(tmp_path / "one"), split="train")
        assert rows[0]["key"] == hash_text(SALT, "faces/bert/0.smile.jpg")
        assert rows[0]["subject"] == hash_text(SALT, "S00") != rows[1]["subject"]
        assert len({*rows["key"]}) == 14 and rows[0]["camera"] == "left"
    other = hash_text(bytes(32), "faces/bert/0.smile.jpg")
    assert other != hash_text(SALT, "faces/bert/0.smile.jpg")


def test_columns_that_would_give_away_places_are_refused(tmp_path):
    job = make_job(tmp_path / "job")
    table = pandas.read_parquet(job / LABELS_FILE)
    table["from"] = "https://example.org/a"
    table["file"] = "raw/1.png"
    table.to_parquet(job / LABELS_FILE)
    with pytest.raises(InputError, match="column 'from' holds paths or addresses"):
        plan_of(job, columns=("from",))
    plan_of(job, columns=("file",))
    with pytest.raises(InputError, match="column 'file' holds paths"):
        plan_of(job, columns=("file",), salt=SALT)
    with pytest.raises(InputError, match=r"no column 'emotoin'.*'emotion'"):
        plan_of(job, columns=("emotoin",))
    with pytest.raises(InputError, match="no column 'parent_key'"):
        plan_of(job, columns=("parent_key",))


def test_a_variant_is_chosen(job, tmp_path):
    assert choose_variant(job, "") == "compact"
    with pytest.raises(InputError, match=r"no normalized variant 'compac'.*'compact'"):
        choose_variant(job, "compac")
    with pytest.raises(InputError, match="has no normalized faces"):
        choose_variant(tmp_path, "")


def test_stems_are_names_of_files_and_differ():
    keys = [
        "d/a",
        "d/a.jpg",
        "d/a.png",
        "d/a.png.jpg",
        "d/a=",
        "d/a=.jpg",
        "d/a/b.jpg",
        "d/a=2Fb.jpg",
    ]
    keys += ["d/../x.jpg", "d/a.jpg#face1", "d/" + "é" * 300 + ".jpg", "d/" + "é" * 301 + ".jpg"]
    stems = [file_stem(key) for key in keys]
    assert len({*stems}) == len(keys)
    for stem in stems:
        assert not set(stem) & set("./\\:") and len(stem.encode()) <= 150 and stem
    assert file_stem("d/anna_1.jpg") == "anna_1"


def test_pictures_keep_their_pixels_and_lose_their_texts():
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    exif = Image.Exif()
    exif[0x010E] = "anna in Paris"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "anna")
    for kind, more in (("JPEG", {"comment": b"anna"}), ("PNG", {"pnginfo": notes})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, exif=exif, **more)
        plain = without_texts(buffer.getvalue(), "k")
        assert b"anna" in buffer.getvalue() and b"anna" not in plain
        before, after = (np.asarray(Image.open(io.BytesIO(d))) for d in (buffer.getvalue(), plain))
        assert np.array_equal(before, after)
        assert without_texts(plain, "k") == plain
        with pytest.raises(InputError, match="k is damaged"):
            without_texts(plain[:40], "k")
    with pytest.raises(InputError, match="neither JPEG nor PNG"):
        without_texts(b"GIF89a", "k")


def test_texts_of_users_have_no_meaning_in_a_card(job, tmp_path):
    evil = 'x"\n---\n# <script> | `a` {{ 1 }}'
    plan = plan_of(job)
    export_dataset.export_dataset(plan, facts(evil), "hub", tmp_path / "out", False)
    card = (tmp_path / "out/README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert json.loads(head)["license"] == "other"
    assert "<script>" not in body and "{{ 1 }}" in body and "\n# <" not in body
    assert len(datasets.load_dataset(str(tmp_path / "out"), split="test")) == 8


def test_exports_of_a_dataset_that_is_gone(job, tmp_path):
    other = make_job(tmp_path / "job")
    for path in (other / "aligned").iterdir():
        path.unlink()
    plan_of(other)
    with pytest.raises(InputError):
        plan_of(other, with_originals=True)
    assert not (tmp_path / "out").exists()
    assert Path(job / "aligned").is_dir()


def test_excluded_rows_are_left_out_and_counted(samples_job, tmp_path):
    """Of a real job; taken in again, they make another export."""
    job, out = tmp_path / "job", tmp_path / "out"
    shutil.copytree(samples_job, job)
    done = call("exclude", job, "--where", "emotion == 'happiness'", "--reason", "blurred")
    assert done.exit_code == 0, done.output
    done = call("export", job, "--to", out)
    assert done.exit_code == 0, done.output
    assert "17 of 27 rows exported" in done.stdout and "excluded: blurred 8" in done.stdout
    labels = pandas.read_parquet(out / "data", columns=["key"])["key"].tolist()
    assert len(labels) == 17 and not any("happiness" in key for key in labels)
    assert call("exclude", job, "--undo").exit_code == 0
    refused(call("export", job, "--to", out), "--overwrite")
