"""Textures: grain, stripes, cells, tiles and clouds, with a scale, direction and sharpness per class."""

from collections.abc import Callable

import numpy as np

from tlcli.pretrain.synthetic.canvas import Array, Pose, Rng, cloud_noise, local_grid, random_pose, soft_step, uniform
from tlcli.pretrain.synthetic.shape import Members

KINDS = ("grain", "stripes", "cells", "tiles", "clouds")


class Textures:
    """Random textures that fill the image."""

    def __init__(self, rng: Rng, classes: int) -> None:
        """Draw the random parameters of `classes` textures."""
        self.kind = np.arange(classes) % len(KINDS)
        self.scale = np.exp(uniform(rng, np.log(2.0), np.log(14.0), classes))
        self.angle = uniform(rng, -np.pi, np.pi, classes)
        self.bandwidth = uniform(rng, 0.12, 0.5, classes)
        self.anisotropy = np.where(rng.random(classes) < 0.5, 0, uniform(rng, 1, 8, classes)).astype(np.float32)
        self.sharpness = np.exp(uniform(rng, np.log(0.5), np.log(6.0), classes))
        self.max_warp = np.where(rng.random(classes) < 0.4, 0, uniform(rng, 0.02, 0.25, classes)).astype(np.float32)
        self.slope = uniform(rng, 0.6, 2.6, classes)
        self.aspect = np.exp(uniform(rng, -0.9, 0.9, classes))
        self.fill = uniform(rng, 0.25, 0.8, classes)
        self.row_offset = rng.choice([0, 0.5, 0.25], classes).astype(np.float32)
        self.is_round = rng.random(classes) < 0.5
        self.shows_seams = rng.random(classes) < 0.5

    def render(self, members: Members, rng: Rng, size: int) -> Array:
        """Render one image per member: tones, float32 (batch, size, size), 0-1."""
        tones = np.empty((len(members), size, size), np.float32)
        renderers: tuple[Callable[[Members, Rng, int], Array], ...] = (
            self._grain, self._stripes, self._cells, self._tiles, self._clouds,
        )  # fmt: skip
        for kind, render in enumerate(renderers):
            chosen = self.kind[members] == kind
            if chosen.any():
                tones[chosen] = render(members[chosen], rng, size)
        return tones

    def _pose(self, members: Members, rng: Rng) -> Pose:
        """Poses with the scale and direction of the class, times a small random rotation, zoom, shift and shear."""
        jitter = random_pose(rng, len(members), max_angle_deg=18, zoom=(0.8, 1.25), max_shift=1.0, max_shear=0.12)
        cos, sin = np.cos(self.angle[members]), np.sin(self.angle[members])
        own = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2) / self.scale[members, None, None]
        return Pose((jitter.matrix @ own).astype(np.float32), jitter.shift)

    def _warped_grid(self, members: Members, rng: Rng, size: int) -> tuple[Array, Array]:
        """Texture coordinates x and y of every pixel, bent by smooth noise: each float32 (batch, size, size)."""
        x, y = local_grid(size, self._pose(members, rng))
        amount = (self.max_warp * self.scale)[members, None, None]
        bend = cloud_noise(rng, 2 * len(members), size, smooth=True)
        return x + amount * bend[::2], y + amount * bend[1::2]

    def _random_field(self, envelope: Array, rng: Rng, size: int) -> Array:
        """Noise with a given amplitude spectrum and random phases, scaled to unit deviation: (batch, size, size)."""
        phase = rng.random(envelope.shape, np.float32) * np.float32(2 * np.pi)
        wave = envelope * (np.cos(phase) + 1j * np.sin(phase))
        field: Array = np.fft.irfft2(wave, (size, size)).astype(np.float32)
        field /= field.std((1, 2), keepdims=True) + 1e-9
        return field

    def _frequencies(self, members: Members, rng: Rng, size: int) -> tuple[Array, Array]:
        """Radius (periods per image) and angle (radians, relative to the texture) of every frequency."""
        fx = np.fft.rfftfreq(size, 1 / size).astype(np.float32)[None, None, :]
        fy = np.fft.fftfreq(size, 1 / size).astype(np.float32)[None, :, None]
        rotation = (self.angle[members] + uniform(rng, -0.3, 0.3, len(members)))[:, None, None]
        return np.hypot(fx, fy), np.arctan2(fy, fx) - rotation

    def _grain(self, members: Members, rng: Rng, size: int) -> Array:
        radius, angle = self._frequencies(members, rng, size)
        centre = (self.scale[members] * np.exp(uniform(rng, -0.2, 0.2, len(members))))[:, None, None] * 1.3
        band = np.exp(-(((radius - centre) / (centre * self.bandwidth[members, None, None])) ** 2))
        band *= np.exp(-self.anisotropy[members, None, None] * np.sin(angle) ** 2) + 1e-3
        field = self._random_field(band.astype(np.float32), rng, size)
        return 0.5 + 0.5 * np.tanh(field * self.sharpness[members, None, None])

    def _clouds(self, members: Members, rng: Rng, size: int) -> Array:
        radius, angle = self._frequencies(members, rng, size)
        radius = np.where(radius == 0, np.inf, radius)
        amplitude: Array = radius ** -self.slope[members, None, None] * (
            np.exp(-self.anisotropy[members, None, None] * np.sin(angle) ** 2) + 0.02
        )
        tone: Array = 0.5 + 0.5 * np.tanh(0.7 * self._random_field(amplitude.astype(np.float32), rng, size))
        return tone

    def _stripes(self, members: Members, rng: Rng, size: int) -> Array:
        x, _ = self._warped_grid(members, rng, size)
        wave = np.sin(2 * np.pi * x) - np.cos(np.pi * self.fill[members, None, None])
        return soft_step(wave * 0.5, self.sharpness[members, None, None]).astype(np.float32)

    def _tiles(self, members: Members, rng: Rng, size: int) -> Array:
        x, y = self._warped_grid(members, rng, size)
        row = y * self.aspect[members, None, None]
        x = x + np.floor(row) * self.row_offset[members, None, None]
        u, v = np.abs(x - np.floor(x) - 0.5), np.abs(row - np.floor(row) - 0.5)
        distance = np.where(self.is_round[members, None, None], np.hypot(u, v), np.maximum(u, v))
        return soft_step(self.fill[members, None, None] / 2 - distance, 4 * self.sharpness[members, None, None]).astype(
            np.float32
        )

    def _cells(self, members: Members, rng: Rng, size: int) -> Array:
        """Voronoi cells of one random point per lattice cell: a tone per cell, or the seams between them."""
        x, y = self._warped_grid(members, rng, size)
        u, v = np.floor(x), np.floor(y)
        seed = rng.integers(1, 2**20, (len(members), 1, 1)).astype(np.float32)
        first = np.full(x.shape, 9, np.float32)
        second = first.copy()
        tone = np.zeros_like(first)
        for du in (-1, 0, 1):
            for dv in (-1, 0, 1):
                x_offset = _cell_hash(u + du, v + dv, seed)
                y_offset = x_offset * 61.7 % 1
                squared_distance = (u + du + x_offset - x) ** 2 + (v + dv + y_offset - y) ** 2
                is_nearer = squared_distance < first
                second = np.where(is_nearer, first, np.minimum(second, squared_distance))
                tone = np.where(is_nearer, x_offset * 17.3 % 1, tone)
                first = np.where(is_nearer, squared_distance, first)
        seam = np.clip((np.sqrt(second) - np.sqrt(first)) * (1 + self.sharpness[members, None, None]), 0, 1)
        return np.where(self.shows_seams[members, None, None], seam, tone).astype(np.float32)


def _cell_hash(u: Array, v: Array, seed: Array) -> Array:
    """A pseudo-random number between 0 and 1 that depends only on the lattice cell and the seed."""
    mixed = np.sin(u * np.float32(12.9898) + v * np.float32(78.233) + seed % 613) * np.float32(4375.85)
    return mixed - np.floor(mixed)
