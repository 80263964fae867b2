"""What ``open_dataset`` gives to users, to torch and to other tools."""

import json
import pickle
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

import normpipe
from normpipe.manifests.schema import NORMALIZED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read.dataset import collate, open_dataset
from normpipe.stages.pair import PairConfig

from .pictured import LABELS, ROWS, color, picture, row, usable, write, write_pairs


def test_a_variant_is_a_torch_dataset_with_labels(job):
    found = open_dataset(job / "normalized/compact")
    assert isinstance(found, Dataset)
    numbers = [n for n in range(ROWS) if usable(n)]
    assert len(found) == len(numbers)
    assert found.keys == [f"d/{n:03d}.jpg" for n in numbers]
    item = found[3]
    assert set(item) == {"key", "image", "subject", "AU12"}
    assert item["image"].dtype == torch.uint8
    assert item["image"].shape == (3, 4, 6)
    assert item["image"].is_contiguous()
    assert item["image"][:, 0, 0].tolist() == list(color(3, 9))
    assert (item["subject"], item["AU12"]) == (None, None)
    assert (found[2]["subject"], found[2]["AU12"]) == ("S2", 1)


def test_random_access_by_number_and_key(job):
    found = open_dataset(job / "normalized/compact")
    chance = random.Random(0)
    for key in chance.sample(found.keys, 40):
        number = int(key[2:5])
        item = found[key]
        assert item["key"] == key
        assert item["image"][:, 1, 1].tolist() == list(color(number, 9))
    assert found[-1]["key"] == found.keys[-1]
    assert found[np.int64(0)]["key"] == found[torch.tensor(0)]["key"] == "d/000.jpg"
    with pytest.raises(IndexError):
        found[len(found)]
    with pytest.raises(IndexError):
        found[-len(found) - 1]
    with pytest.raises(KeyError, match="007"):
        found["d/007.jpg"]
    assert sum(1 for _ in found) == len(found)


def test_other_statuses_have_no_picture_but_a_reason(job):
    rejected = open_dataset(job / "normalized/compact", status="rejected")
    assert len(rejected) == 30
    item = rejected["d/008.jpg"]
    assert item["image"] is None
    assert (item["status"], item["reason"]) == ("rejected", "black_output")
    assert item["decided_by"] == "normalize"
    every = open_dataset(job / "normalized/compact", status="all")
    assert len(every) == ROWS and every.keys[7] == "d/007.jpg"


def test_columns_decode_and_transform(job):
    found = open_dataset(job / "normalized/compact", columns=["image", "brightness"], decode=False)
    assert found[3] == {"key": "d/003.jpg", "image": picture(3, 9), "brightness": 3.0}
    labels = open_dataset(job / "normalized/compact", columns=["AU12", "status"])
    assert labels[2] == {"key": "d/002.jpg", "AU12": 1, "status": "ok"}
    with pytest.raises(InputError, match="did you mean 'brightness'"):
        open_dataset(job / "normalized/compact", columns=["brightnes"])
    keys = open_dataset(job / "normalized/compact", transform=lambda item: item["key"])
    assert keys[0] == "d/000.jpg"


def test_pairs_refer_to_both_pictures(paired):
    found = open_dataset(paired)
    assert len(found) == sum(map(usable, range(ROWS)))
    item = found["d/104.jpg"]
    assert set(item) == {"key", "image", "normalized", "variant", "subject", "AU12"}
    assert item["image"][:, 0, 0].tolist() == list(color(104, 0))
    assert item["normalized"][:, 0, 0].tolist() == list(color(104, 9))
    assert (item["variant"], item["subject"]) == ("compact", "S4")
    half = open_dataset(paired / "pairs", status="rejected")["d/008.jpg"]
    assert half["image"][:, 0, 0].tolist() == list(color(8, 0))
    assert half["normalized"] is None
    none = open_dataset(paired / "pairs", status="all")["d/007.jpg"]
    assert none["image"] is None and none["reason"] == "no_face"
    more = open_dataset(paired, columns=["image", "brightness", "normalized_brightness"])
    assert (more[5]["brightness"], more[5]["normalized_brightness"]) == (5.0, 5.0)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_dataloader_workers_read_the_same(paired, method):
    found = open_dataset(paired)
    before = found[5]  # files are open already when the workers start
    loader = DataLoader(
        found, batch_size=32, num_workers=2, collate_fn=collate, multiprocessing_context=method
    )
    keys: list[str] = []
    for batch in loader:
        keys += batch["key"]
        assert batch["image"].shape[1:] == batch["normalized"].shape[1:] == (3, 4, 6)
        for key, pixels in zip(batch["key"], batch["normalized"], strict=True):
            assert pixels[:, 0, 0].tolist() == list(color(int(key[2:5]), 9))
    assert keys == found.keys
    assert torch.equal(found[5]["image"], before["image"])


def test_subsets_and_pickles_work(job):
    found = open_dataset(job / "normalized/compact")
    part = Subset(found, [5, 2])
    assert [item["key"] for item in part.__getitems__([0, 1])] == ["d/005.jpg", "d/002.jpg"]
    found["d/000.jpg"]
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again["d/140.jpg"]["image"], found["d/140.jpg"]["image"])


def test_collate_keeps_unknown_labels():
    pixels = torch.zeros(3, 2, 2, dtype=torch.uint8)
    items = [
        {"key": "a", "image": pixels, "AU1": 1, "AU2": None, "score": 0.5},
        {"key": "b", "image": pixels, "AU1": 0, "AU2": 1, "score": 1},
    ]
    batch = collate(items)
    assert batch["image"].shape == (2, 3, 2, 2)
    assert batch["AU1"].tolist() == [1, 0]
    assert (batch["key"], batch["AU2"]) == (["a", "b"], [None, 1])
    assert batch["score"].tolist() == [0.5, 1.0]
    other = collate([{"image": pixels}, {"image": torch.zeros(3, 1, 1, dtype=torch.uint8)}])
    assert isinstance(other["image"], list)


def test_a_damaged_picture_names_its_key(tmp_path):
    broken = row(0, 9, "normalize") | {"image": {"bytes": b"no picture", "path": "x"}}
    write(tmp_path / "made", NORMALIZED, [broken])
    with pytest.raises(InputError, match=r"d/000\.jpg is damaged"):
        open_dataset(tmp_path / "made")[0]


def test_the_public_name_is_this_one():
    assert normpipe.open_dataset is open_dataset


# --- without our code


def test_hugging_face_datasets_shows_the_pictures(job, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = sorted(str(path) for path in (job / "normalized/compact").glob("shard-*.parquet"))
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == ROWS
    assert isinstance(rows.features["image"], datasets.Image)
    assert rows[104]["image"].size == (6, 4)
    assert rows[104]["image"].convert("RGB").getpixel((0, 0)) == color(104, 9)
    assert rows[7]["image"] is None and rows[7]["reason"] == "no_face"


def test_hugging_face_shows_both_pictures_of_materialized_pairs(job, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for name in ("aligned", "normalized"):
        (tmp_path / name).symlink_to(job / name)
    write_pairs(tmp_path, PairConfig(variants="compact", materialize=True), LABELS)
    files = sorted(str(path) for path in (tmp_path / "pairs").glob("shard-*.parquet"))
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows[104]["image"].convert("RGB").getpixel((0, 0)) == color(104, 0)
    assert rows[104]["normalized"].convert("RGB").getpixel((0, 0)) == color(104, 9)
    assert rows[104]["subject"] == "S4"


def test_duckdb_joins_pictures_and_labels(job):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(
        f"""
        select s.key, s.image.bytes, l.subject
        from '{job}/normalized/compact/shard-*.parquet' s
        join '{job}/labels.parquet' l on l.key = s.parent_key
        where s.status = 'ok' and s.key = 'd/104.jpg'
        """
    ).fetchall()
    assert [(key, bytes(data), who) for key, data, who in found] == [
        ("d/104.jpg", picture(104, 9), "S4")
    ]


def test_polars_reads_the_shards(job):
    polars = pytest.importorskip("polars")
    found = polars.scan_parquet(job / "normalized/compact/shard-*.parquet")
    counts = found.group_by("status", "reason").len().sort("reason", nulls_last=True).collect()
    assert counts.rows() == [
        ("rejected", "black_output", 15),
        ("rejected", "no_face", 15),
        ("ok", None, 120),
    ]
    one = found.filter(polars.col("key") == "d/104.jpg").collect()
    assert one["image"][0]["bytes"] == picture(104, 9)


def test_the_metadata_is_readable(job):
    schema = pq.read_schema(job / "normalized/compact/shard-00000.parquet")
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["image"]
