"""Videos as inputs of a job: rows, labels, shards, and faces followed from frame to frame."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from normpipe.manifests.schema import LABEL_COLUMNS
from normpipe.pipeline.run.making import process
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.align import Align, AlignConfig
from normpipe.stages.faces.detectors import Detection
from normpipe.stages.faces.detectors.tracking import Track
from normpipe.stages.faces.pixels import to_pixels
from normpipe.stages.videos.frame_process import Decoding
from normpipe.stages.videos.frame_reader import FrameReader

from ..pipeline.calling import call
from .filming import digest, film, kind_of_film, packets, straight
from .ingesting import keys, put, reasons, refused, scan, write_list

ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", Path(__file__).parents[2] / "../shared"))


def labels(found: Any) -> dict[str, dict[str, Any]]:
    return {row.pop("key"): row for row in found.labels.to_pylist()}


def frames(found: Any) -> list[str]:
    return [key.removeprefix("d/") for key in keys(found)]


# --- ingest


def test_a_folder_of_videos_and_pictures(tmp_path: Path) -> None:
    put(tmp_path, "a/2.jpg", "a/note.txt")
    film(tmp_path / "a/10.mp4", 3)
    (tmp_path / "a/11.mkv").write_bytes(b"text")
    (tmp_path / "a/12.avi").touch()
    found = scan(tmp_path)
    clips = [f"a/10.mp4#frame{n}" for n in range(3)]
    assert frames(found) == ["a/2.jpg", *clips, "a/11.mkv", "a/12.avi"]
    assert reasons(found) == {"a/11.mkv": "not_a_video", "a/12.avi": "empty_file"}
    assert found.rows["path"].to_pylist()[1:4] == ["a/10.mp4"] * 3
    assert found.rows["size_bytes"].to_pylist()[2] == (tmp_path / "a/10.mp4").stat().st_size
    assert labels(found)["d/a/10.mp4#frame2"] == {"sequence": "a/10", "frame": 2}
    assert labels(found)["d/a/2.jpg"] == {"sequence": None, "frame": None}
    kinds = dict(LABEL_COLUMNS)
    assert found.labels.schema.field("frame").type == kinds["frame"]
    limited = scan(tmp_path, limit=3)
    assert frames(limited) == ["a/2.jpg", *clips[:2]] and not limited.complete
    assert frames(scan(tmp_path / "a/10.mp4")) == [f"10.mp4#frame{n}" for n in range(3)]


def test_which_frames_are_taken(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 50)  # two seconds

    def numbers(**config: Any) -> list[int]:
        return [int(key.rpartition("#frame")[2]) for key in keys(scan(tmp_path, **config))]

    assert numbers(every=20) == [0, 20, 40]
    assert numbers(fps=5) == list(range(0, 50, 5))
    assert numbers(fps=100) == list(range(50))
    assert numbers(seconds=(0.4, 0.48)) == [10, 11, 12]
    assert numbers(seconds=(1.9, 99), every=3) == [48]
    none = scan(put(tmp_path, "b.jpg"), seconds=(5, 9))
    assert keys(none) == ["d/b.jpg"]
    assert none.ignored == {"video without a frame in ingest.seconds": 1}
    with pytest.raises(ValueError, match="both choose frames"):
        numbers(every=2, fps=5)
    with pytest.raises(ValueError, match=r"\[from, to\]"):
        numbers(seconds=(2, 1))


def test_a_list_names_frames_by_number(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 5)
    put(tmp_path, "p.jpg")
    text = "path,frame,subject,AU1\na.mp4,1,x,0\na.mp4,3,x,1\np.jpg,77,y,0\na.mp4,9,x,1\n"
    source = write_list(tmp_path, text)
    found = scan(source, first_frame=1)
    assert frames(found) == ["a.mp4#frame0", "a.mp4#frame2", "a.mp4#frame8", "p.jpg"]
    assert reasons(found) == {"a.mp4": "missing_frame"}
    assert labels(found)["d/a.mp4#frame2"] == {
        "subject": "x", "sequence": "a", "frame": 3, "AU1": 1
    }  # fmt: skip
    assert labels(found)["d/p.jpg"]["frame"] == 77 and labels(found)["d/p.jpg"]["sequence"] is None
    assert frames(scan(source))[:2] == ["a.mp4#frame1", "a.mp4#frame3"]
    assert frames(scan(source, first_frame=1, every=4)) == ["a.mp4#frame0", "a.mp4#frame8", "p.jpg"]


def test_a_list_of_whole_videos(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 3)
    (tmp_path / "b.mp4").write_bytes(b"text")
    text = "path,subject,emotion,sequence\na.mp4,x,happy,s1\nb.mp4,y,sad,\n"
    found = scan(write_list(tmp_path, text))
    assert frames(found) == ["a.mp4#frame0", "a.mp4#frame1", "a.mp4#frame2", "b.mp4"]
    assert labels(found)["d/a.mp4#frame1"] == {
        "subject": "x", "sequence": "s1", "frame": 1, "emotion": "happiness"
    }  # fmt: skip
    assert labels(found)["d/b.mp4"]["subject"] == "y"


def test_frames_counted_from_one_are_noticed(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 4)
    rows = [f"a.mp4,{number},0\n" for number in range(1, 5)]
    source = write_list(tmp_path, "path,frame,AU1\n" + "".join(rows))
    assert "ingest.first_frame=1" in refused(source)
    assert len(keys(scan(source, first_frame=1))) == 4
    source = write_list(tmp_path, "path,frame\na.mp4,0\n")
    assert "ingest.first_frame" in refused(source, first_frame=1)
    source = write_list(tmp_path, "path,frame\na.mp4,0\na.mp4,\n")
    assert "a frame, or none" in refused(source)
    source = write_list(tmp_path, "path,frame,AU1\na.mp4,0,1\na.mp4,0,0\n")
    assert "line 2 and line 3" in refused(source)


def test_animations_are_videos_when_asked(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (8, 8), (90 * number, 0, 0)) for number in range(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "still.gif")
    pictures[0].save(tmp_path / "still.png")
    (tmp_path / "text.webp").write_bytes(b"text")
    assert frames(scan(tmp_path)) == ["a.gif", "still.gif", "still.png", "text.webp"]
    found = scan(tmp_path, animations=True)
    assert frames(found)[:3] == [f"a.gif#frame{n}" for n in range(3)]
    assert frames(found)[3:] == ["still.gif", "still.png", "text.webp"]


# --- the job


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    folder = ShardFolder(out / name)
    return [row for number in sorted(folder.records()) for row in folder.read(number).to_pylist()]


def arguments(source: Path, out: Path, **settings: Any) -> list[str]:
    given = {"align.detector": "none", "align.format": "png", "align.isolate": "false", **settings}
    sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    job = ["run", "--input", str(source), "--output", str(out), "--dataset", "d", "--quiet"]
    return [*job, "--until", "align", *sets]


def shown(out: Path) -> dict[str, tuple[str | None, str | None]]:
    """Reason and digests of each row, whatever the shards."""
    return {row["key"]: (row["reason"], row["image_sha256"]) for row in rows_of(out, "aligned")}


def digests(out: Path) -> dict[str, str]:
    found = sorted((out / "aligned").glob("*.parquet"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_frames_are_the_same_whatever_the_shards_and_threads(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    damaged = film(source / "a.mp4", 90, options={"bf": "0"})
    data, (place, _) = bytearray(damaged.read_bytes()), packets(damaged)[33]
    data[place : place + 4] = (2**31 - 1).to_bytes(4, "big")
    damaged.write_bytes(data)
    expected = {}
    for kind in ("open groups", "no times, old"):
        path = kind_of_film(source, kind)
        expected |= {f"d/{path.name}#frame{n}": one for n, one in enumerate(straight(path))}
    found = []
    for number, (rows, threads, isolate) in enumerate(((1024, 1, "false"), (37, 4, "true"))):
        out = tmp_path / f"out{number}"
        given = {"ingest.shard_rows": rows, "run.threads": threads, "align.isolate": isolate}
        done = call(*arguments(source, out, **given))
        assert done.exit_code == 0, done.output
        found.append(shown(out))
    assert found[0] == found[1] and len(found[0]) == 250
    bad = {key for key, (reason, _) in found[0].items() if reason}
    assert bad == {f"d/a.mp4#frame{n}" for n in range(33, 40)}
    sources = {row["key"]: row for row in rows_of(tmp_path / "out1", "aligned")}
    assert {key: sources[key]["source_sha256"] for key in expected} == expected
    status = call("status", tmp_path / "out1")
    assert status.exit_code == 0 and "bad_frame" in status.output
    assert call("verify", tmp_path / "out1").exit_code == 0


def test_a_killed_job_resumes_in_the_middle_of_a_video(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    film(source / "a.mp4", 90, options={"bf": "2"})
    settings = {"ingest.shard_rows": 15, "run.threads": 2, "align.batch_size": 8}
    settings["align.isolate"] = "true"
    whole = tmp_path / "whole"
    assert call(*arguments(source, whole, **settings)).exit_code == 0
    code = "from normpipe.pipeline.commands.app import main; main()"
    started = subprocess.Popen([sys.executable, "-c", code, *arguments(source, out, **settings)])
    end = time.monotonic() + 120
    while len(list((out / "aligned").glob("*.parquet"))) < 3 and time.monotonic() < end:
        if started.poll() is not None:
            break
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert call(*arguments(source, out, **settings)).exit_code == 0
    assert digests(out) == digests(whole) and len(digests(out)) == 6


def test_a_video_that_changed_or_went_away(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 4)
    rows = scan(tmp_path).rows.to_pylist()
    shutil.copy(film(tmp_path / "b.mkv", 4), path)
    stage = Align(AlignConfig(detector="none", isolate=False), tmp_path, threads=2)
    stage.open()
    assert {row["reason"] for row in process(stage, rows)} == {"changed_since_ingest"}
    stage.close()
    path.unlink()
    stage.open()
    assert {row["reason"] for row in process(stage, rows)} == {"missing_file"}
    stage.close()


def test_what_a_slower_thread_asks_for_is_kept(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 30)
    opened: list[int] = []

    def open_file(row: dict[str, Any]) -> int:
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    reader = FrameReader(open_file, Decoding(isolate=False))
    rows = scan(tmp_path).rows.to_pylist()
    reader.expect(rows[:20])
    place = reader._places["a.mp4"]
    found = [digest(to_pixels(reader.read(rows[n]))) for n in (5, 0, 4, 19, 7)]
    assert found == [straight(path)[n] for n in (5, 0, 4, 19, 7)]
    assert len(opened) == 1
    assert sorted(place.waiting) == [*(1, 2, 3, 6), *range(8, 19)] and not place.expected
    reader.close()


# --- the same person


def face(left: float, top: float, side: float) -> Detection:
    return Detection(np.array([left, top, left + side, top + side]), None, 0.9, "box")


def test_a_track_follows_by_overlap() -> None:
    track = Track("a.mp4")
    small, large = face(10, 10, 30), face(100, 10, 40)
    assert track.follow([small, large]) is large
    near, larger = face(104, 12, 38), face(5, 5, 60)
    assert track.follow([larger, near]) is near
    assert track.follow([face(200, 10, 50), face(0, 0, 50)]) is None  # lost
    assert track.follow([larger, face(108, 12, 38)]) is not larger  # found again
    alone = face(300, 300, 20)
    assert track.follow([alone]) is alone


class TwoFaces(Align):
    """Finds two faces in every frame; the second grows, and is the larger from frame 3 on."""

    def compute(self, items: list[Any]) -> list[list[Detection]]:
        found = []
        for item in items:
            number = round((float(np.median(item.prepared.pixels)) - 40) / 1)
            found.append([face(2, 2, 20), face(30, 2, 14 + 3 * max(0, min(number, 6)))])
        return found


def test_shards_batches_and_retries_give_the_same_track(tmp_path: Path) -> None:
    greys = [np.full((48, 64, 3), 40 + number, np.uint8) for number in range(9)]
    film(tmp_path / "a.avi", greys, "mjpeg", {"qscale": "1"})
    rows = scan(tmp_path).rows.to_pylist()
    for which, left in (("largest", 30), ("track", 2)):
        stage = TwoFaces(
            AlignConfig(detector="none", faces=which, isolate=False), tmp_path, threads=2
        )
        stage.open()
        found = process(stage, rows)
        assert found[8]["bbox_xyxy"][0] == left and found[0]["bbox_xyxy"][0] == 2
        if which == "track":
            memory: dict[str, Any] = {}
            halves = []
            for part in (rows[:4], rows[4:]):
                items = [stage.prepare(row) for row in part]
                kept = [None] * len(part)
                results = stage.relate(part, stage.compute(items), kept, memory)
                halves += [result.followed.bbox_xyxy[0] for result in results]
            assert halves == [2] * 9
            # All were settled but the last: their rows lead on to the same face.
            (last,) = stage.relate(
                rows[8:], stage.compute([stage.prepare(rows[8])]), [None],
                _after(stage, rows[:8], found[:8]),
            )  # fmt: skip
            assert last.followed.bbox_xyxy[0] == 2
        stage.close()


def _after(stage: Align, rows: list[Any], kept: list[Any]) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    stage.relate(rows, [None] * len(rows), [[row] for row in kept], memory)
    return memory


@pytest.mark.assets
def test_the_same_person_is_followed_among_real_faces(tmp_path: Path) -> None:
    """Two photographs: one walks off to the left and shrinks, the other comes closer."""
    pack = ASSETS / "insightface/models/mini"
    chosen = sorted((ASSETS / "faces/images").glob("*.jpg"))[:2] if pack.is_dir() else []
    if len(chosen) < 2:
        pytest.skip(f"{ASSETS} has no faces or no pack")
    one, other = (Image.open(path).convert("RGB") for path in chosen)
    pictures = []
    for number in range(8):
        scene = Image.new("RGB", (640, 360), (90, 90, 90))
        scene.paste(one.resize((200 - 8 * number,) * 2), (20 + 4 * number, 80))
        scene.paste(other.resize((120 + 14 * number,) * 2), (400 - 10 * number, 60))
        pictures.append(np.asarray(scene))
    film(tmp_path / "a.mp4", pictures)
    rows = scan(tmp_path).rows.to_pylist()
    settings = {"detector": "insightface", "pack": str(pack), "isolate": False}
    lefts = {}
    for which in ("largest", "track"):
        stage = Align(AlignConfig(**settings, faces=which), tmp_path, threads=2)
        stage.open()
        found = process(stage, rows)
        stage.close()
        assert {row["status"] for row in found} == {"ok"}
        lefts[which] = [row["bbox_xyxy"][0] < 300 for row in found]
    assert lefts["track"] == [True] * 8
    assert lefts["largest"][0] and not lefts["largest"][-1]


def test_labels_are_joined_to_the_rows(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    film(source / "a.mp4", 3)
    assert call(*arguments(source, tmp_path / "out")).exit_code == 0
    table = pa.parquet.read_table(tmp_path / "out/labels.parquet")
    assert table["key"].to_pylist() == [f"d/a.mp4#frame{n}" for n in range(3)]
    gone = call("withdraw", tmp_path / "out", "--key", "d/a.mp4#frame1")
    assert gone.exit_code == 0, gone.output
    assert {row["reason"] for row in rows_of(tmp_path / "out", "aligned")} == {None, "withdrawn"}
