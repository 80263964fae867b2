"""What people look like: furrows, and everything else that is drawn from an identity number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from normpipe.stages.synthesis.drawing.renderer import prepare_person
from normpipe.stages.synthesis.scene.expressions import from_named
from normpipe.stages.synthesis.scene.features import Build
from normpipe.stages.synthesis.scene.person import draw_person, generator
from normpipe.stages.synthesis.surface.growth import hair_growth, strands
from normpipe.stages.synthesis.surface.paint import paint_person, slopes
from normpipe.stages.synthesis.surface.skin import find_lids
from normpipe.stages.synthesis.surface.wrinkles import (
    FURROWS,
    left_share,
    relief_slopes,
    wrinkle_layers,
    wrinkle_relief,
    wrinkle_strengths,
)


def somebody(head, identity=3):
    return draw_person(identity, head.kit.expression_names, len(head.kit.identity))


# ---- furrows


def test_layers_are_furrows_on_both_sides(fake_head):
    layers = wrinkle_layers(fake_head, somebody(fake_head))
    half = layers.shape[2] // 2
    assert len(layers) == len(FURROWS)
    for layer in layers:
        assert layer.max() <= 0
        assert layer[:, :half].min() < -0.02 and layer[:, half:].min() < -0.02


def test_a_movement_of_one_side_folds_that_side_alone(fake_head):
    person = replace(somebody(fake_head), wrinkles=np.ones(len(FURROWS), np.float32))
    layers = wrinkle_layers(fake_head, person)
    names = fake_head.kit.expression_names
    resting = wrinkle_strengths(fake_head, person, np.zeros(len(names), np.float32))
    lowered = wrinkle_strengths(fake_head, person, from_named(names, {"mouthSmile_L": 1.0}))
    np.testing.assert_array_equal(resting[:, 0], lowered[:, 0])  # the right side
    assert lowered[FURROWS.index("fold"), 1] > resting[FURROWS.index("fold"), 1]
    left = torch.from_numpy(left_share(fake_head.atlas))
    both = [torch.from_numpy(layers)] * 2
    one, other = wrinkle_relief(both, np.stack([resting, lowered]), left).numpy()
    change = other - one
    half = change.shape[1] // 2
    assert change[:, half + 4 :].min() < -0.01 and np.abs(change[:, : half - 4]).max() < 1e-6


def test_slopes_are_those_of_paint(fake_head):
    relief = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    made = relief_slopes(torch.from_numpy(relief)[None], fake_head.atlas.slope_scale)[0]
    expected = np.stack(slopes(fake_head.atlas, relief), -1)
    np.testing.assert_allclose(made[1:-1, 1:-1, :2], expected[1:-1, 1:-1], atol=1e-4)


def test_furrows_do_not_tell_the_expression(fake_head):
    """Some people hardly fold where they move, others are furrowed where they do not."""
    people = [somebody(fake_head, identity) for identity in range(120)]
    folds = np.stack([person.wrinkles for person in people])
    resting = np.stack([person.resting_wrinkles for person in people])
    assert folds.shape == resting.shape == (120, len(FURROWS))
    for order in range(len(FURROWS)):
        assert 0.15 < (folds[:, order] < 0.2).mean() < 0.6
        assert 0.2 < (resting[:, order] > 0.3).mean() < 0.7


# ---- features


def test_the_lid_is_creased_above_the_eye_and_not_beside_it(fake_head):
    lids = find_lids(fake_head)
    eye = fake_head.texels[fake_head.kit.landmarks68[[37, 38]]].mean(0)
    rows, columns = lids.window
    column, row = int(eye[0]) - columns.start, int(eye[1]) - rows.start
    assert lids.fold[row - 4 : row + 1, column].max() > 0.4
    assert lids.fold[row + 6, column] < 0.05 and lids.below[row + 6, column] < 0.05


def test_masses_push_the_face_out_and_take_the_landmarks_with_them(fake_head):
    person = replace(somebody(fake_head), build=Build())
    heavy = replace(person, build=Build(ridge=0.4))
    plain, ridged = (prepare_person(fake_head, who) for who in (person, heavy))
    brow = ridged.resting[17:27] - plain.resting[17:27]
    assert brow[:, 2].max() > 0.1
    assert np.abs(ridged.resting[48:60] - plain.resting[48:60]).max() < 0.02
    np.testing.assert_allclose(ridged.resting[27:31], plain.resting[27:31], atol=0.2)


@pytest.mark.parametrize("style", ["bald", "short", "parted", "curly", "long", "hat", "scarf"])
def test_every_style_leaves_eyes_and_mouth_free(fake_head, style):
    person = somebody(fake_head)
    person = replace(person, hair=replace(person.hair, style=style, hairline=9.5))
    atlas = fake_head.atlas
    growth = hair_growth(atlas, person, generator(1), strands(atlas, person, generator(1)))
    if style == "bald":
        assert growth is None
        return
    assert growth is not None
    for group in (slice(36, 48), slice(48, 68)):
        column, row = fake_head.texels[fake_head.kit.landmarks68[group]].mean(0).astype(int)
        assert growth.cover[row, column] < 0.05 and growth.body[row, column] < 0.05
    assert growth.cover[:4].mean() > 0.4


def test_paint_stays_in_range_for_everybody(fake_head):
    for identity in range(12):
        paint = paint_person(fake_head, somebody(fake_head, identity))
        assert np.isfinite(paint.relief).all() and np.isfinite(paint.lift).all()
        assert paint.albedo.min() > -0.05 and paint.albedo.max() < 1.6
