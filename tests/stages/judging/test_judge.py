"""The whole judge on a tiny set: everything measured or said to be missing."""

import json

import pytest
import torch
from typer.testing import CliRunner

from normpipe.pipeline.commands.app import app
from normpipe.pipeline.errors import InputError
from normpipe.stages.judging.judge_normalizer import (
    JudgeConfig,
    JudgedModel,
    JudgeInputs,
    judge,
    open_judged_model,
)
from normpipe.stages.judging.judge_page import SECTIONS
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.checkpoint import save_tensors
from normpipe.stages.networks.reader import ExpressionReader


@pytest.fixture(scope="module")
def renders(tiny_pairs):
    return tiny_pairs


@pytest.fixture(scope="module")
def names(fake_kit):
    return fake_kit.expression_names


def save_reader(path, names, target):
    torch.manual_seed(0)
    module = ExpressionReader(len(names))
    notes = {
        "network": "reader", "settings": json.dumps(module.settings()),
        "expression_names": ",".join(names), "target": json.dumps(target),
    }  # fmt: skip
    save_tensors(module.state_dict(), path, notes)
    return path


@pytest.fixture(scope="module")
def reader(names, tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    return save_reader(path, names, {"kind": "mean"})


def average_face(images: torch.Tensor) -> torch.Tensor:
    return torch.full((len(images), 3, 192, 192), 0.5)


def test_what_is_not_given_is_said_to_be_missing(renders, reader, tmp_path):
    config = JudgeConfig(reader=str(reader), split="validation", resamples=20)
    report = judge(config, JudgedModel(average_face), JudgeInputs(renders=[renders]))
    measured = {figure.section for figure in report.figures}
    assert measured == {"synthetic", "constancy", "fairness"}
    assert measured | report.missing.keys() == SECTIONS.keys()
    still = [f for f in report.figures if f.name.startswith("change by normalizing again")]
    assert still and all(figure.value == 0 and figure.met for figure in still)
    report.write(tmp_path)
    assert (tmp_path / "index.html").stat().st_size > 5_000


def test_nothing_given_measures_nothing(reader):
    report = judge(JudgeConfig(reader=str(reader)), JudgedModel(average_face), JudgeInputs())
    assert not report.figures and report.missing.keys() == SECTIONS.keys()


def test_a_reader_of_another_face_is_refused(names, renders, tmp_path):
    other = save_reader(tmp_path / "r.safetensors", names, {"kind": "identity", "name": "7"})
    with pytest.raises(InputError, match="normpipe fit-reader"):
        judge(
            JudgeConfig(reader=str(other)),
            JudgedModel(average_face),
            JudgeInputs(renders=[renders]),
        )


def test_the_command_judges_weights_and_an_exported_file(renders, reader, names, tmp_path):
    torch.manual_seed(1)
    network = CompactNormalizer(len(names)).eval()
    weights = tmp_path / "mine.safetensors"
    save_tensors(
        network.state_dict(), weights,
        {"network": "compact", "settings": network.settings(), "expression_names": ",".join(names)},
    )  # fmt: skip
    found = CliRunner().invoke(
        app,
        ["judge-normalizer", str(weights), "--renders", str(renders), "--output",
         str(tmp_path / "out"), "--set", f"judge.reader={reader}", "--set", "judge.resamples=20",
         "--set", "judge.split=validation"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "not measured: give --crossed" in found.output and "goals met" in found.output
    judged = json.loads((tmp_path / "out/judge.json").read_text())
    assert judged["model"]["name"] == "mine" and judged["figures"]

    from normpipe.stages.publishing.export_normalizer import export_onnx

    exported = export_onnx(str(weights), tmp_path / "mine.onnx", 64)
    images = torch.rand(2, 3, 80, 80)
    with torch.inference_mode():
        sized = torch.nn.functional.interpolate(
            images, size=(64, 64), mode="bilinear", antialias=True, align_corners=False
        )
        made = open_judged_model(str(exported.path)).normalize(images)
        torch.testing.assert_close(made, network(sized), atol=1e-3, rtol=0)


def test_a_folder_without_renders_is_found_out_before_anything_is_aligned(renders, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.csv").write_text("image,emotion\n")
    found = CliRunner().invoke(
        app,
        ["judge-normalizer", "compact", "--renders", str(renders), "--crossed",
         str(tmp_path / "empty"), "--faces", str(tmp_path), "--labels",
         str(tmp_path / "labels.csv"), "--output", str(tmp_path / "out")],
    )  # fmt: skip
    assert found.exit_code != 0 and not (tmp_path / "out").exists()
    assert isinstance(found.exception, InputError) or "no shards in" in found.output
