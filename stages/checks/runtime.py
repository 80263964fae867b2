"""Checks ONNX Runtime: which of its two builds is in place, and what its sessions run on."""

import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..faces import onnx as runtime
from .finding import Finding, no, warn, yes

CPU_BUILD, GPU_BUILD = "onnxruntime", "onnxruntime-gpu"


def find_build(name: str) -> metadata.Distribution | None:
    """Return an installed distribution, or None."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def intact_builds(builds: Sequence[metadata.Distribution]) -> list[str]:
    """Return the names of the distributions whose RECORD matches the files on disk.

    Both builds install the same library under the same name; the one installed last wins, and the
    other's RECORD then gives a wrong file size.
    """
    return [build.metadata["Name"] for build in builds if _is_intact_build(build)]


def _is_intact_build(build: metadata.Distribution) -> bool:
    libraries = [file for file in build.files or [] if "onnxruntime_pybind11_state" in file.name]
    if not libraries:
        return False
    for file in libraries:
        path = Path(str(file.locate()))
        if not path.is_file() or path.stat().st_size != file.size:
            return False
    return True


def check_builds(
    version: str,
    providers: Sequence[str],
    find: Callable[[str], metadata.Distribution | None] = find_build,
) -> Finding:
    """Check that the installed build of ONNX Runtime is the one that is imported.

    Args:
        version: of the imported module.
        providers: those the imported module was built with.
        find: returns an installed distribution, or None; replaced in tests.
    """
    builds = {name: build for name in (CPU_BUILD, GPU_BUILD) if (build := find(name))}
    has_cuda = runtime.CUDA in providers
    if GPU_BUILD in builds and not has_cuda:
        versions = {name: build.version for name, build in builds.items()}
        return no("onnxruntime", f"{version} without CUDA", runtime.gpu_build_remedy(versions.get))
    if len(builds) < 2:
        return yes("onnxruntime", f"{version} ({'GPU' if has_cuda else 'CPU'} build)")
    there = intact_builds(list(builds.values()))
    gpu = builds[GPU_BUILD].version
    again = (
        f"{sys.executable} -m pip uninstall --yes {CPU_BUILD} {GPU_BUILD} && "
        f"{sys.executable} -m pip install --no-deps {GPU_BUILD}=={gpu}"
    )
    if GPU_BUILD not in there or version != gpu:
        found = f"{version}, a mixture of {CPU_BUILD} {builds[CPU_BUILD].version} and {gpu}"
        return no("onnxruntime", found, again)
    found = f"{version} (GPU build), with {CPU_BUILD} installed under it"
    return warn("onnxruntime", found, f"the next upgrade of either breaks both; {again}")


def active_providers(onnxruntime: Any) -> list[str]:
    """Return the providers a session really runs on: those of a build may fail to start."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [result])
    # An old format, so that no installed ONNX Runtime is too old for the installed onnx.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    has_cuda = runtime.CUDA in onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        runtime.session_options(1),
        providers=runtime.providers_for("cuda" if has_cuda else "cpu"),
    )
    return list(session.get_providers())


def check_providers(built: Sequence[str], active: Sequence[str]) -> Finding:
    """Check what sessions run on.

    Args:
        built: the providers of the build.
        active: the providers that a session started with.
    """
    if runtime.CUDA in built and runtime.CUDA not in active:
        return warn("providers", "CPU only", runtime.cuda_not_started())
    return yes("providers", ", ".join(active))


def check_onnxruntime() -> list[Finding]:
    """Return the findings on ONNX Runtime's builds and on what its sessions run on."""
    try:
        import onnxruntime

        built: list[str] = list(onnxruntime.get_available_providers())
        active = active_providers(onnxruntime)
    except Exception as error:  # a broken library fails in many ways; all are findings
        return [no("onnxruntime", f"cannot be used ({error})", runtime.gpu_build_remedy())]
    return [check_builds(onnxruntime.__version__, built), check_providers(built, active)]
