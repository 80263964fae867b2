"""The real job with workers: what they build is what the coordinator describes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normpipe.pipeline.commands import app as cli
from normpipe.pipeline.commands.options import PlaceOptions
from normpipe.pipeline.commands.running.workers import build_map_stages, remote
from normpipe.pipeline.config import load_job
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.plan import describe
from normpipe.pipeline.stage import MapStage
from normpipe.stages import CONFIGS, build_flow

from ...living import digests


def test_workers_build_the_same_stages(
    samples: Path, random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(random_weights.parent)
    settings = [f"normalize.weights={random_weights.name}", "align.size_px=96"]
    job = load_job(None, {"input": samples, "output": Path("out")}, settings, CONFIGS)
    sent = json.loads(json.dumps(remote(job).job))
    monkeypatch.chdir(tmp_path)  # a worker lives elsewhere
    there = build_map_stages(sent, job.run)
    assert list(there) == ["align", "normalize"]
    monkeypatch.chdir(random_weights.parent)
    for stage in build_flow(job):
        if isinstance(stage, MapStage):
            assert there[stage.name].config.shaping() == stage.config.shaping()
    monkeypatch.chdir(tmp_path)
    there["normalize"].open()  # it finds the weights
    assert describe(there["normalize"])["digests"]["weights"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["run.workers=2", "run.scheduler='tcp://host:1'"], "a cluster has its own workers"),
        (["run.workers=3", "run.gpus=[0, 1]"], "each GPU has one worker"),
        (["run.gpus=[0, 0]"], "named twice"),
        (["run.scheduler='host:8786'"], "tcp://host:8786"),
    ],
)
def test_places_that_exclude_each_other(settings: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_job(None, {"output": Path("out")}, settings, CONFIGS)


def test_options_say_where_to_work() -> None:
    assert PlaceOptions().settings() == {}
    places = PlaceOptions(gpus="0, GPU-ab").settings()
    assert places == {"workers": 0, "gpus": [0, "GPU-ab"], "scheduler": ""}


def test_no_scheduler_is_one_line(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normpipe.pipeline.run.cluster._CONNECT_SECONDS", 1.0)
    words = ["run", "--input", str(samples), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, [*words, "--scheduler", "tcp://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in result.output


@pytest.mark.slow
def test_a_real_job_with_workers(settings: list[str], tmp_path: Path) -> None:
    words = ["run", *settings, "--limit", "10", "--until", "pair", "--output"]
    for name, more in (("alone", []), ("shared", ["--workers", "2"])):
        result = CliRunner().invoke(cli.app, [*words, str(tmp_path / name), *more])
        assert result.exit_code == 0, result.output
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")
