import io
import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

import normpipe
from normpipe.manifests.schema import ALIGNED, INDEX, NORMALIZED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read import dataset
from normpipe.pipeline.read.dataset import collate, open_dataset
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter, write_table
from normpipe.stages.pair import Pair, PairConfig

ROWS, SHARD = 150, 100


def color(number: int, side: int = 0) -> tuple[int, int, int]:
    return (number % 256, 255 - number % 256, side)


def picture(number: int, side: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), color(number, side)).save(stream, "PNG")
    return stream.getvalue()


def row(number: int, side: int, stage: str) -> dict:
    key = f"d/{number:03d}.jpg"
    found = {"key": key, "parent_key": key, "status": "ok", "decided_by": stage}
    if number % 10 == 7:
        reason = {"reason": "no_face", "status": "rejected", "decided_by": "align"}
        return found | reason
    if number % 10 == 8 and stage == "normalize":
        return found | {"reason": "black_output", "status": "rejected"}
    return found | {"image": {"bytes": picture(number, side), "path": key}, "brightness": number}


def write(folder, schema, rows, index=True):
    shards = ShardFolder(folder)
    for start in range(0, len(rows), SHARD):
        writer = ShardWriter(shards, start // SHARD, schema)
        writer.add(rows[start : start + SHARD])
        writer.commit("x", None)
    if index:
        write_index(shards)


def write_index(shards):
    """As the engine's derive step: for datasets with pictures."""
    tables = [shards.read(number) for number in shards.records()]
    if "image_sha256" not in tables[0].column_names:
        tables = [
            t.append_column("image_sha256", pa.nulls(t.num_rows, pa.string())) for t in tables
        ]
    write_table(shards.index_path, pa.concat_tables([t.select(INDEX.names) for t in tables]))


def write_pairs(job, config, labels=None):
    stage = Pair(config, labels)
    folder = ShardFolder(job / stage.writes)
    names = [*(stage.columns or []), "shard", "row_group", "row"]
    for number in ShardFolder(job / "aligned").records():
        writer = ShardWriter(folder, number, stage.schema)
        inputs = [ShardFolder(job / name).read(number).select(names) for name in stage.reads]
        for table in stage.join(number, inputs):
            writer.add_table(table)
        writer.commit("x", None)
    if config.materialize:
        write_index(folder)


LABELS = pa.table(
    {
        "key": [f"d/{n:03d}.jpg" for n in reversed(range(0, ROWS, 2))],
        "subject": [f"S{n % 5}" for n in reversed(range(0, ROWS, 2))],
        "AU12": pa.array([n % 4 // 2 for n in reversed(range(0, ROWS, 2))], pa.int8()),
    }
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A finished job: 150 inputs in two shards, labels for every second one."""
    job = tmp_path_factory.mktemp("job")
    write(job / "aligned", ALIGNED, [row(n, 0, "align") for n in range(ROWS)])
    faces = [row(n, 9, "normalize") for n in range(ROWS)]
    write(job / "normalized/compact", NORMALIZED, faces)
    (job / "job.json").write_text("{}")
    write_table(job / "labels.parquet", LABELS)
    return job


@pytest.fixture(scope="module")
def paired(job, tmp_path_factory):
    write_pairs(job, PairConfig(variants="compact"))
    return job


def usable(number: int) -> bool:
    return number % 10 not in (7, 8)


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


def test_a_batch_reads_each_row_group_once(job, monkeypatch):
    found = open_dataset(job / "normalized/compact")
    opened: list[int] = []
    real = pq.ParquetFile.read_row_group

    def counted(self, group, *args, **options):
        opened.append(group)
        return real(self, group, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    order = list(range(len(found)))
    random.Random(1).shuffle(order)
    items = found.__getitems__(order)
    assert [item["key"] for item in items] == [found.keys[i] for i in order]
    assert len(opened) == 3  # 64 + 36 rows, and 50


def test_without_an_index_the_shards_say_the_same(job, tmp_path):
    faces = [row(n, 9, "normalize") for n in range(ROWS)]
    write(tmp_path / "plain", NORMALIZED, faces, index=False)
    plain = open_dataset(tmp_path / "plain", labels=job / "labels.parquet")
    other = open_dataset(job / "normalized/compact")
    assert plain.table.equals(other.table)
    assert torch.equal(plain[99]["image"], other[99]["image"])


def test_an_index_of_other_shards_is_not_used(tmp_path):
    faces = [row(n, 9, "normalize") for n in range(ROWS)]
    write(tmp_path / "made", NORMALIZED, faces)
    shards = ShardFolder(tmp_path / "made")
    index = pq.read_table(shards.index_path)
    write_table(shards.index_path, index.slice(0, SHARD))
    assert len(open_dataset(tmp_path / "made", status="all")) == ROWS
    shards.record_path(1).unlink()  # a shard without its record does not exist
    assert len(open_dataset(tmp_path / "made", status="all")) == SHARD


def test_a_dataset_rewritten_while_open_is_said_so(tmp_path):
    write(tmp_path / "made", NORMALIZED, [row(n, 9, "normalize") for n in range(5)])
    found = open_dataset(tmp_path / "made")
    write(tmp_path / "made", NORMALIZED, [row(n, 9, "normalize") for n in (4, 3)])
    with pytest.raises(InputError, match="open it again"):
        found[0]
    with pytest.raises(InputError, match="open it again"):
        found[4]


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


def test_other_columns_are_chosen_without_opening_again(paired, monkeypatch):
    found = open_dataset(paired, status="all", decode=False)
    assert {"image", "normalized", "normalized_weights_sha256", "AU12", "variant"} <= {
        *found.opened.offered
    }
    assert "face" not in found.opened.offered
    assert (found.opened.path, found.opened.folder) == (paired, paired / "pairs")
    monkeypatch.setattr(dataset, "open_rows", None)
    some = pickle.loads(pickle.dumps(found)).select(["normalized", "AU12"])
    assert len(some) == len(found) == ROWS
    assert set(some[2]) == {"key", "normalized", "AU12"} and set(found[2]) > set(some[2])
    for name in ("normalized", "AU12"):
        assert some[2][name] == found[2][name]
    assert list(some.select([])[7]) == ["key"]
    with pytest.raises(InputError, match="no column 'imagine'; did you mean 'image'"):
        some.select(["imagine"])


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


def test_pairs_of_several_variants(tmp_path):
    write(tmp_path / "aligned", ALIGNED, [row(n, 0, "align") for n in range(70)])
    for name, side in (("a", 1), ("b-2", 2)):
        faces = [row(n, side, "normalize") for n in range(70)]
        write(tmp_path / "normalized" / name, NORMALIZED, faces)
    write_table(tmp_path / "labels.parquet", LABELS)
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(InputError, match="normalized/a"):
        open_dataset(tmp_path)
    write_pairs(tmp_path, PairConfig(variants=("a", "b-2")))
    found = open_dataset(tmp_path)
    assert found.keys[:3] == ["d/000.jpg@a", "d/000.jpg@b-2", "d/001.jpg@a"]
    for variant, side in (("a", 1), ("b-2", 2)):
        item = found[f"d/066.jpg@{variant}"]
        assert item["normalized"][:, 0, 0].tolist() == list(color(66, side))
        assert item["image"][:, 0, 0].tolist() == list(color(66, 0))
        assert (item["variant"], item["subject"]) == (variant, "S1")


def test_materialized_pairs_stand_alone(job, tmp_path):
    for name in ("aligned", "normalized"):
        (tmp_path / name).symlink_to(job / name)
    labels = LABELS.append_column("site", pa.array(["here"] * LABELS.num_rows))
    write_pairs(tmp_path, PairConfig(variants="compact", materialize=True), labels)
    for name in ("aligned", "normalized"):
        (tmp_path / name).unlink()
    found = open_dataset(tmp_path / "pairs")
    item = found["d/104.jpg"]
    assert item["normalized"][:, 0, 0].tolist() == list(color(104, 9))
    assert (item["subject"], item["AU12"], item["site"]) == ("S4", 0, "here")
    assert item["variant"] == "compact"
    assert set(item) == {"key", "image", "normalized", "variant", "subject", "AU12", "site"}
    other = pa.table({"key": ["d/104.jpg"], "subject": ["corrected"]})
    assert open_dataset(tmp_path / "pairs", labels=other)["d/104.jpg"]["subject"] == "corrected"


def test_faces_of_one_image_share_its_labels(tmp_path):
    rows = []
    for face in (0, 1):
        key = f"d/000.jpg#face{face}"
        rows.append(row(0, 9, "normalize") | {"key": key, "parent_key": key})
    write(tmp_path / "made", NORMALIZED, rows)
    found = open_dataset(tmp_path / "made", labels=LABELS)
    assert [item["subject"] for item in found] == ["S0", "S0"]
    own = pa.table({"key": ["d/000.jpg#face1", "d/000.jpg"], "subject": ["second", "image"]})
    found = open_dataset(tmp_path / "made", labels=own)
    assert [item["subject"] for item in found] == ["image", "second"]


def test_labels_come_from_the_dataset_or_its_job_never_from_above(tmp_path):
    job = tmp_path / "job"
    write(job / "normalized/compact", NORMALIZED, [row(0, 9, "normalize")])
    write_table(tmp_path / "labels.parquet", LABELS)
    (job / "job.json").write_text("{}")
    assert set(open_dataset(job)[0]) == {"key", "image"}
    write_table(job / "labels.parquet", LABELS)
    assert open_dataset(job)[0]["subject"] == "S0"
    near = pa.table({"key": ["d/000.jpg"], "subject": ["near"]})
    write_table(job / "normalized/compact/labels.parquet", near)
    assert open_dataset(job)[0]["subject"] == "near"
    assert open_dataset(job, labels=str(job / "labels.parquet"))[0]["subject"] == "S0"
    with pytest.raises(InputError, match="cannot read the labels"):
        open_dataset(job, labels=job / "nowhere.parquet")
    with pytest.raises(InputError, match="no column 'key'"):
        open_dataset(job, labels=pa.table({"subject": ["S0"]}))
    with pytest.raises(InputError, match="named 'image'"):
        open_dataset(job, labels=pa.table({"key": ["d/000.jpg"], "image": ["x"]}))


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


def test_what_cannot_be_opened_is_one_line(tmp_path, job):
    def message(path, **options):
        with pytest.raises(InputError) as caught:
            open_dataset(path, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no folder" in message(tmp_path / "missing")
    assert "normpipe run" in message(tmp_path)
    assert "give the folder" in message(job / "labels.parquet")
    assert "did you mean 'ok'" in message(job / "aligned", status="okay")
    (tmp_path / "shard-00000.parquet").write_bytes(b"PAR1 not")
    assert "cannot read" in message(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "shard-00000.parquet")
    assert "no shard of normpipe" in message(tmp_path)
    (tmp_path / "records").mkdir()
    assert "no finished shard" in message(tmp_path)
    write_pairs_only = tmp_path / "job2"
    write(write_pairs_only / "aligned", ALIGNED, [row(0, 0, "align")])
    assert "aligned" in message(write_pairs_only)


def test_pairs_whose_pictures_are_gone_are_said(tmp_path):
    write(tmp_path / "aligned", ALIGNED, [row(0, 0, "align")])
    write(tmp_path / "normalized/compact", NORMALIZED, [row(0, 9, "normalize")])
    write_pairs(tmp_path, PairConfig(variants="compact"))
    (tmp_path / "normalized").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"pair\.materialize"):
        open_dataset(tmp_path / "pairs")


@pytest.mark.parametrize("what", ["shard", "index", "second"])
def test_a_newer_schema_is_refused_in_plain_words(tmp_path, what):
    write(tmp_path / "made", NORMALIZED, [row(n, 9, "normalize") for n in range(ROWS)])
    shards = ShardFolder(tmp_path / "made")
    path = {"shard": shards.shard(0), "index": shards.index_path, "second": shards.shard(1)}[what]
    table = pq.read_table(path)
    metadata = {**(table.schema.metadata or {}), b"normpipe_schema_version": b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(InputError, match="upgrade normpipe"):
        open_dataset(tmp_path / "made")[-1]


def test_a_column_whose_name_is_no_text_is_damage(tmp_path):
    write(tmp_path / "made", NORMALIZED, [row(0, 9, "normalize")])
    shard = ShardFolder(tmp_path / "made").shard(0)
    data = bytearray(shard.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[data.index(b"image_sha256", footer)] = 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(InputError, match="a name in it is no text"):
        open_dataset(tmp_path / "made")


def test_a_schema_version_that_is_no_number_is_damage(tmp_path):
    write(tmp_path / "made", NORMALIZED, [row(0, 9, "normalize")])
    shard = ShardFolder(tmp_path / "made").shard(0)
    table = pq.read_table(shard)
    metadata = {**table.schema.metadata, b"normpipe_schema_version": b"Q"}
    pq.write_table(table.replace_schema_metadata(metadata), shard)
    with pytest.raises(InputError, match="is damaged"):
        open_dataset(tmp_path / "made")


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
