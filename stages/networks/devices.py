"""The torch device of a setting: the requested one, or an error."""

from __future__ import annotations

import torch

from ...pipeline.errors import InputError


def resolve_device(name: str, setting: str) -> torch.device:
    """Return the device of a setting; requesting a missing one is an error.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        setting: the setting's name, such as ``normalize.device``; for the message.

    Raises:
        InputError: the device is unknown or missing.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device '{name}': use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"{count} GPUs" if count else "no GPU"
        raise InputError(
            f"device '{name}' is not there (torch {torch.__version__} sees {seen}): install a CUDA "
            f"build of torch, or set {setting}=cpu"
        )
    return device


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Return whether bf16 is faster: on a CPU only if it has matrix instructions for it (AMX)."""
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return device.type == "cuda" or bool(tiles())
