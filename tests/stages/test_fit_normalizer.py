"""Training: goes on after a kill as if nothing had happened, and refuses what does not fit."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.fit_normalizer import FitNormalizerConfig, fit
from normpipe.stages.networks.checkpoint import read_tensors
from normpipe.stages.training.batches import Batches, Recipe
from normpipe.stages.training.pictures import load_pairs

TINY = {
    "device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "steps": 6,
    "batch_size": 4, "decoder_steps": 4, "decoder_batch_size": 2, "save_every": 2,
    "evaluate_every": 100, "warmup_steps": 2, "evaluation_pairs": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tiny_pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    return output, fit(FitNormalizerConfig(**TINY), [tiny_pairs], output)


def losses(output):
    return {
        part: read_tensors(output / f"{part}.state.safetensors")["losses"].tolist()
        for part in ("decoder", "encoder")
    }


def test_it_leaves_weights_scores_and_a_sheet(undisturbed):
    output, result = undisturbed
    assert result.weights.stat().st_size < 16_000_000
    card = json.loads((output / "compact.json").read_text())
    assert card["recipe"]["steps"] == 6 and card["scores"] == result.scores
    assert {"shapes", "action_units", "average_face", "mean"} <= card["scores"]["degraded"].keys()
    assert (output / "sheet.png").stat().st_size > 10_000


SCRIPT = """
import sys
from pathlib import Path
from normpipe.stages.fit_normalizer import FitNormalizerConfig, fit
fit(FitNormalizerConfig.model_validate_json(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]))
"""


@pytest.mark.parametrize("saved_step", [2, 4])
def test_a_killed_run_goes_on_exactly(tiny_pairs, undisturbed, tmp_path, saved_step):
    """SIGKILL after a state was saved; the continued run has the same losses and weights."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(TINY), str(tiny_pairs), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    state = tmp_path / "encoder.state.safetensors"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if state.is_file() and len(read_tensors(state)["losses"]) >= saved_step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    assert state.is_file()
    result = fit(FitNormalizerConfig(**TINY), [tiny_pairs], tmp_path)
    assert losses(tmp_path) == losses(undisturbed[0])
    expected = read_tensors(undisturbed[1].weights)
    for name, tensor in read_tensors(result.weights).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_a_state_of_other_settings_is_refused(tiny_pairs, undisturbed, tmp_path):
    source = undisturbed[0] / "decoder.state.safetensors"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    other = FitNormalizerConfig(**{**TINY, "decoder_steps": 5})
    with pytest.raises(InputError, match="other settings"):
        fit(other, [tiny_pairs], tmp_path)


def test_folders_without_pairs_are_one_line(tmp_path):
    with pytest.raises(InputError, match="normpipe synthesize"):
        fit(FitNormalizerConfig(**TINY), [tmp_path], tmp_path / "out")
    pq.write_table(pa.table({"key": ["a"], "split": ["train"]}), tmp_path / "shard-00000.parquet")
    with pytest.raises(InputError, match="no expression names"):
        fit(FitNormalizerConfig(**TINY), [tmp_path], tmp_path / "out")


def test_a_gpu_that_is_not_there_is_an_error(tiny_pairs, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="sees no GPU"):
        fit(FitNormalizerConfig(**{**TINY, "device": "cuda"}), [tiny_pairs], tmp_path)


def test_batches_depend_on_their_number_alone(tiny_pairs):
    cache = load_pairs([tiny_pairs], "train")
    recipe = Recipe(4, 2, 0, 112)
    forward, backward = Batches(cache, recipe, 0), Batches(cache, recipe, 0)
    third = forward[3]
    for step in (5, 1, 3):
        again = backward[step]
    for name, tensor in third.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
    assert not torch.equal(forward[4]["images"], third["images"])
    assert not torch.equal(Batches(cache, recipe, 1)[3]["images"], third["images"])


def test_every_pair_comes_once_before_any_comes_again(tiny_pairs):
    cache = load_pairs([tiny_pairs], "train")
    batches = Batches(cache, Recipe(3, 0, 0, 112), 0)
    seen = np.concatenate([batches.chosen(step)[0] for step in range(-(-2 * len(cache) // 3))])
    assert (
        sorted(seen[: len(cache)])
        == sorted(seen[len(cache) : 2 * len(cache)])
        == list(range(len(cache)))
    )


def test_held_out_people_are_not_trained_on(tiny_pairs):
    people = [
        set(load_pairs([tiny_pairs], split).identity.tolist())
        for split in ("train", "validation", "test")
    ]
    assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
