"""The compact network and its files."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.stage import sha256_file
from normpipe.stages.networks.base import leaky_clamp
from normpipe.stages.networks.compact import CompactEncoder, CompactNormalizer, standardize
from normpipe.stages.networks.files.checkpoint import (
    WEIGHTS_FOLDER,
    find_weights,
    load_weights,
    read_notes,
    save_tensors,
)
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.layers import (
    TransposedUpBlock,
    UpBlock,
    init_kaiming,
    shuffle_pixels,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CompactNormalizer().eval()


SAVE = """
import sys
from pathlib import Path
import torch
from normpipe.stages.networks.files.checkpoint import save_tensors
tensors = {name: torch.arange(3.0) + i for i, name in enumerate(["b", "a", "c"])}
tensors["count"] = torch.tensor(3)
notes = {f"note {i}": {"é": i} for i in range(20)}
for number in range(2):
    save_tensors(tensors, Path(sys.argv[1]) / f"{sys.argv[2]}{number}.safetensors", notes)
"""


def test_equal_weights_are_equal_files(tmp_path):
    """In whatever process; and other programs open them."""
    for seed in ("1", "2"):
        command = [sys.executable, "-c", SAVE, str(tmp_path), seed]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4 and len({path.read_bytes() for path in files}) == 1
    assert int.from_bytes(files[0].read_bytes()[:8], "little") % 8 == 0
    found = load_file(files[0])
    assert found["a"].tolist() == [1, 2, 3] and found["count"] == 3
    with safe_open(files[0], framework="pt") as opened:
        assert opened.metadata()["note 7"] == json.dumps({"é": 7})
        assert [*opened.metadata()] and sorted(opened.keys()) == ["a", "b", "c", "count"]
    save_tensors(found, tmp_path / "bare.safetensors", {})
    assert read_notes(tmp_path / "bare.safetensors") == {}


def test_looking_twice_makes_both_sides_alike(network):
    """A picture and its mirror image are then read as mirror images of each other."""
    torch.manual_seed(1)
    swap = [1, 0, *range(2, network.expressions)]
    twice = CompactNormalizer(mirror=swap).eval()
    twice.load_state_dict(network.state_dict())
    assert (
        CompactNormalizer(**twice.settings()).mirror == swap and "mirror" not in network.settings()
    )
    twice.offset.fill_(-0.5)  # so that nothing is cut off
    images = torch.rand(2, 3, 112, 112)
    with torch.inference_mode():
        read, other = twice.read(images), twice.read(images.flip(-1))
        raw = [network.encode(seen).coefficients for seen in (images, images.flip(-1))]
    torch.testing.assert_close(other, read[:, swap])
    torch.testing.assert_close(read, (raw[0] + raw[1][:, swap]) / 2 + 0.5, atol=1e-5, rtol=0)
    assert (read[0] - raw[0][0] - 0.5).abs().max() > 1e-3, "one look reads otherwise"
    with pytest.raises(ValueError, match="each of 53"):
        network.set_mirror([0, 0, *range(2, 53)])


def test_an_encoder_of_other_sizes_reads_as_much():
    """What benchmarks/remedies.py tries; the sizes by default are the shipped ones."""
    grey = torch.zeros(2, 1, 112, 112)
    usual, wide = CompactEncoder(5), CompactEncoder(5, (32, 64, 96, 160, 256), (1, 1, 1, 1, 1))
    for encoder in (usual, wide):
        assert [tuple(part.shape) for part in encoder.eval()(grey)] == [(2, 5), (2, 136), (2, 3)]
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in usual.parameters())
    assert usual.state_dict().keys() == CompactNormalizer(5).encoder.state_dict().keys()


def test_a_closer_look_sees_the_face_and_nothing_else():
    """Of 144 pixels 112 reach the encoder, more below than above; its mirror image alike."""
    torch.manual_seed(0)
    near = CompactNormalizer(picture_size=144).eval()
    settings = {"expressions": 53, "decoder": "coarse", "picture_size": 144}
    assert near.settings() == settings and near.input_size == 144
    assert CompactNormalizer(**near.settings()).settings() == near.settings()
    images = torch.rand(2, 3, 144, 144)
    edges = images.clone()
    edges[..., :27, :] = edges[..., 139:, :] = edges[..., :16] = edges[..., 128:] = 0.0
    nearer = edges.clone()
    nearer[..., 138, 100] = 1.0
    with torch.inference_mode():
        code = near.encode(images).coefficients
        torch.testing.assert_close(near.encode(edges).coefficients, code, rtol=0, atol=0)
        assert (near.encode(nearer).coefficients - code).abs().max() > 1e-6
        seen = near._face(images)
        assert near._face(torch.rand(1, 3, 224, 224)).shape == (1, 1, 112, 112)
        torch.testing.assert_close(near._face(images.flip(-1)), seen.flip(-1), atol=1e-5, rtol=0)
    far = CompactNormalizer()
    far.load_state_dict(near.state_dict())
    torch.testing.assert_close(
        far._face(images), standardize(images.mul(far.grey).sum(1, keepdim=True)), rtol=0, atol=0
    )


def test_a_wider_encoder_is_built_again_from_its_settings():
    wide = CompactNormalizer(widths=(8, 8, 16, 16, 40))
    assert wide.settings()["widths"] == [8, 8, 16, 16, 40]
    again = CompactNormalizer(**wide.settings())
    again.load_state_dict(wide.state_dict())
    assert again.eval().features(torch.rand(1, 3, 112, 112)).shape == (1, 40, 4, 4)
    assert "widths" not in CompactNormalizer().settings()


def awake(**settings) -> CompactNormalizer:
    """A network that draws something, with statistics that matter."""
    torch.manual_seed(2)
    made = CompactNormalizer(6, [1, 0, 2, 3, 4, 5], 144, (8, 16, 16, 24, 32), **settings)
    for layer in (made.decoder.flow, made.decoder.residual):
        torch.nn.init.normal_(layer.weight, std=0.05)
    made.decoder.template.data = blobs(1, 192)
    torch.nn.init.normal_(made.encoder.coefficients.weight, std=2.0)
    made.gain.fill_(0.3)
    made.offset.fill_(-1.5)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


def blobs(count: int, size: int = 160) -> torch.Tensor:
    """Smooth pictures that differ as a whole, (N, 3, S, S)."""
    return torch.nn.functional.interpolate(torch.rand(count, 3, 5, 5), size=size, mode="bilinear")


@pytest.mark.parametrize("kind", ["coarse", "fine"])
@torch.inference_mode()
def test_for_inference_nothing_changes_but_the_time(kind):
    network = awake(decoder=kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast = network.for_inference()
    images = blobs(4)
    read, code = network.read(images), torch.rand(4, 6)
    assert read.std(0).mean() > 1e-3 and network.draw(code).std(0).mean() > 1e-3
    torch.testing.assert_close(fast.read(images), read, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.draw(code), network.draw(code), atol=1e-5, rtol=0)
    torch.testing.assert_close(fast(images), network(images), atol=1e-5, rtol=0)
    assert fast.settings() == network.settings()
    norms = [m for m in fast.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    # Weights of 0.1.0 keep their bytes, and so their time.
    assert (fast is network and norms) if kind == "fine" else not norms
    again = network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())


@torch.inference_mode()
def test_any_order_of_a_batch_gives_the_same_bytes():
    """As the stage runs it: batches of one size, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fast, images = awake().for_inference(), blobs(8)
        order = torch.randperm(8)
        assert torch.equal(fast(images)[order], fast(images[order]))
    finally:
        torch.set_num_threads(threads)


def test_files_that_name_no_decoder_have_the_first(tmp_path):
    old = awake(decoder="fine")
    shapes = {name: tuple(tensor.shape) for name, tensor in old.decoder.state_dict().items()}
    assert shapes["grow.3.first.weight"] == (24, 40, 3, 3)
    assert shapes["residual.weight"] == (12, 24, 3, 3) and len(shapes) == 27
    assert old.settings()["decoder"] == "fine" and awake().settings()["decoder"] == "coarse"
    settings = {name: value for name, value in old.settings().items() if name != "decoder"}
    notes = {"network": "compact", "settings": settings, "expression_names": "a,b,c,d,e,f"}
    save_tensors(old.state_dict(), tmp_path / "old.safetensors", notes)
    found = open_normalizer(tmp_path / "old.safetensors").module
    images = torch.rand(2, 3, 144, 144)
    with torch.inference_mode():
        assert torch.equal(found(images), old(images))
    with pytest.raises(ValueError, match="decoder must be one of coarse, fine"):
        CompactNormalizer(decoder="finest")


@torch.inference_mode()
def test_a_transposed_convolution_is_what_a_nearest_neighbour_and_one_are():
    torch.manual_seed(0)
    block, other = UpBlock(5, 3), TransposedUpBlock(5, 3)
    other.second.load_state_dict(block.second.state_dict())
    other.first.bias.copy_(block.first.bias)
    other.first.weight.zero_()
    for place in range(16):  # what the weight of each neighbour adds to
        row, column = divmod(place, 4)
        for down, right in ((d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)):
            if (row - 1 + down) // 2 == 0 == (column - 1 + right) // 2:
                weight = block.first.weight[:, :, down + 1, right + 1]
                other.first.weight[:, :, row, column] += weight.T
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(other(x), block(x), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_signals_neither_vanish_nor_grow_in_a_transposed_block():
    torch.manual_seed(0)
    block = TransposedUpBlock(64, 64).apply(init_kaiming)
    x = torch.randn(2, 64, 12, 12).relu()
    assert 0.5 < block.first(x).var() / x.square().mean() / 2 < 2


def test_pixels_are_shuffled_in_any_memory_format():
    x = torch.rand(2, 48, 5, 7)
    for made in (x, x.to(memory_format=torch.channels_last)):
        found = shuffle_pixels(made, 4)
        assert torch.equal(found, torch.pixel_shuffle(x, 4)) and found.is_contiguous()


@pytest.mark.parametrize("widths", [(8, 8), (8, 8, 8, 8, 8, 8), (8, 8, 0, 8, 8)])
def test_widths_that_are_not_five_are_refused(widths):
    with pytest.raises(ValueError, match="widths must be 5 positive channel counts"):
        CompactNormalizer(widths=widths)


@pytest.mark.parametrize("size", [64, 111, 113, 0])
def test_a_picture_smaller_than_what_is_looked_at_is_refused(size):
    with pytest.raises(ValueError, match="picture_size must be even and at least 112"):
        CompactNormalizer(picture_size=size)


@pytest.mark.parametrize("size", [64, 112, 128, 224])
@torch.inference_mode()
def test_any_size_in_one_size_out(network, size):
    faces = network(torch.rand(2, 3, size, size))
    assert faces.shape == (2, 3, network.output_size, network.output_size)
    assert faces.min() >= 0 and faces.max() <= 1


@torch.inference_mode()
def test_exposure_and_colour_do_not_matter(network):
    grey = torch.rand(1, 1, 128, 128).expand(-1, 3, -1, -1) * 0.5 + 0.2
    code = network.read(grey)
    torch.testing.assert_close(network.read(grey * 1.3 + 0.02), code, atol=0.03, rtol=0)
    flat = standardize(torch.full((1, 1, 128, 128), 0.3))
    assert torch.isfinite(flat).all()


@torch.inference_mode()
def test_faces_of_a_batch_do_not_mix(network):
    images = torch.rand(3, 3, 128, 128)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_weights_survive_the_file(network, tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(network.state_dict(), path, {"network": "compact", "step": 3})
    torch.manual_seed(1)
    other = CompactNormalizer().eval()
    load_weights(other, path)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)
    assert read_notes(path)["network"] == "compact"
    assert len(sha256_file(path)) == 64
    assert not list(tmp_path.glob(".*")), "no temporary file stays behind"


def test_weights_of_other_shapes_are_one_clear_line(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(CompactNormalizer(expressions=14).state_dict(), path, {})
    with pytest.raises(InputError, match="another shape") as caught:
        load_weights(CompactNormalizer(), path)
    assert "\n" not in str(caught.value)
    assert "gain is (14,), expected (53,)" in str(caught.value)


def test_missing_and_strange_tensors_are_named(network, tmp_path):
    tensors = dict(network.state_dict())
    tensors["strange"] = tensors.pop("gain")
    save_tensors(tensors, tmp_path / "w.safetensors", {})
    with pytest.raises(InputError, match=r"1 missing \(first gain\).*1 unknown \(first strange\)"):
        load_weights(CompactNormalizer(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04pickle"])
def test_a_file_that_is_no_safetensors_is_one_line(network, tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a safetensors file") as caught:
        load_weights(network, path)
    assert "\n" not in str(caught.value)


def test_unknown_weights_name_the_known(tmp_path):
    with pytest.raises(InputError, match=r"no weights 'compcat'.*compact"):
        find_weights("compcat")
    with pytest.raises(InputError):
        find_weights(tmp_path / "none.safetensors")


def test_the_shipped_weights_fit_and_are_small():
    path = find_weights("compact")
    assert path.stat().st_size <= 16_000_000
    assert open_normalizer(path).path == path
    card = json.loads((WEIGHTS_FOLDER / "compact.json").read_text())
    assert {"recipe", "scores"} <= card.keys()
    assert card["sha256"] == sha256_file(path)
    assert len(read_notes(path)["expression_names"].split(",")) == 53


@torch.inference_mode()
def test_compact_keeps_its_rate(network):
    """20 images/s on two cores: 10 a second of CPU time. Measured: 55 (benchmarks/networks.py)."""
    images = torch.rand(8, 3, 224, 224)
    network(images)
    started = time.process_time()
    network(images)
    network(images)
    assert 2 * len(images) / (time.process_time() - started) >= 10


@torch.inference_mode()
def test_the_shipped_face_moves():
    """Different expressions give visibly different faces."""
    loaded = open_normalizer("compact")
    network, names = loaded.module, loaded.expression_names
    code = torch.zeros(3, len(names))
    code[1, names.index("jawOpen")] = 0.7
    code[2, [names.index("eyeBlink_L"), names.index("eyeBlink_R")]] = 1.0
    neutral, shout, blink = network.decoder(code).clamp(0, 1).mean(1)
    mouth, eyes = slice(110, 185), slice(45, 80)
    assert (shout - neutral)[mouth].abs().mean() > 4 * (shout - neutral)[:40].abs().mean()
    assert (blink - neutral)[eyes].abs().mean() > 4 * (blink - neutral)[mouth].abs().mean()


@pytest.mark.assets
def test_the_shipped_weights_beat_the_average_face(real_kit_file):
    """Fresh people, never rendered before: what is read is better than a constant.

    The weights learnt from plainer people, who had no real gaze, than are drawn now.
    """
    from normpipe.stages.synthesis.cast import Cast
    from normpipe.stages.synthesis.synthesize import PairRenderer, SynthesizeConfig, pairs_of

    config = SynthesizeConfig(
        facekit=str(real_kit_file), pairs=48, identities=48, seed=77_777, targets=False
    )
    renderer = PairRenderer(config, Cast(config))
    pairs = renderer.render([renderer.draft(spec) for spec in pairs_of(config)])
    network = open_normalizer("compact").module
    images = torch.from_numpy(np.stack([pair.source for pair in pairs])).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        code = network.read(images).numpy()
    truth = np.stack([pair.draft.coefficients for pair in pairs])
    error = ((code - truth) ** 2).mean()
    average = ((truth - truth.mean(0)) ** 2).mean()
    assert error < 0.9 * average
    jaw = read_notes(find_weights("compact"))["expression_names"].split(",").index("jawOpen")
    assert np.corrcoef(code[:, jaw], truth[:, jaw])[0, 1] > 0.85


def test_the_clamp_lets_gradients_through():
    code = torch.tensor([-0.5, 0.0, 0.4, 1.0, 1.5], requires_grad=True)
    clamped = leaky_clamp(code)
    torch.testing.assert_close(clamped.detach(), code.detach().clamp(0, 1))
    clamped.sum().backward()
    torch.testing.assert_close(code.grad, torch.tensor([0.1, 1.0, 1.0, 1.0, 0.1]))
