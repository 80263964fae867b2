"""Normalized faces that others made become a variant of a job, like those that normalize makes."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import normpipe
from normpipe.manifests.schema import ALIGNED
from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.commands.running.workers import build_import, import_remote
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter
from normpipe.stages.classification.listing import list_faces, normalized_by
from normpipe.stages.faces.decoder import Decoded, Limits, Undecodable, decode_file
from normpipe.stages.importing import import_variant
from normpipe.stages.importing.import_plan import ImportConfig

from ..pipeline.calling import call, refused
from ..pipeline.living import digests

COUNT, SHARD = 12, 5


class InPlace:
    """Decodes in this process: starting others takes longer than all else in these tests."""

    def __init__(self, limits: Limits, bounds: object) -> None:
        del bounds
        self._limits = limits

    def start(self) -> None: ...

    def close(self) -> None: ...

    def decode(self, data: bytes) -> Decoded:
        try:
            return decode_file(data, self._limits)
        except Undecodable as error:
            raise SampleError(error.reason) from error


@pytest.fixture(autouse=True)
def _decode_in_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "hostile" not in request.node.name:
        monkeypatch.setattr(import_variant, "DecoderPool", InPlace)


def picture(seed: int, size: int = 24) -> Image.Image:
    noise = np.random.default_rng(seed).integers(20, 230, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job named as RAF-DB is: aligned, 12 inputs in three shards, with labels; one is broken."""
    folder = tmp_path_factory.mktemp("aligned")
    (folder / "photos").mkdir()
    with (folder / "photos/labels.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "emotion", "subject", "split"])
        for i in range(1, COUNT + 1):
            name = f"train_{i:05d}_aligned.jpg"
            picture(i, 40).save(folder / "photos" / name)
            emotion = ("happiness", "anger")[i % 2]
            writer.writerow([name, emotion, f"p{i}", "train" if i < 8 else "test"])
    (folder / "photos/train_00012_aligned.jpg").write_bytes(b"no picture")
    settings = ("align.detector=none", f"ingest.shard_rows={SHARD}", "align.isolate=false")
    given = [word for one in settings for word in ("--set", one)]
    result = call(
        "run", "--input", folder / "photos/labels.csv", "--output", folder / "out", *given,
        "--dataset", "raf", "--until", "align",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def out(aligned: Path, tmp_path: Path) -> Path:
    shutil.copytree(aligned / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "id1", seed: int = 100, leave_out: tuple[int, ...] = (3,)) -> Path:
        folder = tmp_path / "release" / name
        folder.mkdir(parents=True)
        for i in range(1, COUNT + 1):
            if i not in leave_out:
                picture(seed + i).save(folder / f"train_{i:05d}.png")
        picture(seed).save(folder / "train_99999.png")
        return folder

    return make


def imported(out: Path, folder: Path, variant: str, *more: object) -> str:
    result = call("import-variant", out, folder, "--variant", variant, *more)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(out: Path, name: str) -> dict[str, dict[str, object]]:
    folder = ShardFolder(out / name)
    tables = (pq.read_table(folder.shard(number)).to_pylist() for number in folder.records())
    return {row["key"].partition("/")[2]: row for table in tables for row in table}


def verdicts(out: Path, name: str) -> dict[str, str]:
    found = rows(out, name).items()
    return {key[6:11]: str(row["reason"]) for key, row in found if row["status"] != "ok"}


def test_every_aligned_face_has_a_row_and_what_is_left_is_listed(
    out: Path, release: Callable[..., Path]
) -> None:
    folder = release()
    dry = imported(out, folder, "norface-1", "--dry-run")
    assert "10 of 11 aligned faces have a picture, by name" in dry
    assert not (out / "normalized").exists()
    said = imported(out, folder, "norface-1", "--source", "a release; CC BY-NC 4.0")
    assert "1 aligned faces without a picture (rejected: not_in_import): raf/train_00003" in said
    assert "1 pictures without an original: train_99999.png" in said
    assert "train_00012_aligned.jpg (not_an_image)" in said
    assert f"next: normpipe run {out} --from pair\n" in said
    assert verdicts(out, "normalized/norface-1") == {
        "00003": "not_in_import", "00012": "not_an_image",
    }  # fmt: skip
    row = rows(out, "normalized/norface-1")["train_00001_aligned.jpg"]
    assert row["image"]["bytes"] == (folder / "train_00001.png").read_bytes()
    assert row["image"]["path"] == "raf/train_00001_aligned.jpg.png"
    assert row["network"] == "imported" and len(str(row["weights_sha256"])) == 64
    left = (out / "normalized/_norface-1/unmatched.csv").read_text()
    assert list(csv.reader(io.StringIO(left))) == [
        ["key", "picture", "why"],
        ["raf/train_00003_aligned.jpg", "", "no picture"],
        ["", "train_99999.png", "no original"],
        ["raf/train_00012_aligned.jpg", "train_00012.png", "no aligned face: not_an_image"],
    ]
    card = (out / "normalized/_norface-1/README.md").read_text()
    assert "imported from a release; CC BY-NC 4.0; no normpipe run makes them" in card
    assert call("verify", out).exit_code == 0
    assert "normalized/norface-1" in call("status", out).stdout
    before = digests(out)
    imported(out, folder, "norface-1", "--source", "a release; CC BY-NC 4.0")
    assert digests(out) == before
    assert "no run repeats" in refused(call("clean", out, "--stage", "normalized/norface-1"))


def test_pairs_and_classifiers_take_several_variants(
    out: Path, release: Callable[..., Path]
) -> None:
    for number in (1, 2):
        imported(out, release(f"id{number}", 100 * number), f"norface-{number}")
    shown = call("status", out).stdout
    for number in (1, 2):
        assert f"import-variant (normalized/norface-{number}): not_in_import 1" in shown
    assert call("run", out, "--stage", "pair").exit_code == 0
    pairs = normpipe.open_dataset(out)
    assert len(pairs) == 20 and pairs[0]["normalized"].shape == (3, 24, 24)
    assert call("sheet", out, "--variant", "norface-2").exit_code == 0
    opened = normpipe.open_dataset(out, status="all", decode=False)
    one, two = (normalized_by(list_faces(opened, ["normalized"], f"norface-{n}")) for n in (1, 2))
    assert one and two and len(one) == 1 and one != two
    trained = call(
        "classify", out, *(word for one in (
            "variant=norface-2", "preset=small", "least_steps=1", "epochs=1", "batch_size=4",
            "workers=0",
        ) for word in ("--set", f"classify.{one}")),
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    # Another set is not taken for that of the same normalizer, unless it is said to be.
    other = imported(out, release("id3", 300), "norface-3", "--normalizer", "norface-2")
    assert '--set \'pair.variants=["norface-1", "norface-2", "norface-3"]\' --overwrite' in other
    found = {
        str(row["weights_sha256"])
        for number in (2, 3)
        for row in rows(out, f"normalized/norface-{number}").values()
        if row["status"] == "ok"
    }
    assert found == {*two}


def test_a_withdrawn_person_is_gone_and_does_not_come_back(
    out: Path, release: Callable[..., Path]
) -> None:
    folder = release()
    imported(out, folder, "norface-1")
    assert call("withdraw", out, "--subject", "p2").exit_code == 0
    hidden = (folder / "train_00002.png").read_bytes()
    after = digests(out)
    assert not (out / "normalized/_norface-1/unmatched.csv").exists()
    imported(out, folder, "norface-1")
    again = digests(out)
    assert {name for name in again if after.get(name) != again[name]} == {
        "normalized/_norface-1/unmatched.csv"
    }
    for path in out.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert hidden not in data and b"train_00002" not in data, path
    assert call("verify", out).exit_code == 0
    # Imported anew from the neutral rows, it is the same.
    shutil.rmtree(out / "normalized")
    imported(out, folder, "norface-1")
    assert digests(out) == again


def test_hostile_and_odd_pictures(out: Path, release: Callable[..., Path]) -> None:
    folder = release(leave_out=())
    outside = folder.parent / "outside.png"
    picture(7).save(outside)

    def at(number: int, ending: str = "png") -> Path:
        path = folder / f"train_{number:05d}.png"
        path.unlink()
        return path.with_suffix("." + ending)

    whole = (folder / "train_00001.png").read_bytes()
    at(1).write_bytes(whole[: len(whole) // 2])
    at(2).write_bytes(b"")
    at(3).symlink_to(outside)
    os.mkfifo(at(4))
    picture(1, 16).save(at(5))
    picture(1).resize((24, 20)).save(at(6))
    Image.new("RGB", (24, 24)).save(at(7))
    turned = Image.Exif()
    turned[0x112] = 6
    picture(8).save(at(8, "jpg"), exif=turned, quality=95)
    picture(9).save(at(9, "webp"), lossless=True)
    clear = picture(10)
    clear.putalpha(0)
    clear.save(at(10))
    picture(11).convert("L").save(at(11, "jpg"))
    said = imported(out, folder, "norface-1")
    assert "2 pictures are not 24x24: --size 24 --overwrite resizes" in said
    assert verdicts(out, "normalized/norface-1") == {
        "00001": "truncated", "00002": "empty_file", "00003": "outside_root", "00004": "not_a_file",
        "00005": "other_size", "00006": "other_size", "00007": "black_output",
        "00010": "saturated_output", "00012": "not_an_image",
    }  # fmt: skip
    made = rows(out, "normalized/norface-1")
    shown = {
        key[10]: Image.open(io.BytesIO(row["image"]["bytes"]))
        for key, row in made.items()
        if row["status"] == "ok"
    }
    upright = np.rot90(np.asarray(Image.open(folder / "train_00008.jpg")), -1)
    assert np.array_equal(np.asarray(shown["8"]), upright) and shown["8"].format == "PNG"
    assert np.array_equal(np.asarray(shown["9"]), np.asarray(picture(9)))
    assert shown["1"].mode == "L" and shown["1"].format == "JPEG"
    assert call("verify", out).exit_code == 0
    refused(call("import-variant", out, folder, "--variant", "norface-1", "--size", 24), "resize")
    said = imported(out, folder, "norface-1", "--size", 24, "--overwrite")
    assert "1 pictures are not square" in said
    assert "00005" not in verdicts(out, "normalized/norface-1")


_KILLED = """
import os, sys
from normpipe.pipeline.commands.app import main
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter
put = ShardFolder.put_in_place
def killed(self, record, written):
    put(self, record, written)
    os.kill(os.getpid(), 9)
ShardFolder.put_in_place = killed
main()
"""


def test_killed_after_a_shard_it_goes_on_and_an_archive_gives_the_same(
    out: Path, release: Callable[..., Path], tmp_path: Path
) -> None:
    folder = release()
    other, packed = tmp_path / "other", tmp_path / "packed"
    for copy in (other, packed):
        shutil.copytree(out, copy)
    command = [sys.executable, "-c", _KILLED, "import-variant", str(out), str(folder)]
    dead = subprocess.run([*command, "--variant", "norface-1"], check=False, capture_output=True)
    assert dead.returncode == -9
    assert len(ShardFolder(out / "normalized/norface-1").records()) == 1
    imported(out, folder, "norface-1")
    imported(other, folder, "norface-1")
    assert digests(out) == digests(other)
    with zipfile.ZipFile(tmp_path / "id1.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"RAF/{path.name}")
        archive.writestr("__MACOSX/._train_00001.png", b"x")
    imported(packed, tmp_path / "id1.zip", "norface-1")
    for number in range(3):
        name = f"normalized/norface-1/shard-0000{number}.parquet"
        assert (packed / name).read_bytes() == (out / name).read_bytes()


def test_new_originals_become_new_shards(
    aligned: Path, release: Callable[..., Path], tmp_path: Path
) -> None:
    photos, out, folder = tmp_path / "photos", tmp_path / "out", release()
    shutil.copytree(aligned / "photos", photos)
    listed = photos / "labels.csv"
    lines = listed.read_text().splitlines()
    listed.write_text("\n".join(lines[: 1 + 2 * SHARD]) + "\n")
    given = ["--input", listed, "--output", out, "--dataset", "raf", "--until", "align"]
    settings = ["--set", "align.detector=none", "--set", f"ingest.shard_rows={SHARD}"]
    assert call("run", *given, *settings).exit_code == 0
    imported(out, folder, "norface-1")
    before = digests(out / "normalized/norface-1")
    listed.write_text("\n".join(lines) + "\n")
    assert call("run", out, "--until", "align").exit_code == 0
    imported(out, folder, "norface-1")
    after = digests(out / "normalized/norface-1")
    assert len(before) == 2 and len(after) == 3 and before.items() <= after.items()


def test_a_list_decides_across_layouts(
    out: Path, release: Callable[..., Path], tmp_path: Path
) -> None:
    folder, listed = release(), tmp_path / "pairs.csv"

    def write(*pairs: str) -> None:
        listed.write_text("path,normalized\n" + "".join(f"{pair}\n" for pair in pairs))

    write(
        "train_00001_aligned.jpg,./train_00005.png",
        "raf/train_00002_aligned.jpg,train_00005.png",
        f"train_00004_aligned.jpg,{folder / 'train_00007.png'}",
        "train_00006_aligned.jpg,gone.png",
        "train_00007_aligned.jpg,",
        "elsewhere.jpg,train_00008.png",
    )
    said = imported(out, folder, "norface-1", "--list", listed)
    assert "1 faces share a picture with another, as listed" in said
    assert "1 listed originals that this job does not have: elsewhere.jpg" in said
    made = rows(out, "normalized/norface-1")
    for ours, theirs in ((1, 5), (2, 5), (4, 7)):
        data = made[f"train_{ours:05d}_aligned.jpg"]["image"]["bytes"]
        assert data == (folder / f"train_{theirs:05d}.png").read_bytes()
    assert verdicts(out, "normalized/norface-1")["00006"] == "missing_file"
    assert verdicts(out, "normalized/norface-1")["00007"] == "not_in_import"
    ok = ["import-variant", out, folder, "--variant", "norface-1"]
    refused(call(*ok), "list", "--overwrite")
    write("train_00001_aligned.jpg,train_00001.png", "train_00001_aligned.jpg,train_00002.png")
    refused(call(*ok, "--list", listed), "line 2", "line 3", "two pictures")
    write("train_00001_aligned.jpg,nowhere/x.png")
    refused(call(*ok, "--list", listed), "none of the pictures", "nowhere/x.png")
    write("x.jpg,train_00001.png")
    refused(call(*ok, "--list", listed), "names no original", "x.jpg")
    listed.write_text("path,other\na,b\n")
    refused(call(*ok, "--list", listed), "no column 'normalized'")


def test_one_line_for_what_cannot_be(
    out: Path, aligned: Path, release: Callable[..., Path], tmp_path: Path
) -> None:
    folder = release()

    def line(place: Path, *more: object, variant: str = "norface-1", job: Path = out) -> str:
        return refused(call("import-variant", job, place, "--variant", variant, *more))

    release("id2")
    assert "id1/train_00001.png and id2/train_00001.png" in line(folder.parent)
    assert "neither a folder nor" in line(tmp_path / "nothing")
    assert "holds the job's photographs" in line(aligned / "photos")
    assert "hold each other" in line(out / "aligned")
    assert "belongs to the job's normalize" in line(folder, variant="compact")
    assert "give a name" in line(folder, variant="_x")
    assert "no normpipe job" in line(folder, job=tmp_path)
    (tmp_path / "others").mkdir()
    picture(1).save(tmp_path / "others/b.png")
    assert "no picture has the name of an original (originals such as train_0" in line(
        tmp_path / "others"
    )
    assert "no regular expression" in line(folder, "--picture", "(")
    assert "pair no picture" in line(folder, "--picture", "x", "--original", "y")
    assert "import-variant.size_px" in line(folder, "--size", 1)
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in line(tmp_path / "empty")
    shutil.rmtree(out / "aligned")
    assert "--until align" in line(folder)


def test_other_pictures_or_rules_are_refused(out: Path, release: Callable[..., Path]) -> None:
    folder = release()
    imported(out, folder, "norface-1", "--picture", r"(\d+)", "--original", r"(\d+)")
    imported(out, folder, "norface-1")  # the patterns are kept
    again = ["import-variant", out, folder, "--variant", "norface-1"]
    refused(call(*again, "--picture", r"(\d+)\.", "--original", r"(\d+)"), "import-variant.picture")
    refused(call(*again, "--normalizer", "mine"), "digests.weights")
    before = digests(out)
    first = folder / "train_00001.png"
    data = first.read_bytes()
    picture(5, 30).save(first)
    refused(call(*again), "holds other pictures", "--overwrite")
    # Other bytes of the same size.
    first.write_bytes(data[:-1] + b"x")
    refused(call(*again), "holds other pictures", "times differ")
    assert digests(out) == before
    picture(5, 30).save(first)
    imported(out, folder, "norface-1", "--overwrite")
    assert digests(out) != before


def test_workers_build_the_same_stage(out: Path, release: Callable[..., Path]) -> None:
    config = ImportConfig(variant="n", spelling="suffix", depth=1, size_px=24)
    folder = release()
    sent = json.loads(json.dumps(import_remote(out, folder, config).job))
    (stage,) = build_import(sent, RunConfig()).values()
    stage.open()
    stage.close()
    assert stage.config == config and set(stage.digests()) == {"weights", "pictures"}


def test_the_largest_of_several_faces_has_the_picture(
    out: Path, release: Callable[..., Path]
) -> None:
    folder = ShardFolder(out / "aligned")
    table = pq.read_table(folder.shard(0)).to_pylist()
    found: list[dict[str, object]] = []
    for row in table:
        faces = (("#face0", 50.0), ("#face1", 90.0)) if "00001" in row["key"] else (("", 60.0),)
        found += [{**row, "key": row["key"] + n, "face_size_px": size} for n, size in faces]
    record = folder.record(0)
    writer = ShardWriter(folder, 0, ALIGNED)
    writer.add(found)
    assert record is not None
    writer.commit(record.fingerprint, None)
    said = imported(out, release(), "norface-1")
    assert "1 further faces of originals whose largest face has the picture: raf/train_0000" in said
    made = rows(out, "normalized/norface-1")
    assert made["train_00001_aligned.jpg#face1"]["status"] == "ok"
    assert made["train_00001_aligned.jpg#face0"]["reason"] == "not_in_import"


@pytest.mark.assets
def test_real_photographs_and_seven_identities(tmp_path: Path) -> None:
    """Photographs as RAF-DB names them, and seven sets of their turned copies, to the pairs."""
    faces = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared")) / "faces"
    with (faces / "labels.csv").open() as stream:
        chosen = list(csv.DictReader(stream))[:100:20]
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i, row in enumerate(chosen, 1):
        shutil.copy(faces / "images" / row["image"], photos / f"train_{i:05d}_aligned.jpg")
        with Image.open(faces / "images" / row["image"]) as face:
            for k in range(1, 8):
                (tmp_path / f"id{k}").mkdir(exist_ok=True)
                turned = face.convert("RGB").resize((64, 64)).rotate(k)
                if i != k:
                    turned.save(tmp_path / f"id{k}" / f"train_{i:05d}.jpg")
    given = ("--input", photos, "--output", out, "--set", "align.isolate=false")
    assert call("run", *given, "--until", "align").exit_code == 0
    for k in range(1, 8):
        imported(out, tmp_path / f"id{k}", f"norface-{k}")
    assert call("run", out, "--from", "pair").exit_code == 0
    found = sum(row["status"] == "ok" for row in rows(out, "aligned").values())
    assert found >= 3
    pairs = normpipe.open_dataset(out)
    assert 7 * found - 5 <= len(pairs) <= 7 * found
    assert {row["variant"] for row in pairs.table.to_pylist()} == {
        f"norface-{k}" for k in range(1, 8)
    }
    assert call("verify", out).exit_code == 0
