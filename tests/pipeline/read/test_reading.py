"""Rows by their place, one row group at a time."""

import random

import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import NORMALIZED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read.dataset import open_dataset
from normpipe.pipeline.store.shards import ShardFolder

from .pictured import ROWS, row, write


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


def test_a_dataset_rewritten_while_open_is_said_so(tmp_path):
    write(tmp_path / "made", NORMALIZED, [row(n, 9, "normalize") for n in range(5)])
    found = open_dataset(tmp_path / "made")
    write(tmp_path / "made", NORMALIZED, [row(n, 9, "normalize") for n in (4, 3)])
    with pytest.raises(InputError, match="open it again"):
        found[0]
    with pytest.raises(InputError, match="open it again"):
        found[4]


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
