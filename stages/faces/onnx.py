"""ONNX Runtime sessions on the requested hardware.

ONNX Runtime drops a provider that it cannot start and continues on the CPU, at most with a line in
a log. Here, a requested provider that is not active is an error that says how to fix it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from ...pipeline.errors import InputError
from ...pipeline.stage import choose_device

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
    wanted: str,
    installed: Callable[[str], str | None] = _installed_version,
    stage: str = "align",
) -> Literal["cpu", "cuda"]:
    """Return the device class to start a session for.

    ``auto`` is CUDA if the installed ONNX Runtime has its provider, else the CPU. The provider may
    still fail to start: see ``active_device_class``. If the GPU build is installed but shadowed by
    the CPU build, ``auto`` warns and gives the command that fixes it.

    Args:
        wanted: the setting, auto, cpu, cuda or cuda:N.
        installed: version of a distribution, or None; replaced in tests.
        stage: whose setting it is.

    Raises:
        InputError: the device is unknown, or the installed build has no provider for it.
    """
    if wanted == "cpu":
        return "cpu"
    import onnxruntime

    # Which GPUs there are shows when a session starts.
    gpus = sys.maxsize if CUDA in onnxruntime.get_available_providers() else 0
    seen, remedy = "ONNX Runtime has no CUDA provider", gpu_build_remedy(stage=stage)
    if choose_device(wanted, gpus, seen, remedy) != "cpu":
        return "cuda"
    if installed("onnxruntime-gpu"):
        # A user who installed it expects a GPU; "auto" alone would hide that it is shadowed.
        log.warning("%s runs on the CPU: %s", stage, gpu_build_remedy(installed, stage))
    return "cpu"


def providers_for(device: Literal["cpu", "cuda"]) -> list[str]:
    """Return the explicit provider list; after CUDA comes the CPU, for operators CUDA lacks."""
    return [CUDA, CPU] if device == "cuda" else [CPU]


def active_device_class(
    session: Any, wanted: Device, stage: str = "align"
) -> Literal["cpu", "cuda"]:
    """Return what a session really runs on.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        wanted: the setting it was made for. ``auto`` may end on the CPU, with a warning.
        stage: whose setting it is.

    Raises:
        InputError: ``cuda`` is requested and not among the session's active providers.
    """
    active = list(session.get_providers())
    if CUDA in active and wanted != "cpu":
        return "cuda"
    import onnxruntime

    if wanted == "cuda":
        raise InputError(
            f"CUDA was requested, but ONNX Runtime started without it: {cuda_not_started(stage)}"
        )
    if wanted == "auto" and CUDA in onnxruntime.get_available_providers():
        log.warning("%s runs on the CPU: %s", stage, cuda_not_started(stage))
    return "cpu"


def session_options(intra_op_threads: int) -> Any:
    """Return options for a session that several of our own threads share.

    One thread per operator and many images at once keep the cores busier than many threads on one
    small image, and sums do not depend on the number of cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def cuda_not_started(stage: str = "align") -> str:
    """Return what to do if the build has the CUDA provider, but it did not start."""
    return (
        "the GPU build is active, but CUDA did not start. Check that `nvidia-smi` shows a GPU and "
        "that the CUDA and cuDNN libraries it needs are found "
        f"({sys.executable} -m pip install 'onnxruntime-gpu[cuda,cudnn]' installs them), "
        f"or set {stage}.device=cpu"
    )


def gpu_build_remedy(
    installed: Callable[[str], str | None] = _installed_version, stage: str = "align"
) -> str:
    """Return what to do if the build lacks the CUDA provider, as one command.

    The CPU build and the GPU build install the same folder, and the last one installed wins.
    insightface requires the CPU build by name, so often both are there and the GPU one is shadowed.

    Args:
        installed: version of a distribution, or None; replaced in tests.
        stage: whose setting it is.
    """
    pip = f"{sys.executable} -m pip"
    cpu, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
    if cpu and gpu:
        return (
            f"the CPU build (onnxruntime {cpu}) shadows onnxruntime-gpu {gpu}. Fix it with: "
            f"{pip} uninstall --yes onnxruntime onnxruntime-gpu && "
            f"{pip} install --no-deps onnxruntime-gpu=={gpu}"
        )
    return (
        f"install the GPU build with: {pip} uninstall --yes onnxruntime && "
        f"{pip} install 'onnxruntime-gpu[cuda,cudnn]', or set {stage}.device=cpu"
    )


def refuse_external_data(path: Path) -> None:
    """Raise InputError for an ONNX file whose weights lie in another file, outside its digest."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    graphs: list[Any] = [onnx.load(path, load_external_data=False).graph]
    for graph in graphs:  # grows by the graphs within
        values = [a for node in graph.node for a in node.attribute]
        tensors = [*graph.initializer, *(value.t for value in values if value.HasField("t"))]
        if any(uses_external_data(one) for one in tensors):
            raise InputError(
                f"{path} keeps weights in another file, which its sha256 does not cover: save it "
                "as one file (onnx.save_model(onnx.load(FILE), FILE, save_as_external_data=False))"
            )
        graphs += [value.g for value in values if value.HasField("g")]
