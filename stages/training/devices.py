"""Where training computes, and in which numbers."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from ...pipeline.errors import InputError


def make_fabric(device: str, precision: str, devices: int = 1, nodes: int = 1) -> Fabric:
    """Device and precision as configured; asking for what is not there is an error.

    Args:
        device: auto, cpu or cuda.
        precision: auto, fp32 or bf16.
        devices: processes on this machine, each with a GPU of its own where GPUs are used.
        nodes: machines.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise InputError("device cuda was asked for but torch sees no GPU; use --set device=cpu")
    on_gpu = cuda and device != "cpu"
    if on_gpu and devices > torch.cuda.device_count():
        raise InputError(f"devices = {devices}, but torch sees {torch.cuda.device_count()} GPUs")
    # On a CPU bf16 pays only where it has matrix instructions for it (AMX).
    fast = on_gpu or bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    bf16 = precision == "bf16" or (precision == "auto" and fast)
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        # A loss of weight 0 leaves the head that only it looks at without gradients.
        strategy="ddp_find_unused_parameters_true" if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if bf16 else "32-true",
    )
