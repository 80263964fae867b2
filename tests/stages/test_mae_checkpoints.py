"""Encoders from checkpoints of the public layouts."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from normpipe.pipeline.errors import InputError
from normpipe.stages.networks.files.mae_checkpoints import load_encoder
from normpipe.stages.networks.mae import MaskedAutoencoder
from normpipe.stages.networks.vit import Vit, sincos_positions

SIDE = 64


@pytest.fixture(scope="module")
def encoder() -> Vit:
    torch.manual_seed(3)
    made = Vit("T", SIDE).eval()
    for parameter in made.parameters():  # no zeros and ones, which would hide a mix-up
        torch.nn.init.normal_(parameter, std=0.1)
    made.pos_embed += torch.randn_like(made.pos_embed) * 0.1
    return made


def facebook(encoder: Vit) -> dict[str, Tensor]:
    """Keys as in models_mae.py of facebookresearch/mae, with parts of its decoder."""
    own = encoder.state_dict()
    names = {
        "cls_token": "cls_token", "pos_embed": "pos_embed",
        "patch_embed.proj.weight": "patch_embed.proj.weight",
        "patch_embed.proj.bias": "patch_embed.proj.bias",
        "norm.weight": "norm.weight", "norm.bias": "norm.bias",
    }  # fmt: skip
    for block in range(len(encoder.blocks)):
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                names[f"blocks.{block}.{layer}.{kind}"] = f"blocks.{block}.{layer}.{kind}"
    made = {theirs: own[ours].clone() for theirs, ours in names.items()}
    made["mask_token"] = torch.zeros(1, 1, 64)
    made["decoder_pos_embed"] = torch.zeros(1, 17, 64)
    made["decoder_embed.weight"] = torch.zeros(64, 192)
    made["decoder_blocks.0.attn.qkv.weight"] = torch.zeros(192, 64)
    return made


def timm(encoder: Vit) -> dict[str, Tensor]:
    """Keys of vit_base_patch16_224.mae."""
    return {
        name: tensor
        for name, tensor in facebook(encoder).items()
        if not name.startswith(("decoder", "mask"))
    }


def hugging_face(encoder: Vit, prefix: str = "vit.") -> dict[str, Tensor]:
    """Keys of ViTMAEForPreTraining (modeling_vit_mae.py): query, key and value apart."""
    own = encoder.state_dict()
    made = {
        "vit.embeddings.cls_token": own["cls_token"],
        "vit.embeddings.position_embeddings": own["pos_embed"],
        "vit.embeddings.patch_embeddings.projection.weight": own["patch_embed.proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": own["patch_embed.proj.bias"],
        "vit.layernorm.weight": own["norm.weight"],
        "vit.layernorm.bias": own["norm.bias"],
        "decoder.mask_token": torch.zeros(1, 1, 64),
        "decoder.decoder_embed.weight": torch.zeros(64, 192),
    }
    for block in range(len(encoder.blocks)):
        for kind in ("weight", "bias"):
            place, ours = f"vit.encoder.layer.{block}", f"blocks.{block}"
            qkv = own[f"{ours}.attn.qkv.{kind}"].chunk(3)
            for part, tensor in zip(("query", "key", "value"), qkv, strict=True):
                made[f"{place}.attention.attention.{part}.{kind}"] = tensor
            made[f"{place}.attention.output.dense.{kind}"] = own[f"{ours}.attn.proj.{kind}"]
            made[f"{place}.intermediate.dense.{kind}"] = own[f"{ours}.mlp.fc1.{kind}"]
            made[f"{place}.output.dense.{kind}"] = own[f"{ours}.mlp.fc2.{kind}"]
            made[f"{place}.layernorm_before.{kind}"] = own[f"{ours}.norm1.{kind}"]
            made[f"{place}.layernorm_after.{kind}"] = own[f"{ours}.norm2.{kind}"]
    wanted = {
        name.replace("vit.", prefix, 1): tensor.clone()
        for name, tensor in made.items()
        if prefix or not name.startswith("decoder")
    }
    return wanted


def written(folder: Path, tensors: dict[str, Tensor], suffix: str, wrapped: bool = False) -> Path:
    path = folder / f"mae{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors, "epoch": 3} if wrapped else tensors, path)
    return path


@torch.inference_mode()
def same(encoder: Vit, path: Path, layout: str) -> None:
    torch.manual_seed(4)
    other = Vit("T", SIDE).eval()
    picture = torch.rand(2, 3, SIDE, SIDE)
    assert not torch.allclose(other(picture), encoder(picture), atol=0.1)
    assert load_encoder(other, path) == layout
    torch.testing.assert_close(other(picture), encoder(picture), atol=1e-5, rtol=0)


def test_facebookresearch(encoder: Vit, tmp_path: Path) -> None:
    path = written(tmp_path, facebook(encoder), ".pth", wrapped=True)
    same(encoder, path, "facebookresearch/mae")


def test_a_training_checkpoint_with_its_arguments(encoder: Vit, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-799.pth"
    content = {"model": facebook(encoder), "args": argparse.Namespace(lr=1e-3), "epoch": 799}
    torch.save(content, path)
    same(encoder, path, "facebookresearch/mae")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt"])
def test_timm(encoder: Vit, tmp_path: Path, suffix: str) -> None:
    same(encoder, written(tmp_path, timm(encoder), suffix), "timm")


def test_timm_tuned_to_classify(encoder: Vit, tmp_path: Path) -> None:
    tensors = timm(encoder)
    for kind in ("weight", "bias"):
        tensors[f"fc_norm.{kind}"] = tensors.pop(f"norm.{kind}")
        tensors[f"head.{kind}"] = torch.zeros(10, 192) if kind == "weight" else torch.zeros(10)
    same(encoder, written(tmp_path, tensors, ".safetensors"), "timm")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_hugging_face(encoder: Vit, tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, hugging_face(encoder), suffix)
    same(encoder, path, "Hugging Face ViTMAEForPreTraining")
    path = written(tmp_path, hugging_face(encoder, ""), suffix)
    same(encoder, path, "Hugging Face ViTMAEModel")


@pytest.mark.parametrize("saved", [True, False])
def test_the_real_transformers_model_sees_the_same(tmp_path: Path, saved: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    config = transformers.ViTMAEConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768,
        image_size=SIDE, mask_ratio=0.0, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=64, initializer_range=0.1,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).eval()
    path = tmp_path / "model.safetensors"
    if saved:
        model.save_pretrained(tmp_path)
    else:
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)
    ours = Vit("T", SIDE).eval()
    assert ("in memory" in load_encoder(ours, path)) != saved
    picture = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        pixels = (picture - ours.mean) / ours.deviation
        # Noise in order: nothing is hidden, and no patch changes its place.
        noise = torch.arange(16.0).expand(2, -1)
        theirs = model.vit(pixels, noise=noise).last_hidden_state
        torch.testing.assert_close(ours(picture), theirs, atol=1e-5, rtol=1e-4)


def test_our_own_encoder(encoder: Vit, tmp_path: Path) -> None:
    """What pretrain-encoder writes is a state dict of `Vit`."""
    path = written(tmp_path, encoder.state_dict(), ".safetensors")
    same(encoder, path, "timm")


def test_positions_are_the_published_ones() -> None:
    """By the formula, one value at a time."""
    table = sincos_positions(16, 3)[0].double()
    for row in range(3):
        for column in range(3):
            for index in range(4):
                rate = torch.tensor(10_000.0 ** (-index / 4), dtype=torch.float64)
                place = table[1 + 3 * row + column]
                wanted = [(column * rate).sin(), (column * rate).cos()]
                wanted += [(row * rate).sin(), (row * rate).cos()]
                torch.testing.assert_close(place[index::4], torch.stack(wanted), atol=1e-6, rtol=0)
    assert not table[0].any()


def test_another_grid_is_stretched_only_on_request(encoder: Vit, tmp_path: Path) -> None:
    path = written(tmp_path, timm(encoder), ".safetensors")
    larger = Vit("T", 96)
    with pytest.raises(InputError, match=r"4 x 4 patches.*6 x 6.*image_size = 64"):
        load_encoder(larger, path)
    load_encoder(larger, path, interpolate=True)
    assert larger.pos_embed.shape == (1, 37, 192)
    torch.testing.assert_close(larger.pos_embed[:, 0], encoder.pos_embed[:, 0])


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_encoder(Vit("T", SIDE), path)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_one_line(encoder: Vit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="width 192 and depth 6, this one has width 384"):
        load_encoder(Vit("S", SIDE), written(tmp_path, timm(encoder), ".safetensors"))
    tensors = timm(encoder)
    tensors["blocks.1.mlp.fc1.weight"] = torch.zeros(7, 192)
    refused(written(tmp_path, tensors, ".pt"), r"blocks.1.mlp.fc1.weight is \(7, 192\)")
    tensors = timm(encoder)
    del tensors["blocks.1.norm2.bias"]
    refused(written(tmp_path, tensors, ".pt"), r"lacks blocks\.1\.norm2\.bias")
    tensors = timm(encoder) | {"blocks.0.ls1.gamma": torch.ones(192)}
    refused(written(tmp_path, tensors, ".pt"), r"another kind of network.*ls1\.gamma")
    refused(written(tmp_path, {"conv1.weight": torch.ones(3)}, ".pt"), "no known layout.*conv1")
    refused(tmp_path / "absent.pth", "no encoder checkpoint")
    (tmp_path / "mae.onnx").write_bytes(b"x")
    refused(tmp_path / "mae.onnx", "is no checkpoint")
    for content in (b"", b"garbage"):
        (tmp_path / "broken.pth").write_bytes(content)
        refused(tmp_path / "broken.pth", "cannot be read as plain tensors")


class Trap:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "trap.pth"
    torch.save({"model": Trap(trap)}, path)
    refused(path, "cannot be read as plain tensors")
    assert not trap.exists()


def test_a_pretrained_autoencoder_gives_its_encoder(tmp_path: Path) -> None:
    """All of an autoencoder's own keys, decoder and all, are no encoder's layout."""
    path = written(tmp_path, MaskedAutoencoder("T", SIDE).state_dict(), ".pt")
    refused(path, "no known layout")
