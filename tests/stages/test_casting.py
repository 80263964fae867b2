"""Who plays in a set: real people's skin for some, and the target of the user's choice."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import IMAGE
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.judging.renders import load_renders
from normpipe.stages.synthesis import cast
from normpipe.stages.synthesis.cast import choose_target
from normpipe.stages.synthesis.drawing.batch import BatchRenderer
from normpipe.stages.synthesis.drawing.renderer import prepare_person, take_shot
from normpipe.stages.synthesis.facekit import load_facekit
from normpipe.stages.synthesis.photograph_skins import Appearance, PortraitReader, align_face
from normpipe.stages.synthesis.scene.person import draw_person
from normpipe.stages.synthesis.scene.scene import SceneOptions, draw_scene
from normpipe.stages.synthesis.scene.target import TARGET_VERSION, TargetFace
from normpipe.stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig
from normpipe.stages.training.synthesized import load_pairs, target_of

from .conftest import render_target


def config_of(kit, **changes):
    given = {"pairs": 4, "identities": 4, "size_px": 48, "target_size_px": 32, "device": "cpu"}
    return SynthesizeConfig(facekit=str(kit), **{**given, **changes})


# ---- targets

#: Means of 4 x 4 parts of the target at rest on the small kit, 64 px.
RESTING = [
    [118, 180, 176, 110],
    [146, 188, 182, 136],
    [143, 179, 171, 132],
    [132, 163, 155, 126],
]


@pytest.mark.parametrize(("target", "kind"), [("mean", "mean"), ("12345", "identity")])
def test_the_target_is_recorded_with_the_shards(fake_kit_file, tmp_path, target, kind):
    config = config_of(fake_kit_file, target=target)
    flow = [PlanPairs(config), Synthesize(config)]
    Runner(tmp_path, flow, RunConfig(), Options(identity={"dataset": "synth"})).run(flow)
    shard = next(tmp_path.glob("pairs/shard-*.parquet"))
    note = json.loads(pq.read_schema(shard).metadata[b"target"])
    assert note.keys() == {"kind", "name", "facekit", "renderer", "size_px", "sha256"}
    assert (note["kind"], note["name"]) == (kind, target) and len(note["sha256"]) == 64
    assert note["facekit"] == load_facekit(fake_kit_file).digest


def test_a_set_goes_on_where_pixels_are_rounded_otherwise(fake_kit_file, tmp_path, monkeypatch):
    """Half of a set, and another one, on a CPU with other vector instructions: one target."""

    def render(folder, resting, **changes):
        monkeypatch.setattr(cast, "resting_sha256", lambda *_: resting)
        config = config_of(fake_kit_file, shard_rows=2, validation=0, test=0, **changes)
        flow = [PlanPairs(config), Synthesize(config)]
        Runner(folder, flow, RunConfig(), Options(identity={"dataset": "synth"})).run(flow)
        return folder

    half = render(tmp_path / "half", "avx2")
    ShardFolder(half / "pairs").remove(1)
    render(half, "avx512")
    notes = [target_of(path)["sha256"] for path in sorted(half.glob("pairs/shard-*.parquet"))]
    assert notes == ["avx2", "avx512"]
    again = render(tmp_path / "again", "cuda", seed=3)
    assert len(load_pairs([half, again], "train")) == 8
    assert len(load_renders([half, again], "train")) == 8
    for name, changes in (("other", {"target": 5}), ("finer", {"target_size_px": 48})):
        other = render(tmp_path / name, name, **changes)
        with pytest.raises(InputError, match="shows another target face"):
            load_pairs([half, other], "train")
        with pytest.raises(InputError, match="another target than the rest"):
            load_renders([half, other], "train")


def test_the_version_of_the_target_is_that_of_its_look(fake_head):
    """Fails where the target looks otherwise: raise TARGET_VERSION, then record it here."""
    still = np.zeros(len(fake_head.kit.expression_names), np.float32)
    seen = render_target(TargetFace(fake_head), still, 64).pixels
    means = seen.reshape(4, 16, 4, 16, 3).mean((1, 3, 4))
    assert TARGET_VERSION == 3
    np.testing.assert_allclose(means, RESTING, rtol=0, atol=1.5)


def test_another_target_is_another_fingerprint_and_the_same_sources(fake_kit_file):
    pictures, digests = [], []
    for target in ("mean", 77):
        config = config_of(fake_kit_file, target=target, pairs=1, identities=1)
        stage = Synthesize(config)
        stage.open()
        item = stage.prepare(PlanPairs(config).scan().rows.to_pylist()[0])
        pictures.append(stage.compute([item])[0])
        digests.append(stage.digests()["target"])
    np.testing.assert_array_equal(pictures[0].source, pictures[1].source)
    assert np.abs(pictures[0].target.astype(int) - pictures[1].target).mean() > 1
    assert digests[0] != digests[1]


def test_sets_without_targets_have_none_to_record(fake_kit_file):
    stage = Synthesize(config_of(fake_kit_file, targets=False))
    assert b"target" not in stage.schema.metadata and "target" not in stage.digests()


def test_a_drawn_target_moves_as_the_coefficients_say(fake_head):
    person = choose_target("31").draw(fake_head)
    assert np.abs(person.rest).max() <= 0.05 and (person.gain == 1).all()
    assert person.beard.style == "none" and not person.resting_wrinkles.any()
    drawn = draw_person(31, fake_head.kit.expression_names, 3)
    np.testing.assert_array_equal(person.identity, drawn.identity)
    assert person.skin == drawn.skin


def test_a_target_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"--target nobody\.jpg"):
        choose_target("nobody.jpg")


# ---- faces that were never anybody's: renders stand in for photographs


@pytest.fixture(scope="module")
def portrait(real_head):
    """An aligned "photograph": a drawn man with black dots on his cheeks, mouth closed."""
    names = real_head.kit.expression_names
    options = SceneOptions("snapshot")
    person = draw_person(126, names, len(real_head.kit.identity))
    scene = draw_scene(person, 1, names, options)
    scene = replace(
        scene,
        expression=replace(scene.expression, coefficients=np.zeros(len(names), np.float32)),
        camera=replace(scene.camera, yaw_deg=3.0, pitch_deg=0.0, roll_deg=0.0),
        light=replace(scene.light, exposure=0.55, key=0.4, ambient=0.6, fill=0.2, shadow=0.0),
        background="plain",
        occluder="none",
        glasses=replace(scene.glasses, worn=False),
    )
    shot = take_shot(real_head, prepare_person(real_head, person), scene, 400)
    return BatchRenderer(real_head, 400, "cpu").render([shot])[0]


@pytest.mark.assets
def test_a_face_is_aligned_and_read(real_head, portrait):
    aligned = align_face(portrait)
    assert aligned is not None and aligned.shape == (224, 224, 3)
    read = PortraitReader(real_head).read(aligned)
    assert read is not None and not read.grey
    assert abs(read.fit.yaw_deg) < 12 and read.fit.error < 0.075
    assert read.detail.weight.max() > 0.9
    assert align_face(np.full((200, 200, 3), 128, np.uint8)) is None


@pytest.fixture(scope="module")
def folder(portrait, tmp_path_factory):
    path = tmp_path_factory.mktemp("people")
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(path / name), portrait[..., ::-1])
    return path


@pytest.mark.assets
def test_a_share_of_the_people_wears_the_skin_of_photographs(real_head, folder):
    appearance = Appearance(folder, 0.5, real_head)
    names = real_head.kit.expression_names
    people = [draw_person(i, names, len(real_head.kit.identity)) for i in range(12)]
    first, again = ([appearance.apply(person) for person in people] for _ in range(2))
    worn = [person.detail is not None for person in first]
    assert 2 <= sum(worn) <= 10
    for one, other, before in zip(first, again, people, strict=True):
        np.testing.assert_array_equal(one.identity, before.identity)
        np.testing.assert_array_equal(one.rest, before.rest)
        if one.detail is not None and other.detail is not None:
            np.testing.assert_array_equal(one.detail, other.detail)
        else:
            assert one is before and other is before
    nobody = Appearance(folder, 0.0, real_head)
    assert nobody.apply(people[0]) is people[0]


@pytest.mark.assets
def test_appearance_changes_sources_and_neither_targets_nor_labels(real_kit_file, folder):
    made, digests = [], []
    for changes in ({}, {"appearance": str(folder), "appearance_share": 1.0}):
        config = config_of(real_kit_file, pairs=1, identities=1, **changes)
        stage = Synthesize(config)
        stage.open()
        row = PlanPairs(config).scan().rows.to_pylist()[0]
        item = stage.prepare(row)
        made.append(stage.finish(row, item, stage.compute([item])[0])[0])
        digests.append(stage.digests())
    plain, with_portrait_skin = made
    assert plain["image"]["bytes"] != with_portrait_skin["image"]["bytes"]
    same = [name for name in plain if name != "image"]
    assert {n: plain[n] for n in same} == {n: with_portrait_skin[n] for n in same}
    assert {"appearance", "appearance_reader"} == set(digests[1]) - set(digests[0])


@pytest.mark.assets
def test_aligned_datasets_are_read_too(real_head, portrait, tmp_path):
    encoded = cv2.imencode(".png", align_face(portrait)[..., ::-1])[1].tobytes()
    rows = [
        {"key": "a", "status": "rejected", "image": None},
        {"key": "b", "status": "ok", "image": {"bytes": encoded, "path": "b.png"}},
    ]
    fields = [("key", pa.string()), ("status", pa.string()), ("image", IMAGE)]
    (tmp_path / "aligned").mkdir()
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    pq.write_table(table, tmp_path / "aligned" / "shard-00000.parquet")
    appearance = Appearance(tmp_path, 1.0, real_head)
    person = draw_person(3, real_head.kit.expression_names, len(real_head.kit.identity))
    assert appearance.apply(person).detail is not None


@pytest.mark.assets
def test_photographs_without_a_face_are_refused(real_head, tmp_path):
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((90, 90, 3), 120, np.uint8))
    person = draw_person(3, real_head.kit.expression_names, len(real_head.kit.identity))
    with pytest.raises(InputError, match="--appearance"):
        Appearance(tmp_path, 1.0, real_head).apply(person)
    with pytest.raises(InputError, match=r"wall\.png shows no face"):
        choose_target(str(tmp_path / "wall.png")).draw(real_head)


@pytest.mark.assets
def test_a_photograph_becomes_the_target(real_kit_file, folder):
    config = config_of(real_kit_file, target=str(folder / "a.png"), target_size_px=96)
    stage = Synthesize(config)
    note = json.loads(stage.schema.metadata[b"target"])
    assert (note["kind"], note["name"]) == ("image", "a.png")
    mean = Synthesize(config_of(real_kit_file, target_size_px=96))
    assert stage.digests()["target"] != mean.digests()["target"]
