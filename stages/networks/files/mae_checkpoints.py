"""Loads encoders from masked-autoencoder checkpoints, in the common layouts.

Nothing in such a file is executed: of a pickle, only the tensors are read.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ....pipeline.errors import InputError
from ..vit import Vit
from .checkpoint import read_tensors

log = logging.getLogger(__name__)

PICKLES = (".pth", ".pt", ".bin")

# timm's names, which facebookresearch/mae and our `Vit` also use.
_OUTER = {
    "cls_token": ("cls_token",),
    "pos_embed": ("pos_embed",),
    "patch_embed.proj.weight": ("patch_embed.proj.weight",),
    "patch_embed.proj.bias": ("patch_embed.proj.bias",),
    # fc_norm: the same layer in models fine-tuned to classify by the mean token.
    "norm.weight": ("norm.weight", "fc_norm.weight"),
    "norm.bias": ("norm.bias", "fc_norm.bias"),
}
_INNER = {
    name: (name,) for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
}
_HUGGING_FACE_OUTER = {
    "cls_token": ("embeddings.cls_token",),
    "pos_embed": ("embeddings.position_embeddings",),
    "patch_embed.proj.weight": ("embeddings.patch_embeddings.projection.weight",),
    "patch_embed.proj.bias": ("embeddings.patch_embeddings.projection.bias",),
    "norm.weight": ("layernorm.weight",),
    "norm.bias": ("layernorm.bias",),
}


@dataclass(frozen=True)
class Layout:
    """How a kind of checkpoint names the tensors of an encoder.

    Attributes:
        name: for messages.
        wrapper: the key that holds the tensors, or "".
        prefix: of every name of the encoder.
        blocks: prefix of a block's number.
        outer: our name → theirs, the first that exists.
        inner: our name in a block → theirs; several are concatenated by rows.
        ignored: prefixes of names that do not belong to an encoder.
    """

    name: str
    wrapper: str
    prefix: str
    blocks: str
    outer: dict[str, tuple[str, ...]]
    inner: dict[str, tuple[str, ...]]
    ignored: tuple[str, ...]

    def fits(self, wrapper: str, names: Iterable[str]) -> bool:
        """Return whether a checkpoint has this layout's wrapper and names of a first block."""
        first = f"{self.prefix}{self.blocks}.0.{next(iter(self.inner.values()))[0]}.weight"
        attention = f"{self.prefix}{self.blocks}.0.{self.inner['attn.qkv'][0]}.weight"
        return wrapper == self.wrapper and {first, attention} <= set(names)


def _hugging_face(name: str, prefix: str, saved: bool) -> Layout:
    """Return the names that ``save_pretrained`` writes, or those of transformers 5 in memory."""
    parts = ("query", "key", "value") if saved else ("q_proj", "k_proj", "v_proj")
    inside = "attention.attention" if saved else "attention"
    inner = {
        "norm1": ("layernorm_before",),
        "attn.qkv": tuple(f"{inside}.{part}" for part in parts),
        "attn.proj": ("attention.output.dense" if saved else "attention.o_proj",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("intermediate.dense" if saved else "mlp.fc1",),
        "mlp.fc2": ("output.dense" if saved else "mlp.fc2",),
    }
    blocks = "encoder.layer" if saved else "layers"
    return Layout(name, "", prefix, blocks, _HUGGING_FACE_OUTER, inner, ("decoder.",))


_TIMM_IGNORED = ("decoder_", "mask_token", "head.", "fc_norm.")
LAYOUTS = (
    Layout("facebookresearch/mae", "model", "", "blocks", _OUTER, _INNER, _TIMM_IGNORED),
    Layout("timm", "", "", "blocks", _OUTER, _INNER, _TIMM_IGNORED),
    _hugging_face("Hugging Face ViTMAEForPreTraining", "vit.", saved=True),
    _hugging_face("Hugging Face ViTMAEModel", "", saved=True),
    _hugging_face("transformers 5 ViTMAEForPreTraining, in memory", "vit.", saved=False),
    _hugging_face("transformers 5 ViTMAEModel, in memory", "", saved=False),
)


def load_encoder(encoder: Vit, path: Path, interpolate: bool = False) -> str:
    """Load a masked autoencoder's encoder; return the name of the file's layout.

    Args:
        encoder: of the same size as the file's.
        path: .safetensors (such as ``normpipe pretrain-encoder`` writes), .pth, .pt or .bin.
        interpolate: interpolate position embeddings if the file's pictures had another size.

    Raises:
        InputError: no such file, an unknown layout, or an encoder of another shape.
    """
    wrapper, tensors = _read(path)
    if encoder.stem == "conv":
        name, found = "normpipe", _own(encoder, tensors, path)
    elif any(name.startswith("patch_embed.steps.") for name in tensors):
        raise InputError(
            f"{path} was pretrained with stem = 'conv', and this encoder has stem = 'patch': set "
            "classify.stem or fit_normalizer.network_settings.stem to 'conv', or give one "
            "pretrained with 'patch'"
        )
    else:
        layout = _layout_of(path, wrapper, tensors)
        name, found = layout.name, _renamed(layout, tensors, path)
    _check_shape(encoder, found, path)
    positions = found["pos_embed"]
    if positions.shape != encoder.pos_embed.shape:
        grid = round((positions.shape[1] - 1) ** 0.5)
        if not interpolate:
            raise InputError(
                f"{path} was trained on {grid} x {grid} patches, this encoder sees "
                f"{encoder.grid} x {encoder.grid}: choose image_size = {grid * 16}, or request "
                "interpolated positions"
            )
        found["pos_embed"] = _interpolated(positions, grid, encoder.grid)
    encoder.load_state_dict(found)
    log.info("encoder from %s, layout %s", path, name)
    return name


def _own(encoder: Vit, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors of an encoder with a stem that no public checkpoint has."""
    lacking = sorted(encoder.state_dict().keys() - tensors.keys())
    if lacking:
        raise InputError(
            f"{path} lacks {lacking[0]}: an encoder with stem = conv starts from a file of "
            "normpipe pretrain-encoder with pretrain_encoder.stem = 'conv'"
        )
    return {name: tensors[name] for name in encoder.state_dict()}


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the wrapper's name, if any, and the tensors."""
    if not path.is_file():
        raise InputError(f"no encoder checkpoint {path}")
    if path.suffix == ".safetensors":
        return "", read_tensors(path)
    if path.suffix not in PICKLES:
        raise InputError(f"{path} is no checkpoint: give {', '.join(('.safetensors', *PICKLES))}")
    try:
        # Training scripts save their arguments with the weights; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises almost anything
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be read as plain tensors: {line}") from None
    wrapper = "model" if isinstance(content, dict) and "model" in content else ""
    inner = content["model"] if wrapper else content
    if not isinstance(inner, dict):
        raise InputError(f"{path} holds no named tensors: give a checkpoint of weights")
    return wrapper, {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}


def _layout_of(path: Path, wrapper: str, tensors: dict[str, Tensor]) -> Layout:
    for layout in LAYOUTS:
        if layout.fits(wrapper, tensors):
            return layout
    some = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise InputError(
        f"{path} has no known layout ({', '.join(layout.name for layout in LAYOUTS)}): "
        f"it holds {some}, …"
    )


def _renamed(layout: Layout, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the encoder's tensors under our names; all others must match ``ignored``."""
    start = re.escape(f"{layout.prefix}{layout.blocks}.")
    numbers = {int(match[1]) for name in tensors if (match := re.match(rf"{start}(\d+)\.", name))}
    wanted = {
        name: [[layout.prefix + one] for one in theirs] for name, theirs in layout.outer.items()
    }
    for number in range(max(numbers) + 1):
        for name, theirs in layout.inner.items():
            for kind in ("weight", "bias"):
                place = f"{layout.prefix}{layout.blocks}.{number}."
                rows = [f"{place}{one}.{kind}" for one in theirs]
                wanted[f"blocks.{number}.{name}.{kind}"] = [rows]
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, choices in wanted.items():
        rows = next((rows for rows in choices if all(row in tensors for row in rows)), None)
        if rows is None:
            raise InputError(f"{path} (layout {layout.name}) lacks {choices[0][0]}")
        found[name] = torch.cat([tensors[row].float() for row in rows])
        used.update(rows)
    others = [name for name in tensors if name not in used and not name.startswith(layout.ignored)]
    if others:
        raise InputError(
            f"{path} (layout {layout.name}) is another kind of network: it also holds {others[0]}"
        )
    return found


def _check_shape(encoder: Vit, found: dict[str, Tensor], path: Path) -> None:
    expected = encoder.state_dict()
    depth = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    width = found["cls_token"].shape[-1]
    if (width, depth) != encoder.shape[:2]:
        raise InputError(
            f"{path} is an encoder of width {width} and depth {depth}, this one has width "
            f"{encoder.shape.width} and depth {encoder.shape.depth}: choose another size"
        )
    for name, tensor in found.items():
        if name != "pos_embed" and tensor.shape != expected[name].shape:
            raise InputError(
                f"{path} does not fit: {name} is {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )


def _interpolated(positions: Tensor, before: int, after: int) -> Tensor:
    """Interpolate position embeddings (1, 1 + before², D) → (1, 1 + after², D), bicubic."""
    patches = positions[:, 1:].unflatten(1, (before, before)).permute(0, 3, 1, 2)
    patches = functional.interpolate(
        patches, size=(after, after), mode="bicubic", align_corners=False
    )
    return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], 1)
