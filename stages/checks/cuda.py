"""Checks that torch can use the NVIDIA GPUs."""

import shutil
from pathlib import Path
from typing import Any

from .finding import Finding, no, warn, yes

_DRIVER = Path("/proc/driver/nvidia/version")
_GIB = 2**30


def has_driver() -> bool:
    """Return whether an NVIDIA driver is installed, whatever torch reports."""
    return _DRIVER.is_file() or shutil.which("nvidia-smi") is not None


def check_torch(torch: Any, driver: bool) -> list[Finding]:
    """Check that torch runs on the machine's GPUs.

    Args:
        torch: the module; replaced in tests.
        driver: whether an NVIDIA driver is installed.
    """
    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        return [_check_gpu(torch, number) for number in range(torch.cuda.device_count())]
    if torch.version.cuda is None and driver:
        remedy = "install a CUDA build of torch to use the GPU (PyTorch's install page says how)"
        return [warn("cuda", f"{version} is a CPU build, but there is an NVIDIA driver", remedy)]
    if torch.version.cuda is not None and driver:
        remedy = (
            "check that `nvidia-smi` shows one, CUDA_VISIBLE_DEVICES does not hide it, and "
            f"the driver is new enough for CUDA {torch.version.cuda}"
        )
        return [warn("cuda", f"{version} sees no GPU, but there is an NVIDIA driver", remedy)]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return [yes("cuda", f"no NVIDIA driver; {version} ({build} build) runs on the CPU")]


def _check_gpu(torch: Any, number: int) -> Finding:
    """Run one addition: torch also lists GPUs that its build has no kernels for."""
    name = torch.cuda.get_device_name(number)
    try:
        torch.ones(1, device=f"cuda:{number}").add(1).item()
        memory = torch.cuda.get_device_properties(number).total_memory
    except RuntimeError as error:
        what = str(error).strip().splitlines()[0]
        remedy = (
            "install a build of torch for this GPU, or set normalize.device=cpu "
            "(`nvidia-smi` shows whether it is in use or broken)"
        )
        return no("cuda", f"cuda:{number} {name} does not work ({what})", remedy)
    return yes("cuda", f"cuda:{number} {name}, {memory / _GIB:.0f} GiB, torch {torch.__version__}")


def check_cuda() -> list[Finding]:
    """Return the findings on torch and the GPUs."""
    try:
        import torch
    except (ImportError, OSError) as error:
        what = str(error).strip().splitlines()[0]
        return [no("cuda", f"torch cannot be imported ({what})", "install torch again")]
    return check_torch(torch, has_driver())
