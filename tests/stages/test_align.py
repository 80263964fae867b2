"""The align stage as the engine drives it: rows in, rows out, nothing lost."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError
from skimage.data import astronaut

from normpipe.manifests.schema import ALIGNED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.making import process
from normpipe.stages.align import Align, AlignConfig, choose
from normpipe.stages.faces import geometry as G
from normpipe.stages.faces.detectors import Detection
from normpipe.stages.faces.pixels import Limits, decode

ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", Path(__file__).parents[2] / "../shared"))
# Pupils, nose tip, mouth corners of scikit-image's photograph, read off an enlargement by eye.
ASTRONAUT = [[203.0, 101.0], [247.0, 103.0], [223.0, 127.0], [203.0, 141.0], [243.0, 142.0]]


def row(path: str, **known: Any) -> dict[str, Any]:
    common = {"key": f"set/{path}", "parent_key": f"set/{path}", "status": "ok", "reason": None}
    empty = {"size_bytes": None, "modified_ns": None, "bbox_xyxy": None, "landmarks": None}
    return {**common, "decided_by": "ingest", "path": path, **empty, **known}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.fromarray(astronaut()).save(tmp_path / "a.png")
    return tmp_path


def stage(root: Path, **settings: Any) -> Align:
    made = Align(AlignConfig(**settings), root, threads=2)
    made.open()
    return made


def run(root: Path, *rows: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return process(stage(root, **settings), list(rows))


def pixels_of(out: dict[str, Any]) -> np.ndarray:
    return decode(out["image"]["bytes"], Limits())


def test_a_supplied_face_lands_on_the_template(root: Path) -> None:
    (out,) = run(root, row("a.png", landmarks=ASTRONAUT), detector="supplied", format="png")
    assert out["status"] == "ok" and out["key"] == out["parent_key"] == "set/a.png"
    transform = np.array(out["transform"])
    residual = G.apply(transform, ASTRONAUT[:3]) - G.TEMPLATE * 224
    assert np.abs(residual).max() < 8
    assert out["face_size_px"] == pytest.approx(224 / G.scale_of(transform))
    assert out["landmarks"] == ASTRONAUT and out["landmarks_from"] == "supplied"
    assert out["bbox_xyxy"] is None and out["detection_score"] is None
    data = out["image"]["bytes"]
    assert out["image_sha256"] == hashlib.sha256(data).hexdigest()
    assert out["source_sha256"] == hashlib.sha256((root / "a.png").read_bytes()).hexdigest()
    assert (out["source_width_px"], out["source_height_px"]) == (512, 512)
    # The pupils are dark, and where the template puts eyes.
    eyes = G.apply(transform, ASTRONAUT[:2]).astype(int)
    face = pixels_of(out)
    assert face.shape == (224, 224, 3)
    for x, y in eyes:
        assert (
            face[y - 4 : y + 5, x - 4 : x + 5].min() < 60 < face[y - 4 : y + 5, x - 4 : x + 5].max()
        )


@pytest.mark.parametrize("size", [64, 112, 224, 512])
def test_any_size_shows_the_same_face(root: Path, size: int) -> None:
    here = row("a.png", landmarks=ASTRONAUT)
    (small,) = run(root, here, detector="supplied", size_px=size, format="png")
    (large,) = run(root, here, detector="supplied", size_px=448, format="png")
    seen = cv2.resize(pixels_of(large), (size, size), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels_of(small).astype(int) - seen).mean() < 5


def test_supplied_boxes_are_upright_pixels_whatever_exif_says(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(astronaut(), 1)).save(root / "turned.png", exif=exif)
    box = [150.0, 40.0, 300.0, 220.0]
    upright, turned = run(
        root, row("a.png", bbox_xyxy=box), row("turned.png", bbox_xyxy=box), detector="supplied"
    )
    assert upright["image_sha256"] == turned["image_sha256"]
    assert upright["landmarks_from"] == "supplied" and upright["landmarks"] is None


def test_none_keeps_the_whole_image_undistorted(root: Path) -> None:
    Image.fromarray(np.full((218, 178, 3), 200, np.uint8)).save(root / "tall.png")
    (out,) = run(root, row("tall.png"), detector="none", format="png")
    face = pixels_of(out)
    assert (face[:, 112] == 200).all() and (face[:, :20] == 0).all()
    assert (face[112] > 100).sum() == pytest.approx(3 * 224 * 178 / 218, abs=6)
    assert out["landmarks_from"] == "none" and out["bbox_xyxy"] is None
    assert out["face_size_px"] == pytest.approx(218)


def test_none_copies_an_image_of_the_right_size(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    Image.fromarray(noise).save(root / "n.png")
    (out,) = run(root, row("n.png"), detector="none", format="png")
    assert np.array_equal(pixels_of(out), noise)


def test_the_default_aligns_the_astronaut_by_eyes_and_nose(root: Path) -> None:
    (out,) = run(root, row("a.png"))
    assert out["status"] == "ok" and out["landmarks_from"] == "detector"
    eyes = G.apply(np.array(out["transform"]), ASTRONAUT[:2])
    assert np.abs(eyes - G.TEMPLATE[:2] * 224).max() < 12
    assert out["detection_score"] > 0.9 and out["faces_found"] >= 1


def test_a_batch_with_every_kind_of_trouble_keeps_its_rows(root: Path) -> None:
    (root / "text.jpg").write_text("no picture")
    (root / "empty.jpg").touch()
    (root / "folder.jpg").mkdir()
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:5000])
    (root / "out.jpg").symlink_to("/etc/hostname")
    Image.fromarray(np.full((300, 300, 3), 120, np.uint8)).save(root / "grey.png")
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(root / "film.gif", save_all=True, append_images=frames[1:])
    expected = {
        "a.png": None,
        "text.jpg": "not_an_image",
        "empty.jpg": "empty_file",
        "folder.jpg": "not_a_file",
        "cut.png": "truncated",
        "out.jpg": "outside_root",
        "gone.jpg": "missing_file",
        "grey.png": "no_face",
        "film.gif": "several_frames",
    }
    known = row("x.jpg", status="failed", reason="path_not_utf8")
    rows = run(root, *(row(path) for path in expected), known)
    assert [out["reason"] if out["status"] != "ok" else None for out in rows] == [
        *expected.values(),
        "path_not_utf8",
    ]
    assert rows[-1]["decided_by"] == "ingest"
    no_face = rows[list(expected).index("grey.png")]
    assert no_face["status"] == "rejected" and no_face["faces_found"] == 0
    assert no_face["source_width_px"] == 300
    assert pa.Table.from_pylist(rows, schema=ALIGNED).num_rows == len(rows)


def test_a_file_changed_since_ingest_is_not_used(root: Path) -> None:
    (out,) = run(root, row("a.png", size_bytes=1, modified_ns=1))
    assert (out["status"], out["reason"]) == ("failed", "changed_since_ingest")


def test_small_faces_are_rejected_with_what_was_found(root: Path) -> None:
    settings = {"detector": "supplied", "min_face_px": 400}
    (out,) = run(root, row("a.png", landmarks=ASTRONAUT), **settings)
    assert (out["status"], out["reason"]) == ("rejected", "face_too_small")
    assert out.get("image") is None and 100 < out["face_size_px"] < 400


def test_the_same_bytes_every_time_and_in_any_batch(root: Path) -> None:
    made = stage(root)
    Image.fromarray(astronaut()[:, ::-1]).save(root / "b.png")
    both = process(made, [row("a.png"), row("b.png")])
    swapped = process(made, [row("b.png"), row("a.png")])
    alone = process(stage(root), [row("a.png")])
    assert both[0] == swapped[1] == alone[0] and both[1] == swapped[0]


@pytest.mark.parametrize(("kind", "magic"), [("jpeg", b"\xff\xd8"), ("png", b"\x89PNG")])
def test_format_and_name(root: Path, kind: Any, magic: bytes) -> None:
    (out,) = run(root, row("a.png"), detector="none", format=kind)
    assert out["image"]["bytes"].startswith(magic)
    assert out["image"]["path"].endswith({"jpeg": ".jpg", "png": ".png"}[kind])


def test_borders_differ_only_outside(root: Path) -> None:
    corner = [[x - 190, y - 90] for x, y in ASTRONAUT]
    Image.fromarray(astronaut()[90:, 190:]).save(root / "corner.png")
    faces = {
        border: pixels_of(
            run(
                root,
                row("corner.png", landmarks=corner),
                detector="supplied",
                border=border,
                format="png",
            )[0]
        )
        for border in ("black", "replicate", "reflect")
    }
    assert (faces["black"][:40] == 0).all() and faces["replicate"][:40].any()
    for border in ("replicate", "reflect"):
        assert np.array_equal(faces[border][120:, 100:], faces["black"][120:, 100:])
    assert not np.array_equal(faces["replicate"], faces["reflect"])


# Choosing


def boxes(*given: tuple[float, float, float, float]) -> list[Detection]:
    return [Detection(np.array(box), None, 0.9, "box") for box in given]


def test_choice_among_several() -> None:
    faces = boxes((400, 0, 500, 100), (40, 40, 60, 60), (0, 0, 30, 30))
    assert choose(faces, "largest", 100, 100) == [faces[0]]
    assert choose(faces, "centre", 100, 100) == [faces[1]]
    assert choose(faces, "all", 100, 100) == [faces[2], faces[1], faces[0]]
    assert choose(faces[1:2], "all", 100, 100) == [faces[1]]


def test_several_faces_get_keys_of_their_own(root: Path) -> None:
    pair = np.concatenate([astronaut()[:300, 100:350], astronaut()[:300, 100:350]], axis=1)
    Image.fromarray(pair).save(root / "pair.png")
    outs = run(root, row("pair.png"), faces="all")
    assert len(outs) >= 2
    assert [out["key"] for out in outs] == [f"set/pair.png#face{n}" for n in range(len(outs))]
    assert {out["parent_key"] for out in outs} == {"set/pair.png"}
    assert {out["faces_found"] for out in outs} == {len(outs)}
    assert [out["image"]["path"] for out in outs] == [f"{out['key']}.jpg" for out in outs]
    (one,) = run(root, row("pair.png"))
    assert one["key"] == "set/pair.png"


# Settings


def test_what_shapes_results_and_what_does_not(tmp_path: Path) -> None:
    shaping = AlignConfig(pack="x", device="cpu").shaping()
    assert shaping == AlignConfig().shaping()
    assert AlignConfig(quality=90).shaping() != shaping
    assert AlignConfig(canvases=(2.0,)).shaping() != shaping


def test_an_unknown_detector_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="insightface"):
        Align(AlignConfig(detector="insigthface"), tmp_path)
    with pytest.raises(ValidationError):
        AlignConfig(max_pixels=10**9)


def test_digests_cover_the_detector_s_files(root: Path) -> None:
    digests = stage(root).digests()
    assert "haarcascade_frontalface_alt2.xml" in digests
    assert all(len(digest) == 64 for digest in digests.values())
    assert stage(root, detector="none").digests() == {}
    assert stage(root).device_class == "cpu"


# With the model pack and the photographs


@pytest.mark.assets
def test_photographs_with_the_pack() -> None:
    folder, pack = ASSETS / "faces/images", ASSETS / "insightface/models/mini"
    if not (folder.is_dir() and pack.is_dir()):
        pytest.skip(f"no photographs or pack under {ASSETS} (set NORMPIPE_TEST_ASSETS)")
    names = sorted(file.name for file in folder.iterdir())[::60]
    outs = run(folder, *map(row, names), detector="insightface", pack=str(pack), device="cpu")
    good = [out for out in outs if out["status"] == "ok"]
    assert len(outs) == len(names) and len(good) >= len(names) - 1
    for out in good:
        assert out["landmarks_from"] == "detector" and out["detection_score"] >= 0.5
        transform, landmarks = np.array(out["transform"]), np.array(out["landmarks"])
        assert np.abs(G.apply(transform, landmarks[:3]) - G.TEMPLATE * 224).max() < 40
        with Image.open(io.BytesIO(out["image"]["bytes"])) as image:
            assert image.size == (224, 224)


@pytest.mark.assets
def test_low_scores_are_told_apart_from_no_face(root: Path) -> None:
    pack = ASSETS / "insightface/models/mini"
    if not pack.is_dir():
        pytest.skip(f"no pack under {ASSETS} (set NORMPIPE_TEST_ASSETS)")
    settings = {"detector": "insightface", "pack": str(pack), "device": "cpu"}
    Image.fromarray(np.full((300, 300, 3), 120, np.uint8)).save(root / "grey.png")
    (sure,) = run(root, row("a.png"), **settings)
    high, none = run(root, row("a.png"), row("grey.png"), threshold=0.999, **settings)
    assert sure["status"] == "ok"
    assert high["reason"] == "low_score" and high["detection_score"] == sure["detection_score"]
    assert none["reason"] == "no_face" and none["detection_score"] is None


@pytest.mark.assets
@pytest.mark.slow
def test_recall_on_all_tight_crops() -> None:
    folder, pack = ASSETS / "faces/images", ASSETS / "insightface/models/mini"
    if not (folder.is_dir() and pack.is_dir()):
        pytest.skip(f"no photographs or pack under {ASSETS} (set NORMPIPE_TEST_ASSETS)")
    made = stage(folder, detector="insightface", pack=str(pack), device="cpu")
    names = sorted(file.name for file in folder.iterdir())
    missed: list[str] = []
    for first in range(0, len(names), 64):
        for out in process(made, [row(name) for name in names[first : first + 64]]):
            missed += [out["key"]] if out["status"] != "ok" else []
    assert len(missed) <= 0.005 * len(names), missed
