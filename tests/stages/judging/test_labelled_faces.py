from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from normpipe.manifests.schema import ALIGNED
from normpipe.pipeline.errors import InputError
from normpipe.stages.faces.pixels import encode
from normpipe.stages.judging.labelled_faces import load_real, read_real
from normpipe.stages.judging.renders import normalize_all

POINTS = [[10.0, 12.0], [22.0, 12.0], [16.0, 18.0], [11.0, 24.0], [21.0, 24.0]]


GREY = (0, 60, 120)


def job(
    folder: Path, labels: dict[str, list[str | None]], grey: Sequence[int] = GREY, each: int = 3
) -> Path:
    """A job's folder with plain faces, ``each`` of them a shard; the second was rejected."""
    rows = []
    for number, level in enumerate(grey):
        pixels = np.full((32, 32, 3), level, np.uint8)
        rows.append(
            {
                "key": f"d/{number}.jpg", "parent_key": f"d/{number}.jpg",
                "status": "rejected" if number == 1 else "ok",
                "image": {"bytes": encode(pixels, "png", 95), "path": f"{number}.png"},
                "landmarks": POINTS, "transform": [[2.0, 0.0, 1.0], [0.0, 2.0, -3.0]],
            }
        )  # fmt: skip
    (folder / "aligned").mkdir(parents=True)
    for shard, start in enumerate(range(0, len(rows), each)):
        table = pa.Table.from_pylist(rows[start : start + each], ALIGNED)
        pq.write_table(table, folder / f"aligned/shard-{shard:05d}.parquet")
    keys = [f"d/{number}.jpg" for number in reversed(range(len(grey)))]
    pq.write_table(pa.table({"key": keys, **labels}), folder / "labels.parquet")
    (folder / "job.json").write_text("{}")
    return folder


def test_faces_that_are_ok_with_their_labels(tmp_path: Path) -> None:
    labels = {
        "subject": ["zoe", "yan", "ann"], "emotion": ["anger", None, "neutral"],
        "split": ["test", "test", "train"], "source": ["lfw", "lfw", None],
    }  # fmt: skip
    folder = job(tmp_path, labels)
    faces = load_real(folder)
    assert faces.people.tolist() == ["ann", "zoe"]
    assert faces.emotions.tolist() == ["neutral", "anger"]
    assert faces.sources.tolist() == ["all", "lfw"]
    assert faces.parts.tolist() == ["train", "test"]
    assert faces.images[:, 5, 5].tolist() == [[0, 0, 0], [120, 120, 120]]
    np.testing.assert_allclose(faces.landmarks[0], np.array(POINTS) * 2 + [1, -3])
    assert len(load_real(folder / "aligned").take(faces.parts == "test")) == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no aligned faces"):
        load_real(tmp_path)
    with pytest.raises(InputError, match="no column 'emotion'"):
        load_real(job(tmp_path / "a", {"subject": ["ann"] * 3}))
    with pytest.raises(InputError, match="name no emotion"):
        load_real(job(tmp_path / "b", {"emotion": [None] * 3, "subject": [None] * 3}))


def test_faces_of_nobody_are_groups_by_pixels(tmp_path: Path) -> None:
    labels = {
        "emotion": ["anger", "fear", None, "anger", "neutral", "fear", "anger", "happiness"],
        "split": ["valid", "valid", "train", "train", "train", "train", "train", "train"],
        "anger_votes": [9, 3, 0, None, 1, 0, 7, 0], "fear_votes": [1, 7, 0, None, 0, 9, 0, 0],
        "subject": [None] * 8,
    }  # fmt: skip
    # From the end: 30 and 40 in valid, 30 in train again, 50 twice in train.
    grey = (10, 20, 30, 50, 50, 70, 40, 30)
    faces = load_real(job(tmp_path, labels, grey))
    assert not faces.named and faces.voted
    assert faces.images[:, 0, 0, 0].tolist() == [10, 50, 50, 40, 30]
    assert faces.parts.tolist() == ["train"] * 3 + ["test"] * 2
    assert faces.emotions.tolist() == ["happiness", "neutral", "anger", "fear", "anger"]
    assert faces.people[1] == faces.people[2] and len({*faces.people}) == 4
    assert faces.shares[4, [4, 6]] == pytest.approx([0.1, 0.9])
    assert np.isnan(faces.shares[0]).all() and np.isnan(faces.shares[2]).all()
    assert faces.note == (
        "3 of part 'train', 2 of part 'valid'; 1 of 'train' dropped: their pixels are also in "
        "'valid'; 1 without 'emotion' left out"
    )


def test_some_of_many_are_drawn_by_the_seed(tmp_path: Path) -> None:
    labels = {
        "subject": [f"p{n}" for n in range(39)] + [None], "emotion": ["anger"] * 40,
        "split": ["test"] * 10 + ["train"] * 30,
    }  # fmt: skip
    folder = job(tmp_path, labels, range(0, 200, 5), each=7)
    faces = load_real(folder, 12)
    assert faces.named and not faces.voted
    assert np.unique(faces.parts, return_counts=True)[1].tolist() == [10, 12]
    level = {f"p{n}": 5 * (39 - n) for n in range(39)}  # each with its own picture
    assert [level[who] for who in faces.people] == faces.images[:, 3, 3, 0].tolist()
    assert "12 of part 'train'; drawn from 38; 1 without 'subject' left out" in faces.note
    assert (load_real(folder, 12).people == faces.people).all()
    assert (load_real(folder, 12, seed=1).people != faces.people).any()


def test_normalizing_goes_through_jpeg() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    same = normalize_all(lambda x: x, images, batch=2)
    assert same.shape == images.shape
    difference = np.abs(same.astype(int) - images).mean()
    assert 0 < difference < 6  # noise through JPEG of quality 95: near, and not the same
    white = normalize_all(lambda x: x[:, :, :8, :8] + 5, images, batch=2)
    assert (white == 255).all()


def test_reading_keeps_the_order() -> None:
    images = np.repeat(np.arange(7, dtype=np.uint8)[:, None, None, None], 3, 3) * 30
    codes = read_real(lambda x: x.mean((2, 3)), np.broadcast_to(images, (7, 8, 8, 3)), batch=3)
    np.testing.assert_allclose(codes[:, 0] * 255, np.arange(7) * 30, atol=1e-3)
    assert torch.is_inference_mode_enabled() is False
