"""Datasets with pictures that are known, as the engine writes them."""

import io

import pyarrow as pa
from PIL import Image

from normpipe.manifests.schema import INDEX
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter, write_table
from normpipe.stages.pair import Pair

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


def usable(number: int) -> bool:
    return number % 10 not in (7, 8)
