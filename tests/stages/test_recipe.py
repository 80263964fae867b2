"""The recipe: one command renders the sets that a job file names, and trains on them, in legs."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normpipe.pipeline.commands import app as cli
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.networks.files.checkpoint import read_tensors
from normpipe.stages.synthesis.synthesize import Synthesize
from normpipe.stages.training.normalizer import fit_normalizer
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig
from normpipe.stages.training.pretrain_encoder import PretrainEncoderConfig

JOB = """
[run]
threads = 1

[fit_normalizer]
device = "cpu"
precision = "fp32"
threads = 1
workers = 0
steps = 4
batch_size = 4
decoder_steps = 3
decoder_batch_size = 2
save_every = 2
warmup_steps = 1
evaluation_pairs = 6

[fit_normalizer.sets.paired]
pairs = 24
identities = 8
size_px = 64
target_size_px = 64
validation = 0.25
test = 0.13
shard_rows = 8

[fit_normalizer.sets.sources]
pairs = 8
identities = 4
seed = 2
size_px = 64
targets = false
validation = 0.0
test = 0.0
shard_rows = 8
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "train.toml"
    path.write_text(JOB)
    return path


def call(*arguments):
    return CliRunner().invoke(cli.app, ["fit-normalizer", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(job, fake_kit_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    done = call(job, "--facekit", fake_kit_file, "--output", output)
    assert done.exit_code == 0, done.output
    return output


def shards(output):
    return {
        path.relative_to(output): path.read_bytes()
        for path in sorted(output.glob("sets/*/pairs/shard-*.parquet"))
    }


def refused(result, *words):
    """Check that a command ended with one line and status 2."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("normpipe: ")]
    assert len(lines) == 1 and "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]


def test_one_command_renders_and_trains(whole):
    assert len(shards(whole)) == 4
    card = json.loads((whole / "compact.json").read_text())
    assert card["training"]["pairs"] + 6 <= 32 and card["training"]["target_pictures"] > 0
    assert card["recipe"]["sets"]["sources"]["targets"] is False
    assert "facekit" not in card["recipe"]["sets"]["paired"]
    checked = CliRunner().invoke(cli.app, ["verify", str(whole / "sets/paired")])
    assert checked.exit_code == 0, checked.output


def test_sets_are_those_that_synthesize_renders(whole, fake_kit_file, tmp_path):
    options = {
        "identities": 4, "size_px": 64, "targets": "false", "validation": 0.0, "test": 0.0,
        "shard_rows": 8,
    }  # fmt: skip
    given = [f"--set=synthesize.{name}={value}" for name, value in options.items()]
    asked = ["--facekit", str(fake_kit_file), "--output", str(tmp_path), "--pairs=8", "--seed=2"]
    done = CliRunner().invoke(cli.app, ["synthesize", *asked, *given])
    assert done.exit_code == 0, done.output
    name = "pairs/shard-00000.parquet"
    assert (tmp_path / name).read_bytes() == (whole / "sets/sources" / name).read_bytes()


def test_legs_that_end_while_rendering_come_to_the_same(
    job, whole, fake_kit_file, tmp_path, monkeypatch
):
    command = (job, "--facekit", fake_kit_file, "--output", tmp_path)
    nothing = call(*command, "--set", "fit_normalizer.minutes=0.00001")
    assert nothing.exit_code == 3 and "run the same command again" in nothing.output

    records = ShardFolder(tmp_path / "sets/paired/pairs").records
    with monkeypatch.context() as patch:  # over as soon as a shard is committed
        patch.setattr(fit_normalizer, "make_deadline", lambda _: lambda: bool(records()))
        part = call(*command)
    assert part.exit_code == 3 and "run the same command again" in part.output
    assert records() and not list(tmp_path.glob("*.safetensors"))

    done = call(*command)
    assert done.exit_code == 0, done.output
    assert shards(tmp_path) == shards(whole)
    weights = [folder / "compact.safetensors" for folder in (tmp_path, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_legs_of_training_come_to_the_same(job, whole, fake_kit_file, tmp_path, monkeypatch):
    (tmp_path / "sets").symlink_to(whole / "sets")
    monkeypatch.setattr(Synthesize, "open", None)  # whole sets are left alone
    command = (job, "--facekit", fake_kit_file, "--output", tmp_path)
    legs = 0
    while (done := call(*command, "--set", "fit_normalizer.minutes=0.00001")).exit_code == 3:
        legs += 1
    assert done.exit_code == 0 and legs >= 2, done.output
    for name in ("compact.safetensors", "sets/paired/_pairs/stage.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_sets_rendered_on_another_machine_are_taken_as_they_are(
    job, whole, fake_kit_file, tmp_path, monkeypatch
):
    """Another device class and other libraries do not matter; other settings do."""
    (tmp_path / "sets").symlink_to(whole / "sets")
    monkeypatch.setattr(Synthesize, "device_class", "cuda")
    monkeypatch.setattr(Synthesize, "libraries", ("numpy",))
    command = (job, "--facekit", fake_kit_file, "--output", tmp_path)
    short = ("--set", "fit_normalizer.minutes=0.00001")
    assert call(*command, *short).exit_code == 3
    assert read_tensors(tmp_path / "decoder.state.safetensors")["losses"].numel() == 1
    other = call(*command, "--set", "fit_normalizer.sets.paired.seed=5")
    refused(other, "made with other settings", "synthesize.seed: 0 → 5", "--overwrite")


def test_data_go_beside_sets(job, whole, fake_kit_file, tmp_path):
    (tmp_path / "sets").symlink_to(whole / "sets")
    both = call(
        job, "--facekit", fake_kit_file, "--output", tmp_path, "--data", whole / "sets/sources"
    )
    assert both.exit_code == 0, both.output
    seen = [json.loads((path / "compact.json").read_text()) for path in (tmp_path, whole)]
    assert seen[0]["training"]["pairs"] == seen[1]["training"]["pairs"] + 8


def test_bad_recipes_are_one_line(job, fake_kit_file, tmp_path):
    out, kit = ("--output", tmp_path / "out"), ("--facekit", fake_kit_file)
    refused(call(job, *out), "--facekit PATH")
    refused(call(*out), "no data", "[fit_normalizer.sets.NAME]")
    key = "fit_normalizer.sets.paired"
    refused(call(job, *out, "--set", f"{key}.pears=3"), f"'{key}.pears'", "'pairs'")
    refused(call(job, *out, "--set", f"{key}.pairs=none"), f"{key}.pairs")
    refused(call(job, *out, "--set", "fit_normalizer.sets.a/b.pairs=3"), "a/b")
    refused(call(job, *out, *kit, "--set", "fit_normalizer.network=compct"), "'compact'")
    refused(call(job, *out, *kit, "--set", "fit_normalizer.nodes=2"), "one process")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train_compact.toml", "train_compact_renders.toml"])
def test_the_shipped_recipe_is_a_job(name, tmp_path):
    recipe = Path(__file__).parents[2] / "examples" / name
    refused(call(recipe, "--output", tmp_path), "--facekit PATH")


@pytest.mark.parametrize("name", ["train_norface.toml", "train_norface_gpu.toml"])
def test_the_recipes_of_norface_pretrain_the_encoder_that_they_train(name):
    job = tomllib.loads((Path(__file__).parents[2] / "examples" / name).read_text())
    encoder = PretrainEncoderConfig(**job["pretrain_encoder"])
    config = FitNormalizerConfig(**job["fit_normalizer"])
    fit_normalizer.check_settings(config)
    network = config.network_settings
    for setting in ("size", "stem", "image_size"):
        assert getattr(encoder, setting) == network[setting]
