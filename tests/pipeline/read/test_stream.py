"""Which rows a dataset has (split, condition), and its labels as numbers of stable type."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

import normpipe
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read.columns import read_columns

from .pictured import ROWS, usable

pc = pyarrow.compute
KEYS = [f"d/{n:03d}.jpg" for n in range(ROWS)]
EMOTIONS = ("happiness", "neutral", None, "boredom")


def label(number):
    return {
        "key": KEYS[number],
        "split": "train" if number < 100 else "test",
        "emotion": EMOTIONS[number % 4],
        "subject": None if number % 3 else f"S{number}",
        "AU12": None if number % 5 == 0 else number % 2,
        "AU12_level": None if number % 5 else number / 30,
    }


LABELS = pa.Table.from_pylist(
    [label(number) for number in range(ROWS)],
    pa.schema(
        [(name, pa.string()) for name in ("key", "split", "emotion", "subject")]
        + [("AU12", pa.int8()), ("AU12_level", pa.float32())]
    ),
)


def opened(job, **options):
    return normpipe.open_dataset(job / "pairs", labels=LABELS, **options)


def numbers(dataset):
    return [KEYS.index(key) for key in dataset.keys]


CONDITIONS = {
    "brightness >= 40 and brightness < 60": lambda n: 40 <= n < 60,
    "normalized_brightness == 12": lambda n: n == 12,
    "emotion == 'neutral' or AU12 == 1": lambda n: n % 4 == 1 or (n % 5 and n % 2),
    "emotion is None": lambda n: n % 4 == 2,
    "AU12 == 0": lambda n: n % 5 and n % 2 == 0,
    "brightness > 1000": lambda n: False,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_only_rows_that_meet_a_condition(paired, where):
    """Also on columns that only the shards hold; the pictures stay those of their rows."""
    found = opened(paired, where=where)
    assert numbers(found) == [n for n in range(ROWS) if usable(n) and CONDITIONS[where](n)]
    if len(found):
        assert found[0]["image"][0, 0, 0] == numbers(found)[0]
        assert found[-1]["key"] == found.keys[-1]


def test_an_expression_of_arrow_is_a_condition(paired):
    found = opened(paired, where=(pc.field("brightness") < 20) & (pc.field("emotion") == "neutral"))
    assert numbers(found) == [n for n in range(20) if usable(n) and n % 4 == 1]
    with pytest.raises(InputError, match=r"where = .*nothing"):
        opened(paired, where=pc.field("nothing") > 1)


def test_splits(paired):
    assert numbers(opened(paired, split="test")) == [n for n in range(100, ROWS) if usable(n)]
    assert len(opened(paired, split=["train", "test"])) == len(opened(paired))
    found = opened(paired, split="train", where="brightness > 90", status="all")
    assert numbers(found) == [n for n in range(91, 100) if n != 97]  # one without a picture
    with pytest.raises(InputError, match="no row has the split 'tset'; did you mean 'test'"):
        opened(paired, split="tset")
    with pytest.raises(InputError, match="no label 'split'"):
        normpipe.open_dataset(paired / "pairs", split="test")


def test_labels_as_numbers(paired):
    found = opened(paired, as_classes=True)
    assert found.classes == ("neutral", "happiness", "boredom")
    wanted = {"happiness": 1, "neutral": 0, None: -1, "boredom": 2}
    for item, number in zip(found, numbers(found), strict=True):
        truth = label(number)
        assert item["emotion"] == wanted[truth["emotion"]]
        assert item["subject"] == (truth["subject"] or "")
        for name in ("AU12", "AU12_level"):
            assert item[f"{name}_known"] is (truth[name] is not None)
            assert item[name] == np.float32(truth[name] or 0)
    assert opened(paired, as_classes=["boredom", "fear"])[3]["emotion"] == 0
    assert opened(paired, as_classes=["boredom", "fear"], where="emotion == 'neutral'")[0][
        "emotion"
    ] == -1  # fmt: skip
    with pytest.raises(InputError, match="no row shows happy; did you mean 'happiness'"):
        opened(paired, as_classes=["happy"])
    # The classes do not depend on which rows were chosen.
    assert opened(paired, as_classes=True, where="brightness == 1").classes == found.classes


@pytest.mark.parametrize("collate", [None, default_collate, normpipe.collate])
def test_types_of_batches_do_not_depend_on_the_rows(paired, collate):
    """A batch without any label, and one with all, have the same types."""
    found = opened(paired, as_classes=True)
    by_number = {number: place for place, number in enumerate(numbers(found))}
    kinds = set()
    for chosen in ([1, 6], [10, 30], [2, 5]):  # AU12 known, unknown, mixed
        loader = DataLoader(
            found, 2, sampler=[by_number[n] for n in chosen], collate_fn=collate
        )  # fmt: skip
        (batch,) = loader
        kinds.add(tuple((name, type(v), getattr(v, "dtype", None)) for name, v in batch.items()))
        assert batch["AU12_known"].tolist() == [n % 5 > 0 for n in chosen]
    (found_kinds,) = kinds
    named = {name: dtype for name, _, dtype in found_kinds}
    assert named["emotion"] == named["AU12"] == torch.int64
    assert named["AU12_level"] == torch.float32 and named["AU12_known"] == torch.bool


def test_columns_are_read_with_their_types(paired):
    found = opened(paired).opened
    table = read_columns(found, ["key", "AU12", "brightness"])
    assert table["AU12"].type == pa.int8()
    assert table["brightness"].to_pylist() == numbers(opened(paired))
    assert (
        read_columns(opened(paired, where="brightness > 999").opened, ["brightness"]).num_rows == 0
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_gives_each_row_once(paired, workers, shuffle):
    found = opened(paired, where="brightness != 3")
    parts = []
    for rank in range(3):
        stream = found.stream(shuffle=shuffle, rank=rank, world_size=3)
        loader = DataLoader(stream, 8, num_workers=workers, collate_fn=normpipe.collate)
        parts.append([key for batch in loader for key in batch["key"]])
        assert len(parts[-1]) == len(stream)
    assert sorted(key for part in parts for key in part) == found.keys
    if not shuffle and not workers:
        assert [key for part in parts for key in part] == found.keys
    even = [len(found.stream(rank=rank, world_size=3, even=True)) for rank in range(3)]
    assert even == [len(found) // 3] * 3


def test_the_order_of_a_stream(paired, monkeypatch):
    stream = opened(paired).stream(shuffle=True, seed=5)
    keys = [item["key"] for item in stream]
    assert [item["key"] for item in stream] == keys  # the same epoch
    stream.set_epoch(1)
    assert sorted(other := [item["key"] for item in stream]) == sorted(keys) and other != keys
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert [item["key"] for item in opened(paired).stream()] == opened(paired).keys[60:]
    with pytest.raises(InputError, match="rank = 2 of 2"):
        opened(paired).stream(rank=2)


def test_a_stream_of_nothing(paired):
    found = opened(paired, where="brightness > 999")
    assert list(found.stream(shuffle=True)) == list(found.stream()) == []


def test_hugging_face_takes_items(paired, tmp_path):
    found = opened(paired, split="test", as_classes=True, columns=["image", "emotion", "AU12"])
    made = datasets.Dataset.from_generator(found.__iter__, cache_dir=str(tmp_path))
    assert made["key"][:] == found.keys
    assert np.asarray(made[0]["image"]).shape == (3, 4, 6)
    table = datasets.Dataset(opened(paired, split="test").table)
    assert table["emotion"][:] == opened(paired, split="test").table["emotion"].to_pylist()
