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


def job(folder: Path, labels: dict[str, list[str | None]]) -> Path:
    """A job's folder with three faces, the second of which was rejected."""
    rows = []
    for number in range(3):
        pixels = np.full((32, 32, 3), 60 * number, np.uint8)
        rows.append(
            {
                "key": f"d/{number}.jpg", "parent_key": f"d/{number}.jpg",
                "status": "rejected" if number == 1 else "ok",
                "image": {"bytes": encode(pixels, "png", 95), "path": f"{number}.png"},
                "landmarks": POINTS, "transform": [[2.0, 0.0, 1.0], [0.0, 2.0, -3.0]],
            }
        )  # fmt: skip
    (folder / "aligned").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, ALIGNED), folder / "aligned/shard-00000.parquet")
    keys = [f"d/{number}.jpg" for number in (2, 1, 0)]
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
    with pytest.raises(InputError, match="no column 'subject'"):
        load_real(job(tmp_path / "a", {"emotion": ["anger"] * 3}))
    with pytest.raises(InputError, match="name no subject"):
        load_real(job(tmp_path / "b", {"emotion": ["anger"] * 3, "subject": [None] * 3}))


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
