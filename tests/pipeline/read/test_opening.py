"""Which folder a path means, and where its rows, columns and labels stand."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from normpipe.manifests.schema import ALIGNED, NORMALIZED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read import dataset
from normpipe.pipeline.read.dataset import open_dataset
from normpipe.pipeline.read.opening import dataset_folder, open_rows
from normpipe.pipeline.store.shards import ShardFolder, write_table
from normpipe.stages.pair import PairConfig

from .pictured import LABELS, ROWS, SHARD, color, row, write, write_pairs


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
    assert "not a shard of normpipe" in message(tmp_path)
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


def test_a_column_whose_name_is_no_text_is_damage(tmp_path):
    write(tmp_path / "made", NORMALIZED, [row(0, 9, "normalize")])
    shard = ShardFolder(tmp_path / "made").shard(0)
    data = bytearray(shard.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[data.index(b"image_sha256", footer)] = 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(InputError, match="a name in it is not valid text"):
        open_dataset(tmp_path / "made")


def test_a_schema_version_that_is_no_number_is_damage(tmp_path):
    write(tmp_path / "made", NORMALIZED, [row(0, 9, "normalize")])
    shard = ShardFolder(tmp_path / "made").shard(0)
    table = pq.read_table(shard)
    metadata = {**table.schema.metadata, b"normpipe_schema_version": b"Q"}
    pq.write_table(table.replace_schema_metadata(metadata), shard)
    with pytest.raises(InputError, match="is damaged"):
        open_dataset(tmp_path / "made")


def test_a_path_means_this_folder(tmp_path):
    def dataset(name):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "shard-00000.parquet").write_bytes(b"")
        return tmp_path / name

    aligned = dataset("aligned")
    assert dataset_folder(aligned) == aligned
    first = dataset("normalized/a")
    assert dataset_folder(tmp_path) == first  # the only variant
    (tmp_path / "normalized/_a").mkdir()  # what is said of it is no variant
    assert dataset_folder(tmp_path) == first
    second = dataset("normalized/b")
    with pytest.raises(InputError) as caught:
        dataset_folder(tmp_path)
    assert str(caught.value).endswith(f"open {first}, {second}, {aligned}")
    pairs = dataset("pairs")
    assert dataset_folder(tmp_path) == pairs and dataset_folder(second) == second
    with pytest.raises(InputError, match=f"contains only the metadata of {first}: open {first}"):
        dataset_folder(tmp_path / "normalized/_a")


def test_columns_that_are_offered_are_those_that_can_be_chosen(paired):
    opened = open_rows(paired, None, "ok")
    assert opened.pictures == ["image", "normalized"] and opened.shard_labels == []
    chosen = opened.choose(opened.offered)
    known = {*chosen.table.column_names}
    read = [name for part in chosen.readers for name in part.names]
    assert known | {*read} == {*opened.offered, "_source", "_variant"}
    assert not known & {*read}  # nothing is read that is known already
    for part in chosen.readers:
        assert part.places.shape == (opened.rows.num_rows, 3) and part.places.dtype == np.int32
    assert [*opened.choose(["AU12"]).readers] == []
    with pytest.raises(InputError, match="unknown status 'OK'; known: all, excluded, failed"):
        open_rows(paired, None, "OK")


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
