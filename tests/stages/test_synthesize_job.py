"""synthesize through the engine: the same contract as every other stage."""

import pyarrow.parquet as pq
from typer.testing import CliRunner

from normpipe.pipeline.commands import app as cli
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig
from normpipe.stages.training.synthesized import load_pairs


def make(root, config):
    flow = [PlanPairs(config), Synthesize(config)]
    Runner(root, flow, RunConfig(), Options(identity={"dataset": "synth"})).run(flow)
    return {path.name: path.read_bytes() for path in sorted(root.glob("pairs/shard-*.parquet"))}


def test_shards_are_committed_and_the_same_again(fake_kit_file, tmp_path):
    config = SynthesizeConfig(
        facekit=str(fake_kit_file), pairs=10, identities=5, size_px=48, target_size_px=32,
        shard_rows=4, validation=0.2, test=0.2,
    )  # fmt: skip
    first = make(tmp_path / "a", config)
    assert list(first) == [f"shard-{number:05d}.parquet" for number in range(3)]
    assert make(tmp_path / "b", config) == first
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("shard-*.parquet")}
    make(tmp_path / "a", config)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    shards = sorted(tmp_path.glob("a/pairs/shard-*.parquet"))
    rows = [row for path in shards for row in pq.read_table(path).to_pylist()]
    assert [row["status"] for row in rows] == ["ok"] * 10
    assert all(row["decided_by"] == "synthesize" for row in rows)


def test_its_own_output_needs_no_settings_again(fake_kit_file, tmp_path, monkeypatch):

    def call(*words):
        return CliRunner().invoke(cli.app, ["synthesize", "--output", str(tmp_path / "a"), *words])

    values = {"pairs": 6, "identities": 3, "size_px": 48, "target_size_px": 32, "shard_rows": 4}
    given = [word for n, v in values.items() for word in ("--set", f"synthesize.{n}={v}")]
    monkeypatch.chdir(fake_kit_file.parent)
    assert call("--facekit", fake_kit_file.name, *given).exit_code == 0
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert call().exit_code == 0
    assert before == {path: path.read_bytes() for path in before}
    other = call("--seed", "3")
    assert other.exit_code == 2
    assert "(synthesize.seed: 0 → 3)" in other.stderr
    assert f"'normpipe synthesize --output {tmp_path / 'a'}' without" in other.stderr
    run = CliRunner().invoke(cli.app, ["run", str(tmp_path / "a")])
    assert run.exit_code == 2 and "unknown key 'synthesize' in the job of a run" in run.stderr


def test_training_reads_what_the_engine_wrote(fake_kit_file, tmp_path):
    config = SynthesizeConfig(
        facekit=str(fake_kit_file), pairs=6, identities=6, size_px=48, target_size_px=32,
        validation=0.0, test=0.0,
    )  # fmt: skip
    make(tmp_path, config)
    cache = load_pairs([tmp_path], "train")
    assert len(cache) == 6 and cache.grey.shape == (6, 48, 48)
    assert cache.targets(range(6)).shape == (6, 32, 32, 3) and "jawOpen" in cache.expression_names
