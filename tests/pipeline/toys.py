"""Small stages with no faces in them, to test the engine."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa

from normpipe.manifests.schema import COMMON, IMAGE, MANIFEST, schema
from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.run.runner import Runner
from normpipe.pipeline.stage import (
    JoinStage,
    MapStage,
    Row,
    Scan,
    SourceStage,
    StageConfig,
)
from normpipe.pipeline.store.shards import ShardRecord

TOY = schema([("image", IMAGE), ("image_sha256", pa.string()), ("number", pa.int64())])


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
