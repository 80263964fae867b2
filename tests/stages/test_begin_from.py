"""Training that begins from finished weights: a user's own faces on top of the shipped network."""

import json

import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.checkpoint import read_tensors, save_tensors
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.training.normalizer.fit_normalizer import check_settings, fit
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig

#: One step that hardly moves anything.
STILL = {
    "device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "steps": 1, "batch_size": 2,
    "learning_rate": 1e-9, "weight_decay": 0.0, "warmup_steps": 1, "evaluation_pairs": 4,
}  # fmt: skip


def save(path, names, settings=None):
    torch.manual_seed(3)
    network = CompactNormalizer(len(names))
    network.gain.fill_(1.3)  # as calibration leaves it
    notes = {
        "network": "compact", "settings": json.dumps(settings or network.settings()),
        "expression_names": ",".join(names),
    }  # fmt: skip
    save_tensors(network.state_dict(), path, notes)
    return path


def test_both_halves_are_taken_over(tiny_pairs, fake_kit, tmp_path):
    begin = save(tmp_path / "begin.safetensors", fake_kit.expression_names)
    config = FitNormalizerConfig(**STILL, begin=str(begin), decoder_steps=0)
    result = fit(config, [tiny_pairs], tmp_path / "out")
    found, expected = read_tensors(result.weights), read_tensors(begin)
    for name in ("encoder.hidden.weight", "decoder.template", "decoder.flow.weight"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


def test_the_calibration_is_not(tiny_pairs, fake_kit, tmp_path):
    begin = save(tmp_path / "begin.safetensors", fake_kit.expression_names)
    config = FitNormalizerConfig(**STILL, begin=str(begin), decoder_steps=0, method="direct")
    result = fit(config, [tiny_pairs], tmp_path / "out")
    gain = open_normalizer(result.weights).module.gain
    assert torch.equal(gain, torch.ones_like(gain))


def test_a_share_of_what_it_began_with_stays(tiny_pairs, fake_kit, tmp_path):
    begin = save(tmp_path / "begin.safetensors", fake_kit.expression_names)
    settings = {**STILL, "learning_rate": 1e-3, "begin": str(begin), "decoder_steps": 0}
    none, half = (
        fit(FitNormalizerConfig(**settings, begin_share=share), [tiny_pairs], tmp_path / str(share))
        for share in (0.0, 0.5)
    )
    before, after, mixed = (read_tensors(path) for path in (begin, none.weights, half.weights))
    for name in ("encoder.hidden.weight", "encoder.body.1.running_mean"):
        assert not torch.equal(before[name], after[name])
        torch.testing.assert_close(mixed[name], (before[name] + after[name]) / 2)
    assert torch.equal(mixed["decoder.template"], before["decoder.template"])
    with pytest.raises(InputError, match="set begin"):
        check_settings(FitNormalizerConfig(begin_share=0.5))


def test_what_counts_as_rest_and_the_mirror(tiny_pairs, fake_kit, tmp_path):
    """Both are the finished network's: the next training begins without, and ends with its own."""
    begin = save(tmp_path / "begin.safetensors", fake_kit.expression_names)
    looks = []
    for still, mirror in ((0.0, True), (0.2, True), (0.0, False)):
        config = FitNormalizerConfig(
            **STILL, begin=str(begin), decoder_steps=0, still=still, mirror=mirror, most_gain=1.0
        )
        result = fit(config, [tiny_pairs], tmp_path / str(len(looks)))
        looks.append(open_normalizer(result.weights).module)
        begin = result.weights
    plain, freed, once = looks
    assert not once.mirror and len(freed.mirror) == len(fake_kit.expression_names)
    torch.testing.assert_close(plain.gain, torch.ones_like(plain.gain))
    torch.testing.assert_close(freed.gain, torch.full_like(plain.gain, 1 / 0.8))
    torch.testing.assert_close(freed.offset, plain.offset + 0.2, atol=1e-3, rtol=0)


def test_weights_of_other_shapes_are_refused(tiny_pairs, fake_kit, tmp_path):
    other = [f"other{n}" for n in range(len(fake_kit.expression_names))]
    begin = save(tmp_path / "begin.safetensors", other)
    with pytest.raises(InputError, match="other expression shapes"):
        fit(FitNormalizerConfig(**STILL, begin=str(begin)), [tiny_pairs], tmp_path / "out")
    with pytest.raises(InputError, match="not the compact with"):
        fit(FitNormalizerConfig(**STILL, begin="compact"), [tiny_pairs], tmp_path / "two")


def test_a_coarser_decoder_begins_with_all_but_the_last_layers(tiny_pairs, fake_kit, tmp_path):
    """Up to the last grid that both have, it computes the same; it must be trained."""
    names = fake_kit.expression_names
    torch.manual_seed(3)
    fine = CompactNormalizer(len(names), decoder="fine")
    notes = {
        "network": "compact", "settings": json.dumps(fine.settings()),
        "expression_names": ",".join(names),
    }  # fmt: skip
    begin = tmp_path / "begin.safetensors"
    save_tensors(fine.state_dict(), begin, notes)
    with pytest.raises(InputError, match="decoder 'fine', not 'coarse'"):
        fit(FitNormalizerConfig(**STILL, begin=str(begin), decoder_steps=0), [tiny_pairs],
            tmp_path / "none")  # fmt: skip
    config = FitNormalizerConfig(**STILL, begin=str(begin), decoder_steps=1,
                                 decoder_learning_rate=1e-9)  # fmt: skip
    made = open_normalizer(fit(config, [tiny_pairs], tmp_path / "out").weights).module
    assert made.kind == "coarse"
    code = torch.rand(2, len(names))
    with torch.inference_mode():
        grids = []
        for decoder in (fine.decoder.eval(), made.decoder):
            x = torch.nn.functional.silu(decoder.seed(decoder.code(code)))
            x = x.unflatten(1, decoder.cells)
            for block in decoder.grow[:3]:
                x = block(x)
            grids.append(x)
    torch.testing.assert_close(grids[1], grids[0], atol=1e-3, rtol=1e-3)
    assert grids[0].std() > 0.01


def test_without_a_decoder_there_must_be_something_to_begin_from(tiny_pairs, tmp_path):
    with pytest.raises(InputError, match=r"fit_normalizer\.begin"):
        fit(FitNormalizerConfig(**STILL, decoder_steps=0), [tiny_pairs], tmp_path / "out")


def test_norface_goes_through_the_same_training(tiny_pairs, tmp_path):
    """Encoder from a masked autoencoder's file, two steps, weights that open by what they say."""
    from normpipe.stages.networks.vit import Vit

    torch.manual_seed(4)
    encoder = dict(Vit("T", 64).state_dict())
    save_tensors(encoder, tmp_path / "mae.safetensors", {})
    settings = {"size": "T", "image_size": 64, "merge_depth": 1, "decoder_depth": 1}
    config = FitNormalizerConfig(
        **{**STILL, "steps": 2}, network="norface", method="direct", network_settings=settings,
        encoder=str(tmp_path / "mae.safetensors"),
    )  # fmt: skip
    result = fit(config, [tiny_pairs], tmp_path / "out")
    assert result.weights.name == "norface.safetensors"
    loaded = open_normalizer(result.weights)
    assert loaded.network == "norface" and loaded.notes["method"] == "direct"
    assert loaded.module(torch.rand(1, 3, 80, 80)).shape == (1, 3, 64, 64)
    found = loaded.module.state_dict()
    name = "encoder.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(
        found[name], encoder[name.removeprefix("encoder.")], atol=1e-6, rtol=0
    )
