"""The synthetic benchmark is a job that anyone can render again."""

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normpipe.pipeline.commands.app import app
from normpipe.stages.synthesis.synthesize import SynthesizeConfig, pairs_of
from normpipe.stages.training.synthesized import synthesized_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
JOB = EXAMPLES / "synthetic_benchmark.toml"


def checker():
    spec = importlib.util.spec_from_file_location("check", EXAMPLES / "check_benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parts_are_as_the_job_says_and_share_nobody():
    config = SynthesizeConfig(facekit="", **tomllib.loads(JOB.read_text())["synthesize"])
    people: dict[str, set[int]] = {}
    counts: dict[str, int] = {}
    for spec in pairs_of(config):
        people.setdefault(spec.split, set()).add(spec.identity)
        counts[spec.split] = counts.get(spec.split, 0) + 1
    assert counts == {"train": 10_504, "validation": 1_504, "test": 2_992}
    assert sum(map(len, people.values())) == len(set().union(*people.values())) == 1875


def test_no_recipe_of_shipped_weights_takes_the_seeds_of_the_benchmark():
    for name in ("train_compact.toml", "train_compact_renders.toml"):
        recipe = tomllib.loads((EXAMPLES / name).read_text())["fit_normalizer"]
        assert recipe["sets"] and all(one["seed"] < 9000 for one in recipe["sets"].values())


@pytest.mark.slow
@pytest.mark.assets
def test_the_first_shard_is_the_recorded_one(real_kit_file, tmp_path):
    """Labels everywhere; pictures where a recording was made with the same libraries and CPU."""
    rows = [
        str(JOB), "--facekit", str(real_kit_file), "--output", str(tmp_path / "bench"),
        "--pairs", "100",
    ]  # fmt: skip
    made = CliRunner().invoke(app, ["synthesize", *rows, "--set", "synthesize.identities=13"])
    assert made.exit_code == 0, made.output
    check = checker()
    found = check.checksums(synthesized_shards([tmp_path / "bench"])[0])
    recorded = json.loads(check.RECORDED.read_text())
    assert found["labels"] in {entry["labels"] for entry in recorded}
    here = check.made_with("cpu")
    alike = [entry for entry in recorded if all(entry[name] == here[name] for name in here)]
    if not alike:
        pytest.skip(f"no recording with {here}")
    assert found["pictures"] in {entry["pictures"] for entry in alike}
