"""One answer to where torch computes, for every stage and training."""

import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.networks.devices import require_gpus, resolve_device
from normpipe.stages.training.trainer import make_fabric


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert resolve_device("auto", "x") == resolve_device("cpu", "x") == torch.device("cpu")
    gpus(monkeypatch, 2)
    assert resolve_device("auto", "x") == torch.device("cuda")
    assert resolve_device("cuda:1", "x") == torch.device("cuda:1")
    assert resolve_device("cpu", "x") == torch.device("cpu")


def test_what_is_asked_for_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    with pytest.raises(InputError, match=r"sees no GPU\): .*or set judge\.device=cpu"):
        resolve_device("cuda", "judge.device")
    with pytest.raises(InputError, match=r"set fit_normalizer\.device=cpu"):
        make_fabric("cuda", "auto", "fit_normalizer.device")
    gpus(monkeypatch, 2)
    with pytest.raises(InputError, match=r"'cuda:2' is not there .*sees 2 GPUs"):
        resolve_device("cuda:2", "x")
    with pytest.raises(InputError, match="devices = 3, but torch sees 2 GPUs"):
        make_fabric("cuda", "auto", "x", devices=3)
    for name in ("abacus", "mps"):
        with pytest.raises(InputError, match=f"unknown device '{name}'"):
            resolve_device(name, "x")


def test_onnx_runtime_and_torch_answer_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from normpipe.stages.faces.onnx import CPU, CUDA, resolve_device_class

    gpus(monkeypatch, 1)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    for name in ("auto", "cpu", "cuda", "cuda:0"):
        assert resolve_device_class(name) == resolve_device(name, "x").type
    gpus(monkeypatch, 0)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    for ask in (resolve_device_class, lambda name: resolve_device(name, "x")):
        with pytest.raises(InputError, match=r"device 'cuda' is not there \(.*\): "):
            ask("cuda")
        with pytest.raises(InputError, match="unknown device 'cuda:x'"):
            ask("cuda:x")


def test_a_worker_s_gpu_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    require_gpus([0, 1, "GPU-8f2e"], "--gpus")
    for count, names in ((2, [0, 2]), (0, [0]), (0, ["GPU-8f2e"])):
        gpus(monkeypatch, count)
        with pytest.raises(InputError, match=f"GPU {names[-1]} is not there .*leave --gpus out"):
            require_gpus(names, "--gpus")
