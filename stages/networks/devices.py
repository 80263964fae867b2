"""The torch device of a setting: the requested one, or an error."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...pipeline.errors import InputError
from ...pipeline.stage import choose_device


def resolve_device(name: str, setting: str) -> torch.device:
    """Return the device of a setting; requesting a missing one is an error.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        setting: the setting's name, such as ``normalize.device``; for the message.

    Raises:
        InputError: the device is unknown or missing.
    """
    count, seen = _gpus()
    remedy = f"install a CUDA build of torch, or set {setting}=cpu"
    return torch.device(choose_device(name, count, seen, remedy))


def require_gpus(names: Iterable[int | str], setting: str) -> None:
    """Raise InputError if a worker's GPU is missing; its stages would run on the CPU instead.

    ``names``: numbers, or what else ``CUDA_VISIBLE_DEVICES`` takes, such as a UUID.
    """
    count, seen = _gpus()
    for name in names:
        if not count or (str(name).isdecimal() and int(name) >= count):
            raise InputError(
                f"GPU {name} is not there ({seen}): leave {setting} out, or name others"
            )


def _gpus() -> tuple[int, str]:
    """Return how many GPUs torch can use, and how a message says so."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return count, f"torch {torch.__version__} sees {f'{count} GPUs' if count else 'no GPU'}"


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Return whether bf16 is faster: on a CPU only if it has matrix instructions for it (AMX)."""
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return device.type == "cuda" or bool(tiles())
