"""Rendering primitives: poses and their inverse, point counts, blur that keeps the mean, noise."""

import numpy as np
import pytest

from tlcli.pretrain.synthetic.canvas import (
    Pose,
    blur,
    blur_matrices,
    cloud_noise,
    count_points,
    local_grid,
    place,
    random_pose,
    soft_step,
)


def test_local_grid_is_the_inverse_of_place() -> None:
    rng = np.random.default_rng(0)
    pose = random_pose(rng, 5, max_angle_deg=40, zoom=(0.5, 1.5), max_shift=0.3)
    x, y = local_grid(16, pose)
    placed = place(np.stack([x, y], -1).reshape(5, -1, 2), pose)
    line = (np.arange(16) + 0.5) / 8 - 1
    expected = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    assert np.allclose(placed, expected, atol=1e-4)


def test_points_are_counted_per_pixel_and_ignored_outside() -> None:
    points = np.array([[[-0.9, -0.9], [-0.9, -0.9], [0.9, -0.9], [1.5, 0.0], [0.0, -1.01]]], np.float32)
    count = count_points(points, 4)
    assert count[0, 0, 0] == 2
    assert count[0, 0, 3] == 1
    assert count.sum() == 3


def test_points_of_different_images_do_not_mix() -> None:
    points = np.zeros((3, 10, 2), np.float32)
    points[1] = 5
    assert count_points(points, 8).sum((1, 2)).tolist() == [10, 0, 10]


@pytest.mark.parametrize("size", [32, 64])
def test_blur_keeps_flat_images_and_the_mean(size: int) -> None:
    noise = np.random.default_rng(1).random((2, size, size, 3)).astype(np.float32)
    for matrix in blur_matrices(size):
        assert np.allclose(matrix.sum(1), 1, atol=1e-5)
        blurred = blur(noise, matrix)
        assert blurred.shape == noise.shape
        assert np.allclose(blur(np.full((1, size, size), 0.3, np.float32), matrix), 0.3, atol=1e-5)
        # A reduction to as many cells as there are pixels changes nothing.
        assert blurred.std() < noise.std() or np.allclose(matrix, np.eye(size), atol=1e-5)
        assert abs(blurred.mean() - noise.mean()) < 0.02


def test_channels_are_blurred_independently() -> None:
    images = np.random.default_rng(2).random((2, 32, 32, 3)).astype(np.float32)
    matrix = blur_matrices(32)[2]
    assert np.allclose(blur(images, matrix)[..., 1], blur(images[..., 1], matrix), atol=1e-5)


def test_cloud_noise_is_within_range_and_smooth_noise_is_smoother() -> None:
    rough, smooth = (cloud_noise(np.random.default_rng(3), 60, 64, smooth=flag) for flag in (False, True))
    assert cloud_noise(np.random.default_rng(3), 0, 64).shape == (0, 64, 64)
    assert 0.2 < rough.std() < 1
    differences = [np.abs(np.diff(noise, axis=2)).mean() for noise in (rough, smooth)]
    assert differences[1] < differences[0]


def test_sharpness_sets_the_ramp_of_a_soft_step() -> None:
    values = np.linspace(-1, 1, 5, dtype=np.float32)
    assert soft_step(values, 100).tolist() == [0, 0, 0.5, 1, 1]
    assert soft_step(values, 0.5).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_a_pose_with_zero_ranges_is_the_identity() -> None:
    pose = random_pose(np.random.default_rng(0), 1, max_angle_deg=0, zoom=(1, 1), max_shift=0, max_shear=0)
    assert np.allclose(pose.matrix, np.eye(2))
    assert isinstance(pose, Pose)
