"""``--release`` on the command line: from a raw release to aligned faces, and resumed."""

import json
import re
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ...stages import release_trees as trees
from ...test_house import ROOT
from ..calling import call, refused

ALIGN = ["--until", "align", "--set", "align.detector=none", "--set", "run.threads=1"]


def labels(out: Path) -> dict[str, dict]:
    rows = pq.read_table(out / "labels.parquet").to_pylist()
    return {row.pop("key"): row for row in rows}


def status_of(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "aligned").to_pylist()
    return {row["key"]: row["reason"] or row["status"] for row in rows}


def test_raf_db_from_the_release_to_faces(tmp_path: Path) -> None:
    root, out = trees.raf(tmp_path / "raf"), tmp_path / "out"
    first = call("run", "--release", "raf_db", "--input", root, "--output", out, *ALIGN)
    assert first.exit_code == 0, first.stderr
    assert status_of(out) == {
        "raf_db/Image/aligned/test_0001_aligned.jpg": "ok",
        "raf_db/Image/aligned/train_00001_aligned.jpg": "ok",
        "raf_db/Image/aligned/train_00002_aligned.jpg": "missing_file",
        "raf_db/Image/aligned/train_00009_aligned.jpg": "ok",
    }
    job = tomllib.loads((out / "job.toml").read_text())
    assert job["dataset"] == "raf_db" and job["ingest"]["release"] == "raf_db"
    made = (out / "labels.parquet").read_bytes()
    again = call("run", out, *ALIGN)
    assert again.exit_code == 0, again.stderr
    assert (out / "labels.parquet").read_bytes() == made
    assert call("verify", out).exit_code == 0


def test_fer2013_from_its_pixels_to_faces(tmp_path: Path) -> None:
    root, out = trees.fer2013(tmp_path / "fer"), tmp_path / "out"
    with (root / "fer2013.csv").open("a") as stream:
        stream.write("2,1 2 3,Training\n4,,Training\n5," + " 999" * 64 + ",Training\n")
    arguments = ("run", "--release", "fer2013", "--dataset", "f", "--input", root, "--output", out)
    result = call(*arguments, *ALIGN)
    assert result.exit_code == 0, result.stderr
    assert status_of(out) == {
        "f/test/00003": "ok",
        "f/train/00000": "ok",
        "f/train/00001": "ok",
        "f/train/00004": "not_an_image",
        "f/train/00005": "empty_file",
        "f/train/00006": "not_an_image",
        "f/validation/00002": "ok",
    }
    assert labels(out)["f/train/00001"] == {"split": "train", "emotion": "happiness"}
    sheet = call("sheet", out)
    assert sheet.exit_code in (0, 2) and "Traceback" not in sheet.output
    assert call("verify", out).exit_code == 0
    resumed = call("run", out, *ALIGN, "--retry-failed")
    assert resumed.exit_code == 0, resumed.stderr


def documented() -> str:
    text = (ROOT / "docs/releases.md").read_text(encoding="utf-8")
    found = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    """Return a folder laid out as the example of the docs, with its description beside it."""
    root = tmp_path / "studio"
    trees.picture(root, "faces/part-a/P01/1_aligned.png", "faces/part-b/P02/2_aligned.png")
    trees.picture(root, "faces/part-b/P02/9_aligned.png")
    trees.text(root, "shots.txt", "1;1.0;3", "2;-1;9", "3;2;0")
    (tmp_path / "my.toml").write_text(documented(), encoding="utf-8")
    return root


def test_the_description_in_the_docs_works(tmp_path: Path, studio: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "my.toml"
    given = ["run", "--release", file, "--input", studio, "--output", out, *ALIGN]
    result = call(*given)
    assert result.exit_code == 0, result.stderr
    none = dict.fromkeys(["subject", "split", "emotion", "AU12_intensity"])
    assert labels(out) == {
        "my/faces/none/3_aligned.png": {**none, "emotion": "contempt", "AU12_intensity": 0},
        "my/faces/part-a/P01/1_aligned.png": {
            **{"subject": "P01", "split": "train", "emotion": "happiness", "AU12_intensity": 3},
        },
        "my/faces/part-b/P02/2_aligned.png": {**none, "subject": "P02", "split": "test"},
        "my/faces/part-b/P02/9_aligned.png": {**none, "subject": "P02", "split": "test"},
    }
    shown = call("releases", file)
    assert shown.exit_code == 0 and "0 neutral, 1 happiness, 2 contempt, 3 (boredom)" in (
        shown.stdout
    )
    assert call("run", out, *ALIGN).exit_code == 0
    file.write_text(documented().replace('1 = "happiness"', '1 = "anger"'), encoding="utf-8")
    line = refused(call("run", out, *ALIGN), "is not the description that the job began with")
    assert "ingest.release_sha256=''" in line
    result = call("run", out, *ALIGN, "--set", "ingest.release_sha256=''")
    assert result.exit_code == 0, result.stderr
    assert labels(out)["my/faces/part-a/P01/1_aligned.png"]["emotion"] == "anger"
    assert call("run", out, *ALIGN).exit_code == 0
    file.unlink()
    refused(call("run", out, *ALIGN), "cannot read the description", str(file))


def test_a_job_file_names_a_description_beside_it(tmp_path: Path, studio: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        f"input = '{studio.name}'\noutput = 'out'\n[ingest]\nrelease_file = 'my.toml'\n"
        "[align]\ndetector = 'none'\n"
    )
    result = call("run", job, "--until", "ingest")
    assert result.exit_code == 0, result.stderr
    assert len(labels(tmp_path / "out")) == 4


def test_a_wrong_description_is_one_line(tmp_path: Path, studio: Path) -> None:
    file = tmp_path / "my.toml"
    given = ["run", "--release", file, "--input", studio, "--output", tmp_path / "out"]
    for text, words in (
        (documented().replace("[splits]", "[split]"), "unknown key 'split'; did you mean 'splits'"),
        (documented().replace('"shots.txt" ', '"shot.txt" '), "it has no shot.txt"),
        (documented().replace("separator", "separater"), "did you mean 'separator'"),
        (documented().replace('";"', '","'), "line 1 has 1 cells, not 3"),
        (documented().replace('2 = "contempt"\n', ""), "line 3 of shots.txt is 2, which is no"),
        ("title = 'x'", "says nothing of the layout"),
        ("title = ", "is no description of a release"),
    ):
        file.write_text(text, encoding="utf-8")
        refused(call(*given), words)
    refused(call(*given[:2], tmp_path / "none.toml", *given[3:]), "cannot read the description")
    refused(call(*given[:2], "raf", *given[3:]), "did you mean 'raf_db'")


def test_releases_lists_what_is_known() -> None:
    listed = call("releases")
    assert listed.exit_code == 0
    for name in ("affectnet", "disfa", "ferplus"):
        assert f"\n{name}: " in "\n" + listed.stdout
    assert "EmoLabel/list_patition_label.txt" in listed.stdout and "source: " in listed.stdout
    shown = call("releases", "raf_db")
    assert "1 surprise, 2 fear, 3 disgust" in shown.stdout
    facts = json.loads(call("releases", "raf_db", "--json").stdout)
    assert facts["class_numbers"]["7"] == "neutral"
    refused(call("releases", "raf"), "did you mean 'raf_db'")
    refused(call("releases", "--json"), "name it")
