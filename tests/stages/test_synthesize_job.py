"""synthesize through the engine: the same contract as every other stage."""

import pyarrow.parquet as pq

from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.runner import Options, Runner
from normpipe.stages.synthesize import PlanPairs, Synthesize, SynthesizeConfig
from normpipe.stages.training.pictures import load_pairs


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


def test_training_reads_what_the_engine_wrote(fake_kit_file, tmp_path):
    config = SynthesizeConfig(
        facekit=str(fake_kit_file), pairs=6, identities=6, size_px=48, target_size_px=32,
        validation=0.0, test=0.0,
    )  # fmt: skip
    make(tmp_path, config)
    cache = load_pairs([tmp_path], "train")
    assert len(cache) == 6 and cache.grey.shape == (6, 48, 48)
    assert cache.targets(range(6)).shape == (6, 32, 32, 3) and "jawOpen" in cache.expression_names
