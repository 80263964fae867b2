"""What the commands that judge hand on, and what they refuse first."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.commands import judge_commands
from normpipe.pipeline.errors import InputError
from normpipe.stages.judging import fit_reader as training

from ..calling import call, refused


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    (tmp_path / "faces").mkdir()
    (tmp_path / "pack").mkdir()
    (tmp_path / "list.csv").write_text("image,identity\n")
    return [
        "judge-normalizer", "compact", "--faces", str(tmp_path / "faces"), "--labels",
        str(tmp_path / "list.csv"), "--output", str(tmp_path / "judged"),
    ]  # fmt: skip


@pytest.mark.parametrize("pack", [False, True])
def test_photographs_are_aligned_beside_the_page_with_the_pack_s_detector(
    photographs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    asked: list[Any] = []

    def align(*arguments: Any) -> Path:
        asked.extend(arguments)
        raise InputError("aligned")

    monkeypatch.setattr(judge_commands, "align_faces", align)
    refused(call(*photographs, *(["--pack", tmp_path / "pack"] if pack else [])), "aligned")
    given = {"detector": "insightface", "pack": str(tmp_path / "pack")} if pack else {}
    assert asked == [
        tmp_path / "faces", tmp_path / "list.csv", tmp_path / "judged/faces", given
    ]  # fmt: skip


def test_labels_without_pictures_and_no_model_are_refused(
    photographs: list[str], tmp_path: Path
) -> None:
    del photographs[2:4]
    refused(call(*photographs), "--labels goes with --faces DIR")
    refused(call("judge-normalizer", "compakt", "--output", tmp_path), "compakt")
    refused(call("judge-normalizer", "compact", "--set", "judge.reeder=x"), "did you mean 'reader'")
    assert not (tmp_path / "judged").exists()


def test_a_reader_is_trained_with_the_job_s_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fit(*arguments: Any) -> training.FittedReader:
        asked.extend(arguments)
        return training.FittedReader(tmp_path / "reader.safetensors", {})

    monkeypatch.setattr(training, "fit_reader", fit)
    (tmp_path / "job.toml").write_text("[fit_reader]\nsteps = 3\nseed = 4\n")
    words = ["fit-reader", tmp_path / "job.toml", "--output", tmp_path, "--set"]
    refused(call(*words, "fit_reader.seed=5"), "no data: give --data DIR")
    data = [tmp_path / "a", tmp_path / "b"]
    for path in data:
        path.mkdir()
    done = call(*words, "fit_reader.seed=5", *(f"--data={path}" for path in data))
    assert done.exit_code == 0, done.stderr
    config, *rest = asked
    assert (config.steps, config.seed) == (3, 5) and rest == [data, tmp_path]
    weights = tmp_path / "reader.safetensors"
    scores = tmp_path / "reader.json"
    assert done.stdout.splitlines() == [f"weights: {weights}", f"scores: {scores}"]
    assert tomllib.loads((tmp_path / "job.toml").read_text())["fit_reader"]["seed"] == 4
