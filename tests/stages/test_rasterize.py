"""The z-buffer: against brute force, whatever the order, alone and among others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normpipe.stages.synthesis.drawing import compiled, rasterize
from normpipe.stages.synthesis.drawing.rasterize import SmoothAreas, blend_rows

SIZE = 16
BOTH = (rasterize.rasterize, compiled.rasterize)


def restless(count, pictures=1):
    """No pixel is calm: every sample is a point of its own."""
    return SmoothAreas(torch.zeros(count), torch.ones(pictures, 1))


def draw(points, triangles, size=SIZE, loop=rasterize.rasterize):
    """Triangle (or -1) and depth (or nan) of every sample, and the coverage."""
    corners = torch.from_numpy(np.asarray(triangles, np.int64).T.copy())
    points = torch.from_numpy(np.asarray(points, np.float32).T.copy())
    cover = loop(points, corners, restless(len(triangles)), size)
    shown = cover.share[0] > 0
    triangle, depth = np.full(size * size, -1), np.full(size * size, np.nan, np.float32)
    triangle[cover.place[0][shown]] = cover.triangle[shown]
    depth[cover.place[0][shown]] = cover.depth[0][shown]
    covered = np.isfinite(depth).reshape(size, size)
    np.testing.assert_array_equal(cover.samples[0, 1] > 0, covered)
    np.testing.assert_array_equal(cover.samples[0, 0][covered], depth.reshape(size, size)[covered])
    return triangle.reshape(size, size), depth.reshape(size, size), cover


def square(depth, low=2.0, high=12.0):
    """Two triangles facing the viewer, in pixels with y down."""
    points = [[low, low, depth], [high, low, depth], [high, high, depth], [low, high, depth]]
    return np.array(points, np.float32), np.array([[0, 2, 1], [0, 3, 2]])


def brute_force(points, triangles, size=SIZE):
    """The same by trying every triangle at every pixel, in float64: depth, and how safe it is."""
    best = np.full((size, size), np.nan)
    margin = np.full((size, size), np.inf)
    for a, b, c in points[triangles].astype(float):
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area >= -1e-9:
            continue
        for row in range(size):
            for column in range(size):
                x, y = column + 0.5 - a[0], row + 0.5 - a[1]
                w1 = (x * (c[1] - a[1]) - y * (c[0] - a[0])) / area
                w2 = (y * (b[0] - a[0]) - x * (b[1] - a[1])) / area
                inside = min(w1, w2, 1 - w1 - w2)
                margin[row, column] = min(margin[row, column], abs(inside))
                if inside >= 0:
                    depth = a[2] + w1 * (b[2] - a[2]) + w2 * (c[2] - a[2])
                    best[row, column] = np.nanmax([best[row, column], depth])
    return best, margin


@pytest.mark.parametrize("loop", BOTH)
@pytest.mark.parametrize("seed", range(6))
def test_random_triangles_as_by_brute_force(seed, loop):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-4, SIZE + 4, (30, 3)).astype(np.float32)
    triangles = rng.permutation(30).reshape(10, 3)
    _, depth, _ = draw(points, triangles, loop=loop)
    expected, margin = brute_force(points, triangles)
    safe = margin > 1e-3  # not on an edge
    assert safe.mean() > 0.9 and np.isfinite(expected[safe]).any()
    np.testing.assert_allclose(depth[safe], expected[safe], atol=2e-3)


@pytest.mark.parametrize("loop", BOTH)
@pytest.mark.parametrize("near_first", [True, False])
def test_the_nearer_triangle_wins_whatever_the_order(near_first, loop):
    far, triangles = square(1.0, 2, 14)
    near, _ = square(5.0, 6, 10)
    first, second = (near, far) if near_first else (far, near)
    points = np.concatenate([first, second])
    _, depth, _ = draw(points, np.concatenate([triangles, triangles + 4]), loop=loop)
    assert np.all(depth[6:10, 6:10] == 5) and depth[3, 3] == 1 and np.isnan(depth[0, 0])


@pytest.mark.parametrize("loop", BOTH)
def test_every_pixel_centre_is_covered_once_without_seams(loop):
    triangle, _, cover = draw(*square(0.0, 2.0, 12.0), loop=loop)
    rows, columns = np.nonzero(triangle >= 0)
    assert len(rows) == cover.place.shape[1] == 100
    assert rows.min() == columns.min() == 2 and rows.max() == 11


@pytest.mark.parametrize("loop", BOTH)
def test_triangles_that_face_away_do_not_show(loop):
    points, triangles = square(0.0)
    triangle, _, cover = draw(points, triangles[:, ::-1], loop=loop)
    assert (triangle == -1).all() and cover.share.sum() == 0


@pytest.mark.parametrize("loop", BOTH)
def test_triangles_partly_outside_are_cut_not_dropped(loop):
    assert (draw(*square(0.0, -50.0, 60.0), loop=loop)[0] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 19, width=32), min_size=6, max_size=6))
def test_weights_reproduce_the_pixel_centre(flat):
    for loop in BOTH:
        check_weights(flat, loop)


def check_weights(flat, loop):
    points = np.column_stack([np.array(flat).reshape(3, 2), [0, 1, 2]]).astype(np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 1]])
    _, _, cover = draw(points, triangles, loop=loop)
    shown = cover.share[0] > 0
    corners = torch.from_numpy(triangles)[cover.triangle]
    place = blend_rows(torch.from_numpy(points), corners, cover.weights)[shown]
    rows, columns = np.divmod(cover.place[0][shown].numpy(), SIZE)
    np.testing.assert_allclose(place[:, 0], columns + 0.5, atol=0.02)
    np.testing.assert_allclose(place[:, 1], rows + 0.5, atol=0.02)
    np.testing.assert_allclose(cover.depth[0][shown], place[:, 2], atol=0.02)


@pytest.mark.parametrize("loop", BOTH)
def test_pictures_of_a_batch_are_those_alone(loop):
    """One picture is full, one empty, one in between: lists of unequal length."""
    scenes = [square(0.0, -50, 60)[0], square(0.0, 30, 40)[0], square(1.0, 3, 9)[0]]
    triangles = square(0.0)[1]
    alone = [draw(points, triangles, loop=loop) for points in scenes]
    points = np.concatenate(scenes)
    corners = np.concatenate([triangles + 4 * i for i in range(3)]).T.copy()
    cover = loop(torch.from_numpy(points.T.copy()), torch.from_numpy(corners), restless(6, 3), SIZE)
    assert cover.place.shape[0] == 3
    for i, (triangle, _, one) in enumerate(alone):
        shown = cover.share[i] > 0
        assert shown.sum() == (triangle >= 0).sum()
        count = int(shown.sum())
        weights = cover.weights.view(3, -1, 3)[i][shown]
        np.testing.assert_array_equal(cover.place[i][shown], one.place[0][:count])
        np.testing.assert_array_equal(weights, one.weights[:count])


@pytest.mark.parametrize("loop", BOTH)
def test_one_point_stands_for_a_calm_pixel(loop):
    """A large sloping square: its inner pixels need one point each, in their middle."""
    points, triangles = square(0.0, 2.0, 13.0)
    points[:, 2] = 0.1 * points[:, 0]
    corners = torch.from_numpy(triangles.T.copy())
    calm = SmoothAreas(torch.ones(2), torch.full((1, 1), 0.15))
    cover = loop(torch.from_numpy(points.T.copy()), corners, calm, SIZE)
    single = cover.share[0] == 4
    assert single.sum() == 25 and cover.share.sum() == 121 and (cover.share[0] == 1).sum() == 21
    rows, columns = np.divmod(cover.place[0][single].numpy(), SIZE)
    place = blend_rows(torch.from_numpy(points), corners.T[cover.triangle], cover.weights)[single]
    np.testing.assert_allclose(place[:, 0], columns + 1, atol=1e-4)
    np.testing.assert_allclose(place[:, 1], rows + 1, atol=1e-4)
    np.testing.assert_allclose(cover.depth[0][single], 0.1 * (columns + 1), atol=1e-4)
    assert cover.first[0][single].all() and cover.first.sum() == 36
    steep = SmoothAreas(torch.ones(2), torch.full((1, 1), 0.05))
    many = loop(torch.from_numpy(points.T.copy()), corners, steep, SIZE)
    assert (many.share == 1).all() and many.share.sum() == 121


@pytest.mark.parametrize("seed", range(3))
def test_compiled_lists_the_same_points(seed):
    """SmoothAreas and restless triangles of two pictures; vertices fall on pixel centres, too."""
    rng = np.random.default_rng(seed)
    points = torch.from_numpy((rng.integers(-8, 2 * SIZE + 8, (3, 60)) / 2).astype(np.float32))
    corners = torch.from_numpy(rng.permutation(60).reshape(3, 20))
    calm = SmoothAreas(
        torch.from_numpy(rng.integers(0, 2, 20).astype(np.float32)), torch.full((2, 1), 4.0)
    )
    expected, made = (loop(points, corners, calm, SIZE) for loop in BOTH)
    for name in ("place", "share", "first"):
        torch.testing.assert_close(getattr(made, name), getattr(expected, name), rtol=0, atol=0)
    shown = expected.share > 0
    assert shown.float().mean() > 0.3 and (expected.share > 1).any()
    same = (made.triangle == expected.triangle)[shown.view(-1)]
    assert same.float().mean() > 0.99  # equally near ones may change places by rounding
    torch.testing.assert_close(made.depth[shown], expected.depth[shown], atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(made.samples, expected.samples, atol=2e-3, rtol=1e-4)
