"""A toy job with labels and with what lies beside datasets, for tests of withdrawing."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from normpipe.manifests.schema import COMMON
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Scan, Stage
from normpipe.pipeline.store.labels import LABELS_FILE, labels_digest, read_labels

from .toys import SecondMap, ToyConfig, ToyJoin, ToyMap, ToySource

#: Anna is every fifth, and one with two faces; shard 2 (n20 …) has none of her.
NAMES = [f"n{i}" for i in range(20)] + [f"other{i}" for i in range(20, 30)] + ["twins35", "noface1"]


def subject(name: str) -> str:
    number = int("".join(c for c in name if c.isdigit()))
    return "anna" if number % 5 == 0 and not name.startswith("other") else f"person{number % 3}"


class LabelledSource(ToySource):
    def scan(self) -> Scan:
        found = super().scan()
        subjects = [subject(name) for name in self.names]
        return Scan(found.rows, pa.table({"key": found.rows["key"], "subject": subjects}))


class LabelledJoin(ToyJoin):
    """Writes the subject into its shards, as materialized pairs do."""

    schema = pa.schema([*COMMON, ("subject", pa.string())])

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._file = root / LABELS_FILE

    def digests(self) -> dict[str, str]:
        return {"labels": labels_digest(read_labels(self._file))}

    def join(self, number: int, inputs: list[pa.Table]) -> list[pa.Table]:
        labels = read_labels(self._file)
        known = dict(zip(labels["key"].to_pylist(), labels["subject"].to_pylist(), strict=True))
        rows = [{**row, "subject": known.get(row["parent_key"])} for row in inputs[0].to_pylist()]
        rows = [{n: r[n] for n in self.schema.names} for r in rows]
        return [pa.Table.from_pylist(rows, self.schema)]


def flow(root: Path, names: list[str] = NAMES) -> list[Stage]:
    return [
        LabelledSource(names),
        ToyMap(ToyConfig()),
        SecondMap(reads="made", writes="normalized/second"),
        _join(root),
    ]


def _join(root: Path) -> LabelledJoin:
    join = LabelledJoin(root)
    join.reads = ("made", "normalized/second")
    return join


def run(root: Path, names: list[str] = NAMES, until: int = 4) -> None:
    """Run the first ``until`` stages."""
    stages = flow(root, names)
    wanted = Options(identity={"dataset": "toy", "input": "here"})
    Runner(root, stages, RunConfig(threads=1), wanted, Progress(bars=False)).run(stages[:until])


def make(root: Path, names: list[str] = NAMES) -> None:
    """Run the job, and lay beside it what users and other commands do."""
    run(root, names)
    (root / "contact_sheet.jpg").write_bytes(b"faces")
    scores = root / "classify" / "scores"
    scores.mkdir(parents=True)
    pq.write_table(pa.table({"key": ["toy/n5", "toy/n6"]}), scores / "predictions.parquet")
    digest = hashlib.sha256((scores / "predictions.parquet").read_bytes()).hexdigest()
    (scores / "scores.json").write_text(json.dumps({"predictions_sha256": digest}))
    (root / "classify" / "classifier.safetensors").write_bytes(b"learnt")
    (root / "told.csv").write_text("key,emotion\ntoy/n5,anger\n")
    (root / "others.csv").write_text("key,emotion\ntoy/n6,anger\n")
    # What killed runs leave: an unfinished shard, and one without its record.
    (root / "made" / "shard-00009.parquet.tmp").write_bytes(b"toy/n5=25")
    (root / "made" / "shard-00008.parquet").write_bytes(b"toy/n5=25")


def digests(root: Path, pattern: str = "*") -> dict[str, str]:
    """Return path → sha256 of every file of a folder but the lock."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob(pattern))
        if path.is_file() and path.name != ".normpipe.lock"
    }
