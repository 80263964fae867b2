"""What people look like: furrows, and everything else that is drawn from an identity number."""

import numpy as np

from normpipe.stages.faces.render.expressions import from_named
from normpipe.stages.faces.render.person import draw_person
from normpipe.stages.faces.render.wrinkles import (
    FURROWS,
    wrinkle_layers,
    wrinkle_relief,
    wrinkle_strengths,
)


def somebody(head, identity=3):
    return draw_person(identity, head.kit.expression_names, len(head.kit.identity))


# ---- furrows


def test_layers_are_furrows_on_both_sides(fake_head):
    layers = wrinkle_layers(fake_head, somebody(fake_head))
    assert layers.shape == (len(FURROWS), fake_head.atlas.height, fake_head.atlas.width)
    half = fake_head.atlas.width // 2
    for layer in layers:
        assert layer.max() <= 0
        assert layer[:, :half].min() < -0.02 and layer[:, half:].min() < -0.02


def test_a_movement_of_one_side_folds_that_side_alone(fake_head):
    person = somebody(fake_head)
    layers = wrinkle_layers(fake_head, person)
    names = fake_head.kit.expression_names
    resting = wrinkle_strengths(fake_head, person, np.zeros(len(names), np.float32))
    lowered = wrinkle_strengths(fake_head, person, from_named(names, {"mouthSmile_L": 1.0}))
    np.testing.assert_array_equal(resting[:, 0], lowered[:, 0])  # the right side
    assert lowered[FURROWS.index("fold"), 1] > resting[FURROWS.index("fold"), 1]
    change = wrinkle_relief(fake_head, layers, lowered) - wrinkle_relief(fake_head, layers, resting)
    half = fake_head.atlas.width // 2
    assert change[:, half + 4 :].min() < -0.01 and np.abs(change[:, : half - 4]).max() < 1e-6
