"""The pages of a report in a real browser: what they show, and that hostile names do nothing."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from normpipe.manifests.schema import ALIGNED, MANIFEST, NORMALIZED
from normpipe.pipeline.care.exclude import exclude, read_key_list
from normpipe.pipeline.care.status import status
from normpipe.pipeline.care.withdraw import described_datasets
from normpipe.pipeline.read.dataset import open_dataset
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter, write_table
from normpipe.stages.faces.pixels import encode
from normpipe.stages.review.faces_of_job import faces_of_job
from normpipe.stages.review.job_report import MARK_FILE, is_report, write_job_report
from normpipe.stages.review.near_duplicates import duplicate_groups, picture_hash
from normpipe.stages.review.report_columns import (
    column_of,
    distributions,
    doubts,
    nose_offsets,
    script,
)

from ..browsing import Tab, browsing
from ..pipeline.calling import call, refused
from ..pipeline.read.pictured import write_index

HOSTILE = [
    'd/<img src=x onerror="window.bad=1">.jpg',
    "d/</script><script>window.bad=2</script>.jpg",
    'd/a,"b"\'`${1}.jpg',
]
NAMES = [*HOSTILE, *(f"d/{n:03d}.jpg" for n in range(600))]
JOB = """dataset = "<b>d</b>"
input = "{input}"
input_root = "{input}"

[[flow]]
stage = "ingest"
reads = []
writes = "manifest"

[[flow]]
stage = "align"
reads = ["manifest"]
writes = "aligned"
"""


def picture(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return encode(np.repeat(np.repeat(small, 8, 0), 8, 1), "jpeg", 90)


def face(number: int, key: str) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "parent_key": key, "status": "ok", "decided_by": "align"}
    if number % 50 == 7:
        return row | {"status": "rejected", "reason": "no_face"}
    return row | {
        "image": {"bytes": picture(number if number != 9 else 8), "path": key},
        "sharpness": float(number), "brightness": 0.5, "detection_score": 1 - number / 1000,
        "landmarks": [[20, 20], [44, 20], [32 + number % 5, 34], [24, 48], [40, 48]],
        "transform": [[1, 0, 0], [0, 1, 0]], "bbox_xyxy": [8, 8, 56, 60],
    }  # fmt: skip


def write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]], reads: list[str]) -> None:
    shards = ShardFolder(folder)
    writer = ShardWriter(shards, 0, schema)
    writer.add(rows)
    writer.commit("x", None)
    made = {"stage": folder.name, "version": 1, "reads": reads, "device_class": "cpu"}
    shards.stage_path.write_text(json.dumps({**made, "digests": {"weights": "ab" * 32}}))
    write_index(shards)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job") / "out"
    photographs = root.parent / "photographs"
    photographs.mkdir()
    paths = [f"{n}.jpg" for n in range(len(NAMES))]
    for number in range(3):
        (photographs / paths[number]).write_bytes(picture(1000 + number))
    rows = [
        {"key": key, "parent_key": key, "status": "ok", "decided_by": "ingest", "path": path}
        for key, path in zip(NAMES, paths, strict=True)
    ]
    write(root / "manifest", MANIFEST, rows, [])
    faces = [face(number, key) for number, key in enumerate(NAMES)]
    write(root / "aligned", ALIGNED, faces, ["manifest"])
    for variant in ("one", "two"):
        made = []
        for number, row in enumerate(faces):
            kept = {name: row.get(name) for name in ("key", "parent_key", "status", "reason")}
            kept["decided_by"] = "align"
            if row["status"] == "ok":
                kept |= {"image": row["image"], "contrast": 0.2, "decided_by": "normalize"}
                if number == 20 and variant == "two":
                    kept |= {"status": "rejected", "reason": "black_output", "image": None}
            made.append(kept)
        write(root / f"normalized/{variant}", NORMALIZED, made, ["aligned"])
    labels = {
        "key": NAMES,
        "emotion": ["<i>anger</i>" if n % 3 else "fear" for n in range(len(NAMES))],
        "split": ["train" if n % 2 else "test" for n in range(len(NAMES))],
    }
    write_table(root / "labels.parquet", pa.table(labels))
    (root / "job.toml").write_text(JOB.format(input=photographs))
    return root


@pytest.fixture(scope="module")
def pages(job: Path) -> Path:
    done = call("report", job)
    assert done.exit_code == 0, done.output
    assert f"report: {job / 'report/index.html'} (603 rows" in done.stdout
    assert "600 originals are not shown: missing_file" in done.stderr
    return job / "report"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory, downloads: Path):
    with browsing(tmp_path_factory.mktemp("profile"), downloads) as found:
        yield found


def shown(tab: Tab, wanted: str = "true") -> list[str]:
    """Return the keys on the page, once it shows what is wanted."""
    tab.until(f"!!document.body.dataset.ready && ({wanted})")
    return tab.run("[...document.querySelectorAll('.card .key')].map(one => one.textContent)")


def test_the_overview_says_what_was_made(pages: Path, tab: Tab) -> None:
    tab.open(pages / "index.html")
    tab.until("document.querySelectorAll('.plot').length > 3")
    said = tab.run("document.body.innerText")
    for words in ("<b>d</b>", "no_face", "no face was found", "abababababab", "normalized/two"):
        assert words in said
    titles = tab.run("[...document.querySelectorAll('.plot h3')].map(one => one.textContent)")
    assert {"sharpness", "detection_score", "nose_offset", "one: contrast"} <= {*titles}
    tab.run("by('by').value = 'emotion'; by('by').onchange()")
    words = tab.run("[...document.querySelectorAll('.small span')].map(one => one.textContent)")
    assert words[:2] == ["<i>anger</i>", "fear"]
    assert tab.run("document.querySelectorAll('b i, td i, .plot i').length") == 0
    # A bar leads to its faces.
    href = tab.run("document.querySelector('.plot a').getAttribute('href')")
    assert href.startswith("faces.html#detection_score=..")


def test_faces_rejected_and_doubtful_ones_first(pages: Path, tab: Tab) -> None:
    tab.open(pages / "faces.html")
    keys = shown(tab)
    assert len(keys) == 60
    # The face that one variant spoils is rejected, too.
    first = tab.run("[...document.querySelectorAll('.card')].slice(0, 14).map(c => c.innerText)")
    assert all("rejected" in one for one in first[:13]) and "ok" in first[13]
    assert sum("black_output" in one for one in first) == 1
    assert tab.run("by('count').textContent") == "603 of 603"
    tiles = "[...document.querySelectorAll('.card')].find(c => c.innerText.includes('017'))"
    assert tab.run(f"!!{tiles}.querySelector('.tile:not(.none)')")
    picture = tab.run(f"{tiles}.querySelector('.tile:not(.none)').style.backgroundImage")
    assert (pages / picture.split('"')[1]).is_file()


def test_sorting_and_filtering(pages: Path, tab: Tab) -> None:
    tab.open(pages / "faces.html", "#split=test&sort=-sharpness")
    keys = shown(tab, "by('count').textContent == '302 of 603'")
    assert keys[:2] == ["d/599.jpg", "d/597.jpg"]
    tab.run("by('column').value = 'sharpness'; by('column').onchange();"
            "by('low').value = 100; by('high').value = 110; by('take').click()")  # fmt: skip
    keys = shown(tab, "by('count').textContent.startsWith('6 ')")
    assert keys == [f"d/{n:03d}.jpg" for n in (107, 105, 103, 101, 99, 97)]
    assert "sharpness=100..110" in tab.run("decodeURIComponent(location.hash)")
    tab.run("by('search').value = '</SCRIPT>'; by('chips').querySelectorAll('button')"
            ".forEach(one => one.click()); by('search').oninput()")  # fmt: skip
    assert shown(tab, "by('count').textContent.startsWith('1 ')") == [HOSTILE[1]]


def test_names_and_labels_are_text_and_nothing_is_loaded_from_elsewhere(
    pages: Path, tab: Tab
) -> None:
    tab.open(pages / "faces.html", "#sort=sharpness&reason=%3Cimg%20src=x%20onerror=1%3E")
    tab.until("by('count').textContent == '0 of 603'")
    tab.open(pages / "faces.html", "#sort=sharpness")
    assert [key for key in shown(tab) if "00" not in key][:3] == HOSTILE
    tab.run("document.querySelector('.card .more').click()")
    tab.until("document.querySelectorAll('dialog dd').length > 5")
    assert tab.run("document.querySelector('dialog dd').textContent") == HOSTILE[0]
    assert tab.run("document.querySelectorAll('.card img, dialog img').length") == 0
    assert tab.run("window.bad") is None
    assert tab.requests == [] and tab.errors == []


def test_marked_faces_are_excluded_with_the_downloaded_list(
    pages: Path, tab: Tab, job: Path, downloads: Path, tmp_path: Path
) -> None:
    tab.open(pages / "faces.html", "#sort=sharpness")
    keys = shown(tab)
    tab.run("[...document.querySelectorAll('.pictures')].slice(0, 4).forEach(one => one.click())")
    tab.run(
        "document.querySelectorAll('.pictures')[3].click(); by('why').value = 'not, a \"face\"'"
    )
    assert tab.run("by('download').textContent") == "exclude.csv (3)"
    tab.run("by('download').click()")
    tab.until("true")
    wait_for_file(tab, downloads / "exclude.csv")
    rows = list(csv.reader((downloads / "exclude.csv").read_text().splitlines()))
    assert rows == [["key", "reason"], *([key, 'not, a "face"'] for key in sorted_as(keys[:3]))]
    copy = shutil.copytree(job, tmp_path / "out")
    done = exclude(copy, read_key_list(downloads / "exclude.csv"))
    assert done.changed == 3
    gone = open_dataset(copy / "aligned", status="excluded")
    assert {*gone.keys} == {*keys[:3]} and len(open_dataset(copy / "aligned")) == 588
    assert gone.table["reason"][0].as_py() == 'not, a "face"'
    # The next report says so.
    assert call("report", copy, "--no-originals", "--to", tmp_path / "second").exit_code == 0
    tab.open(tmp_path / "second/faces.html", "#status=excluded")
    assert {*shown(tab, "by('count').textContent == '3 of 603'")} == {*keys[:3]}


def sorted_as(keys: list[str]) -> list[str]:
    """Return keys in the order of the rows."""
    return sorted(keys, key=NAMES.index)


def wait_for_file(tab: Tab, path: Path) -> None:
    for _ in range(500):
        if path.is_file():
            return
        tab.run("new Promise(done => setTimeout(done, 20))")
    raise AssertionError(f"{path} was not downloaded; {tab.errors}")


def test_near_duplicates_stand_together(pages: Path, tab: Tab) -> None:
    tab.open(pages / "faces.html")
    shown(tab)
    tab.run("by('twice').click()")
    keys = shown(tab, "by('count').textContent.startsWith('2 ')")
    assert keys == ["d/005.jpg", "d/006.jpg"]
    tab.run("by('markothers').click()")
    tab.until("by('download').textContent == 'exclude.csv (1)'")


def test_it_fits_a_phone(pages: Path, tab: Tab) -> None:
    phone = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    tab.call("Emulation.setDeviceMetricsOverride", **phone)
    for name in ("index.html", "faces.html"):
        tab.open(pages / name)
        tab.until("document.querySelectorAll('.plot, .card').length > 3")
        assert tab.run("document.documentElement.scrollWidth") <= 380
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_coefficients_show_where_the_pointer_rests(job: Path, tab: Tab, tmp_path: Path) -> None:
    found = faces_of_job(job, status(job), described_datasets(job), False, "")
    values = [None if n % 50 == 7 else n % 10 / 10 for n in range(len(NAMES))]
    measured = {"yaw_deg": values, "AU1": values, "jawOpen": [v and 1 - v for v in values]}
    write_job_report(replace(found, measured=pa.table(measured)), tmp_path / "made")
    tab.open(tmp_path / "made/faces.html", "#sort=sharpness")
    shown(tab)
    tab.run(
        "document.querySelectorAll('.pictures')[3]"
        ".dispatchEvent(new PointerEvent('pointerenter', {clientX: 50, clientY: 50}))"
    )
    said = tab.until("!by('tip').hidden && by('tip').innerText")
    assert said.split() == ["jawOpen", "0.70", "AU1", "0.30"]
    tab.open(tmp_path / "made/index.html")
    tab.until("[...document.querySelectorAll('.plot h3')].some(one => one.innerText == 'yaw_deg')")


def test_a_report_replaces_only_a_report(pages: Path, job: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    refused(call("report", job, "--to", tmp_path / "mine"), "is no report", "--to")
    assert not list(tmp_path.glob("*.tmp"))
    made = tmp_path / "made"
    shutil.copytree(pages, made)
    (made / "old").write_text("of before")
    (tmp_path / "made.tmp").mkdir()
    (tmp_path / "made.tmp/old").write_text("of a report that was killed")
    assert call("report", job, "--to", made, "--no-originals").exit_code == 0
    assert is_report(made) and not (made / "old").exists() and not list(tmp_path.glob("*.tmp"))
    assert {*(path.name for path in made.iterdir())} == {
        "index.html", "faces.html", "report.css", "report.js", MARK_FILE, "data", "pictures",
    }  # fmt: skip


def test_a_job_that_has_only_begun_and_one_with_nothing_usable(
    job: Path, tab: Tab, tmp_path: Path
) -> None:
    begun = shutil.copytree(job, tmp_path / "begun", ignore=shutil.ignore_patterns("report"))
    for name in ("normalized", "aligned", "_aligned"):
        shutil.rmtree(begun / name)
    assert call("report", begun, "--to", tmp_path / "one").exit_code == 0
    tab.open(tmp_path / "one/faces.html")
    assert len(shown(tab)) == 60
    rows = [face(7, key) for key in NAMES[:5]]
    write(begun / "aligned", ALIGNED, rows, ["manifest"])
    assert call("report", begun, "--to", tmp_path / "two", "--no-originals").exit_code == 0
    tab.open(tmp_path / "two/index.html")
    tab.until("document.body.innerText.includes('No face is usable')")
    shutil.rmtree(begun / "manifest")
    shutil.rmtree(begun / "aligned")
    refused(call("report", begun), "has no finished shard")
    refused(call("report", tmp_path), "holds no normpipe job")


def test_what_is_measured_of_columns() -> None:
    sharp = column_of("sharpness", pa.array([1.0, 5.0, 3.0, None]))
    bright = column_of("brightness", pa.array([0.5, 0.5, 0.5, 0.5]))
    word = column_of("split", pa.chunked_array([["b", "a", "a", None]]))
    assert sharp and bright and word and word.words == ("a", "b")
    assert word.values.tolist() == [2, 1, 1, 0]
    assert column_of("box", pa.array([[1.0]])) is None
    worst = doubts([sharp, bright])
    assert worst[0] > worst[2] > worst[1] and worst[3] == 0
    (found,) = distributions([sharp, bright, word], ["sharpness"])
    assert sum(found["all"]) == found["known"] == 3 and found["median"] == 3
    assert sum(found["by"]["split"]["a"]) == 2
    points = [[[0, 0], [10, 0], [7, 5], [0, 0], [0, 0]], None]
    offsets = nose_offsets(points, [[[0, -1, 9], [1, 0, 9]], None])
    assert offsets[0] == pytest.approx(0.2) and np.isnan(offsets[1])
    assert b"</" not in script("k0", {"key": ["</script>"]})


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (300, 12, 12, 3), np.uint8)
    pictures = [np.repeat(np.repeat(one, 10, 0), 10, 1) for one in small]
    again = [
        np.clip(one.astype(int) + rng.integers(-6, 7, one.shape), 0, 255) for one in pictures[:3]
    ]
    hashes = np.stack([picture_hash(np.asarray(one, np.uint8)) for one in [*pictures, *again]])
    groups = duplicate_groups(np.concatenate([hashes, np.zeros((5, 32), np.uint8)]))
    assert groups[:3].tolist() == groups[300:303].tolist() == [1, 2, 3]
    assert not groups[3:300].any() and not groups[303:].any()
    same = np.repeat(hashes[:1], 2000, 0)  # one film: a bucket larger than any limit
    assert duplicate_groups(same).tolist() == [1] * 2000
    assert duplicate_groups(hashes[:0]).tolist() == []


def test_a_report_in_the_job_goes_with_a_withdrawn_person(job: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(job, tmp_path / "out")
    assert call("report", copy, "--no-originals").exit_code == 0
    done = call("withdraw", copy, "--key", "d/003.jpg")
    assert done.exit_code == 0, done.output
    assert not any(path.is_file() for path in (copy / "report").rglob("*"))


def test_writing_beside_another_report_is_refused(job: Path, tmp_path: Path) -> None:
    from normpipe.pipeline.store.lock import locked

    with locked(tmp_path / "made.tmp"):
        done = call("report", job, "--to", tmp_path / "made", "--no-originals")
    refused(done, "another normpipe is running")
