"""How expert use is reported."""

import json

import numpy as np
import pytest
from PIL import Image

from normpipe.stages.classification.scores.expert_use import ExpertUse, write_experts

NAMES = ("neutral", "happiness", "anger")


def use(load, rows):
    gates = np.tile(np.asarray(rows, np.float32)[None], (5, 1, 1))
    return ExpertUse(NAMES, np.asarray(load, np.float32), gates)


EVEN = [[0.25] * 4] * 3


@pytest.mark.parametrize(
    ("load", "rows", "words"),
    [
        ([0.25] * 4, EVEN, []),
        (
            [0.97, 0.01, 0.01, 0.01],
            EVEN,
            ["the input mixture has collapsed: expert 1 has 97% of the weight"],
        ),
        (
            [0.25] * 4,
            [[0, 0, 1, 0]] * 3,
            ["the output mixture has collapsed: expert 3 has 100% of the weight"],
        ),
        (
            [0.4, 0.59, 0.005, 0.005],
            EVEN,
            ["in the input mixture, these experts are hardly used: 3, 4"],
        ),
        ([1.0], [[1.0]] * 3, []),
        # Each label has an expert of its own: that is what gates are for.
        ([0.25] * 4, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5]], []),
    ],
)
def test_collapse_is_said(load, rows, words):
    assert use(load, rows).warnings() == words


def test_files(tmp_path):
    write_experts(tmp_path, use([0.1, 0.2, 0.3, 0.4], [[0.7, 0.1, 0.1, 0.1]] * 3))
    found = json.loads((tmp_path / "experts.json").read_text())
    assert found == {
        "input_load": [0.1, 0.2, 0.3, 0.4],
        "output_gates": {name: [0.7, 0.1, 0.1, 0.1] for name in NAMES},
        "warnings": [],
    }
    with Image.open(tmp_path / "experts.png") as image:
        assert image.size[0] > 200


def test_dense_layers_have_no_experts(tmp_path):
    write_experts(tmp_path, use([0.25] * 4, EVEN))
    write_experts(tmp_path, use([1.0], [[1.0]] * 3))
    assert not [*tmp_path.iterdir()]


def test_without_a_face_nothing_is_said():
    empty = ExpertUse(NAMES, np.zeros(1), np.empty((0, 3, 1)))
    assert empty.warnings() == [] and empty.by_label.shape == (3, 1)
