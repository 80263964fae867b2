"""A dataset that lives on: corrected labels re-run what reads labels, and nothing else."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Stage

from . import living
from .living import NAMES, digests, flow, run, subject
from .toys import ToyMap


def _run(root: Path, stages: list[Stage], overwrite: bool = False) -> None:
    wanted = Options(overwrite=overwrite, identity={"dataset": "toy", "input": "here"})
    Runner(root, stages, RunConfig(threads=1), wanted, Progress(bars=False)).run(stages)


def test_a_corrected_label_reruns_only_what_reads_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(out)
    before = digests(out)
    monkeypatch.setattr(living, "subject", lambda name: "eve" if name == "n7" else subject(name))
    stages = flow(out)
    _run(out, stages[:3])
    after = digests(out)
    changed = {name for name in before if before[name] != after[name]}
    # The manifest of the inputs says which labels belong to them; the flow was shorter this time.
    assert changed - {"job.toml"} == {"labels.parquet", "_manifest/manifest.json"}
    assert isinstance(stages[1], ToyMap) and stages[1].processed == []
    # Shards that hold labels say that they hold others, and are redone on request alone.
    with pytest.raises(OutputError, match=r"digests\.labels"):
        _run(out, flow(out))
    stages = flow(out)
    _run(out, stages, overwrite=True)
    assert isinstance(stages[1], ToyMap) and stages[1].processed == []
    after = digests(out)
    assert all(before[name] == after[name] for name in before if name.startswith("manifest/shard"))
    changed = {
        name.partition("/")[0].removeprefix("_") for name in before if before[name] != after[name]
    }
    assert changed == {"labels.parquet", "manifest", "joined"}
    found = pq.read_table(out / "joined/shard-00000.parquet").to_pylist()
    assert found[7]["subject"] == "eve"


def test_without_shards_that_hold_labels_nothing_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(out, NAMES, until=3)
    before = digests(out)
    monkeypatch.setattr(living, "subject", lambda _name: "eve")
    run(out, NAMES, until=3)
    after = digests(out)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"labels.parquet", "_manifest/manifest.json"}
