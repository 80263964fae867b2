"""A normalizer as an ONNX file, and the normalize stage on it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from normpipe.pipeline.commands.app import app
from normpipe.pipeline.errors import InputError, NormpipeError
from normpipe.pipeline.run.making import process
from normpipe.stages.faces import onnx as sessions
from normpipe.stages.faces.pixels import encode
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.checkpoint import find_weights, save_tensors
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.files.onnx_file import open_onnx
from normpipe.stages.networks.layers import resize
from normpipe.stages.networks.norface import NorfaceNormalizer
from normpipe.stages.normalize import Normalize, NormalizeConfig
from normpipe.stages.publishing import export_normalizer
from normpipe.stages.publishing.export_normalizer import (
    FixedSize,
    export_onnx,
    largest_difference,
    random_faces,
    resize_matrix,
)

SIDE = 128


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network, exported by the command."""
    path = tmp_path_factory.mktemp("export") / "compact.onnx"
    arguments = ["export-normalizer", "compact", "--onnx", str(path), "--input-size", str(SIDE)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "largest difference" in result.output and str(path) in result.output
    return path


@pytest.fixture(scope="module")
def norface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = NorfaceNormalizer(3, "T", 64, merge_depth=1, decoder_depth=1)
    for layer in (network.painter.flow, network.painter.paint):
        torch.nn.init.normal_(layer.weight, std=0.02)
    torch.nn.init.uniform_(network.template)
    network.template.data = resize(resize(network.template.data, 16), 64)
    path = tmp_path_factory.mktemp("norface") / "norface.safetensors"
    notes = {
        "network": "norface", "settings": network.settings(), "expression_names": "a,b,c",
        "target": {"kind": "render"},
    }  # fmt: skip
    save_tensors(network.state_dict(), path, notes)
    return path


def test_matrices_resize_as_the_networks_do() -> None:
    picture = torch.rand(2, 3, 224, 224)
    for size in (112, 100, 300):
        matrix = resize_matrix(224, size)
        torch.testing.assert_close(
            matrix @ picture @ matrix.T, resize(picture, size), atol=1e-6, rtol=0
        )


def test_the_command_exports_what_the_network_paints(compact: Path) -> None:
    loaded = open_normalizer("compact")
    exported = open_onnx(compact, "cpu", 1)
    faces = random_faces(7, SIDE, seed=5)
    with torch.inference_mode():
        wanted = loaded.module(torch.from_numpy(faces)).numpy()
    assert wanted.std(0).mean() > 0.004, "the faces differ"
    for batch in (1, 3):  # any batch size
        found = exported(faces[:batch])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted[:batch], atol=1e-3, rtol=0)
    notes = exported.notes
    assert notes["network"] == "compact" and notes["weights_sha256"] == loaded.digest
    assert json.loads(notes["settings"]) == loaded.module.settings()
    assert notes["expression_names"] == loaded.notes["expression_names"]
    assert (notes["input_size"], notes["output_size"]) == (str(SIDE), "192")
    onnx.checker.check_model(onnx.load(compact), full_check=True)


def test_norface_exports_too(norface: Path, tmp_path: Path) -> None:
    made = export_onnx(norface, tmp_path / "n.onnx", 80)
    assert made.difference <= 1e-3 and made.faces == 16
    exported = open_onnx(made.path, "cpu", 1)
    assert json.loads(exported.notes["target"]) == {"kind": "render"}
    assert exported(random_faces(2, 80)).shape == (2, 3, 64, 64)
    with pytest.raises(InputError, match=r"takes faces of 80 px.*64 x 64.*align\.size_px=80"):
        exported(random_faces(2, 64))


@pytest.mark.parametrize("kind", ["coarse", "fine"])
def test_both_decoders_of_compact_export(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CompactNormalizer(3, [1, 0, 2], 144, (8, 8, 16, 16, 24), kind)
    for layer in (network.decoder.flow, network.decoder.residual):
        torch.nn.init.normal_(layer.weight, std=0.05)
    torch.nn.init.uniform_(network.decoder.template)
    weights = tmp_path / "c.safetensors"
    notes = {"network": "compact", "settings": network.settings(), "expression_names": "a,b,c"}
    save_tensors(network.state_dict(), weights, notes)
    made = export_onnx(weights, tmp_path / "c.onnx", 96)
    assert made.difference <= 1e-3
    assert json.loads(open_onnx(made.path, "cpu", 1).notes["settings"])["decoder"] == kind


def test_a_file_that_paints_otherwise_is_never_written(
    norface: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FixedSize.forward
    monkeypatch.setattr(FixedSize, "forward", lambda self, images: right(self, images) + 0.002)
    with pytest.raises(NormpipeError, match=r"differ by 0\.002.*was not written"):
        export_onnx(norface, tmp_path / "n.onnx", 64)
    assert not list(tmp_path.iterdir())


def test_nan_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def run(self, _outputs: Any, feed: dict[str, Any]) -> list[Any]:
            found = feed["images"].copy()
            found[0, 0, 0, 0] = np.nan
            return [found]

    monkeypatch.setattr(export_normalizer, "start", lambda *_, **__: (Session(), "cpu"))
    assert np.isnan(largest_difference(torch.nn.Identity(), b"", 32)[0])  # type: ignore[arg-type]


def test_wrong_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        export_onnx("compact", tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no weights"):
        export_onnx("compcat", tmp_path / "x.onnx")
    with pytest.raises(InputError, match="no weights"):
        open_onnx(tmp_path / "absent.onnx")
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(InputError, match="ONNX Runtime cannot open") as caught:
        open_onnx(tmp_path / "x.onnx", "cpu")
    assert "\n" not in str(caught.value)


def test_a_strangers_file_is_refused(compact: Path, tmp_path: Path) -> None:
    model = onnx.load(compact)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="not written by normpipe export-normalizer"):
        open_onnx(tmp_path / "x.onnx", "cpu")


def rows(count: int) -> list[dict[str, Any]]:
    faces = (random_faces(count, SIDE, seed=9) * 255).round().astype(np.uint8)
    return [
        {
            "key": f"set/{n}.jpg", "parent_key": f"set/{n}.jpg", "status": "ok", "reason": None,
            "decided_by": "align",
            "image": {"bytes": encode(face.transpose(1, 2, 0), "png", 95), "path": "x"},
        }
        for n, face in enumerate(faces)
    ]  # fmt: skip


def normalized(weights: Path, threads: int = 1, **settings: Any) -> list[dict[str, Any]]:
    values = {"weights": str(weights), "device": "cpu", "format": "png", "batch_size": 4}
    stage = Normalize(NormalizeConfig(**{**values, **settings}), threads)
    stage.open()
    assert stage.device_class == "cpu"
    faces = rows(6)
    return process(stage, faces[:4]) + process(stage, faces[4:])


def test_the_stage_runs_either(compact: Path) -> None:
    pictures = [
        np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in out])
        for out in (normalized(compact), normalized(find_weights("compact")))
    ]
    assert pictures[0].shape == (6, 192, 192, 3)
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_the_same_bytes_with_more_threads(compact: Path) -> None:
    one, two = normalized(compact), normalized(compact, threads=2)
    assert [row["image_sha256"] for row in one] == [row["image_sha256"] for row in two]


def test_what_shapes_the_result_is_known(compact: Path) -> None:
    stage = Normalize(NormalizeConfig(network="", weights=str(compact), device="cpu"))
    stage.open()
    assert "onnxruntime" in stage.libraries and "torch" not in stage.libraries
    (digest,) = stage.digests().values()
    assert digest == open_onnx(compact, "cpu").digest
    (row,) = process(stage, rows(1))
    assert row["network"] == "compact" and row["weights_sha256"] == digest
    with pytest.raises(InputError, match="network 'compact', not 'norface'"):
        Normalize(NormalizeConfig(network="norface", weights=str(compact))).open()
    with pytest.raises(ValueError, match="computes in fp32"):
        NormalizeConfig(weights=str(compact), precision="bf16")


@pytest.mark.skipif(
    sessions.CUDA in onnxruntime.get_available_providers(), reason="has a CUDA provider"
)
def test_cuda_that_is_not_there_is_an_error(compact: Path) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match=r"no CUDA provider.*normalize\.device=cpu"):
            Normalize(NormalizeConfig(weights=str(compact), device=device)).open()
    with pytest.raises(InputError, match="unknown device 'abacus'"):
        Normalize(NormalizeConfig(weights=str(compact), device="abacus")).open()
