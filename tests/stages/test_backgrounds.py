"""What stands behind heads, and what cameras make of it all."""

import cv2
import numpy as np
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.making import process
from normpipe.stages.synthesis.drawing.degrade import simulate_camera
from normpipe.stages.synthesis.scene.background import (
    BACKGROUND_SHARES,
    BACKGROUNDS,
    paint_background,
)
from normpipe.stages.synthesis.scene.person import generator
from normpipe.stages.synthesis.scene.picture_folder import PictureFolder
from normpipe.stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig

BLUE = (20, 40, 200)


@pytest.fixture
def folder(tmp_path):
    """Two pictures in one blue, one of them in a folder below."""
    (tmp_path / "deeper").mkdir()
    for name in ("a.png", "deeper/b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((90, 700, 3), BLUE[::-1], np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_places_are_pictures_that_follow_from_their_number(kind):
    first, again, other = (paint_background(generator(n), kind, 40) for n in (3, 3, 4))
    assert first.shape == (40, 40, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.02


def test_every_place_has_a_share():
    assert set(BACKGROUND_SHARES) == set(BACKGROUNDS)
    assert sum(BACKGROUND_SHARES.values()) == pytest.approx(1)


def config_of(kit, **changes):
    return SynthesizeConfig(
        facekit=str(kit), pairs=4, identities=2, size_px=48, targets=False, **changes
    )


def test_the_users_pictures_stand_behind_the_heads(fake_kit_file, folder):
    config = config_of(fake_kit_file, backgrounds=str(folder))
    for row in PlanPairs(config).scan().rows.to_pylist():
        stage = Synthesize(config)
        stage.open()
        [made] = process(stage, [row])
        source = made["image"]["bytes"]
        pixels = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        near = np.abs(pixels.astype(int) - BLUE).max(-1) < 25
        assert 0.05 < near.mean() < 0.9


def test_every_byte_and_every_name_shapes_the_fingerprint(fake_kit_file, folder):
    config = config_of(fake_kit_file, backgrounds=str(folder))
    first = Synthesize(config).digests()
    assert Synthesize(config).digests() == first
    (folder / "a.png").rename(folder / "c.png")
    renamed = Synthesize(config).digests()
    cv2.imwrite(str(folder / "c.png"), np.zeros((90, 80, 3), np.uint8))
    changed = Synthesize(config).digests()
    assert len({found["backgrounds"] for found in (first, renamed, changed)}) == 3
    assert "backgrounds" not in Synthesize(config_of(fake_kit_file)).digests()


def test_a_picture_that_cannot_be_read_is_named(fake_kit_file, folder):
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])
    config = config_of(fake_kit_file, backgrounds=str(folder))
    stage = Synthesize(config)
    stage.open()
    with pytest.raises(InputError, match=r"--backgrounds.*[ab]\.png"):
        stage.prepare(PlanPairs(config).scan().rows.to_pylist()[0])


@pytest.mark.parametrize("make", [lambda p: p / "gone", lambda p: p / "empty"])
def test_a_folder_without_pictures_is_refused(tmp_path, make):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--backgrounds"):
        PictureFolder(make(tmp_path), "--backgrounds")


def test_large_pictures_are_kept_small(folder):
    found = PictureFolder(folder, "--backgrounds")
    assert len(found) == 2 and max(found.read_small(0).shape) == 640
    assert found.read_small(0) is found.read_small(0)


# ---- cameras


def test_poor_cameras_move_nothing():
    """A bright square stays where it is, in colour or not, through blur, noise and JPEG."""
    picture = np.full((96, 96, 3), (70, 60, 50), np.uint8)
    picture[30:50, 60:80] = (230, 210, 190)
    grey = 0
    for seed in range(40):
        made = simulate_camera(picture, generator(seed))
        assert made.shape == picture.shape and made.dtype == np.uint8
        bright = made.astype(float).mean(2)
        bright = (bright - np.median(bright)).clip(0)
        bright[bright < 0.5 * bright.max()] = 0
        rows, columns = (bright.sum(axis) @ np.arange(96) / bright.sum() for axis in (1, 0))
        assert abs(rows - 39.5) < 2 and abs(columns - 69.5) < 2
        grey += float(np.ptp(made.astype(int), axis=2).mean()) < 8
        np.testing.assert_array_equal(made, simulate_camera(picture, generator(seed)))
    assert 1 <= grey <= 20


def test_a_varied_camera_changes_sources_and_no_label(fake_kit_file):
    rows = []
    for camera in ("clean", "varied"):
        config = config_of(fake_kit_file, camera=camera, seed=3)
        stage = Synthesize(config)
        stage.open()
        row = PlanPairs(config).scan().rows.to_pylist()[0]
        item = stage.prepare(row)
        rows.append(stage.finish(row, item, stage.compute([item])[0])[0])
    clean, varied = rows
    assert clean["image"]["bytes"] != varied["image"]["bytes"]
    assert {n: clean[n] for n in clean if n != "image"} == {
        n: varied[n] for n in varied if n != "image"
    }
