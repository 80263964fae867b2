"""How long does a job of 1,000 shards and 10 million rows take to find the remaining work?

    python benchmarks/scale.py FOLDER                 # makes the job there once, then measures
    python benchmarks/scale.py FOLDER --shards 100 --json scale.json

A fake source and a fake map stage with small rows run in the real engine. Each measurement runs in
a separate process, to get its own peak memory. The fake source's scan of the inputs is reported
separately; for a real folder it depends on the disk.

resume, nothing left    the whole run: plan, compare every known key, derive
1 shard left            until the map stage gets its first row
status, dry-run         the whole command; the dry run without its scan
slope                   additional memory per 100,000 rows, with the map stage's threads
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from normpipe.manifests.schema import IMAGE, MANIFEST, schema
from normpipe.pipeline.care import status
from normpipe.pipeline.care.estimate import estimate
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run.plan import describe, fingerprint, input_digests
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import MapStage, Row, Scan, SourceStage, StageConfig
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter

MADE = schema([("image", IMAGE), ("image_sha256", pa.string()), ("number", pa.int64())])
#: Rows per row group in the prepared shards.
GROUP = 1000
IDENTITY = {"dataset": "scale", "input": "", "input_root": ""}


class Config(StageConfig):
    rows: int


def keys(first: int, rows: int) -> pa.Array:
    numbers = pa.array(np.arange(first, first + rows)).cast(pa.string())
    folder = pc.utf8_slice_codeunits(pc.utf8_lpad(numbers, 9, "0"), 0, 5)
    return pc.binary_join_element_wise(
        "scale", folder, pc.binary_join_element_wise("image_", numbers, ".jpg", ""), "/"
    )


def common(first: int, rows: int, stage: str) -> dict[str, pa.Array]:
    names = keys(first, rows)
    return {
        "key": names,
        "parent_key": names,
        "status": pa.repeat("ok", rows),
        "reason": pa.nulls(rows, pa.string()),
        "decided_by": pa.repeat(stage, rows),
    }


class FakeSource(SourceStage):
    """Lists as many inputs as a large folder, without the folder."""

    name: ClassVar[str] = "fake-source"
    writes = "manifest"
    schema = MANIFEST

    def __init__(self, shards: int, rows: int) -> None:
        self.config = Config(rows=rows)
        self.shards, self.rows = shards, rows
        self.seconds = 0.0

    @property
    def shard_rows(self) -> int:
        return self.rows

    def scan(self) -> Scan:
        started = time.perf_counter()
        rows = self.shards * self.rows
        columns = {
            **common(0, rows, self.name),
            "path": keys(0, rows),
            "size_bytes": pa.array(np.full(rows, 12345)),
            "modified_ns": pa.array(np.arange(rows) + 10**18),
            "bbox_xyxy": pa.nulls(rows, MANIFEST.field("bbox_xyxy").type),
            "landmarks": pa.nulls(rows, MANIFEST.field("landmarks").type),
        }
        scan = Scan(pa.table(columns, schema=MANIFEST))
        self.seconds += time.perf_counter() - started
        return scan

    def changed(self, known: pa.Table, found: pa.Table) -> list[str]:
        if known.equals(found):
            return []
        raise AssertionError("the fake source changed")


class FakeMap(MapStage):
    """Makes eight bytes from a row."""

    name: ClassVar[str] = "fake-map"
    reads = ("manifest",)
    writes = "made"
    schema = MADE

    def __init__(self) -> None:
        self.config = Config(rows=1)
        self.began = 0.0
        self.seen = 0
        self.memory: list[tuple[int, int]] = []

    @property
    def batch_size(self) -> int:
        return 32

    def prepare(self, row: Row) -> Any:
        self.began = self.began or time.perf_counter()
        return row["modified_ns"]

    def compute(self, items: list[Any]) -> list[Any]:
        self.seen += len(items)
        if self.seen % 1024 < len(items):
            self.memory.append((self.seen, psutil.Process().memory_info().rss))
        return items

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        data = int(result).to_bytes(8, "little")
        return [
            {"image": {"bytes": data, "path": None}, "image_sha256": data.hex(), "number": result}
        ]


def made(first: int, rows: int) -> pa.Table:
    """Return FakeMap's output for some rows, without running it."""
    numbers = np.arange(first, first + rows) + 10**18
    raw = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), rows, [None, pa.py_buffer(numbers)])
    image = pa.StructArray.from_arrays(
        [raw.cast(pa.binary()), pa.nulls(rows, pa.string())], fields=list(IMAGE)
    )
    hexes = pa.array(np.char.mod("%016x", numbers.byteswap().view(np.uint64)))
    columns = {**common(first, rows, FakeMap.name), "image": image, "image_sha256": hexes}
    return pa.table({**columns, "number": pa.array(numbers)}, schema=MADE)


def build(root: Path, source: FakeSource) -> None:
    """Make the job: the source's shards with the engine, the map stage's directly."""
    runner(root, [source, FakeMap()]).run([source])
    stage = FakeMap()
    description = describe(stage)
    for number in range(source.shards):
        mark = fingerprint(description, input_digests(root, stage.reads, number))
        with ShardWriter(ShardFolder(root / stage.writes), number, MADE) as writer:
            for first in range(0, source.rows, GROUP):
                rows = min(GROUP, source.rows - first)
                writer.add_table(made(number * source.rows + first, rows))
            writer.commit(mark, None)
    runner(root, [source, stage]).run([stage])


def runner(root: Path, flow: list[Any]) -> Runner:
    return Runner(root, flow, RunConfig(log_seconds=1e9), Options(identity=IDENTITY))


def resume(root: Path, source: FakeSource, stage: FakeMap) -> dict[str, float]:
    began = time.perf_counter()
    runner(root, [source, stage]).run([source, stage])
    ended = time.perf_counter()
    found = {"scan_s": source.seconds, "whole_s": ended - began - source.seconds}
    if stage.began:
        found["until_work_s"] = stage.began - began - source.seconds
    return found


def measure(what: str, root: Path, source: FakeSource) -> dict[str, float]:
    stage = FakeMap()
    began = time.perf_counter()
    if what == "map only, nothing left":
        runner(root, [source, stage]).run([stage])
    elif what == "nothing left":
        return resume(root, source, stage)
    elif what == "1 shard left":
        ShardFolder(root / stage.writes).remove(source.shards // 2)
        return resume(root, source, stage)
    elif what == "status":
        assert status.status(root)["stages"][1]["inputs_left"] == 0
    elif what == "dry-run":
        lines = estimate(root, [source, stage], 2)
        assert [line.shards_todo for line in lines] == [0, 0]
    elif what == "slope":
        return slope(root)
    return {"whole_s": time.perf_counter() - began - source.seconds, "scan_s": source.seconds}


def slope(root: Path) -> dict[str, float]:
    source, stage = FakeSource(150, 2000), FakeMap()
    runner(root / "slope", [source, stage]).run([source, stage])
    seen, memory = np.array(stage.memory, float).T
    later = seen > seen[-1] / 3  # caches and pools are full by then
    return {
        "rows": float(seen[-1]),
        "mb_per_100k_rows": float(np.polyfit(seen[later], memory[later], 1)[0] * 1e5 / 1e6),
    }


MEASURES = ("map only, nothing left", "nothing left", "1 shard left", "status", "dry-run", "slope")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000, help="rows of a shard")
    parser.add_argument("--only", choices=MEASURES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    source = FakeSource(args.shards, args.rows)
    if args.measure == "build":
        return build(args.folder, source)
    if args.measure:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = measure(args.measure, args.folder, source)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({**found, "start_mb": before / 1e3, "peak_mb": peak / 1e3}))
        return None
    if not ShardFolder(args.folder / "made").manifest_path.is_file():
        print("building", flush=True)
        run_apart(args, "build")
    results: dict[str, dict[str, float]] = {}
    for what in MEASURES if args.only is None else (args.only,):
        results[what] = json.loads(run_apart(args, what).splitlines()[-1])
        values = "  ".join(f"{name} {value:.2f}" for name, value in results[what].items())
        print(f"{what:24}{values}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return None


def run_apart(args: argparse.Namespace, what: str) -> str:
    sizes = ["--shards", str(args.shards), "--rows", str(args.rows)]
    command = [sys.executable, __file__, str(args.folder), *sizes, "--measure", what]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
