"""Does ``normpipe verify`` find every flipped bit, and how fast is it?

    python benchmarks/verifying.py FOLDER                 # 1,000 bits, then 2 GB
    python benchmarks/verifying.py FOLDER --bits 100 --gigabytes 0.5

A random file of a small job is chosen first, then a random bit in it, so that small files are hit
as often as large ones: shards, records, index, manifest, description, card, labels. Every bit is
restored before the next. The rate is that of one thread over image shards in the page cache, in
bytes per second of CPU time; SHA-256 alone over the same files is given for comparison.
"""

import argparse
import hashlib
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scale import MADE, FakeMap, FakeSource, common, runner

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.run.plan import describe, fingerprint, input_digests
from normpipe.pipeline.stage import Scan
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter

#: Bytes per picture: a crop of 224 px as JPEG.
PICTURE = 20_000


class Labelled(FakeSource):
    def scan(self) -> Scan:
        scan = super().scan()
        scan.labels = scan.rows.select(["key"]).append_column(
            "emotion", pa.repeat("happiness", scan.rows.num_rows)
        )
        return scan


def flips(root: Path, bits: int) -> dict[str, Any]:
    source, stage = Labelled(4, 100), FakeMap()
    runner(root, [source, stage]).run([source, stage])
    assert verify(root).differences == []
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    files = [path for path in files if path.name != "job.toml"]
    found: Counter[str] = Counter()
    missed: list[str] = []
    draw = random.Random(0)
    for _ in range(bits):
        path = draw.choice(files)
        good = path.read_bytes()
        place, bit = draw.randrange(len(good)), draw.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        if verify(root).differences:
            found[path.name if "-0" not in path.name else path.suffix] += 1
        else:
            missed.append(f"{path.relative_to(root)} byte {place} bit {bit}")
        path.write_bytes(good)
    assert verify(root).differences == []
    return {"bits": bits, "found": sum(found.values()), "by_file": dict(found), "missed": missed}


def build_pictures(root: Path, shards: int, rows: int) -> None:
    source, stage = FakeSource(shards, rows), FakeMap()
    runner(root, [source, stage]).run([source])
    description = describe(stage)
    noise = np.random.default_rng(0).bytes(PICTURE)
    for number in range(shards):
        with ShardWriter(ShardFolder(root / stage.writes), number, MADE) as writer:
            for first in range(number * rows, (number + 1) * rows, 64):
                n = min(64, (number + 1) * rows - first)
                images = pa.array([{"bytes": noise, "path": None}] * n, MADE.field("image").type)
                columns = {**common(first, n, stage.name), "image": images}
                columns |= {"image_sha256": pa.nulls(n, pa.string())}
                columns |= {"number": pa.array(np.arange(first, first + n))}
                writer.add_table(pa.table(columns, schema=MADE))
            writer.commit(fingerprint(description, input_digests(root, stage.reads, number)), None)
    runner(root, [source, stage]).run([stage])


def rate(root: Path, gigabytes: float) -> dict[str, float]:
    rows = 10_000
    shards = max(1, round(gigabytes * 1e9 / rows / PICTURE))
    if not ShardFolder(root / "made").manifest_path.is_file():
        build_pictures(root, shards, rows)
    assert verify(root, 1).differences == []  # also fills the page cache
    wall, used = time.perf_counter(), time.process_time()
    report = verify(root, 1)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    alone = 0.0
    for path in (root / "made").glob("shard-*.parquet"):
        data = path.read_bytes()
        started = time.thread_time()
        hashlib.sha256(data).digest()
        alone += time.thread_time() - started
    sizes = sum(path.stat().st_size for path in (root / "made").glob("shard-*.parquet"))
    return {
        "gb": report.bytes / 1e9,
        "rows": report.rows,
        "wall_s": wall,
        "cpu_s": used,
        "gb_per_cpu_s": report.bytes / 1e9 / used,
        "sha256_alone_gb_per_s": sizes / 1e9 / alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, default=1000)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {"rate": rate(args.folder / "large", args.gigabytes)}
    print("  ".join(f"{name} {value:.2f}" for name, value in results["rate"].items()), flush=True)
    results["flips"] = flips(args.folder / "small", args.bits)
    print(json.dumps(results["flips"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
