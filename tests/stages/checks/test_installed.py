"""Packages, ONNX Runtime's two builds and CUDA, with fakes for what this machine lacks."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normpipe.stages.checks import cuda, packages, runtime
from normpipe.stages.checks.finding import Finding

LIBRARY = "onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so"
CPU_ONLY = ["AzureExecutionProvider", "CPUExecutionProvider"]
WITH_CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_requirements_are_held_against_what_is_installed() -> None:
    wanted = ["a<3,>=2", "b>=1", "c>=1", "d>=1; extra == 'gpu'", "e>=1; python_version < '3'"]
    findings = packages.check_packages(wanted, {"a": "2.5+cpu", "b": "0.9"}.get)
    assert [(one.verdict, one.found) for one in findings] == [
        ("yes", "a 2.5+cpu"),
        ("no", "b 0.9, >=1 is needed"),
        ("no", "c is not installed"),
    ]
    assert findings[2].remedy.endswith("-m pip install 'c>=1'")


def test_a_package_may_stand_in_for_another() -> None:
    found = {"onnxruntime-gpu": "1.22.0", "opencv-python-headless": "4.11"}
    wanted = ["onnxruntime>=1.20", "opencv-python<5,>=4.10"]
    assert [one.verdict for one in packages.check_packages(wanted, found.get)] == ["yes", "yes"]


def test_an_old_python_is_named() -> None:
    assert packages.check_python(">=3.11", "3.10.4").verdict == "no"
    assert packages.check_python(">=3.11", "3.14.0rc1").verdict == "yes"


def test_not_installed_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "DISTRIBUTION", "nothing-of-this-name")
    (finding,) = packages.check_installation()
    assert finding.verdict == "no" and "pip install ." in finding.remedy


def build(site: Path, name: str, version: str, size: int) -> metadata.Distribution:
    """Install a build as pip does: its library over whatever was there, its record beside."""
    library = site / LIBRARY
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_bytes(b"x" * size)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{LIBRARY},sha256=abc,{size}\n")
    return metadata.Distribution.at(info)


def builds(site: Path, *order: tuple[str, str, int]) -> dict[str, metadata.Distribution]:
    return {name: build(site, name, version, size) for name, version, size in order}


CPU, GPU = ("onnxruntime", "1.23.0", 10), ("onnxruntime-gpu", "1.22.0", 30)


@pytest.mark.parametrize(
    ("order", "version", "providers", "verdict", "words"),
    [
        ([CPU], "1.23.0", CPU_ONLY, "yes", "CPU build"),
        ([GPU], "1.22.0", WITH_CUDA, "yes", "GPU build"),
        ([GPU, CPU], "1.23.0", CPU_ONLY, "no", "shadows onnxruntime-gpu 1.22.0"),
        ([CPU, GPU], "1.22.0", WITH_CUDA, "warn", "next upgrade of either"),
        # The CPU build's library with the GPU build's files around it, and the other way round.
        ([GPU, CPU], "1.22.0", WITH_CUDA, "no", "a mixture"),
        ([CPU, GPU], "1.23.0", WITH_CUDA, "no", "a mixture"),
    ],
)
def test_the_build_that_lies_in_the_shadow(
    tmp_path: Path, order: Any, version: str, providers: list[str], verdict: str, words: str
) -> None:
    finding = runtime.check_builds(version, providers, builds(tmp_path, *order).get)
    assert finding.verdict == verdict and words in finding.line()
    if verdict != "yes":
        assert "--no-deps onnxruntime-gpu==1.22.0" in finding.remedy


def test_a_gpu_build_that_does_not_start_is_said() -> None:
    finding = runtime.check_providers(WITH_CUDA, ["CPUExecutionProvider"])
    assert finding.verdict == "warn" and "nvidia-smi" in finding.remedy
    assert runtime.check_providers(WITH_CUDA, WITH_CUDA).verdict == "yes"


def test_onnxruntime_here_is_looked_at() -> None:
    build_finding, providers = runtime.check_onnxruntime()
    assert build_finding.check == "onnxruntime"
    assert "CPUExecutionProvider" in providers.found or providers.found == "CPU only"


class Torch:
    """As much of torch as the check asks for."""

    def __init__(self, version: str, built: str | None, gpus: int = 0, error: str = "") -> None:
        self.__version__ = version
        self.version = SimpleNamespace(cuda=built)
        self._error = error
        self.cuda = SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_name=lambda number: f"GPU {number}",
            get_device_properties=lambda _: SimpleNamespace(total_memory=80 * 2**30),
        )

    def ones(self, *_: object, device: str) -> Any:
        if self._error and device == "cuda:1":
            raise RuntimeError(f"CUDA error: {self._error}\nmore lines")
        return SimpleNamespace(add=lambda _: SimpleNamespace(item=lambda: 2.0))


@pytest.mark.parametrize(
    ("torch", "driver", "verdicts", "words"),
    [
        (Torch("2.13.0+cpu", None), False, ["yes"], "CPU build"),
        (Torch("2.13.0+cpu", None), True, ["warn"], "install a CUDA build"),
        (Torch("2.13.0", "13.0"), True, ["warn"], "new enough for CUDA 13.0"),
        (Torch("2.13.0", "13.0"), False, ["yes"], "no NVIDIA driver"),
        (Torch("2.13.0", "13.0", 2), True, ["yes", "yes"], "cuda:1 GPU 1, 80 GiB"),
        (Torch("2.13.0", "13.0", 2, "no kernel image"), True, ["yes", "no"], "no kernel image"),
    ],
)
def test_what_torch_sees(torch: Torch, driver: bool, verdicts: list[str], words: str) -> None:
    findings: list[Finding] = cuda.check_torch(torch, driver)
    assert [one.verdict for one in findings] == verdicts
    assert words in findings[-1].line() and "\n" not in findings[-1].line()


def test_torch_here_is_looked_at() -> None:
    assert all(one.check == "cuda" for one in cuda.check_cuda())
