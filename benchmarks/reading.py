"""Measure the speed of reading a dataset: opening it, random rows, DataLoader.

    python benchmarks/reading.py                    # 8,192 made-up crops of 224 px
    python benchmarks/reading.py --dataset OUT/normalized/compact

Prints a table and writes benchmarks/results/reading.json.
"""

import argparse
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from normpipe.manifests.schema import NORMALIZED
from normpipe.pipeline.read.dataset import ShardDataset, collate, open_dataset
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter


def make(folder: Path, rows: int, size_px: int) -> None:
    """Write shards of 1,024 JPEGs of blurred noise (about as large as face crops) and labels."""
    chance = np.random.default_rng(0)
    pictures: list[bytes] = []
    for _ in range(64):
        noise = chance.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
        stream = io.BytesIO()
        soft = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))
        soft.save(stream, "JPEG", quality=95, subsampling=0)
        pictures.append(stream.getvalue())
    keys = [f"made/{i:07d}.jpg" for i in range(rows)]
    for start in range(0, rows, 1024):
        writer = ShardWriter(ShardFolder(folder), start // 1024, NORMALIZED)
        writer.add(
            {
                "key": key,
                "parent_key": key,
                "status": "ok",
                "decided_by": "normalize",
                "image": {"bytes": pictures[chance.integers(64)], "path": key},
            }
            for key in keys[start : start + 1024]
        )
        writer.commit("benchmark", None)
    units = {f"AU{n}": pa.array([n % 2] * rows, pa.int8()) for n in (1, 2, 4, 6, 12, 15, 25)}
    labels = pa.table({"key": keys, "subject": [key[:9] for key in keys], **units})
    pa.parquet.write_table(labels, folder / "labels.parquet")


def timed(action: Callable[[], Any]) -> float:
    """Return the milliseconds that an action takes."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def single(name: str, dataset: ShardDataset, reads: int) -> dict[str, Any]:
    """Measure random single rows."""
    chance = random.Random(1)
    dataset[0]
    times = [timed(lambda: dataset[chance.randrange(len(dataset))]) for _ in range(reads)]
    cuts = statistics.quantiles(times, n=20)
    return {
        "what": name,
        "p50_ms": round(statistics.median(times), 3),
        "p95_ms": round(cuts[18], 3),
        "rows_per_s": round(1e3 / statistics.fmean(times)),
    }


def loaded(name: str, dataset: ShardDataset, workers: int, shuffle: bool) -> dict[str, Any]:
    """Measure a pass of DataLoader, at most 4,096 rows."""
    loader = DataLoader(
        dataset, batch_size=64, shuffle=shuffle, num_workers=workers, collate_fn=collate
    )
    start, rows = time.perf_counter(), 0
    for batch in loader:
        rows += len(batch["key"])
        if rows >= 4096:
            break
    return {"what": name, "rows_per_s": round(rows / (time.perf_counter() - start))}


def measure(folder: Path, reads: int) -> list[dict[str, Any]]:
    """Return the rows of the table."""
    results: list[dict[str, Any]] = []
    opening = timed(lambda: open_dataset(folder))
    raw, decoded = open_dataset(folder, decode=False), open_dataset(folder)
    results.append({"what": f"open {len(raw):,} rows", "p50_ms": round(opening, 3)})
    results.append(single("random row, encoded", raw, reads))
    results.append(single("random row, decoded", decoded, reads))
    for workers in (0, 2):
        for shuffle in (False, True):
            order = "shuffled" if shuffle else "in order"
            name = f"DataLoader, {workers} workers, {order}"
            results.append(loaded(name, decoded, workers, shuffle))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, help="a dataset's folder; default: made-up crops")
    parser.add_argument("--rows", type=int, default=8192, help="made-up crops")
    parser.add_argument("--size", type=int, default=224, help="their size in pixels")
    parser.add_argument("--reads", type=int, default=1000, help="single rows to read")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/reading.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in DataLoader's workers
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.dataset or Path(scratch)
        if options.dataset is None:
            make(folder, options.rows, options.size)
        results = measure(folder, options.reads)
    print(f"{'what':34}{'p50 ms':>10}{'p95 ms':>10}{'rows/s':>10}")
    for line in results:
        cells = (line.get(name, "") for name in ("p50_ms", "p95_ms", "rows_per_s"))
        print(f"{line['what']:34}" + "".join(f"{cell!s:>10}" for cell in cells))
    peak = psutil.Process().memory_info().rss / 2**20
    print(f"memory of the process at the end: {peak:.0f} MiB")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"results": results, "rss_mib": round(peak)}, indent=2))


if __name__ == "__main__":
    main()
