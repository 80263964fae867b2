"""Other people's networks in the normalize stage: ONNX files by a contract, and entry points."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import normpipe
from normpipe.pipeline.commands import app as cli
from normpipe.pipeline.errors import InputError
from normpipe.stages.networks.files.onnx_file import open_onnx
from normpipe.stages.normalize import Normalize, NormalizeConfig

SIDE = 8
RGB = {"input_range": (0.0, 1.0), "output_range": (0.0, 1.0), "colours": "rgb"}


def network(
    path, scale=1.0, shift=0.0, shape=("B", 3, SIDE, SIDE), kind=TensorProto.FLOAT, notes=None
):
    """An ONNX network that computes ``scale * faces + shift``."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["m"]),
        helper.make_node("Add", ["m", "shift"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("scale", scale), ("shift", shift))
    ]
    graph = helper.make_graph(
        nodes, "own", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, notes or {})
    onnx.save(model, path)
    return path


def faces(count=3, side=SIDE):
    return np.random.default_rng(0).random((count, 3, side, side), np.float32)


@pytest.mark.parametrize(
    ("said", "made"),
    [
        (RGB, {}),
        ({**RGB, "colours": "bgr"}, {}),
        ({**RGB, "input_range": (-1, 1)}, {"scale": 0.5, "shift": 0.5}),
        ({**RGB, "output_range": (-1, 1)}, {"scale": 2, "shift": -1}),
        ({**RGB, "input_range": (0, 255), "output_range": (0, 255)}, {"shape": ("B", 8, 8, 3)}),
        ({**RGB, "colours": "bgr"}, {"shape": (2, 3, SIDE, SIDE)}),  # two faces at a time
        (RGB, {"shape": ("B", 3, "H", "W")}),
        (RGB, {"shape": ("B", "H", "W", 3)}),
    ],
)
def test_faces_are_given_and_taken_as_the_contract_says(tmp_path, said, made):
    """Each network is the identity in its own values, so the faces must come back."""
    path = network(tmp_path / "own.onnx", **made)
    exported = open_onnx(path, "cpu", 1, said=said)
    assert exported(faces()) == pytest.approx(faces(), abs=1e-5)
    assert exported.network == "own"


def test_what_a_network_is_given(tmp_path):
    """Seen from inside: the colours, the range and the type that it asked for."""
    path = network(tmp_path / "own.onnx", kind=TensorProto.UINT8, shape=("B", 3, SIDE, SIDE))
    said = {"input_range": (0, 255), "output_range": (0, 255), "colours": "bgr"}
    exported = open_onnx(path, "cpu", 1, said=said)
    red = np.zeros((1, 3, SIDE, SIDE), np.float32)
    red[:, 0] = 1
    given = exported.contract.given(red)
    assert given.dtype == np.uint8 and given[0, :, 0, 0].tolist() == [0, 0, 255]
    assert exported(red)[0, :, 0, 0].tolist() == [1, 0, 0]


def test_the_metadata_of_a_file_is_its_contract(tmp_path):
    notes = {"input_range": "-1, 1", "output_range": "[0, 1]", "colours": "BGR"}
    path = network(tmp_path / "own.onnx", 0.5, 0.5, notes=notes)
    assert open_onnx(path, "cpu", 1)(faces()) == pytest.approx(faces(), abs=1e-6)
    # A setting takes precedence.
    again = open_onnx(path, "cpu", 1, said={"input_range": (0.0, 1.0)})
    assert again(faces()) == pytest.approx(faces() / 2 + 0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("made", "said", "match"),
    [
        ({}, {}, r"--set 'normalize.input_range=\[0, 1\]' .*normalize.colours=rgb"),
        ({}, {"colours": "rgb", "input_range": (0, 1)}, r"give --set 'normalize.output_range"),
        ({}, {**RGB, "input_range": (1, 1)}, "black is below white"),
        ({}, {**RGB, "colours": "hsv"}, "neither rgb nor bgr"),
        ({"notes": {"input_range": "wide"}}, {}, "metadata input_range = 'wide' is not"),
        ({"shape": ("B", 1, SIDE, SIDE)}, RGB, "no batch of RGB pictures"),
        ({"kind": TensorProto.DOUBLE}, RGB, r"takes 1 inputs \(tensor\(double\)\)"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for(tmp_path, made, said, match):
    with pytest.raises(InputError, match=match):
        open_onnx(network(tmp_path / "own.onnx", **made), "cpu", 1, said=said)


def test_faces_of_another_size_are_refused(tmp_path):
    exported = open_onnx(network(tmp_path / "own.onnx"), "cpu", 1, said=RGB)
    with pytest.raises(
        InputError, match=r"takes faces of 8 px, these are 9 x 9: set align.size_px"
    ):
        exported(faces(side=9))


def test_our_own_files_need_no_contract(tmp_path):
    notes = {"network": "compact", "input_size": str(SIDE), "output_size": str(SIDE)}
    path = network(tmp_path / "ours.onnx", notes=notes)
    with pytest.raises(InputError, match=r"leave out normalize.colours"):
        open_onnx(path, "cpu", 1, said={"colours": "bgr"})


def test_weights_in_another_file_are_refused(tmp_path):
    """A digest of the file alone would not notice that they change."""
    path = tmp_path / "own.onnx"
    model = onnx.load(network(path))
    onnx.save_model(
        model, path, save_as_external_data=True, location="ext.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert (tmp_path / "ext.bin").is_file()
    with pytest.raises(InputError, match="keeps weights in another file"):
        open_onnx(path, "cpu", 1, said=RGB)
    onnx.save_model(onnx.load(path), path, save_as_external_data=False)  # as the line says
    assert open_onnx(path, "cpu", 1, said=RGB)(faces()) == pytest.approx(faces())


def test_the_contract_is_in_the_fingerprint(tmp_path):
    path = network(tmp_path / "own.onnx")
    config = NormalizeConfig(network="", weights=str(path), **RGB)
    assert config.shaping()["input_range"] == [0, 1] and config.shaping()["colours"] == "rgb"
    assert "input_range" not in NormalizeConfig().shaping()
    stage = Normalize(config, 1)
    stage.open()
    before = stage.digests()
    network(path, scale=0.5)
    again = Normalize(config, 1)
    again.open()
    assert again.digests() != before
    with pytest.raises(ValueError, match=r"colours is for .onnx files"):
        NormalizeConfig(colours="rgb")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a network, as pip installs one."""
    site = tmp_path / "site"
    package = site / "my_faces"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "networks.py").write_text(PACKAGE)
    info = site / "my_faces-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-faces\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[normpipe.networks]\nmirror = my_faces.networks:build\nbroken = my_faces.networks:fail\n"
        "number = my_faces.networks:number\nwrong = my_faces.networks:wrong\n"
    )
    monkeypatch.syspath_prepend(site)
    yield package
    for name in ("my_faces", "my_faces.networks"):
        sys.modules.pop(name, None)


PACKAGE = """
import torch

class Mirror(torch.nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, faces):
        return faces.flip(3) * self.gain

class Wrong(torch.nn.Module):
    def forward(self, faces):
        return faces[:, :1]

def build(weights):
    return Mirror(1.0 if weights is None else float(weights.read_text()))

def fail(weights):
    raise RuntimeError("no such layer")

def number(weights):
    return 3

def wrong(weights):
    return Wrong()
"""


def test_a_job_runs_an_installed_network(installed, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / "a.png")
    arguments = [
        "run", "--input", pictures, "--output", tmp_path / "out", "--until", "pair",
        "--set", "align.detector=none", "--set", "align.size_px=64", "--set", "align.format=png",
        "--set", "normalize.format=png", "--set", "normalize.network=mirror",
        "--set", "run.threads=1",
    ]  # fmt: skip
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    (pair,) = normpipe.open_dataset(tmp_path / "out", columns=["image", "normalized",
                                                              "normalized_network"])  # fmt: skip
    assert torch.equal(pair["normalized"], pair["image"].flip(2))
    assert pair["normalized_network"] == "mirror"
    # Other code of the package, or other weights, make another dataset.
    code = installed / "networks.py"
    code.write_text(code.read_text().replace("flip(3)", "flip(2)"))
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert result.exit_code == 2 and "digests.weights" in result.output


def test_an_installed_network_in_memory(installed, tmp_path):
    (tmp_path / "gain.txt").write_text("0.5")
    tool = normpipe.Normalizer(tmp_path / "gain.txt", network="mirror")
    face = np.full((16, 16, 3), 200, np.uint8)
    assert np.unique(tool(face)).tolist() == [100]
    plain = normpipe.Normalizer("", network="mirror")
    assert plain.weights_sha256 != tool.weights_sha256
    for name, match in (
        ("broken", r"\(my_faces.networks:fail\) cannot be built: RuntimeError: no such layer"),
        ("number", "is a int, not a torch.nn.Module"),
        ("miror", "unknown network 'miror'; did you mean 'mirror'"),
    ):
        with pytest.raises(InputError, match=match):
            normpipe.Normalizer("", network=name)
    with pytest.raises(InputError, match=r"no weights '.*absent'"):
        normpipe.Normalizer(Path("absent"), network="mirror")
    with pytest.raises(InputError, match=r"a normalizer gives \(B, 3, S, S\)"):
        normpipe.Normalizer("", network="wrong")(face)
