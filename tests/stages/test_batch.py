"""Batches of pictures: the same bytes alone and among others, and geometry that can be checked."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from normpipe.stages.synthesis.drawing import compiled, compiled_points, shading, texture
from normpipe.stages.synthesis.drawing.batch import BatchRenderer
from normpipe.stages.synthesis.drawing.loops import ARRAYS
from normpipe.stages.synthesis.drawing.mesh import Mesh, move_heads, normals, put_sheet
from normpipe.stages.synthesis.drawing.renderer import prepare_person, take_shot
from normpipe.stages.synthesis.drawing.shading import tensor_smoothstep
from normpipe.stages.synthesis.scene.person import draw_person
from normpipe.stages.synthesis.scene.scene import draw_scene
from normpipe.stages.synthesis.surface.detail import simplify


@pytest.fixture(scope="module")
def shots(fake_head):
    """Nine pictures of three people, one of whom has a sheet of hair."""
    kit = fake_head.kit
    every = (draw_person(i, kit.expression_names, len(kit.identity)) for i in range(200))
    long = [person for person in every if person.hair.style in ("long", "bob")][:1]
    people = [draw_person(i, kit.expression_names, len(kit.identity)) for i in (5, 6)] + long
    made = []
    for person in people:
        prepared = prepare_person(fake_head, person)
        for seed in range(3):
            scene = draw_scene(person, seed, kit.expression_names)
            made.append(take_shot(fake_head, prepared, scene, 40))
    assert any(shot.prepared.sheet is not None for shot in made)
    return made


@pytest.fixture(scope="module")
def alone(fake_head, shots):
    renderer = BatchRenderer(fake_head, 40)
    return np.concatenate([renderer.render([shot]) for shot in shots])


def test_neighbours_and_threads_change_nothing(fake_head, shots, alone):
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    for threads in (1, 3):
        together = BatchRenderer(fake_head, 40, threads=threads).render([shots[i] for i in order])
        np.testing.assert_array_equal(together, alone[order])


def test_the_path_of_a_gpu_draws_the_same_pictures(fake_head, shots, alone, monkeypatch):
    """All pictures in one pass, by array operations: rounding may differ, the picture may not."""
    arrays = replace(ARRAYS, move_heads=compiled.move_heads)
    monkeypatch.setattr("normpipe.stages.synthesis.drawing.batch.loops_for", lambda device: arrays)
    renderer = BatchRenderer(fake_head, 40)
    together = renderer.render_together(shots)
    assert np.abs(together.astype(int) - alone).mean() < 0.02
    assert np.abs(together.astype(int) - alone).max() <= 3
    np.testing.assert_array_equal(renderer.render_together(shots), together)


def test_rounding_of_movements_shows_where_surfaces_meet_alone(
    fake_head, shots, alone, monkeypatch
):
    """Which of two surfaces at one depth is in front hangs on the last digit."""
    monkeypatch.setattr("normpipe.stages.synthesis.drawing.batch.loops_for", lambda device: ARRAYS)
    off = np.abs(BatchRenderer(fake_head, 40).render_together(shots).astype(int) - alone)
    assert off.mean() < 0.02 and (off > 3).mean() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_pictures(fake_head, shots, alone):
    renderer = BatchRenderer(fake_head, 40, "cuda")
    made = renderer.render(shots)
    assert np.abs(made.astype(int) - alone).mean() < 0.1
    np.testing.assert_array_equal(renderer.render(shots), made)
    np.testing.assert_array_equal(renderer.render(shots[3:5]), made[3:5])


def test_a_renderer_serves_several_threads(fake_head, shots, alone):
    renderer, found = BatchRenderer(fake_head, 40, threads=2), {}

    def work(i):
        found[i] = renderer.render([shots[i]])[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(shots))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.stack([found[i] for i in range(len(shots))]), alone)


def test_rendering_leaves_torchs_threads_as_they_were(fake_head, shots):
    before = torch.get_num_threads()
    BatchRenderer(fake_head, 40, threads=2).render(shots[:2])
    assert torch.get_num_threads() == before


# ---- compiled loops beside array operations


def test_a_map_is_looked_up_alike():
    rng = np.random.default_rng(1)
    table = torch.from_numpy(rng.random((2 * 7 * 9, 3), np.float32))
    texel = torch.from_numpy(rng.uniform(-3, 12, (2, 2, 50)).astype(np.float32))
    size = (torch.full((2, 50), 7.0), torch.full((2, 50), 9.0))
    begin = torch.tensor([[0], [63]]).expand(2, 50)
    expected = texture.sample(table, texel, size, begin, 3)
    made = compiled_points.sample(table, texel, size, begin, 3)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    on_texel = torch.tensor([[[4.0], [5.0]]])  # column 4, row 5
    size = (torch.full((1, 1), 7.0), torch.full((1, 1), 9.0))
    value = compiled_points.sample(table, on_texel, size, torch.zeros(1, 1, dtype=torch.int64), 3)
    torch.testing.assert_close(value[0, :, 0], table[5 * 9 + 4])


def test_shadows_fall_alike():
    """A floor of points under a roof: what the roof covers is dark."""
    rng = np.random.default_rng(2)
    roof = rng.uniform(-5, 5, (3, 4000)).astype(np.float32)
    roof[2] = 6
    points = torch.from_numpy(roof)[None]
    floor = torch.from_numpy(rng.uniform(-14, 14, (1, 3, 500)).astype(np.float32))
    floor[:, 2] = 0
    frame = torch.eye(3)[None]
    expected = shading.cast_shadow(points, floor, frame)
    made = compiled_points.cast_shadow(points, floor, frame)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    inner, outer = floor[0, :2].abs().amax(0) < 4, floor[0, :2].abs().amax(0) > 6
    assert made[0][inner].max() < 0.1 and made[0][outer].min() > 0.9


def test_half_a_map_is_the_mean_of_four():
    maps = np.random.default_rng(3).random((5, 6, 8)).astype(np.float32)
    whole = texture.with_half(maps)
    assert whole.shape == (30 + 6, 8)
    np.testing.assert_array_equal(whole[:30].reshape(5, 6, 8), maps)
    np.testing.assert_allclose(whole[30], maps[:2, :2].mean((0, 1)), rtol=1e-6)


# ---- geometry


@pytest.mark.parametrize("loop", [normals, compiled.normals])
def test_normals_are_those_of_numpy(fake_head, loop):
    mesh = Mesh(fake_head, torch.device("cpu"))
    points = fake_head.shape(np.array([0.4, -1.0, 0.7], np.float32))
    expected = fake_head.normals(points)[mesh.used]
    made = loop(torch.from_numpy(points[mesh.used].T.copy())[None], mesh.open)[0].T
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.assets
@pytest.mark.parametrize("loop", [normals, compiled.normals])
def test_normals_cross_the_seams_of_the_real_head(real_head, loop):
    mesh = Mesh(real_head, torch.device("cpu"))
    points = real_head.kit.neutral
    expected = real_head.normals(points)[mesh.used]
    made = loop(torch.from_numpy(points[mesh.used].T.copy())[None], mesh.open)[0].T
    np.testing.assert_allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize("loop", [move_heads, compiled.move_heads])
def test_shapes_move_the_mesh_as_in_numpy(fake_head, loop):
    mesh = Mesh(fake_head, torch.device("cpu"))
    amounts = np.random.default_rng(0).random(len(fake_head.kit.expression)).astype(np.float32)
    amounts[::2] = 0  # most movements are not made
    standing = fake_head.kit.neutral
    expected = (standing + fake_head.movement(amounts))[mesh.used]
    tensor = torch.from_numpy(standing[mesh.used].T.copy())[None]
    made = loop(tensor, torch.from_numpy(amounts)[None], mesh.shapes)[0].T
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_the_view_is_that_of_the_labels(fake_head, shots):
    """Landmarks are vertices: the device must put them where the labels say."""
    renderer = BatchRenderer(fake_head, 40)
    place = np.full(len(fake_head.kit.neutral), -1)
    place[renderer.mesh.used] = np.arange(len(renderer.mesh.used))
    for shot in shots:
        lifted = (
            np.abs(
                shot.prepared.standing
                - shot.prepared.vertices
                - fake_head.movement(shot.prepared.person.rest)
            ).max(1)
            > 1e-6
        )  # hair and beard push the surface off the skin
        marks = fake_head.kit.landmarks68
        points = renderer.vertices([shot])[0, :2].T[place[marks]] / 2
        free = ~lifted[marks]
        assert free.sum() > 20
        np.testing.assert_allclose(points[free], shot.landmarks68[free], atol=0.02)


def test_small_pictures_take_a_simpler_head(fake_head):
    simple = simplify(fake_head, 48)
    assert len(simple.triangles) < 0.8 * len(fake_head.triangles)
    left = set(simple.triangles.ravel().tolist())
    assert set(fake_head.kit.landmarks68.tolist()) <= left
    first, second, third = simple.triangles.T
    assert (first != second).all() and (second != third).all() and (third != first).all()
    points = fake_head.kit.neutral  # a sheet without folds: nothing may turn over
    edges = points[simple.triangles]
    facing = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])[:, 2]
    assert (facing > 0).mean() > 0.97
    whole = Mesh(fake_head, torch.device("cpu"))
    assert set(whole.used.tolist()) >= left


@pytest.mark.assets
def test_the_simpler_head_looks_like_the_whole_one(real_head, monkeypatch):
    names = real_head.kit.expression_names
    person = draw_person(3, names, len(real_head.kit.identity))
    prepared = prepare_person(real_head, person)
    shots = [take_shot(real_head, prepared, draw_scene(person, i, names), 96) for i in range(4)]
    simple = BatchRenderer(real_head, 96)
    monkeypatch.setattr("normpipe.stages.synthesis.drawing.batch._FINE_FROM_PX", 1)
    fine = BatchRenderer(real_head, 96)
    assert len(simple.mesh.used) < 0.75 * len(fine.mesh.used)
    difference = simple.render(shots).astype(int) - fine.render(shots)
    assert np.abs(difference).mean((1, 2, 3)).max() < 3


def test_sheets_have_normals_of_length_one(shots, fake_head):
    sheet = next(s.prepared.sheet for s in shots if s.prepared.sheet is not None)
    made = put_sheet(sheet, Mesh(fake_head, torch.device("cpu")))
    np.testing.assert_allclose(made.normals.norm(dim=1), 1, atol=1e-4)


def test_smoothstep_runs_both_ways():
    value = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
    assert tensor_smoothstep(0, 1, value).tolist() == [0, 0, 0.5, 1, 1]
    assert tensor_smoothstep(1, 0, value).tolist() == [1, 1, 0.5, 0, 0]


def test_loops_compile_where_nothing_can_be_kept(monkeypatch):
    """As in a container whose folders are all read-only."""

    def refuse(*args, **kwargs):
        raise RuntimeError("cannot cache function: no locator available")

    kept = compiled.numba.njit
    monkeypatch.setattr(
        compiled.numba, "njit", lambda **o: refuse if o.pop("cache", False) else kept(**o)
    )
    assert compiled.compiled(lambda number: number + 1)(2) == 3
