"""Labels of real faces: read by name, joined by path or key, and what heads make of a code."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from normpipe.manifests.vocabularies import EMOTIONS
from normpipe.pipeline.errors import InputError
from normpipe.stages.synthesis.scene.acting import prototype
from normpipe.stages.synthesis.scene.expressions import RENDERED_UNITS
from normpipe.stages.training.face_labels import by_path, label_tables, labels_of, merged
from normpipe.stages.training.normalizer.batches import Batches, Recipe, cover_half
from normpipe.stages.training.normalizer.label_heads import LabelHeads, unit_shapes
from normpipe.stages.training.pictures import Form
from normpipe.stages.training.real_faces import FaceCache, WantedLabels, load_faces

from .test_training_data import aligned  # noqa: F401  (a fixture)

SHAPES = ("browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "jawLeft", "jawOpen",
          "mouthSmile_L", "mouthSmile_R", "mouthFrown_L", "mouthFrown_R")  # fmt: skip


def row_of(shares):
    return [shares.get(name, 0.0) for name in EMOTIONS]


def test_votes_count_where_there_are_any_else_the_emotion():
    table = pa.table(
        {
            "key": ["a", "b", "c", "d"],
            "emotion": ["anger", "anger", None, "bored"],
            "anger_votes": [1, None, 0, None],
            "neutral_votes": [3, None, 0, None],
            "unknown_votes": [6, None, 10, None],
        }
    )
    found = labels_of(table, SHAPES).emotions
    np.testing.assert_allclose(found[0], row_of({"anger": 0.25, "neutral": 0.75}))
    np.testing.assert_allclose(found[1], row_of({"anger": 1.0}))
    assert np.isnan(found[2:]).all()


def test_action_units_and_scores_by_name():
    table = pa.table(
        {
            "key": ["a", "b"],
            "AU12": pa.array([1, None], pa.int8()),
            "AU4_intensity": pa.array([2.5, 5.0], pa.float32()),
            "browDownLeft": [0.25, 0.5],
            "browInnerUp": [0.75, None],
            "jawLeft": [0.5, 0.5],  # its own name, not the left side of a jaw
            "mouthSmile_R": [1.0, 0.0],
            "mouthFrownLeft": ["x", "y"],  # text scores nothing
            "AU23": pa.array([1, 1], pa.int8()),  # no shape has it
        }
    )
    found = labels_of(table, SHAPES)
    smile, lower = RENDERED_UNITS.index("AU12"), RENDERED_UNITS.index("AU4")
    assert found.occurrence[0, smile] == 1 and np.isnan(found.occurrence[1, smile])
    assert found.intensity[:, lower].tolist() == [2.5, 5.0]
    assert np.isfinite(found.occurrence).sum() == 1 and np.isfinite(found.intensity).sum() == 2
    known = {SHAPES[place]: found.shapes[0, place] for place in range(10)
             if np.isfinite(found.shapes[0, place])}  # fmt: skip
    assert known == {"browDown_L": 0.25, "browInnerUp_L": 0.75, "browInnerUp_R": 0.75,
                     "jawLeft": 0.5, "mouthSmile_R": 1.0}  # fmt: skip
    assert found.known() == {"occurrence": 1, "intensity": 2, "shapes": 2}


def test_the_second_source_counts_where_it_knows():
    one = labels_of(pa.table({"key": ["a", "b"], "jawOpen": [0.1, 0.2]}), SHAPES)
    two = labels_of(
        pa.table({"key": ["a", "b"], "jawOpen": pa.array([None, 0.9], pa.float32()),
                  "emotion": ["fear", None]}), SHAPES)  # fmt: skip
    both = merged(one, two)
    np.testing.assert_allclose(both.shapes[:, SHAPES.index("jawOpen")], [0.1, 0.9])
    np.testing.assert_allclose(both.emotions[0], row_of({"fear": 1.0}))


def test_paths_are_those_of_the_list():
    listed = pa.table({"path": ["1.jpg", "sub/2.jpg", "v.mp4"]})
    keys = ["d/1.jpg", "d/sub/2.jpg#1", "d/v.mp4#17#0", "d/other.jpg", "1.jpg"]
    assert by_path(keys, listed).to_pylist() == [0, 1, 2, None, 0]


def test_lists_and_jobs_label_faces(aligned, tmp_path):  # noqa: F811
    scores = tmp_path / "scores.csv"
    scores.write_text("image,jawOpen\n0.jpg,0.5\n2.jpg,0.25\nelsewhere.jpg,1\n")
    table = pq.read_table(aligned / "labels.parquet")
    emotions = pa.array(["anger", "fear", "fear", "fear", "fear"])
    pq.write_table(table.append_column("emotion", emotions), aligned / "labels.parquet")
    wanted = WantedLabels(SHAPES, [scores, aligned])
    found = load_faces([aligned], "train", Form(), 1, wanted)
    assert found.keys == ("d/0.jpg#0", "d/2.jpg#0")
    np.testing.assert_allclose(found.labels.shapes[:, SHAPES.index("jawOpen")], [0.5, 0.25])
    np.testing.assert_allclose(found.labels.emotions[0], row_of({"anger": 1.0}))
    assert load_faces([aligned], "train", Form(), 1).labels is None
    bare = load_faces([aligned], "train", Form(), 1, WantedLabels(SHAPES, [scores]))
    assert bare.digest() != found.digest()
    assert np.isnan(bare.labels.emotions).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,jawOpen\nelsewhere.jpg,1\n", "names none of the faces"),
        ("image\n0.jpg\n", "has no labels"),
        ("image,jawOpen\n0.jpg,1\n0.jpg,2\n", "a picture twice"),
        ("image,emotion\n0.jpg,3\n", "the list of normpipe run"),
    ],
)
def test_lists_that_cannot_be_used(text, message, aligned, tmp_path):  # noqa: F811
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_faces([aligned], "", Form(), 1, WantedLabels(SHAPES, [file]))


def test_an_emotion_as_text_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no list"):
        label_tables([tmp_path / "missing.csv"])


def test_pictures_that_also_occur_outside_the_split_are_left_out(aligned, caplog):  # noqa: F811
    shard = aligned / "aligned/shard-00000.parquet"
    table = pq.read_table(shard)
    hashes = pa.array(["same", "same", "own", "other", None])  # 0 is train, 1 is test
    place = table.schema.get_field_index("image_sha256")
    pq.write_table(table.set_column(place, table.schema.field(place), hashes), shard)
    assert load_faces([aligned], "train", Form(), 1).keys == ("d/2.jpg#0",)
    assert "leaving out 1 faces of the split 'train'" in caplog.text
    assert len(load_faces([aligned], "", Form(), 1)) == 4


def test_datasets_are_mixed_by_share(aligned):  # noqa: F811
    faces = load_faces([aligned, aligned], "", Form(), 1)
    assert faces.starts == (0, 4, 8)
    pairs = type("Pairs", (), {"expression_names": ("jawOpen",)})()
    batches = Batches(pairs, Recipe(4, 0, 8, 112, shares=(3.0, 1.0)), 0, faces)
    for step in range(4):
        rows = batches.face_rows(faces, step)
        assert (rows < 4).sum() == 6 and (rows >= 4).sum() == 2
    shown = np.concatenate([batches.face_rows(faces, step) for step in range(4)])
    assert np.bincount(shown, minlength=8).tolist() == [6] * 4 + [2] * 4
    flipped = [row for step in range(50) for row in batches.face_rows(faces, step)[1::2]]
    assert 0.15 < np.mean(np.array(flipped) >= 4) < 0.35  # neither dataset is always mirrored


@pytest.mark.parametrize("upper", [True, False])
def test_half_a_face_is_hidden(upper):
    picture = np.full((144, 144), 77, np.uint8)
    cover_half(picture, upper, np.random.default_rng(3))
    left = (picture == 77).mean(1) > 0.5
    shown, hidden = (left[90:], left[:55]) if upper else (left[:55], left[90:])
    assert shown.all() and not hidden.any()


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_heads_begin_at_the_prototypes(emotion):
    """Before anything is learnt, the code of an emotion in full is read as that emotion."""
    from normpipe.stages.networks.files.normalizer_file import open_normalizer

    names = open_normalizer("compact").expression_names
    code = torch.from_numpy(prototype(emotion, names))[None]
    read = LabelHeads(names)(code)
    assert EMOTIONS[int(read["emotions"].argmax())] == emotion
    assert read["emotions_distance"].item() == 0


def test_laughter_is_no_prototype_of_happiness():
    """Laughter opens the mouth and closes the eyes; a label of happiness says neither."""
    from normpipe.stages.networks.files.normalizer_file import open_normalizer

    names = open_normalizer("compact").expression_names
    shown = prototype("happiness", names, without=("laughter",))
    happy = dict(zip(names, shown.tolist(), strict=True))
    assert happy["mouthSmile_L"] == pytest.approx(0.675) and happy["eyeBlink_L"] == 0
    assert happy["jawOpen"] == pytest.approx(0.125)
    assert dict(zip(names, prototype("happiness", names).tolist(), strict=True))["jawOpen"] > 0.25
    head = LabelHeads(names).emotions
    row = dict(zip(names, head.prototypes[EMOTIONS.index("happiness")].tolist(), strict=True))
    assert row["mouthSmile_L"] > 0.4 and row["jawOpen"] < 0


def test_regions_read_their_own_half_alone():
    heads, code = LabelHeads(SHAPES), torch.full((1, len(SHAPES)), 0.5, requires_grad=True)
    seen = {}
    for name in ("emotions_upper", "emotions_lower"):
        grad = torch.autograd.grad(heads(code)[name].square().sum(), code)[0][0]
        seen[name] = {SHAPES[place] for place in grad.nonzero().flatten().tolist()}
    assert all(name.startswith("brow") for name in seen["emotions_upper"])
    assert not any(name.startswith("brow") for name in seen["emotions_lower"])
    assert seen["emotions_upper"] and seen["emotions_lower"]


def test_units_are_means_of_their_shapes():
    found = unit_shapes(SHAPES)
    assert found[RENDERED_UNITS.index("AU4")].tolist() == [0.5, 0.5] + [0] * 8
    assert found[RENDERED_UNITS.index("AU26")][SHAPES.index("jawOpen")] == 1
    assert not found[RENDERED_UNITS.index("AU25")].any()


def test_labels_without_any_use_are_an_empty_cache():
    faces = FaceCache(("a",), [np.zeros((8, 8), np.uint8)])
    assert faces.labels is None and [rows.tolist() for rows in faces.datasets] == [[0]]
