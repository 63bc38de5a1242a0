"""Rendering primitives for batches of images: random poses, pixel coordinates, point counts, blur and noise."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Arrays are float32 unless a docstring states another type.
Array = NDArray[np.floating[Any]]
Rng = np.random.Generator

# Number of stored noise patches, and their side as a multiple of the image's side.
_PATCHES = 48
_PATCH_SCALE = 2


@dataclass(frozen=True)
class Pose:
    """Affine maps from the coordinates of a shape to those of the canvas, one per image.

    Attributes:
        matrix: float32 (batch, 2, 2).
        shift: float32 (batch, 2), in canvas units; the canvas runs from -1 to 1, x to the right and y down.
    """

    matrix: Array
    shift: Array


def uniform(rng: Rng, low: float, high: float, *shape: int) -> Array:
    """Uniform random numbers between `low` and `high`, float32 of `shape`."""
    return rng.uniform(low, high, shape).astype(np.float32)


def random_pose(
    rng: Rng,
    count: int,
    *,
    max_angle_deg: float,
    zoom: tuple[float, float],
    max_shift: float,
    max_shear: float = 0.15,
) -> Pose:
    """Random poses.

    Args:
        rng: Random generator.
        count: Number of poses.
        max_angle_deg: Largest rotation in either direction, degrees.
        zoom: Smallest and largest scale; uniform on a logarithmic scale in between.
        max_shift: Largest shift from the centre along either axis, canvas units.
        max_shear: Largest shear, and largest difference between the logarithmic scales of the axes.
    """
    angle = np.deg2rad(uniform(rng, -max_angle_deg, max_angle_deg, count))
    scale = np.exp(uniform(rng, np.log(zoom[0]), np.log(zoom[1]), count))
    aspect = np.exp(uniform(rng, -max_shear, max_shear, count))
    shear = uniform(rng, -max_shear, max_shear, count)
    cos, sin = np.cos(angle), np.sin(angle)
    x_scale, y_scale = scale * aspect, scale / aspect
    rows = [
        np.stack([x_scale * cos, y_scale * (shear * cos - sin)], -1),
        np.stack([x_scale * sin, y_scale * (shear * sin + cos)], -1),
    ]
    return Pose(np.stack(rows, 1).astype(np.float32), uniform(rng, -max_shift, max_shift, count, 2))


def place(points: Array, pose: Pose) -> Array:
    """Map points of shapes to the canvas, (batch, points, 2) to the same shape."""
    return points @ pose.matrix.transpose(0, 2, 1) + pose.shift[:, None, :]


def local_grid(size: int, pose: Pose) -> tuple[Array, Array]:
    """The coordinates of every pixel in the frame of the shape: x and y, each float32 (batch, size, size)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    inverse = np.linalg.inv(pose.matrix).astype(np.float32)
    dx = line[None, None, :] - pose.shift[:, 0, None, None]
    dy = line[None, :, None] - pose.shift[:, 1, None, None]
    a = inverse[:, :, :, None, None]
    return a[:, 0, 0] * dx + a[:, 0, 1] * dy, a[:, 1, 0] * dx + a[:, 1, 1] * dy


def count_points(points: Array, size: int) -> Array:
    """Count the points (batch, points, 2) in each pixel: float32 (batch, size, size)."""
    cell = np.floor((points + 1) * (size / 2)).astype(np.int32)
    inside = ((cell >= 0) & (cell < size)).all(-1)
    index = cell[..., 1] * size + cell[..., 0]
    index += np.arange(len(points), dtype=np.int32)[:, None] * (size * size)
    total = np.bincount(index[inside], minlength=len(points) * size * size)
    return total.reshape(len(points), size, size).astype(np.float32)


def soft_step(values: Array, sharpness: Array | float) -> Array:
    """0 below zero and 1 above, with a linear ramp of width 1 / `sharpness` in between."""
    ramp: Array = np.clip(values * sharpness + np.float32(0.5), 0, 1)
    return ramp


@cache
def blur_matrices(size: int) -> Array:
    """Matrices (kinds, size, size) that blur along one axis: Gaussians of growing width, then reductions to few pixels.

    `matrix @ image @ matrix.T` blurs along both axes. Weights are normalised at the border.
    """
    line = np.arange(size)
    matrices = []
    for sigma in (0.5, 0.8, 1.2, 1.8, 2.6):
        weight = np.exp(-((line[:, None] - line[None, :]) ** 2) / (2 * (sigma * size / 64) ** 2))
        matrices.append(weight / weight.sum(1, keepdims=True))
    for cells in (8, 10, 12, 16, 24, 32):
        matrices.append(_resample_matrix(size, cells))
    return np.stack(matrices).astype(np.float32)


def _resample_matrix(size: int, cells: int) -> NDArray[np.float64]:
    """A matrix (size, size) that averages into `cells` cells, then interpolates linearly between their centres."""
    edges = np.linspace(0, size, cells + 1)
    pixel = np.arange(size)
    overlap = np.minimum(pixel[None, :] + 1, edges[1:, None]) - np.maximum(pixel[None, :], edges[:-1, None])
    down = np.clip(overlap, 0, None) * (cells / size)
    position = np.clip((pixel + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(int), cells - 2)
    up = np.zeros((size, cells))
    up[pixel, low] = 1 - (position - low)
    up[pixel, low + 1] = position - low
    both: NDArray[np.float64] = up @ down
    return both


def blur(images: Array, matrix: Array) -> Array:
    """Blur images (batch, size, size) or (batch, size, size, channels) along both axes."""
    if images.ndim == 3:
        return matrix @ images @ matrix.T
    channels_first = np.moveaxis(images, -1, 1)
    return np.moveaxis(matrix @ channels_first @ matrix.T, 1, -1)


@cache
def _noise_bank(size: int) -> Array:
    """Noise with amplitudes that fall as a power of frequency, from rough to smooth: float32 (patches, side, side)."""
    rng = np.random.default_rng(20230)
    side = _PATCH_SCALE * size
    fx, fy = np.fft.rfftfreq(side)[None, :], np.fft.fftfreq(side)[:, None]
    radius = np.hypot(fx, fy)
    radius[0, 0] = np.inf
    patches = []
    for slope in np.linspace(0.8, 2.4, _PATCHES):
        spectrum = radius**-slope * np.exp(2j * np.pi * rng.random(radius.shape))
        patch = np.fft.irfft2(spectrum, (side, side))
        patches.append(patch / (2 * patch.std()))
    return np.stack(patches).astype(np.float32)


def cloud_noise(rng: Rng, count: int, size: int, *, smooth: bool = False) -> Array:
    """Random noise with a power-law spectrum, float32 (count, size, size), about -1 to 1.

    Args:
        rng: Random generator.
        count: Number of patches.
        size: Height and width, pixels.
        smooth: Use only the smoother half of the noise bank, which is sorted from rough to smooth.
    """
    bank = _noise_bank(size)
    indices = rng.integers(_PATCHES // 2 if smooth else 0, _PATCHES, count)
    rows, columns = rng.integers(0, (_PATCH_SCALE - 1) * size + 1, (2, count))
    noise = np.empty((count, size, size), np.float32)
    for patch, k, y, x in zip(noise, indices, rows, columns, strict=True):
        patch[:] = bank[k, y : y + size, x : x + size]
    transposed = rng.random(count) < 0.5
    noise[transposed] = noise[transposed].transpose(0, 2, 1)
    return noise * np.where(rng.random(count) < 0.5, 1, -1).astype(np.float32)[:, None, None]
