"""The normalize stage apart from the engine."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from normpipe.manifests.schema import NORMALIZED
from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.making import process
from normpipe.stages import networks
from normpipe.stages.faces.pixels import encode
from normpipe.stages.networks.files.checkpoint import find_weights, save_tensors
from normpipe.stages.normalize import Normalize, NormalizeConfig, output_quality


class Plain(networks.base.NormalizerNetwork):
    """Gives its input back, scaled: what the stage does around a network becomes visible."""

    output_size = 24
    gain: Tensor

    def __init__(self, expressions: int = 0) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        return images * self.gain


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(networks.NETWORKS, "plain", Plain)

    def make(gain: float = 1.0, **settings: Any) -> Normalize:
        weights = tmp_path / f"{gain}.safetensors"
        save_tensors({"gain": torch.tensor([gain])}, weights, {"network": "plain"})
        values = {"network": "plain", "weights": str(weights), "device": "cpu", **settings}
        made = Normalize(NormalizeConfig(**values))
        made.open()
        return made

    return make


def row(pixels: np.ndarray, name: str = "a") -> dict[str, Any]:
    key = f"set/{name}.jpg"
    return {
        "key": key, "parent_key": key, "status": "ok", "reason": None, "decided_by": "align",
        "image": {"bytes": encode(pixels, "png", 95), "path": key},
    }  # fmt: skip


def noise(seed: int = 0, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 230, (size, size, 3), dtype=np.uint8)


def test_pixels_pass_in_rgb_order_without_a_change(stage: Any) -> None:
    pixels = noise()
    (out,) = process(stage(format="png"), [row(pixels)])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(out["image"]["bytes"]))), pixels)
    assert set(out) <= set(NORMALIZED.names)
    assert out["network"] == "plain" and len(out["weights_sha256"]) == 64
    assert out["image"]["path"] == "set/a.jpg.png"


def test_a_short_batch_is_padded_and_padding_changes_nothing(stage: Any) -> None:
    made = stage(batch_size=8, format="png")
    rows = [row(noise(i), str(i)) for i in range(11)]
    together = process(made, rows[:8]) + process(made, rows[8:])
    alone = [process(made, [r])[0] for r in rows]
    assert [o["image_sha256"] for o in together] == [o["image_sha256"] for o in alone]
    assert {shape[0] for shape in made._network.shapes} == {8}


def test_quality_measures_by_hand() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0] = 255
    brightness, contrast, saturated = output_quality(pixels)
    assert (brightness, contrast, saturated) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("gain", "reason"),
    [(0.0, "black_output"), (50.0, "saturated_output"), (float("nan"), "not_finite_output")],
)
def test_a_useless_output_is_rejected_with_its_reason(stage: Any, gain: float, reason: str) -> None:
    (out,) = process(stage(gain), [row(noise())])
    assert out["status"] == "rejected" and out["reason"] == reason
    assert out["decided_by"] == "normalize" and "image" not in out


def test_a_flat_output_is_rejected(stage: Any) -> None:
    (out,) = process(stage(), [row(np.full((24, 24, 3), 90, np.uint8))])
    assert out["reason"] == "flat_output"


def test_one_bad_picture_does_not_cost_its_batch(stage: Any) -> None:
    rows = [row(noise(i), str(i)) for i in range(4)]
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:200]
    rows[2] = {**rows[2], "status": "rejected", "reason": "no_face", "image": None}
    out = process(stage(), rows)
    assert [o["status"] for o in out] == ["ok", "failed", "rejected", "ok"]
    assert [o["decided_by"] for o in out] == ["normalize", "normalize", "align", "normalize"]
    assert out[1]["reason"] == "truncated"


def test_a_bad_picture_leaves_its_neighbours_at_their_places(stage: Any) -> None:
    """So that they keep their bytes even under a network whose kernels round by place."""
    made = stage(batch_size=4, format="png")
    made._network = lambda images: images * torch.linspace(0.5, 1, 4)[:, None, None, None]
    rows = [row(noise(i), str(i)) for i in range(4)]
    whole = process(made, rows)
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:200]
    rows[2] = {**rows[2], "status": "rejected", "reason": "no_face", "image": None}
    left = process(made, rows)
    assert (left[0], left[3]) == (whole[0], whole[3])


def test_bf16_stays_close_and_jpeg_quality_counts(stage: Any) -> None:
    pixels = noise()
    (out,) = process(stage(format="png", precision="bf16"), [row(pixels)])
    made = np.asarray(Image.open(io.BytesIO(out["image"]["bytes"]))).astype(int)
    assert np.abs(made - pixels).max() <= 2
    small = process(stage(quality=20), [row(pixels)])[0]["image"]["bytes"]
    large = process(stage(quality=98), [row(pixels)])[0]["image"]["bytes"]
    assert len(small) < len(large) / 2


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    def opened(**settings: Any) -> None:
        Normalize(NormalizeConfig(**settings)).open()

    with pytest.raises(InputError, match="did you mean 'compact'"):
        opened(network="compcat")
    with pytest.raises(InputError, match="use auto, cpu, cuda"):
        opened(device="abacus")
    with pytest.raises(InputError, match="use auto, cpu, cuda"):
        opened(device="mps")
    with pytest.raises(InputError, match=r"set normalize\.device=cpu"):
        opened(device="cuda:99")
    with pytest.raises(InputError, match="no weights"):
        opened(weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(ValueError, match="plain folder name"):
        NormalizeConfig(variant="../up")
    with pytest.raises(ValueError, match="give network, weights or both"):
        NormalizeConfig(network="")


def test_weights_say_which_network_they_are_of(tmp_path: Path) -> None:
    compact = str(find_weights("compact"))
    with pytest.raises(
        InputError, match=r"network 'compact', not 'norface': set normalize\.network="
    ):
        Normalize(NormalizeConfig(network="norface", weights=compact)).open()
    config = NormalizeConfig(network="", weights=compact, device="cpu")
    assert config.variant_name == "compact"
    made = Normalize(config)
    made.open()
    (out,) = process(made, [row(noise(size=64))])
    assert out["network"] == "compact"
    save_tensors({"gain": torch.ones(1)}, tmp_path / "w.safetensors", {})
    with pytest.raises(InputError, match="does not say which network"):
        Normalize(NormalizeConfig(weights=str(tmp_path / "w.safetensors"))).open()


def test_any_network_normalizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.NETWORKS["norface"](expressions=2, size="T", image_size=64)
    torch.nn.init.uniform_(network.get_parameter("template"))
    notes = {"network": "norface", "settings": network.settings(), "expression_names": "a,b"}
    save_tensors(network.state_dict(), tmp_path / "n.safetensors", notes)
    settings = {"network": "norface", "weights": str(tmp_path / "n.safetensors"), "device": "cpu"}
    for precision in ("fp32", "bf16"):
        made = Normalize(NormalizeConfig(**settings, precision=precision))
        made.open()
        (out,) = process(made, [row(noise(size=96))])
        assert out["status"] == "ok" and out["network"] == "norface"
        assert Image.open(io.BytesIO(out["image"]["bytes"])).size == (64, 64)


def test_sample_error_refuses_unknown_reasons() -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        SampleError("bad_hair_day")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_agrees_with_cpu_within_one_level(stage: Any) -> None:
    pixels = noise()
    results = []
    for device in ("cpu", "cuda"):
        (out,) = process(stage(format="png", device=device), [row(pixels)])
        results.append(np.asarray(Image.open(io.BytesIO(out["image"]["bytes"]))).astype(int))
    assert np.abs(results[0] - results[1]).max() <= 1


def test_torch_has_one_thread_whatever_the_job_has() -> None:
    """The shipped network's bytes depend on it: seen in a run that went on after align was done."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Normalize(NormalizeConfig(), 2).open()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_weights_of_a_release_are_named_where_they_go_on():
    """Whoever extends an older dataset reads which weights go on with it."""
    from normpipe.stages.networks.files.checkpoint import shipped_weights

    stage = Normalize(NormalizeConfig())
    stage.open()
    assert stage.settings_for(stage.digests()) == ""
    assert stage.settings_for({"weights": "0" * 64}) == ""
    old = {"weights": "a2aa593b5a9009d53e1c19cb956b47b424fdf9df8d1d8cd1ecf443200b7e855f"}
    assert stage.settings_for(old) == "normalize.weights=compact-0.1.0"
    assert shipped_weights()["compact-0.1.0"] == old["weights"]
