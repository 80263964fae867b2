"""Rows by their place, one row group at a time."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import NORMALIZED
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read.dataset import open_dataset
from normpipe.pipeline.read.reading import Place, RowReader, map_ahead, require_readable
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter

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


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_what_is_read_ahead_comes_in_order_and_no_further(count: int) -> None:
    begun: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        found = map_ahead(pool, lambda n: begun.append(n) or n * n, range(20), count)
        assert next(found) == 0
        pool.submit(lambda: None).result()  # all that was asked for is through
        assert begun == [*range(min(20, count + 1))]
        assert [*found] == [n * n for n in range(1, 20)]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardFolder, pa.Table]:
    """A dataset of more row groups and files than are kept open, and its rows in order."""
    folder = ShardFolder(tmp_path_factory.mktemp("long") / "made")
    for number in range(70):
        with ShardWriter(folder, number, NORMALIZED) as writer:
            writer.add([{**row(n, 9, "normalize"), "key": f"{number}/{n}"} for n in range(3)])
            writer.commit("f", None)
    tables = [folder.read(number) for number in range(70)]
    return folder, pa.concat_tables(tables)


def test_random_access_gives_what_a_full_read_gives(long: tuple[ShardFolder, pa.Table]) -> None:
    folder, table = long
    every = table.to_pylist()
    reader = RowReader(folder.path, ["image", "brightness", "key", "brightness"])
    chance = random.Random(0)
    for _ in range(3):
        some = chance.sample(every, 40)
        places = [Place(r["shard"], r["row_group"], r["row"]) for r in some]
        found = reader.rows(places, [r["key"] for r in some])
        assert [[*one] for one in found] == [["key", "image", "brightness"]] * 40
        for one, whole in zip(found, some, strict=True):
            picture = whole["image"] and whole["image"]["bytes"]
            assert (one["key"], one["brightness"]) == (whole["key"], whole["brightness"])
            assert (one["image"] and one["image"].to_pybytes()) == picture
        reader = pickle.loads(pickle.dumps(reader))


def test_a_long_walk_keeps_few_files_open(long: tuple[ShardFolder, pa.Table]) -> None:
    folder, table = long
    reader = RowReader(folder.path, ["brightness"])
    own = psutil.Process()

    def opened() -> set[int]:
        maps = (one.path for one in own.memory_maps() if one.path.startswith(str(folder.path)))
        return {int(Path(path).stem.rpartition("-")[2]) for path in maps}

    for r in table.select(["key", "shard", "row_group", "row"]).to_pylist():
        reader.rows([Place(r["shard"], r["row_group"], r["row"])], [r["key"]])
    assert opened() <= {*range(6, 70)} and 69 in opened()


@pytest.mark.parametrize("place", [Place(0, 0, 3), Place(0, 1, 0), Place(0, 0, 1)])
def test_a_place_that_holds_another_row_is_said(
    long: tuple[ShardFolder, pa.Table], place: Place
) -> None:
    with pytest.raises(InputError, match="changed since it was opened"):
        RowReader(long[0].path, []).rows([place], ["0/0"])


def test_a_shard_that_is_gone_or_damaged_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "made", NORMALIZED, [row(n, 9, "normalize") for n in range(70)])
    folder = ShardFolder(tmp_path / "made")
    reader = RowReader(folder.path, ["image"])
    data = folder.shard(0).read_bytes()
    folder.shard(0).write_bytes(b"\0" * 3000 + data[3000:])  # the first pages; not the footer
    with pytest.raises(InputError, match=r"shard-00000\.parquet is damaged .*normpipe verify"):
        reader.rows([Place(0, 0, 1)], ["d/001.jpg"])
    folder.shard(0).unlink()
    with pytest.raises(InputError, match="is gone: open the dataset again"):
        RowReader(folder.path, []).rows([Place(0, 0, 1)], ["d/001.jpg"])


def test_versions_are_read_up_to_this_one(tmp_path: Path) -> None:
    def versioned(version: str) -> pa.Schema:
        return pa.schema([], metadata={"normpipe_schema_version": version})

    for known in ("0", "1"):
        require_readable(tmp_path, versioned(known))
    require_readable(tmp_path, pa.schema([]))
    with pytest.raises(InputError, match=r"has schema 2, .* up to 1: upgrade"):
        require_readable(tmp_path, versioned("2"))
