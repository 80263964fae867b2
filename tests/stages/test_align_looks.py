"""The right face: the one that a list names, the right way up, and small ones in large pictures."""

import io
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from skimage.data import astronaut

from normpipe.manifests.schema import ALIGNED, ALIGNED_UPRIGHT
from normpipe.pipeline.commands.running.execute import run_until
from normpipe.pipeline.config import load_job
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.making import process
from normpipe.pipeline.run.runner import Options
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages import CONFIGS, build_flow
from normpipe.stages.align import Align, AlignConfig
from normpipe.stages.faces import decoder
from normpipe.stages.faces import geometry as G
from normpipe.stages.faces.detectors import Detection, choose_listed
from normpipe.stages.faces.detectors import looking as L
from normpipe.stages.faces.detectors.second_look import is_in_order
from normpipe.stages.review.advice import face_advice

ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", Path(__file__).parents[2] / "../shared"))
# Box, and pupils, nose tip, mouth corners of scikit-image's photograph, read off by eye.
BOX = [175.0, 65.0, 275.0, 175.0]
ASTRONAUT = [[203.0, 101.0], [247.0, 103.0], [223.0, 127.0], [203.0, 141.0], [243.0, 142.0]]
# Starting processes that decode takes longer than most of what is tested here.
SETTINGS = {"listed": "choose", "upright": True, "format": "png", "isolate": False}


def row(path: str, number: int | None = None, **known: Any) -> dict[str, Any]:
    key = f"set/{path}" + ("" if number is None else f"#face{number}")
    common = {"key": key, "parent_key": key, "status": "ok", "reason": None}
    empty = {"size_bytes": None, "modified_ns": None, "bbox_xyxy": None, "landmarks": None}
    return {**common, "decided_by": "ingest", "path": path, **empty, **known}


def pack_settings(detector: str) -> dict[str, Any]:
    if detector == "opencv":
        return {"detector": detector}
    pack = ASSETS / "insightface/models/mini"
    if not pack.is_dir():
        pytest.skip(f"no pack under {ASSETS} (set NORMPIPE_TEST_ASSETS)")
    return {"detector": detector, "pack": str(pack), "device": "cpu"}


def run(root: Path, *rows: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    stage = Align(AlignConfig(**{**SETTINGS, **settings}), root, threads=2)
    stage.open()
    return process(stage, list(rows))


def save(root: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(root / name)


BOTH = [
    pytest.param("opencv", id="opencv"),
    pytest.param("insightface", id="insightface", marks=pytest.mark.assets),
]


# A list's box chooses the face


def two_astronauts() -> np.ndarray:
    """The same head twice, the second one smaller and further down, on grey: 620 x 300."""
    head = astronaut()[20:260, 110:340]
    picture = np.full((300, 620, 3), 128, np.uint8)
    picture[20:260, 20:250] = head
    small = np.asarray(Image.fromarray(head).resize((161, 168)))
    picture[90:258, 400:561] = small
    return picture


def at(points: list[list[float]], scale: float, left: float, top: float) -> list[list[float]]:
    return [[(x - 110) * scale + left, (y - 20) * scale + top] for x, y in points]


def box_at(scale: float, left: float, top: float) -> list[float]:
    return np.ravel(at([BOX[:2], BOX[2:]], scale, left, top)).tolist()


@pytest.mark.parametrize("detector", BOTH)
@pytest.mark.parametrize("how", ["box", "landmarks"])
def test_two_rows_of_one_photograph_get_two_faces(tmp_path: Path, detector: str, how: str) -> None:
    save(tmp_path, "two.png", two_astronauts())
    places = [(1.0, 20.0, 20.0), (0.7, 400.0, 90.0)]
    listed = [
        {"bbox_xyxy": box_at(*place)} if how == "box" else {"landmarks": at(ASTRONAUT, *place)}
        for place in places
    ]
    rows = [row("two.png", number, **known) for number, known in enumerate(listed)]
    outs = run(tmp_path, *rows, **pack_settings(detector))
    for out, place in zip(outs, places, strict=True):
        assert out["status"] == "ok" and out["landmarks_from"] == "detector"
        eyes = G.apply(np.array(out["transform"]), at(ASTRONAUT, *place)[:2])
        assert np.abs(eyes - G.TEMPLATE[:2] * 224).max() < 14
    assert [out["key"] for out in outs] == ["set/two.png#face0", "set/two.png#face1"]
    assert outs[0]["image_sha256"] != outs[1]["image_sha256"]
    ignored = run(tmp_path, *rows, **pack_settings(detector), listed="ignore")
    assert ignored[0]["image_sha256"] == ignored[1]["image_sha256"]


@pytest.mark.parametrize("detector", BOTH)
def test_a_box_without_a_face_gets_no_other_face(tmp_path: Path, detector: str) -> None:
    save(tmp_path, "a.png", astronaut())
    rows = [
        row("a.png", bbox_xyxy=[400.0, 300.0, 500.0, 420.0]),
        row("a.png", bbox_xyxy=[600.0, 300.0, 700.0, 420.0]),
        row("a.png", bbox_xyxy=BOX),
        row("a.png"),
    ]
    nowhere, outside, there, unlisted = run(tmp_path, *rows, **pack_settings(detector))
    assert (nowhere["status"], nowhere["reason"]) == ("rejected", "no_face_in_box")
    assert nowhere["faces_found"] == 1 and nowhere.get("image") is None
    assert (outside["status"], outside["reason"]) == ("rejected", "bad_supplied_box")
    assert there["image_sha256"] == unlisted["image_sha256"]


def test_a_listed_face_that_the_first_look_misses_is_looked_for_where_it_is(tmp_path: Path) -> None:
    """The largest face ends the first look of the default detector."""
    picture = np.full((1500, 2000, 3), 128, np.uint8)
    head = Image.fromarray(astronaut()[20:260, 110:340])
    picture[100:1300, 100:1250] = np.asarray(head.resize((1150, 1200)))
    picture[1380:1476, 1700:1792] = np.asarray(head.resize((92, 96)))
    save(tmp_path, "big.png", picture)
    known = {"bbox_xyxy": box_at(0.4, 1700.0, 1380.0)}
    (out,) = run(tmp_path, row("big.png", **known))
    assert out["status"] == "ok" and out["face_size_px"] < 100


def test_without_coordinates_nothing_changes(tmp_path: Path) -> None:
    save(tmp_path, "a.png", astronaut())
    (new,) = run(tmp_path, row("a.png"))
    (old,) = run(tmp_path, row("a.png"), listed=None, upright=None)
    assert new.pop("turned_degrees") == 0 and new == old


def boxes(*given: tuple[float, float, float, float]) -> list[Detection]:
    return [Detection(np.array(box, float), None, 0.9, "box") for box in given]


def test_what_belongs_to_a_listed_face() -> None:
    faces = boxes((0, 0, 100, 100), (90, 0, 190, 100), (300, 0, 400, 100))
    listed = Detection(np.array([80.0, 0, 180, 100]), None, None, "supplied")
    assert choose_listed(faces, listed) is faces[1]
    loose = Detection(np.array([255.0, -50, 445, 150]), None, None, "supplied")
    assert choose_listed(faces, loose) is faces[2]
    assert choose_listed(faces[:2], loose) is None
    points = np.array([[320.0, 40], [360, 40], [340, 60], [325, 80], [355, 80]])
    assert choose_listed(faces, Detection(None, points, None, "supplied")) is faces[2]
    assert choose_listed(faces, Detection(None, points + 500, None, "supplied")) is None


# The right way up


@pytest.mark.parametrize("detector", BOTH)
def test_a_turned_photograph_gives_the_upright_face(tmp_path: Path, detector: str) -> None:
    turns = (90, 180, 270)
    for turned in (0, *turns):
        save(tmp_path, f"{turned}.png", np.rot90(astronaut(), turned // 90))  # counterclockwise
    rows = [row(f"{turned}.png") for turned in (0, *turns)]
    upright, *outs = run(tmp_path, *rows, **pack_settings(detector))
    right, *crops = [
        np.asarray(Image.open(io.BytesIO(one["image"]["bytes"])), int) for one in (upright, *outs)
    ]
    for turned, out, crop in zip(turns, outs, crops, strict=True):
        assert out["status"] == "ok" and out["turned_degrees"] == turned
        place = G.quarter_turn(512, 512, 360 - turned)
        assert np.abs(np.array(out["landmarks"]) - G.apply(place, upright["landmarks"])).max() < 0.1
        corners = G.apply(place, np.reshape(upright["bbox_xyxy"], (2, 2)))
        assert np.array(out["bbox_xyxy"]) == pytest.approx(
            np.sort(corners, axis=0).ravel(), abs=0.1
        )
        assert np.abs(right - crop).mean() < 1


@pytest.mark.assets
def test_a_pack_s_upside_down_faces_are_not_ok(tmp_path: Path) -> None:
    """Before, eyes were put on the mouth of these, with a good score."""
    folder = ASSETS / "faces/images"
    if not folder.is_dir():
        pytest.skip(f"no photographs under {ASSETS} (set NORMPIPE_TEST_ASSETS)")
    names = [file.name for file in sorted(folder.iterdir())[::500]]
    for name in names:
        with Image.open(folder / name) as picture:
            save(tmp_path, f"{name}.png", np.rot90(np.asarray(picture.convert("RGB")), 2))
    rows = [row(f"{name}.png") for name in names]
    before = run(tmp_path, *rows, **pack_settings("insightface"), upright=None)
    assert sum(out["status"] == "ok" for out in before) >= len(names) // 2
    for out in run(tmp_path, *rows, **pack_settings("insightface")):
        assert out["status"] == "rejected" or out["turned_degrees"] == 180


def test_what_is_nothing_but_a_false_positive_is_implausible(tmp_path: Path) -> None:
    """A detection that no turn of the picture makes a face of has a reason of its own."""
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    save(tmp_path, "noise.png", noise)
    stage = Align(AlignConfig(**SETTINGS), tmp_path, threads=1)  # type: ignore[arg-type]
    stage.open()
    points = np.array([[80.0, 90], [150, 90], [115, 130], [90, 170], [140, 170]])
    found = Detection(np.array([60.0, 60, 180, 200]), points, 0.9, "detector")
    stage._detector._inner.detect = lambda pictures: [[found] for _ in pictures]  # type: ignore[attr-defined]
    (out,) = process(stage, [row("noise.png")])
    assert (out["status"], out["reason"]) == ("rejected", "implausible_face")
    assert out["faces_found"] == 0 and out["detection_score"] == pytest.approx(0.9)


@pytest.mark.parametrize("swap", [(0, 2), (1, 3), (2, 3), (3, 4)])
def test_landmarks_out_of_order_are_no_face(swap: tuple[int, int]) -> None:
    points = np.array(ASTRONAUT)
    for degrees in range(0, 360, 30):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert is_in_order(points @ turn.T)
        wrong = points.copy()
        wrong[list(swap)] = points[list(swap[::-1])]
        assert not is_in_order(wrong @ turn.T)
    assert not is_in_order(np.full((5, 2), 7.0))


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([0, 90, 180, 270]))
def test_quarter_turns_are_numpy_s(width: int, height: int, degrees: int) -> None:
    place = G.quarter_turn(width, height, degrees)
    marked = np.zeros((height, width), bool)
    x, y = width // 3, height // 2
    marked[y, x] = True
    (there,) = np.argwhere(np.rot90(marked, -degrees // 90))
    assert G.apply(place, [[x + 0.5, y + 0.5]])[0] == pytest.approx(there[::-1] + 0.5)
    assert G.turned_degrees(place) == degrees


def test_a_box_alone_is_turned_too() -> None:
    plain = G.transform_from_box([30, 20, 70, 80], 100)
    for degrees in (90, 180, 270):
        place = G.quarter_turn(200, 100, degrees)
        corners = np.sort(G.apply(place, [[30, 20], [70, 80]]), axis=0)
        back = G.transform_from_box(corners.ravel(), 100, G.TIGHT_BOX, 360 - degrees)
        assert G.apply(back, G.apply(place, [[50, 40]])) == pytest.approx(
            G.apply(plain, [[50, 40]]), abs=1e-6
        )


# Small faces in large pictures


@pytest.mark.parametrize("detector", BOTH)
def test_a_small_face_in_a_large_picture_is_found_by_a_closer_look(
    tmp_path: Path, detector: str
) -> None:
    picture = np.full((1200, 3600, 3), 120, np.uint8)
    picture[::50] = 90  # so that it is no plain grey
    small = Image.fromarray(astronaut()[20:260, 110:340]).resize((165, 172))  # a face of 72 px
    picture[900:1072, 1430:1595] = np.asarray(small)
    save(tmp_path, "large.png", picture)
    (whole,) = run(tmp_path, row("large.png"), **pack_settings(detector), upright=None)
    assert whole["status"] == "rejected"
    (close,) = run(tmp_path, row("large.png"), **pack_settings(detector), look="close")
    assert close["status"] == "ok"
    eyes = G.apply(np.array(close["transform"]), at(ASTRONAUT, 165 / 230, 1430, 900)[:2])
    assert np.abs(eyes - G.TEMPLATE[:2] * 224).max() < 14


@given(st.integers(1, 9000), st.integers(1, 9000), st.data())
def test_every_small_face_is_whole_in_a_tile(width: int, height: int, data: Any) -> None:
    face = int(L.TILE_PX * 0.24)
    places = list(L.tile_boxes(width, height))
    assert bool(places) == (max(width, height) > L.TILE_PX)
    if not places or min(width, height) < face:
        return
    x = data.draw(st.integers(0, width - face))
    y = data.draw(st.integers(0, height - face))
    # Where a tile cuts the picture, a face at the very edge counts as cut.
    assert any(
        (x > left or left == 0)
        and (y > top or top == 0)
        and (x + face < right or right == width)
        and (y + face < bottom or bottom == height)
        and x >= left
        and y >= top
        and x + face <= right
        and y + face <= bottom
        for left, top, right, bottom in places
    )


# Advice


@pytest.mark.parametrize(
    ("size", "sets", "advised"),
    [
        ((48, 48), (), "align.detector=none"),
        ((1500, 400), (), "align.look=close"),
        ((1500, 400), ("look=close",), "docs/running.md"),
        ((700, 500), (), "docs/running.md"),
        ((48, 48), ("detector=none",), None),
    ],
)
def test_pictures_without_faces_get_the_advice_that_fits_their_size(
    tmp_path: Path, size: tuple[int, int], sets: tuple[str, ...], advised: str | None
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.new("RGB", size, (40 * number, 90, 90)).save(tmp_path / "in" / f"{number}.png")
    given_ = {"input": tmp_path / "in", "output": tmp_path / "my out"}
    sets = (*sets, "isolate=false")
    job = load_job(None, given_, [f"align.{one}" for one in sets], CONFIGS)
    run_until(job, "align", Options())
    lines = face_advice(job.output, job.stage("align"))
    assert len(lines) == (advised is not None)
    if advised is not None:
        assert advised in lines[0] and "2 of 2 inputs" in lines[0] and "\n" not in lines[0]
    if advised is not None and "--set" in lines[0]:
        assert shlex.split(lines[0].partition("normpipe run ")[2])[0] == str(job.output)


def test_pictures_that_cannot_be_read_as_they_are_get_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where others can: each line is followed, and then there is none."""
    (tmp_path / "in").mkdir()
    grey = np.full((64, 64), 2000, np.uint16)
    Image.fromarray(grey).save(tmp_path / "in/dark.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "in/a.png")
    given_ = {"input": tmp_path / "in", "output": tmp_path / "out"}
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 64), (90, 90, 90)))
    heif.save(tmp_path / "in/b.heic")
    sets = ["align.isolate=false", "align.detector=none"]

    def advised(*more: str, options: Options | None = None) -> list[str]:
        job = load_job(None, given_, [*sets, *more], CONFIGS)
        run_until(job, "align", options or Options())
        return face_advice(job.output, job.stage("align"))

    with monkeypatch.context() as without:
        installed = tuple(one for one in decoder._formats() if one != "HEIF")
        without.setattr(decoder, "_formats", lambda: installed)
        heic, white = advised()
    assert heic.startswith("1 pictures are HEIC: pip install pillow-heif")
    assert heic.endswith(f"normpipe run {tmp_path / 'out'} --retry-failed")
    assert "--overwrite --set align.white=4095" in white
    assert advised(options=Options(retry_failed=True)) == [white]
    assert advised("align.white=4095", options=Options(overwrite=True)) == []


def test_an_older_dataset_of_a_list_with_boxes_says_so(tmp_path: Path) -> None:
    save(tmp_path, "a.png", astronaut())
    (tmp_path / "list.csv").write_text("path,x1,y1,x2,y2\na.png,175,65,275,175\n")
    given_ = {"input": tmp_path / "list.csv", "output": tmp_path / "out"}
    job = load_job(None, given_, [], CONFIGS)
    run_until(job, "ingest", Options())
    folder = ShardFolder(tmp_path / "out/aligned")
    write_json(folder.stage_path, {"settings": AlignConfig().shaping()})
    run_until(job, "align", Options())
    (line,) = face_advice(job.output, job.stage("align"))
    assert line.endswith("--overwrite --set align.listed=choose --set align.upright=true")
    sets = ["align.listed=choose", "align.upright=true"]
    again = load_job(None, given_, sets, CONFIGS)
    run_until(again, "align", Options(overwrite=True))
    assert face_advice(again.output, again.stage("align")) == []
    assert folder.schema_names(0)[-1] == "turned_degrees"


# Settings


def test_older_folders_go_on_as_they_were_begun(tmp_path: Path) -> None:
    """Neither their fingerprints nor their columns change: a release made them."""
    given_ = {"input": tmp_path, "output": tmp_path / "out", "dataset": "d"}

    def aligning(*sets: str) -> Align:
        stage = build_flow(load_job(None, given_, list(sets), CONFIGS))[1]
        assert isinstance(stage, Align)
        return stage

    new = aligning()
    assert new.config.shaping()["upright"] and new.config.shaping()["listed"] == "choose"
    assert new.schema == ALIGNED_UPRIGHT
    folder = ShardFolder(tmp_path / "out/aligned")
    for begun, there in ((AlignConfig().shaping(), False), (new.config.shaping(), True)):
        write_json(folder.stage_path, {"settings": begun})
        stage = aligning()
        assert stage.config.shaping() == begun
        assert stage.schema == (ALIGNED_UPRIGHT if there else ALIGNED)
    assert aligning("align.upright=false").schema == ALIGNED


@pytest.mark.parametrize(
    "setting",
    [
        "canvases=[0.5]", "canvases=[-1]", "canvases=[nan]", "canvases=[inf]", "canvases=[1e9]",
        "canvases=[]", "threshold=nan", "threshold=-1", "decode_seconds=inf", "decode_seconds=nan",
        "decode_seconds=-1", "fetch_seconds=inf", "memory_gb=nan", "memory_gb=inf",
        "min_face_px=-1", "decode_memory_mb=99999999999999", "max_bytes=9999999999999999999999",
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused_with_a_line(tmp_path: Path, setting: str) -> None:
    given_ = {"input": tmp_path, "output": tmp_path / "out"}
    with pytest.raises(InputError, match=rf"align\.{setting.partition('=')[0]}"):
        load_job(None, given_, [f"align.{setting}"], CONFIGS)


def test_a_closer_look_needs_a_detector_that_looks() -> None:
    with pytest.raises(ValidationError, match="does not look for faces"):
        AlignConfig(detector="none", look="close")
