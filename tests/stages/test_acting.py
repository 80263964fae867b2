"""What faces do: ramps, crossed sets, one-sided movements, gaze; and the labels of all that."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.synthesis.drawing.renderer import prepare_person
from normpipe.stages.synthesis.scene.acting import (
    KINDS,
    RAMP_STEPS,
    RAMPS,
    draw_expression,
    ramp_expression,
)
from normpipe.stages.synthesis.scene.expressions import (
    OCCURRENCE_INTENSITY,
    RENDERED_UNITS,
    Expression,
    action_units,
    from_named,
    occurring,
)
from normpipe.stages.synthesis.scene.pairs import plan_pairs
from normpipe.stages.synthesis.scene.person import draw_person, generator
from normpipe.stages.synthesis.scene.scene import SceneOptions, draw_scene
from normpipe.stages.synthesis.synthesize import SynthesizeConfig, pairs_of

from .conftest import render_one
from .test_render import SHAPES_OF_THE_KIT

NAMES = SHAPES_OF_THE_KIT


def units_of(values):
    return action_units(NAMES, np.asarray(values, np.float32))


# ---- ramps


@pytest.mark.parametrize("number", range(40))
def test_a_ramp_moves_one_unit_and_never_back(number):
    steps = [
        ramp_expression(generator(number), NAMES, step).coefficients for step in range(RAMP_STEPS)
    ]
    assert not steps[0].any()
    moved = np.flatnonzero(steps[-1])
    assert {NAMES[i].removesuffix("_L").removesuffix("_R") for i in moved} <= {
        shape.removesuffix("_L").removesuffix("_R") for shapes in RAMPS.values() for shape in shapes
    }
    for step, values in enumerate(steps):
        np.testing.assert_allclose(values[moved], step / 4)
        assert np.count_nonzero(values) == (len(moved) if step else 0)
    # A jaw that drops far changes its name from AU26 to AU27; all other units only rise.
    rising = [{u: v for u, v in units_of(v).items() if u not in ("AU26", "AU27")} for v in steps]
    for before, after in pairwise(rising):
        assert all(after[unit] >= before[unit] for unit in before)


def test_ramps_show_every_unit_that_has_a_shape():
    full = [ramp_expression(generator(i), NAMES, RAMP_STEPS - 1).coefficients for i in range(400)]
    seen = {u for values in full for u, v in units_of(values).items() if v >= 4.99}
    assert seen == set(RENDERED_UNITS) - {"AU25", "AU26"}  # a jaw fully open is AU27


def test_the_pictures_of_a_ramp_share_everything_but_the_strength(fake_kit):
    specs = list(plan_pairs(40, 4, 0, (0.0, 0.0), crossed=False, ramps=True))
    names = fake_kit.expression_names
    person = draw_person(specs[0].identity, names, 3)
    options = SceneOptions(expressions="ramps")
    scenes = [draw_scene(person, s.seed, names, options, s.expression_seed) for s in specs[:10]]
    first, second = scenes[:RAMP_STEPS], scenes[RAMP_STEPS:]
    strengths = [float(scene.expression.coefficients.max()) for scene in first]
    np.testing.assert_allclose(strengths, [0, 0.25, 0.5, 0.75, 1])
    assert len({scene.seed for scene in first}) == 1 and first[0].seed != second[0].seed
    assert len({s.identity for s in specs[:RAMP_STEPS]}) == 1
    assert len({s.key for s in specs}) == 40


# ---- crossed sets


@pytest.mark.parametrize("kind", ["mixed", "ramps"])
def test_crossed_sets_share_expressions_exactly(kind):
    config = SynthesizeConfig(crossed="4x10", expressions=kind)
    by_person: dict[int, list[int | None]] = {}
    for spec in pairs_of(config):
        by_person.setdefault(spec.identity, []).append(spec.expression_seed)
    first, *others = by_person.values()
    assert len(others) == 3 and all(seeds == first for seeds in others)
    assert len(first) == len(set(first)) == 10


@pytest.mark.parametrize(("crossed", "kind"), [("0x4", "mixed"), ("3x4", "ramps")])
def test_crosses_that_cannot_be_are_refused(crossed, kind):
    with pytest.raises(InputError, match=f"--crossed {crossed}"):
        pairs_of(SynthesizeConfig(crossed=crossed, expressions=kind))


# ---- movements


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ramps"])
def test_every_kind_draws_possible_coefficients(kind):
    for seed in range(60):
        values = draw_expression(generator(seed), NAMES, kind).coefficients
        assert values.min() >= 0 and values.max() <= 1


def drawn(kind, count=600):
    return np.stack([draw_expression(generator(i), NAMES, kind).coefficients for i in range(count)])


def test_sides_differ_a_little_and_seldom_altogether():
    values = drawn("mixed", 1500)
    left, right = (values[:, NAMES.index(f"mouthSmile_{side}")] for side in "LR")
    strong = np.maximum(left, right) > 0.3
    ratio = (np.minimum(left, right) / np.maximum(left, right).clip(1e-6))[strong]
    assert 0.02 < (ratio < 0.3).mean() < 0.25
    assert 0.8 < np.median(ratio) < 0.98
    brows = [values[:, NAMES.index(f"browDown_{side}")] for side in "LR"]
    lowered = np.maximum(*brows) > 0.3
    assert (np.minimum(*brows) < 0.3 * np.maximum(*brows))[lowered].mean() < 0.1


def test_contempt_is_on_one_side():
    found = 0
    for seed in range(800):
        made = draw_expression(generator(seed), NAMES, "prototype")
        if made.emotion == "contempt":
            smile = [made.coefficients[NAMES.index(f"mouthDimple_{side}")] for side in "LR"]
            found += min(smile) < 0.35 * max(smile) or max(smile) > 0.3
    assert found > 20


def test_rare_movements_are_drawn_often_enough():
    values = drawn("mixed", 1500)
    for stem in ("mouthPucker", "mouthRollLower", "cheekPuff", "mouthPress", "mouthDimple"):
        columns = [i for i, name in enumerate(NAMES) if name.startswith(stem)]
        assert (values[:, columns].max(1) > 0.4).mean() > 0.02, stem


def test_strong_gaze_alone():
    values = drawn("gaze")
    gaze = [i for i, name in enumerate(NAMES) if name.startswith("eyeLook")]
    assert (values[:, gaze].max(1) > 0.25).all()
    assert not np.delete(values, gaze, axis=1).any()


def test_occurrence_begins_at_the_lowest_level():
    level = OCCURRENCE_INTENSITY / 5
    below, at = (
        occurring(units_of(from_named(NAMES, {"browDown": v}))) for v in (level - 1e-3, level)
    )
    assert not below["AU4"] and at["AU4"]
    assert sum(at.values()) == 1


@pytest.mark.assets
def test_gaze_moves_the_irises(real_head):
    """The dark of the eye goes where the eye looks; the person's left is the image's right."""
    kit = real_head.kit
    person = draw_person(11, kit.expression_names, len(kit.identity))
    person = replace(person, makeup=replace(person.makeup, liner=0.0, shade=0.0))
    scene = draw_scene(person, 4, kit.expression_names)
    camera = replace(scene.camera, yaw_deg=0.0, pitch_deg=0.0, roll_deg=0.0)
    camera = replace(camera, jitter=np.zeros((3, 2), np.float32), zoom=1.0)
    scene = replace(
        scene, camera=camera, occluder="none", glasses=replace(scene.glasses, worn=False)
    )
    prepared = prepare_person(real_head, person)

    def iris(values):
        expression = Expression(from_named(kit.expression_names, values), None)
        made = render_one(real_head, prepared, replace(scene, expression=expression), 160)
        eye = made.landmarks68[36:42]
        low, high = eye.min(0).astype(int), eye.max(0).astype(int) + 1
        part = made.pixels[low[1] : high[1], low[0] : high[0]].astype(float).mean(2)
        weight = (np.percentile(part, 60) - part).clip(0)
        return float((weight * np.arange(part.shape[1])).sum() / weight.sum())

    ahead = iris({})
    assert iris({"eyeLookOut_L": 0.8, "eyeLookIn_R": 0.8}) > ahead + 1.0
    assert iris({"eyeLookIn_L": 0.8, "eyeLookOut_R": 0.8}) < ahead - 1.0
