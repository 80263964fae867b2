"""ONNX Runtime sessions on hardware that is really there.

ONNX Runtime drops a provider that it cannot start and goes on with the CPU, with a line in a log at
most. Here a provider that was asked for and is not active is an error that names the remedy.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final, Literal

from ...pipeline.errors import InputError

log = logging.getLogger("normpipe")

Device = Literal["auto", "cpu", "cuda"]

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


def _installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def resolve_device_class(
    wanted: Device,
    installed: Callable[[str], str | None] = _installed_version,
    stage: str = "align",
) -> Literal["cpu", "cuda"]:
    """Which device class to start a session for.

    ``auto`` is CUDA where the installed ONNX Runtime has its provider, else the CPU. Having it does
    not mean that it starts: ``settle`` tells, once a session exists. Where the GPU build is
    installed but shadowed by the CPU build, ``auto`` warns and names the command that mends it.

    Args:
        wanted: the setting.
        installed: version of a distribution, or None; replaced in tests.
        stage: whose setting it is.

    Raises:
        InputError: ``cuda`` is wanted and the installed build has no such provider.
    """
    if wanted == "cpu":
        return "cpu"
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        return "cuda"
    if wanted == "cuda":
        raise InputError(f"ONNX Runtime has no CUDA provider here: {remedy(stage=stage)}")
    if installed("onnxruntime-gpu"):
        # Whoever installed it counts on it; "auto" alone would hide that it lies in the shadow.
        log.warning("%s runs on the CPU: %s", stage, remedy(installed, stage))
    return "cpu"


def providers_for(device: Literal["cpu", "cuda"]) -> list[str]:
    """The explicit provider list; the CPU stays behind CUDA for operators that CUDA lacks."""
    return [CUDA, CPU] if device == "cuda" else [CPU]


def settle(session: Any, wanted: Device, stage: str = "align") -> Literal["cpu", "cuda"]:
    """What a session really runs on.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        wanted: the setting it was made for. ``auto`` may end on the CPU, with a warning.
        stage: whose setting it is.

    Raises:
        InputError: ``cuda`` is wanted and not among the session's active providers.
    """
    active = list(session.get_providers())
    if CUDA in active and wanted != "cpu":
        return "cuda"
    import onnxruntime

    if wanted == "cuda":
        raise InputError(
            f"CUDA was asked for, ONNX Runtime started without it: {not_started(stage)}"
        )
    if wanted == "auto" and CUDA in onnxruntime.get_available_providers():
        log.warning("%s runs on the CPU: %s", stage, not_started(stage))
    return "cpu"


def session_options(intra_op_threads: int) -> Any:
    """Options for a session that several of our own threads share.

    One thread inside an operator and many images at once keeps the cores busier than many threads
    on one small image, and its sums do not depend on the number of cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def not_started(stage: str = "align") -> str:
    """What to do where the build has the CUDA provider, but it did not start."""
    return (
        "the GPU build is active, but CUDA did not start. Check that `nvidia-smi` shows a GPU and "
        "that the CUDA and cuDNN libraries it needs are found "
        f"({sys.executable} -m pip install 'onnxruntime-gpu[cuda,cudnn]' brings them), "
        f"or set {stage}.device=cpu"
    )


def remedy(
    installed: Callable[[str], str | None] = _installed_version, stage: str = "align"
) -> str:
    """What to do where the build lacks the CUDA provider, as one command.

    The CPU build and the GPU build install the same folder; whichever came last wins, and
    insightface asks for the CPU build by name, so both are often there and the GPU one is shadowed.

    Args:
        installed: version of a distribution, or None; replaced in tests.
        stage: whose setting it is.
    """
    pip = f"{sys.executable} -m pip"
    cpu, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
    if cpu and gpu:
        return (
            f"the CPU build (onnxruntime {cpu}) shadows onnxruntime-gpu {gpu}. Mend it with: "
            f"{pip} uninstall --yes onnxruntime onnxruntime-gpu && "
            f"{pip} install --no-deps onnxruntime-gpu=={gpu}"
        )
    return (
        f"install the GPU build with: {pip} uninstall --yes onnxruntime && "
        f"{pip} install 'onnxruntime-gpu[cuda,cudnn]', or set {stage}.device=cpu"
    )
