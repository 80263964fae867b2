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
from normpipe.stages.networks.files.checkpoint import read_tensors
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.training.logs import read_log
from normpipe.stages.training.normalizer.batches import Batches, Recipe
from normpipe.stages.training.normalizer.fit_normalizer import fit
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig
from normpipe.stages.training.synthesized import load_pairs

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
from normpipe.stages.training.normalizer.fit_normalizer import fit
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig
config = FitNormalizerConfig.model_validate_json(sys.argv[1])
fit(config, [Path(sys.argv[2])], Path(sys.argv[3]), [Path(path) for path in sys.argv[4:]])
"""
#: End to end, real faces mixed in, gradients accumulated, the decoder not trained before.
DIRECT = TINY | {
    "method": "direct", "decoder_steps": 0, "steps": 4, "batch_size": 8, "real_share": 0.5,
    "accumulate": 2, "losses": {"steadiness": 0.1, "cycle": 0.1, "idempotence": 0.1},
}  # fmt: skip


def kill(command, state, saved_step):
    """Run a command until a state of that step is saved, then SIGKILL it."""
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 280
    while process.poll() is None and time.monotonic() < deadline:
        if state.is_file() and len(read_tensors(state)["losses"]) >= saved_step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    assert state.is_file()


def same_weights(one, two):
    expected = read_tensors(two)
    for name, tensor in read_tensors(one).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tiny_pairs, undisturbed, tmp_path):
    """The continued run has the same losses and weights."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(TINY), str(tiny_pairs), str(tmp_path)]
    kill(command, tmp_path / "encoder.state.safetensors", 2)
    result = fit(FitNormalizerConfig(**TINY), [tiny_pairs], tmp_path)
    assert losses(tmp_path) == losses(undisturbed[0])
    same_weights(result.weights, undisturbed[1].weights)


@pytest.mark.slow
def test_so_does_one_with_real_faces_end_to_end(tiny_pairs, tmp_path):
    config, faces = FitNormalizerConfig(**DIRECT), [tiny_pairs / "pairs"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = fit(config, [tiny_pairs], whole, faces)
    names = {row[2] for row in read_log(whole / "log.csv")}
    wanted = {"coefficients", "picture", "consistency", "flip", "steadiness", "cycle"}
    assert {f"loss/{name}" for name in wanted} <= names
    assert (whole / "sheets/faces-0000004.jpg").is_file()
    command = [sys.executable, "-c", SCRIPT, json.dumps(DIRECT), str(tiny_pairs), str(killed)]
    kill([*command, *map(str, faces)], killed / "network.state.safetensors", 2)
    result = fit(config, [tiny_pairs], killed, faces)
    states = [read_tensors(path / "network.state.safetensors") for path in (whole, killed)]
    assert states[0]["losses"].tolist() == states[1]["losses"].tolist()
    same_weights(result.weights, expected.weights)


@pytest.mark.slow
def test_labelled_faces_teach_and_a_stopped_run_goes_on(tiny_pairs, undisturbed, tmp_path):
    """A face labelled angry is read as more angry than before, and stopping changes nothing."""
    faces = tiny_pairs / "pairs"
    keys = [key for shard in sorted(faces.glob("shard-*.parquet"))
            for key in pq.read_table(shard, columns=["key"])["key"].to_pylist()]  # fmt: skip
    labels = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"key": keys, "anger_votes": [9] * len(keys)}), labels)
    config = FitNormalizerConfig(**TINY | {
        "begin": str(undisturbed[1].weights), "decoder_steps": 0, "steps": 12, "batch_size": 8,
        "real_share": 0.5, "covered_share": 0.5, "even_emotions": 1.0, "batch_norm": "frozen",
        "losses": {"emotions": 4.0, "emotions_upper": 1.0, "coefficients": 0.0, "flip": 0.0,
                   "displacement": 0.0, "consistency": 0.0},
    })  # fmt: skip
    given = [tiny_pairs], [faces], [labels]
    whole = fit(config, given[0], tmp_path / "whole", *given[1:])
    calls = iter([False] * 5 + [True] + [False] * 100)
    stopped = fit(config, given[0], tmp_path / "two", *given[1:], lambda: next(calls))
    assert not stopped.finished
    same_weights(fit(config, given[0], tmp_path / "two", *given[1:]).weights, whole.weights)
    tensors = read_tensors(tmp_path / "whole/encoder.state.safetensors")
    first, last = np.split(tensors["losses"].numpy(), 2)
    assert last.mean() < first.mean()
    before, after = (read_tensors(result.weights) for result in (undisturbed[1], whole))
    norms = [name for name in before if name.endswith("running_mean")]
    assert norms and all(torch.equal(before[name], after[name]) for name in norms)
    assert json.loads(whole.weights.with_suffix(".json").read_text())["training"][
        "labelled_faces"
    ] == {"emotions": len(keys)}


def test_weights_say_what_they_are(tiny_pairs, undisturbed):
    output, result = undisturbed
    found = open_normalizer(result.weights)
    assert found.network == "compact" and found.notes["method"] == "coefficients"
    said = pq.read_schema(next(tiny_pairs.glob("pairs/shard-*.parquet"))).metadata[b"target"]
    assert json.loads(found.notes["target"]) == json.loads(said)
    assert (output / "target.png").is_file()
    assert json.loads(found.notes["training"])["parts"]["encoder"]["steps"] == 6


def test_a_norface_that_passes_coefficients_alone_trains_its_halves_apart(tiny_pairs, tmp_path):
    network = {"size": "T", "image_size": 64, "merge_depth": 1, "decoder_depth": 1}
    network |= {"residual_tokens": 0, "stem": "conv"}
    values = {**TINY, "network": "norface", "network_settings": network, "optimizer": "muon"}
    done = fit(FitNormalizerConfig(**values), [tiny_pairs], tmp_path)
    before = read_tensors(tmp_path / "decoder.state.safetensors")
    made = read_tensors(done.weights)
    # What draws is as its own phase left it: the encoder's phase did not touch it.
    flow = before["average.module.painter.flow.weight"]
    assert torch.equal(made["painter.flow.weight"], flow) and flow.abs().max() > 0
    assert made["offset"].abs().max() > 0  # calibrated
    assert "exact_code" in done.scores["pictures"]
    assert open_normalizer(done.weights).module.settings()["stem"] == "conv"


def test_settings_that_do_not_fit_are_one_line(tiny_pairs, tmp_path):
    for settings, words in (
        ({"network": "norfase"}, "'norface'"),
        ({"network": "norface"}, "method = 'direct'"),
        ({"network_settings": {"depth": 3}}, "network_settings"),
        ({"losses": {"identity": 1.0}}, "identity_network"),
        ({"decoder_steps": 0}, "decoder_steps"),
    ):
        config = FitNormalizerConfig.model_validate({**TINY, "steps": 1, **settings})
        if "losses" in settings:
            config = config.model_copy(update={"decoder_steps": 1})
        with pytest.raises(InputError, match=words):
            fit(config, [tiny_pairs], tmp_path / words)


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
    seen = np.concatenate([batches.rows(step)[0] for step in range(-(-2 * len(cache) // 3))])
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
