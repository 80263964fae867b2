"""Classifiers on disk."""

import json

import numpy as np
import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification.classifiers import (
    TrainedClassifier,
    open_classifier,
    predict_batches,
    predict_faces,
    save_classifier,
)
from normpipe.stages.classification.views import ViewData, ViewPool
from normpipe.stages.networks.classifier import MixtureClassifier
from normpipe.stages.networks.files.checkpoint import save_tensors

from .toys import TASKS
from .training import planned, settings


def model(kind="emotion", **more):
    torch.manual_seed(0)
    task = TASKS[kind]
    network = MixtureClassifier(len(task.names), **more).eval()
    return TrainedClassifier(network, task, "original+normalized", "compact")


@pytest.mark.parametrize("kind", TASKS)
def test_what_was_saved_is_opened(kind, tmp_path):
    made = model(kind, experts=3, top=2)
    save_classifier(made, tmp_path / "classifier.safetensors")
    found = open_classifier(tmp_path)
    assert (found.task, found.views, found.normalizer) == (made.task, made.views, "compact")
    assert found.network.settings() == made.network.settings()
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor)
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())
    again = tmp_path / "again.safetensors"
    save_classifier(found, again)
    assert again.read_bytes() == (tmp_path / "classifier.safetensors").read_bytes()


def test_what_is_no_classifier_is_one_line(tmp_path):
    def refused(path, words):
        with pytest.raises(InputError, match=words) as caught:
            open_classifier(path)
        assert "\n" not in str(caught.value)

    refused(tmp_path, "no classifier .*: train one")
    file = tmp_path / "classifier.safetensors"
    save_tensors({"x": torch.zeros(1)}, file, {"network": "compact"})
    refused(file, "is not a classifier")
    for change in ({"settings": json.dumps({"labels": 3, "mood": 1})}, {"names": "["}, {}):
        notes = {"network": "classifier", "settings": json.dumps({"labels": 3}), "task": "emotion",
                 "names": '["a", "b", "c"]'}  # fmt: skip
        save_tensors({"x": torch.zeros(1)}, file, notes | change)
        refused(file, "cannot read" if change else "does not fit")


def test_predictions_are_the_network_in_batches(easy):
    made = model()
    listing, _, _ = planned(settings(), easy)
    rows = np.flatnonzero(listing.usable)
    data = ViewData(ViewPool(listing, rows, 1.0, 1), rows, made.views, made.network, "compact")
    predicted = predict_faces(made, data)
    assert predicted.values.shape == (56, 3) and predicted.values.sum(1) == pytest.approx(
        1, abs=1e-5
    )
    assert predicted.output_gates.shape == (56, 3, 4)
    assert (
        predicted.input_load.sum() == pytest.approx(1, abs=1e-5)
        and (predicted.input_load >= 0).all()
    )
    batch = data.batch(np.arange(9))
    parts = [{n: v[s] for n, v in batch.items()} for s in (slice(0, 4), slice(4, 9))]
    cut = predict_batches(made, iter(parts))
    assert cut.values == pytest.approx(predicted.values[:9], abs=1e-5)
    pictures = [batch[name].float() / 255 for name in ("first", "second")]
    with torch.inference_mode():
        expected = made.network(*pictures, batch["present"])
    assert cut.values == pytest.approx(expected.logits.softmax(1).numpy(), abs=1e-5)
    assert cut.input_load == pytest.approx(expected.input_gates.mean((0, 1)).numpy(), abs=1e-5)
    # What is not there has no share in the load.
    batch["present"][2:, 1] = False
    load = predict_batches(made, iter([batch])).input_load
    with torch.inference_mode():
        shown = made.network(*pictures, batch["present"])
    assert load == pytest.approx(shown.input_gates[shown.seen].mean(0).numpy(), abs=1e-5)
    assert load != pytest.approx(shown.input_gates.mean((0, 1)).numpy(), abs=1e-4)


def test_without_faces_nothing_is_told(easy):
    made = model()
    listing, _, _ = planned(settings(), easy)
    none = np.zeros(0, np.int64)
    data = ViewData(ViewPool(listing, none, 1.0, 1), none, made.views, made.network, "compact")
    predicted = predict_faces(made, data)
    assert predicted.values.shape == (0, 3) and predicted.output_gates.shape == (0, 3, 1)
