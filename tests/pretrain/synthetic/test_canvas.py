"""The canvas: poses and their inverse, points on pixels, softening that keeps light."""

import numpy as np
import pytest

from tlcli.pretrain.synthetic.canvas import Pose, clouds, counted, grid, placed, pose, softened, softeners, step


def test_the_grid_is_the_inverse_of_placing() -> None:
    rng = np.random.default_rng(0)
    where = pose(rng, 5, turn=40, zoom=(0.5, 1.5), shift=0.3)
    x, y = grid(16, where)
    back = placed(np.stack([x, y], -1).reshape(5, -1, 2), where)
    line = (np.arange(16) + 0.5) / 8 - 1
    expected = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    assert np.allclose(back, expected, atol=1e-4)


def test_points_are_counted_where_they_fall_and_those_outside_are_not() -> None:
    points = np.array([[[-0.9, -0.9], [-0.9, -0.9], [0.9, -0.9], [1.5, 0.0], [0.0, -1.01]]], np.float32)
    count = counted(points, 4)
    assert count[0, 0, 0] == 2
    assert count[0, 0, 3] == 1
    assert count.sum() == 3


def test_pictures_of_a_batch_do_not_mix() -> None:
    points = np.zeros((3, 10, 2), np.float32)
    points[1] = 5
    assert counted(points, 8).sum((1, 2)).tolist() == [10, 0, 10]


@pytest.mark.parametrize("size", [32, 64])
def test_softening_keeps_flat_pictures_and_the_mean(size: int) -> None:
    noise = np.random.default_rng(1).random((2, size, size, 3)).astype(np.float32)
    for matrix in softeners(size):
        assert np.allclose(matrix.sum(1), 1, atol=1e-5)
        soft = softened(noise, matrix)
        assert soft.shape == noise.shape
        assert np.allclose(softened(np.full((1, size, size), 0.3, np.float32), matrix), 0.3, atol=1e-5)
        # A reduction to as many pixels as there are changes nothing.
        assert soft.std() < noise.std() or np.allclose(matrix, np.eye(size), atol=1e-5)
        assert abs(soft.mean() - noise.mean()) < 0.02


def test_softening_channels_is_softening_each_alone() -> None:
    picture = np.random.default_rng(2).random((2, 32, 32, 3)).astype(np.float32)
    matrix = softeners(32)[2]
    assert np.allclose(softened(picture, matrix)[..., 1], softened(picture[..., 1], matrix), atol=1e-5)


def test_clouds_are_noise_of_unit_order_and_smooth_ones_are_smoother() -> None:
    rough, smooth = (clouds(np.random.default_rng(3), 60, 64, smooth=flag) for flag in (False, True))
    assert clouds(np.random.default_rng(3), 0, 64).shape == (0, 64, 64)
    assert 0.2 < rough.std() < 1
    change = [np.abs(np.diff(found, axis=2)).mean() for found in (rough, smooth)]
    assert change[1] < change[0]


def test_a_step_is_sharp_or_soft() -> None:
    values = np.linspace(-1, 1, 5, dtype=np.float32)
    assert step(values, 100).tolist() == [0, 0, 0.5, 1, 1]
    assert step(values, 0.5).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_a_pose_without_chance_is_the_identity() -> None:
    where = pose(np.random.default_rng(0), 1, turn=0, zoom=(1, 1), shift=0, shear=0)
    assert np.allclose(where.matrix, np.eye(2))
    assert isinstance(where, Pose)
