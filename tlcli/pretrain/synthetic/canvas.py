"""The canvas of a batch of drawings: coordinates, poses, points on pixels, softening and noise."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32 where nothing else is said.
Array = NDArray[np.floating[Any]]
Rng = np.random.Generator

# Stored patches of noise: so many, each so much larger than what is taken of it.
_BANK = 48
_ROOM = 2


@dataclass(frozen=True)
class Pose:
    """Where things lie in a batch of pictures: the affine map from a thing's own coordinates to those of the canvas.

    Attributes:
        matrix: float32 (batch, 2, 2).
        shift: float32 (batch, 2), in canvas units; the canvas runs from -1 to 1, x to the right and y down.
    """

    matrix: Array
    shift: Array


def uniform(rng: Rng, low: float, high: float, *shape: int) -> Array:
    """float32 of `shape`, evenly distributed between `low` and `high`."""
    return rng.uniform(low, high, shape).astype(np.float32)


def pose(rng: Rng, number: int, *, turn: float, zoom: tuple[float, float], shift: float, shear: float = 0.15) -> Pose:
    """Random poses.

    Args:
        rng: Where chance comes from.
        number: How many.
        turn: Largest angle to either side, degrees.
        zoom: Smallest and largest scale; between them evenly on a logarithmic scale.
        shift: Largest way from the middle along either axis, canvas units.
        shear: Largest shear, and largest difference between the scales of the axes.
    """
    angle = np.deg2rad(uniform(rng, -turn, turn, number))
    scale = np.exp(uniform(rng, np.log(zoom[0]), np.log(zoom[1]), number))
    aspect = np.exp(uniform(rng, -shear, shear, number))
    slant = uniform(rng, -shear, shear, number)
    cos, sin = np.cos(angle), np.sin(angle)
    wide, tall = scale * aspect, scale / aspect
    rows = [
        np.stack([wide * cos, tall * (slant * cos - sin)], -1),
        np.stack([wide * sin, tall * (slant * sin + cos)], -1),
    ]
    return Pose(np.stack(rows, 1).astype(np.float32), uniform(rng, -shift, shift, number, 2))


def placed(points: Array, where: Pose) -> Array:
    """Points (batch, points, 2) of things, on the canvas."""
    return points @ where.matrix.transpose(0, 2, 1) + where.shift[:, None, :]


def grid(size: int, where: Pose) -> tuple[Array, Array]:
    """X and y, each float32 (batch, size, size): which point of the thing lies on every pixel."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    inverse = np.linalg.inv(where.matrix).astype(np.float32)
    dx = line[None, None, :] - where.shift[:, 0, None, None]
    dy = line[None, :, None] - where.shift[:, 1, None, None]
    a = inverse[:, :, :, None, None]
    return a[:, 0, 0] * dx + a[:, 0, 1] * dy, a[:, 1, 0] * dx + a[:, 1, 1] * dy


def counted(points: Array, size: int) -> Array:
    """How many of the points (batch, points, 2) fall on each pixel: float32 (batch, size, size)."""
    cell = np.floor((points + 1) * (size / 2)).astype(np.int32)
    inside = ((cell >= 0) & (cell < size)).all(-1)
    index = cell[..., 1] * size + cell[..., 0]
    index += np.arange(len(points), dtype=np.int32)[:, None] * (size * size)
    total = np.bincount(index[inside], minlength=len(points) * size * size)
    return total.reshape(len(points), size, size).astype(np.float32)


def step(values: Array, sharpness: Array | float) -> Array:
    """0 below zero, 1 above, with a ramp between that is one pixel wide when `sharpness` is that of a pixel."""
    ramp: Array = np.clip(values * sharpness + np.float32(0.5), 0, 1)
    return ramp


@cache
def softeners(size: int) -> Array:
    """Matrices (kinds, size, size) that blur along one axis: Gaussians of growing width, then reductions to few pixels.

    `matrix @ picture @ matrix.T` blurs along both axes, the border taken as repeated.
    """
    line = np.arange(size)
    found = []
    for sigma in (0.5, 0.8, 1.2, 1.8, 2.6):
        weight = np.exp(-((line[:, None] - line[None, :]) ** 2) / (2 * (sigma * size / 64) ** 2))
        found.append(weight / weight.sum(1, keepdims=True))
    for few in (8, 10, 12, 16, 24, 32):
        found.append(_fewer(size, few))
    return np.stack(found).astype(np.float32)


def _fewer(size: int, few: int) -> NDArray[np.float64]:
    """Average into `few` cells, then straight lines between the middles of the cells."""
    edges = np.linspace(0, size, few + 1)
    pixel = np.arange(size)
    overlap = np.minimum(pixel[None, :] + 1, edges[1:, None]) - np.maximum(pixel[None, :], edges[:-1, None])
    down = np.clip(overlap, 0, None) * (few / size)
    at = np.clip((pixel + 0.5) * few / size - 0.5, 0, few - 1)
    low = np.minimum(at.astype(int), few - 2)
    up = np.zeros((size, few))
    up[pixel, low] = 1 - (at - low)
    up[pixel, low + 1] = at - low
    both: NDArray[np.float64] = up @ down
    return both


def softened(pictures: Array, matrix: Array) -> Array:
    """Pictures (batch, size, size) or (batch, size, size, channels), blurred along both axes."""
    if pictures.ndim == 3:
        return matrix @ pictures @ matrix.T
    across = np.moveaxis(pictures, -1, 1)
    return np.moveaxis(matrix @ across @ matrix.T, 1, -1)


@cache
def _noise_bank(size: int) -> Array:
    """Noise whose amplitude falls with frequency by several laws, rough to smooth: float32 (patches, side, side)."""
    rng = np.random.default_rng(20230)
    side = _ROOM * size
    fx, fy = np.fft.rfftfreq(side)[None, :], np.fft.fftfreq(side)[:, None]
    radius = np.hypot(fx, fy)
    radius[0, 0] = np.inf
    patches = []
    for slope in np.linspace(0.8, 2.4, _BANK):
        spectrum = radius**-slope * np.exp(2j * np.pi * rng.random(radius.shape))
        patch = np.fft.irfft2(spectrum, (side, side))
        patches.append(patch / (2 * patch.std()))
    return np.stack(patches).astype(np.float32)


def clouds(rng: Rng, number: int, size: int, *, smooth: bool = False) -> Array:
    """Random noise of natural roughness, float32 (number, size, size), about -1 to 1.

    `smooth`: only the smoother half of all kinds. (The bank goes from rough to smooth.)
    """
    bank = _noise_bank(size)
    which = rng.integers(_BANK // 2 if smooth else 0, _BANK, number)
    rows, columns = rng.integers(0, (_ROOM - 1) * size + 1, (2, number))
    found = np.empty((number, size, size), np.float32)
    for patch, k, y, x in zip(found, which, rows, columns, strict=True):
        patch[:] = bank[k, y : y + size, x : x + size]
    turned = rng.random(number) < 0.5
    found[turned] = found[turned].transpose(0, 2, 1)
    return found * np.where(rng.random(number) < 0.5, 1, -1).astype(np.float32)[:, None, None]
