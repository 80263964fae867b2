"""What training reads: pairs of one target, real faces of one split, in bounded memory."""

import hashlib

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from normpipe.manifests.schema import ALIGNED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.training.normalizer.batches import Batches, Recipe
from normpipe.stages.training.normalizer.frozen import open_frozen
from normpipe.stages.training.normalizer.report import target_notes
from normpipe.stages.training.pictures import Form, Pictures
from normpipe.stages.training.real_faces import load_faces
from normpipe.stages.training.synthesized import load_pairs, same_target


def jpeg(seed, size=40):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    picture = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", picture)[1].tobytes()


@pytest.fixture
def aligned(tmp_path):
    """A job's folder: five faces, one of them rejected, labels with splits beside them."""
    (tmp_path / "aligned").mkdir()
    rows = [
        {
            "key": f"d/{i}.jpg#0", "parent_key": f"d/{i}.jpg", "decided_by": "align",
            "status": "rejected" if i == 4 else "ok",
            "image": {"bytes": None if i == 4 else jpeg(i), "path": f"{i}.jpg"},
        }
        for i in range(5)
    ]  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist(rows, schema=ALIGNED), tmp_path / "aligned/shard-00000.parquet"
    )
    labels = {"key": [f"d/{i}.jpg" for i in range(5)], "split": ["train", "test"] * 2 + ["train"]}
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    (tmp_path / "job.json").write_text("{}")
    return tmp_path


def test_faces_of_a_split(aligned):
    assert load_faces([aligned], "", Form(), 1).keys == tuple(f"d/{i}.jpg#0" for i in range(4))
    found = load_faces([aligned / "aligned"], "train", Form(), 1)
    assert found.keys == ("d/0.jpg#0", "d/2.jpg#0")
    assert load_faces([aligned], "", Form(True, 24, True), 1).pictures[0].shape == (24, 24, 3)


def test_faces_that_are_not_there(aligned, tmp_path_factory):
    with pytest.raises(InputError, match="split 'validation'"):
        load_faces([aligned], "validation", Form(), 1)
    (aligned / "labels.parquet").unlink()
    with pytest.raises(InputError, match="faces_split = ''"):
        load_faces([aligned], "train", Form(), 1)
    with pytest.raises(InputError, match="--until align"):
        load_faces([tmp_path_factory.mktemp("empty")], "", Form(), 1)


@pytest.mark.parametrize("form", [Form(), Form(True), Form(True, 24), Form(False, 64, True)])
def test_pictures_kept_encoded_are_the_same(form):
    encoded = [jpeg(i) for i in range(3)]
    decoded, kept = Pictures(encoded, form, 1e9), Pictures(encoded, form, 0)
    assert len(decoded) == len(kept) == 3
    np.testing.assert_array_equal(decoded.take([2, 0]), kept.take([2, 0]))
    np.testing.assert_array_equal(decoded[1], kept[1])


def test_colours_are_rgb():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    pixels = Pictures([cv2.imencode(".png", red)[1].tobytes()], Form(True), 1e9)[0]
    assert pixels[8, 8].tolist() == [255, 0, 0]


def pair_shard(folder, shows=True, **metadata):
    folder.mkdir()
    row = {
        "key": "a", "status": "ok", "split": "train", "image": {"bytes": jpeg(0), "path": ""},
        "target": {"bytes": jpeg(1), "path": ""}, "expression": [0.5, 0.1], "identity": 1,
        "landmarks68": np.zeros((68, 2)).tolist(), "yaw_deg": 0.0, "pitch_deg": 0.0,
        "roll_deg": 0.0, "target_landmarks68": np.zeros((68, 2)).tolist(),
    }  # fmt: skip
    table = pa.Table.from_pylist([row])
    if not shows:  # as synthesize.targets = false writes it
        table = table.set_column(
            table.schema.get_field_index("target"),
            table.schema.field("target"),
            pa.nulls(1, table["target"].type),
        )
    notes = {"expression_names": "jawOpen,mouthClose", **metadata}
    pq.write_table(table.replace_schema_metadata(notes), folder / "shard-00000.parquet")
    return folder


def test_sets_of_two_targets_are_refused(tmp_path):
    mean, other = pair_shard(tmp_path / "a"), pair_shard(tmp_path / "b", target='{"kind": "own"}')
    cache = load_pairs([mean], "train")
    assert cache.target_note == {"kind": "mean"}
    # Shards that do not say so: the sha256 is that of the picture that is written.
    note = target_notes(cache, tmp_path)
    pixels = cv2.imread(str(tmp_path / "target.png"))[..., ::-1]
    assert note["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert load_pairs([other], "train").target_note == {"kind": "own"}
    with pytest.raises(InputError, match="another target face"):
        load_pairs([mean, other], "train")


def test_sets_that_say_little_of_their_target_still_open(tmp_path):
    """Before version 4 shards held the sha256 of a picture; what made them stands beside them."""
    pixels, made = [f'{{"kind": "mean", "name": "mean", "sha256": "{i}"}}' for i in range(2)], {
        "version": 3, "digests": {"facekit": "k"}, "settings": {"target_size_px": 40},
    }  # fmt: skip
    folders = [
        pair_shard(tmp_path / name, target=pixels[i]) for name, i in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert len(load_pairs(folders[:2], "train")) == 2
    with pytest.raises(InputError, match="another target face"):
        load_pairs(folders, "train")
    for folder in folders:
        write_json(ShardFolder(folder).stage_path, made)
    assert len(load_pairs(folders, "train")) == 3
    write_json(ShardFolder(folders[2]).stage_path, {**made, "digests": {"facekit": "other"}})
    with pytest.raises(InputError, match="another target face"):
        load_pairs(folders, "train")


def test_photographs_of_one_name_are_two_targets():
    note = {"kind": "image", "name": "me.jpg", "facekit": "k", "renderer": 3, "size_px": 40}
    assert not same_target({**note, "sha256": "1"}, {**note, "sha256": "2"})
    one, again, other = (
        {**note, "sha256": f"{i}", "photograph": digest} for i, digest in enumerate("aab")
    )
    assert same_target(one, again) and not same_target(one, other)


def test_sources_alone_go_with_any_target(tmp_path):
    own, none = (
        pair_shard(tmp_path / "a", target='{"kind": "own"}'),
        pair_shard(tmp_path / "b", False),
    )
    for folders in ([own, none], [none, own]):
        cache = load_pairs(folders, "train")
        assert cache.target_note == {"kind": "own"}
        assert len(cache) == 2 and cache.target_of.tolist() == [folders.index(own)]
    assert load_pairs([none], "train").target_note == {"kind": "mean"}


def test_parts_of_a_batch_are_the_batch(tiny_pairs):
    """However it is cut, a batch holds the same pictures, degraded alike."""
    pairs = load_pairs([tiny_pairs], "train")
    faces = load_faces([tiny_pairs / "pairs"], "train", Form(), 1)
    whole = Batches(pairs, Recipe(8, 4, 4, 112, 1), 0, faces)[3]
    parts = Batches(pairs, Recipe(8, 4, 4, 112, 2), 0, faces)
    cut = [parts[3 * 2 + part] for part in range(2)]
    drawn, rest = [0, 1, 4, 5], [2, 3, 6, 7]
    order = [*drawn[:2], *rest[:2], *drawn[2:], *rest[2:]]
    assert order == [0, 1, 2, 3, 4, 5, 6, 7]
    for name in ("target", "weak", "flipped"):
        torch.testing.assert_close(torch.cat([part[name] for part in cut]), whole[name])
    # Those with a target come first in each part.
    codes = torch.cat([cut[0]["expression"][:2], cut[1]["expression"][:2]])
    torch.testing.assert_close(codes, whole["expression"][:4])
    codes = torch.cat([cut[0]["expression"][2:], cut[1]["expression"][2:]])
    torch.testing.assert_close(codes, whole["expression"][4:])
    assert whole["flipped"].tolist() == [False, True, False, True]


def test_a_frozen_network_stays_frozen(tmp_path):
    from normpipe.stages.networks.files.checkpoint import save_tensors

    torch.manual_seed(0)
    path = tmp_path / "own.safetensors"
    frozen = CompactNormalizer(2)
    notes = {"network": "compact", "settings": frozen.settings(), "expression_names": "a,b"}
    save_tensors(frozen.state_dict(), path, notes)
    network = open_frozen(path).train()
    assert not any(module.training for module in network.network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    picture = torch.rand(2, 3, 48, 48, requires_grad=True)
    network(picture).sum().backward()
    assert picture.grad.abs().sum() > 0
    with pytest.raises(InputError, match="'iresnet50'"):
        open_frozen(path, "iresnet5")


def test_face_recognition_weights_by_their_common_names(tmp_path):
    from normpipe.stages.networks.files.checkpoint import save_tensors
    from normpipe.stages.networks.iresnet import IResNet

    network = IResNet((2, 2, 2, 2))
    names = network.state_dict().keys()
    assert {"layer1.0.bn1.weight", "layer2.0.downsample.0.weight", "fc.weight"} <= names
    assert {"features.running_mean", "layer4.1.prelu.weight", "bn2.bias"} <= names
    save_tensors(network.state_dict(), tmp_path / "r18.safetensors", {})
    with torch.inference_mode():
        opened = open_frozen(tmp_path / "r18.safetensors", "iresnet18")
        assert opened(torch.rand(2, 3, 192, 192)).shape == (2, 512)
