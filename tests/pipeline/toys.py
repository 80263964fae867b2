"""Small stages with no faces in them, to test the engine."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from normpipe.manifests.schema import COMMON, IMAGE, MANIFEST, schema
from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import (
    JoinStage,
    MapStage,
    Row,
    Scan,
    SourceStage,
    Stage,
    StageConfig,
)
from normpipe.pipeline.store.shards import ShardFolder, ShardRecord

TOY = schema([("image", IMAGE), ("image_sha256", pa.string()), ("number", pa.int64())])
NAMES = [f"n{i}" for i in range(23)] + ["noface90", "cut91", "twins92", "n93"]


class ToyConfig(StageConfig):
    shard_rows: int = 10
    batch: int = 4
    factor: int = 1


class ToySource(SourceStage):
    name: ClassVar[str] = "toy-source"
    writes = "manifest"
    schema = MANIFEST

    def __init__(self, names: list[str], config: ToyConfig | None = None) -> None:
        self.config = self._config = config or ToyConfig()
        self.names = names
        self.sizes: dict[str, int] = {}

    @property
    def shard_rows(self) -> int:
        return self._config.shard_rows

    def scan(self) -> Scan:
        rows = [
            {
                "key": f"toy/{name}",
                "parent_key": f"toy/{name}",
                "status": "ok",
                "decided_by": self.name,
                "path": name,
                "size_bytes": self.sizes.get(name, 1),
            }
            for name in self.names
        ]
        return Scan(pa.Table.from_pylist(rows, MANIFEST))

    def changed(self, known: pa.Table, found: pa.Table) -> list[str]:
        pairs = zip(
            known["key"].to_pylist(),
            known["size_bytes"].to_pylist(),
            found["size_bytes"].to_pylist(),
            strict=True,
        )
        return [key for key, old, new in pairs if old != new]


class ToyMap(MapStage):
    """Squares the number in a sample's name; names steer what goes wrong."""

    name: ClassVar[str] = "toy-map"
    reads = ("manifest",)
    schema = TOY

    def __init__(
        self, config: ToyConfig | None = None, reads: str = "manifest", writes: str = "made"
    ) -> None:
        self.config = self._config = config or ToyConfig()
        self.reads = (reads,)
        self.writes = writes
        self.calls: list[int] = []
        self.processed: list[str] = []
        self.breaks: dict[str, int] = {}
        self.lock = threading.Lock()

    @property
    def batch_size(self) -> int:
        return self._config.batch

    def prepare(self, row: Row) -> Any:
        name = row["key"].rpartition("/")[2]
        with self.lock:
            self.processed.append(name)
            if self.breaks.get(name, 0) > 0:
                self.breaks[name] -= 1
                raise RuntimeError(f"broken at {name}")
        if "noface" in name:
            raise SampleError("no_face")
        if "cut" in name:
            raise SampleError("truncated", "ends early")
        return int("".join(c for c in name if c.isdigit()))

    def compute(self, items: list[Any]) -> Sequence[Any]:
        self.calls.append(len(items))
        return [item * item * self._config.factor for item in items]

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        data = f"{row['key']}={result}".encode()
        out = {
            "image": {"bytes": data, "path": row["key"]},
            "image_sha256": hashlib.sha256(data).hexdigest(),
            "number": result,
        }
        if "twins" in row["key"]:
            return [{**out, "key": f"{row['key']}#face{i}"} for i in range(2)]
        return [out]


class SecondMap(ToyMap):
    name: ClassVar[str] = "toy-second"

    def prepare(self, row: Row) -> Any:
        return row["number"]

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        return super().finish({**row, "key": "single"}, item, result)


class ToyJoin(JoinStage):
    name: ClassVar[str] = "toy-join"
    writes = "joined"
    schema = pa.schema([*COMMON, ("both", pa.bool_())])
    columns = ("key", "parent_key", "status", "reason", "decided_by")

    def __init__(self) -> None:
        self.config = ToyConfig()
        self.reads = ("made", "second")

    def join(self, number: int, inputs: list[pa.Table]) -> list[pa.Table]:
        left, right = inputs
        keys = set(right["key"].to_pylist())
        rows = [{**row, "both": row["key"] in keys} for row in left.to_pylist()]
        return [
            pa.Table.from_pylist([{n: r[n] for n in self.schema.names} for r in rows], self.schema)
        ]


def stop_after_commit(runner: Runner) -> None:
    """Ask a run to stop when the first shard is committed."""
    original = runner._committed

    def committed(stage: str, record: ShardRecord) -> None:
        original(stage, record)
        runner.stop()

    runner._committed = committed  # type: ignore[method-assign]


def run(
    root: Path,
    stages: Sequence[Stage],
    *,
    threads: int = 2,
    prefetch: int = 2,
    retries: int = 2,
    max_rejected: float = 1.0,
    **options: Any,
) -> None:
    settings = RunConfig(
        threads=threads, prefetch=prefetch, retries=retries, max_rejected=max_rejected
    )
    wanted = Options(identity={"dataset": "toy", "input": "here"}, **options)
    Runner(root, stages, settings, wanted, Progress(bars=False)).run(stages)


def flow(names: list[str] = NAMES, factor: int = 1) -> list[Stage]:
    return [
        ToySource(names),
        ToyMap(ToyConfig(factor=factor)),
        SecondMap(reads="made", writes="second"),
        ToyJoin(),
    ]


def run_only(out: Path, stages: list[Stage], selected: list[Stage], **options: Any) -> None:
    wanted = Options(identity={"dataset": "toy", "input": "here"}, **options)
    Runner(out, stages, RunConfig(threads=1), wanted, Progress(bars=False)).run(selected)


def rows(root: Path, dataset: str) -> list[dict[str, Any]]:
    folder = ShardFolder(root / dataset)
    return [row for n in folder.records() for row in pq.read_table(folder.shard(n)).to_pylist()]
