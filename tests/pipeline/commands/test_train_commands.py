"""What the commands that train hand on, how they end, and what they refuse first."""

from pathlib import Path
from typing import Any

import pytest

from normpipe.stages.synthesis import kit_packing
from normpipe.stages.training import pretrain_encoder
from normpipe.stages.training.landmarks import fit_landmarks
from normpipe.stages.training.normalizer import fit_normalizer

from ..calling import call, refused


class Told:
    """Stands for a training: keeps what it is given, and returns what it is to."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.given: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any) -> Any:
        self.given = arguments
        return self.result


@pytest.mark.parametrize("command", ["fit-landmarks", "pretrain-encoder", "fit-normalizer"])
def test_no_training_begins_without_data(command: str, tmp_path: Path) -> None:
    refused(call(command, "--output", tmp_path / "out"), "no data: give --data DIR")
    assert not (tmp_path / "out").exists()


def test_landmarks_are_trained_on_renders_and_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "landmarks.safetensors"
    told = Told(fit_landmarks.FittedLandmarks(weights, {"error": 0.5}))
    monkeypatch.setattr(fit_landmarks, "fit_landmarks", told)
    words = ["fit-landmarks", "--output", tmp_path, "--data", tmp_path, "--heads", tmp_path]
    done = call(*words, "--set", "fit_landmarks.steps=7")
    assert done.exit_code == 0, done.stderr
    config, *rest = told.given
    assert config.steps == 7 and rest == [[tmp_path], tmp_path, [tmp_path]]
    assert done.stdout.splitlines() == [f"weights: {weights}", "scores: {'error': 0.5}"]
    assert call(*words[:5]).exit_code == 0 and told.given[3] == []


def test_an_encoder_is_pretrained_on_all_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(pretrain_encoder.PretrainResult(tmp_path / "encoder.safetensors", 0.25))
    monkeypatch.setattr(pretrain_encoder, "pretrain", told)
    (tmp_path / "b").mkdir()
    data = ["--data", tmp_path, "--data", tmp_path / "b"]
    done = call("pretrain-encoder", "--output", tmp_path / "out", *data)
    assert done.exit_code == 0, done.stderr
    assert told.given[1:] == ([tmp_path, tmp_path / "b"], tmp_path / "out")
    assert "held-out loss: 0.25" in done.stdout


@pytest.mark.parametrize(
    ("finished", "scores", "status", "said"),
    [
        (True, {"x": 1.0}, 0, "scores: {0}/w.json"),
        (True, {}, 0, ""),  # another process than the first says nothing
        (False, {}, 3, "stopped when its time was up; run the same command again to continue: {0}"),
    ],
)
def test_a_normalizer_s_training_ends_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool, scores: Any, status: int,
    said: str,
) -> None:  # fmt: skip
    result = fit_normalizer.FitResult(tmp_path / "w.safetensors", scores, finished)
    told = Told(result)
    monkeypatch.setattr(fit_normalizer, "fit", told)
    faces = tmp_path / "faces"
    faces.mkdir()
    words = ["fit-normalizer", "--output", tmp_path, "--data", tmp_path, "--faces", faces]
    done = call(*words, "--set", "fit_normalizer.steps=9")
    assert done.exit_code == status, done.stderr
    assert done.stdout.splitlines()[-1:] == ([said.format(tmp_path)] if said else [])
    config, data, output, real, labels, deadline = told.given
    assert (config.steps, data, output, real) == (9, [tmp_path], tmp_path, [faces])
    assert labels is None and not deadline()


def test_labels_go_with_faces(tmp_path: Path) -> None:
    """Without faces they are for nothing; several lists do not say which pictures to align."""
    listed = tmp_path / "list.csv"
    listed.write_text("path,emotion\na.jpg,anger\n")
    words = ["fit-normalizer", "--output", tmp_path / "out", "--data", tmp_path]
    labels = ["--labels", listed]
    done = call(*words, *labels)
    assert done.exit_code == 2 and "--labels goes with --faces" in done.stderr
    (tmp_path / "pictures").mkdir()
    done = call(*words, "--faces", tmp_path / "pictures", *labels, *labels)
    assert done.exit_code == 2 and "one --labels FILE" in done.stderr.replace("\n", " ")


def test_sets_need_a_face_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(None)
    monkeypatch.setattr(fit_normalizer, "fit", told)
    (tmp_path / "job.toml").write_text("[fit_normalizer.sets.paired]\npairs = 24\n")
    words = ["fit-normalizer", tmp_path / "job.toml", "--output", tmp_path / "out"]
    refused(call(*words), "needs a face kit: --facekit PATH")
    refused(call(*words, "--facekit", tmp_path / "job.toml"), "job.toml")
    refused(call("synthesize", "--output", tmp_path / "out"), "needs a face kit")
    assert told.given == () and not (tmp_path / "out").exists()


def test_a_packed_kit_is_told_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told("0f" * 32)
    monkeypatch.setattr(kit_packing, "pack_facekit", told)
    done = call("pack-facekit", tmp_path, tmp_path / "kit.npz")
    assert done.stdout == f"{tmp_path}/kit.npz: sha256 {'0f' * 32}\n"
    assert told.given == (tmp_path, tmp_path / "kit.npz")
    (tmp_path / "file").write_bytes(b"")
    refused(call("pack-facekit", tmp_path / "file", tmp_path / "kit.npz"), "is not a folder")


def test_what_is_no_normalizer_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"x")
    out = tmp_path / "n.onnx"
    refused(call("export-normalizer", tmp_path / "torn.safetensors", "--onnx", out), "torn")
    refused(call("export-normalizer", "compact", "--onnx", tmp_path), "is a folder")
    small = call("export-normalizer", "compact", "--onnx", out, "--input-size", 15)
    assert small.exit_code == 2 and "16" in small.stderr
    assert not out.exists()
