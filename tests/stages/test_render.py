"""The renderer: depth, determinism, labels that are true of the picture."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.stages.synthesis.drawing.degrade import degrade
from normpipe.stages.synthesis.drawing.renderer import prepare_person
from normpipe.stages.synthesis.scene.acting import EMOTION_OF, PROTOTYPES, draw_expression
from normpipe.stages.synthesis.scene.camera import TEMPLATE, camera_view, eyes_nose_mouth
from normpipe.stages.synthesis.scene.expressions import (
    RENDERED_UNITS,
    action_units,
    from_named,
    occurring,
)
from normpipe.stages.synthesis.scene.pairs import plan_pairs, split_of
from normpipe.stages.synthesis.scene.person import demographics_of, draw_person, generator
from normpipe.stages.synthesis.scene.scene import draw_scene
from normpipe.stages.synthesis.scene.target import TargetFace
from normpipe.stages.training.pictures import MIRRORED_POINTS, mirrored

from .conftest import render_one, render_target

# ---- scenes


def picture(head, identity, seed, size=48, **changes):
    kit = head.kit
    person = draw_person(identity, kit.expression_names, len(kit.identity))
    scene = replace(draw_scene(person, seed, kit.expression_names), **changes)
    return scene, render_one(head, prepare_person(head, person), scene, size)


def test_the_same_numbers_give_the_same_pixels(fake_head):
    first, second = (picture(fake_head, 5, 9)[1] for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.landmarks68, second.landmarks68)


def test_other_seeds_and_other_people_give_other_pixels(fake_head):
    base = picture(fake_head, 5, 9)[1].pixels.astype(int)
    for identity, seed in ((5, 10), (6, 9)):
        other = picture(fake_head, identity, seed)[1].pixels.astype(int)
        assert np.abs(base - other).mean() > 3


def test_the_kind_of_a_person_is_the_one_drawn(fake_kit):
    """Fairness is judged by it, so it must speak of the person in the picture."""
    people = [draw_person(i, fake_kit.expression_names, 3) for i in range(60)]
    kinds = [demographics_of(i) for i in range(60)]
    brightness = [sum(person.skin) for person in people]
    assert np.corrcoef([kind.melanin for kind in kinds], brightness)[0, 1] < -0.9
    bearded = [k.masculine for k, p in zip(kinds, people, strict=True) if p.beard.style != "none"]
    assert bearded and all(bearded)


def test_a_person_looks_the_same_in_every_picture(fake_kit):
    one, two = (draw_person(3, fake_kit.expression_names, 3) for _ in range(2))
    assert one.brows == two.brows and one.hair == two.hair and one.skin == two.skin
    np.testing.assert_array_equal(one.identity, two.identity)


def test_crossed_sets_give_many_people_one_expression(fake_kit):
    names = fake_kit.expression_names
    people = [draw_person(i, names, 3) for i in (1, 2)]
    codes = [
        draw_scene(p, 40 + i, names, expression_seed=7).expression.coefficients
        for i, p in enumerate(people)
    ]
    np.testing.assert_array_equal(*codes)


def test_the_source_is_framed_by_eyes_and_nose(fake_head):
    person = draw_person(2, fake_head.kit.expression_names, 3)
    scene = draw_scene(person, 1, fake_head.kit.expression_names)
    camera = replace(
        scene.camera,
        jitter=np.zeros((3, 2), np.float32),
        zoom=1.0,
        shift=(0, 0),
        yaw_deg=0,
        pitch_deg=0,
    )
    _, made = picture(fake_head, 2, 1, 100, camera=camera)
    eyes = [made.landmarks68[36:42].mean(0), made.landmarks68[42:48].mean(0)]
    found = np.stack([*eyes, made.landmarks68[30]]) / 100
    np.testing.assert_allclose(found.mean(0), TEMPLATE.mean(0), atol=0.01)
    np.testing.assert_allclose(found, TEMPLATE, atol=0.05)


def test_the_frame_does_not_follow_the_jaw(fake_head):
    kit = fake_head.kit
    person = draw_person(2, kit.expression_names, 3)
    camera = draw_scene(person, 1, kit.expression_names).camera
    resting = kit.neutral[kit.landmarks68]
    dropped = resting + kit.expression[kit.shape_index("jawOpen")][kit.landmarks68]
    assert abs(dropped[8] - resting[8]).max() > 1
    views = [camera_view(camera, points, 100) for points in (resting, dropped)]
    assert abs(views[0].scale - views[1].scale) < 0.02 * abs(views[0].scale)


def test_five_points_are_image_left_first(fake_head):
    _, made = picture(fake_head, 1, 2)
    five = eyes_nose_mouth(made.landmarks68[:, 0] + 1j * made.landmarks68[:, 1])
    assert five[0].real < five[1].real and five[3].real < five[4].real


@pytest.mark.assets
def test_landmarks_lie_where_the_picture_shows_them(real_head):
    """A dark iris must be found at the eye landmarks, bright skin beside them."""
    target = TargetFace(real_head)
    made = render_target(target, np.zeros(53, np.float32), 192)
    grey = made.pixels.astype(float).mean(2)
    for eye in (slice(36, 42), slice(42, 48)):
        x, y = made.landmarks68[eye].mean(0)
        iris = grey[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].mean()
        cheek = grey[int(y) + 28, int(x)]
        assert iris < 0.6 * cheek
    lips = made.pixels[int(made.landmarks68[57, 1]) - 3, int(made.landmarks68[57, 0])].astype(float)
    chin = made.pixels[int(made.landmarks68[8, 1]) - 12, int(made.landmarks68[8, 0])].astype(float)
    assert lips[1] / lips[0] < chin[1] / chin[0]  # redder


@pytest.mark.assets
def test_a_smile_lifts_the_corners_and_draws_them_apart(real_head):
    target = TargetFace(real_head)
    names = real_head.kit.expression_names
    resting = render_target(target, np.zeros(53, np.float32), 192).landmarks68
    smiling = render_target(target, from_named(names, {"mouthSmile": 1.0}), 192).landmarks68
    for corner, outward in ((48, -1), (54, 1)):
        moved = smiling[corner] - resting[corner]
        assert moved[1] < -2 and outward * moved[0] > 2
    np.testing.assert_allclose(smiling[36:48], resting[36:48], atol=1.5)


@pytest.mark.assets
def test_the_target_moves_nothing_but_the_face(real_head):
    target = TargetFace(real_head)
    names = real_head.kit.expression_names
    resting = render_target(target, np.zeros(53, np.float32), 96).pixels
    shouting = render_target(
        target, from_named(names, {"jawOpen": 0.8, "browDown": 1.0}), 96
    ).pixels
    np.testing.assert_array_equal(resting[:6, :6], shouting[:6, :6])
    assert (resting != shouting).any()


# ---- expressions


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40))
def test_drawn_coefficients_are_possible(seed):
    names = SHAPES_OF_THE_KIT
    drawn = draw_expression(generator(seed), names)
    values = dict(zip(names, drawn.coefficients.tolist(), strict=True))
    assert drawn.coefficients.min() >= 0 and drawn.coefficients.max() <= 1
    assert values["mouthClose"] <= values["jawOpen"]
    assert min(values["jawLeft"], values["jawRight"]) < 0.5
    assert drawn.emotion is None or (
        drawn.emotion in PROTOTYPES and drawn.emotion not in EMOTION_OF
    )


SHAPES_OF_THE_KIT = (
    "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R",
    "cheekPuff_L", "cheekPuff_R", "cheekSquint_L", "cheekSquint_R", "eyeBlink_L", "eyeBlink_R",
    "eyeLookDown_L", "eyeLookDown_R", "eyeLookIn_L", "eyeLookIn_R", "eyeLookOut_L",
    "eyeLookOut_R", "eyeLookUp_L", "eyeLookUp_R", "eyeSquint_L", "eyeSquint_R", "eyeWide_L",
    "eyeWide_R", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimple_L",
    "mouthDimple_R", "mouthFrown_L", "mouthFrown_R", "mouthFunnel", "mouthLeft",
    "mouthLowerDown_L", "mouthLowerDown_R", "mouthPress_L", "mouthPress_R", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmile_L", "mouthSmile_R", "mouthStretch_L", "mouthStretch_R", "mouthUpperUp_L",
    "mouthUpperUp_R", "noseSneer_L", "noseSneer_R",
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"browInnerUp": 0.6, "browOuterUp": 0.4}, {"AU1": 3.0, "AU2": 2.0}),
        ({"browDown_L": 1.0}, {"AU4": 5.0}),
        ({"cheekSquint": 0.5, "mouthSmile_R": 0.8}, {"AU6": 2.5, "AU12": 4.0}),
        ({"jawOpen": 0.275}, {"AU26": 2.5}),
        ({"jawOpen": 0.8}, {"AU27": 4.0}),
        ({"mouthRollLower": 0.8, "mouthRollUpper": 0.4}, {"AU28": 3.0}),
        ({"eyeLookOut_L": 0.4, "eyeLookIn_R": 0.2}, {"AU61": 2.0}),
        ({"eyeLookIn_L": 0.4}, {"AU62": 2.0}),
        (
            {"eyeBlink": 1.0, "noseSneer": 0.2, "mouthPress": 0.4},
            {"AU45": 5.0, "AU9": 1.0, "AU24": 2.0},
        ),
    ],
)
def test_action_units_by_name(values, expected):
    units = action_units(SHAPES_OF_THE_KIT, from_named(SHAPES_OF_THE_KIT, values))
    assert set(units) == set(RENDERED_UNITS)
    for unit, value in units.items():
        assert value == pytest.approx(expected.get(unit, 0.0), abs=1e-5), unit
    assert {u for u, on in occurring(units).items() if on} == {
        u for u, v in expected.items() if v >= 1
    }


def test_parted_lips_are_measured():
    code = np.zeros(len(SHAPES_OF_THE_KIT), np.float32)
    assert action_units(SHAPES_OF_THE_KIT, code, lip_gap=0.8)["AU25"] == pytest.approx(2.5)
    assert action_units(SHAPES_OF_THE_KIT, code, lip_gap=9.0)["AU25"] == 5


def test_an_unknown_shape_is_an_error():
    with pytest.raises(KeyError):
        from_named(SHAPES_OF_THE_KIT, {"smile": 1.0})


# ---- splits, mirrors, degradations


def test_people_are_in_one_split_and_stay_there():
    specs = list(plan_pairs(400, 80, 1, (0.1, 0.1), crossed=False))
    splits = {}
    for spec in specs:
        assert splits.setdefault(spec.identity, spec.split) == spec.split
    counts = [list(splits.values()).count(s) for s in ("train", "validation", "test")]
    assert counts[1] in (7, 8, 9) and counts[2] in (7, 8, 9) and sum(counts) == 80
    longer = {s.identity: s.split for s in plan_pairs(800, 160, 1, (0.1, 0.1), crossed=False)}
    assert splits.items() <= longer.items()
    assert len({spec.key for spec in specs}) == len({spec.seed for spec in specs}) == 400
    other = {s.identity for s in plan_pairs(400, 80, 2, (0.1, 0.1), crossed=False)}
    assert not other & set(splits)


def test_splits_can_be_empty():
    assert {split_of(i, (0.0, 0.0)) for i in range(200)} == {"train"}


def test_mirroring_twice_changes_nothing():
    twice = mirrored(SHAPES_OF_THE_KIT)
    np.testing.assert_array_equal(twice[twice], np.arange(len(twice)))
    assert SHAPES_OF_THE_KIT[twice[SHAPES_OF_THE_KIT.index("jawLeft")]] == "jawRight"
    np.testing.assert_array_equal(MIRRORED_POINTS[MIRRORED_POINTS], np.arange(68))


def test_mirrored_landmarks_keep_left_and_right_apart(fake_head):
    _, made = picture(fake_head, 1, 2)
    flipped = (made.landmarks68 * [-1, 1] + [48, 0])[MIRRORED_POINTS]
    assert flipped[36:42, 0].mean() < flipped[42:48, 0].mean()
    assert flipped[0, 0] < flipped[16, 0] and flipped[48, 0] < flipped[54, 0]


def test_degraded_points_follow_the_picture():
    """A bright dot stays under its landmark through flips, turns and shifts."""
    found = 0
    for seed in range(40):
        grey = np.zeros((128, 128), np.uint8)
        grey[38:43, 78:83] = 255
        done = degrade(grey, np.array([[80.5, 40.5]], np.float32), np.random.default_rng(seed))
        x, y = done.points[0]
        if not (4 < x < 124 and 4 < y < 124):
            continue
        around = done.picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean()
        found += around > done.picture.mean() + 40
        assert done.flipped == (x < 64)
    assert found > 28  # the rest were covered or blacked out
