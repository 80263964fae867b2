"""The loop: parts of a batch make the batch, wherever they are computed; legs make the whole."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.networks.files.checkpoint import read_tensors
from normpipe.stages.training.logs import read_log
from normpipe.stages.training.normalizer.batches import Recipe

from ..pipeline.terminal import on_terminal, screen
from .toy_training import STEPS, train


def state(folder):
    return read_tensors(folder / "toy.state.safetensors")


def curve(folder):
    """The log but for what a clock says."""
    return [row for row in read_log(folder / "log.csv") if row[2] != "cpu_seconds"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder).finished
    return folder


def agree(folder, other, rtol, atol):
    one, two = state(folder), state(other)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=rtol, atol=atol)


def test_it_learns(whole):
    losses = state(whole)["losses"]
    assert len(losses) == STEPS and losses[-5:].mean() < losses[:5].mean()


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_parts_make_the_batch(whole, tmp_path, accumulate):
    train(tmp_path, accumulate=accumulate)
    agree(tmp_path, whole, 1e-4, 1e-5)


@pytest.mark.slow
def test_two_processes_make_the_batch(whole, tmp_path):
    """DDP over gloo: the same weights as one process, and only the first one writes."""
    script = Path(__file__).with_name("toy_training.py")
    command = [sys.executable, str(script), str(tmp_path), "2"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=280
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    agree(tmp_path, whole, 1e-4, 1e-5)
    assert len(curve(tmp_path)) == len(curve(whole))


def test_legs_make_the_whole(whole, tmp_path):
    """Stopped by its minutes at steps that are no multiple of anything; state and log agree."""
    for stop in (5, 23, 50, 58):
        assert not train(tmp_path, stops=(stop,)).finished
    assert train(tmp_path).finished
    agree(tmp_path, whole, 0, 0)
    assert curve(tmp_path) == curve(whole)


def test_legs_make_the_whole_with_two_optimizers(tmp_path):
    """The state of both is kept: AdamW's of the outer layers, Muon's of the inner one."""
    assert train(tmp_path / "whole", muon=0.02).finished
    saved = state(tmp_path / "whole")
    assert saved["muon.0.momentum"].shape == (16, 16) and "optimizer.0.exp_avg" in saved
    for stop in (5, 23):
        assert not train(tmp_path / "legs", stops=(stop,), muon=0.02).finished
    assert train(tmp_path / "legs", muon=0.02).finished
    agree(tmp_path / "legs", tmp_path / "whole", 0, 0)


def test_what_was_logged_after_the_last_state_is_dropped(whole, tmp_path):
    """Killed at step 55: state of step 49, log up to 50; the log ends as if nothing had been."""
    train(tmp_path, stops=(49,))
    with (tmp_path / "log.csv").open("a") as file:
        file.write("toy,50,loss/total,99.0\ntoy,5")
    train(tmp_path)
    assert curve(tmp_path) == curve(whole)


def test_other_data_are_refused(whole, tmp_path):
    (tmp_path / "toy.state.safetensors").write_bytes(
        (whole / "toy.state.safetensors").read_bytes().replace(b"what", b"whom")
    )
    with pytest.raises(InputError, match="other settings or data"):
        train(tmp_path)


def test_other_numbers_are_refused(whole, tmp_path):
    """Begun in bf16 (auto, on a GPU), it does not go on in fp32 unasked; at its end it may."""
    train(tmp_path, precision="bf16", stops=(5,))
    with pytest.raises(InputError, match=r"bf16-mixed.*32-true: set precision = 'bf16'"):
        train(tmp_path)
    assert train(tmp_path, precision="bf16").finished
    done = state(tmp_path)
    assert train(tmp_path).finished, "nothing is left to compute, in whatever numbers"
    assert all(torch.equal(tensor, done[name]) for name, tensor in state(tmp_path).items())


def test_the_rate_depends_on_the_step_alone(whole):
    rates = [float(row[3]) for row in read_log(whole / "log.csv") if row[2] == "rate"]
    assert np.isfinite(rates).all() and rates[-1] < rates[0]


def test_a_batch_that_cannot_be_cut_is_one_line():
    with pytest.raises(InputError, match="4 equal parts"):
        Recipe(pairs=12, drawn=3, faces=4, size_px=112, parts=4)


def test_a_bar_is_for_terminals_and_goes_away(tmp_path):
    script = Path(__file__).with_name("toy_training.py")
    status, output = on_terminal([sys.executable, script, tmp_path / "a", 1])
    assert status == 0, output
    assert "toy: " in output and f"/{STEPS} [" in output and "step/s" in output
    assert not [line for line in screen(output) if "%|" in line]
    command = [sys.executable, script, tmp_path / "b", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "%|" not in done.stdout + done.stderr


def test_a_pipe_gets_log_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO, "normpipe")
    train(tmp_path)
    said = [record.getMessage() for record in caplog.records if "loss" in record.getMessage()]
    assert [line.split(",")[0] for line in said] == ["toy step 50 of 60", "toy step 60 of 60"]
