"""Surfaces: clouds, grain, stripes, cells and tiles, each class with its own scale, direction and sharpness."""

from collections.abc import Callable

import numpy as np

from tlcli.pretrain.synthetic.canvas import Array, Pose, Rng, clouds, grid, pose, step, uniform
from tlcli.pretrain.synthetic.shape import Members

KINDS = ("grain", "stripes", "cells", "tiles", "clouds")


class Textures:
    """Fields of tones that fill the picture."""

    def __init__(self, rng: Rng, classes: int) -> None:
        """Invent the surfaces of `classes` classes."""
        self.kind = np.arange(classes) % len(KINDS)
        self.scale = np.exp(uniform(rng, np.log(2.0), np.log(14.0), classes))
        self.angle = uniform(rng, -np.pi, np.pi, classes)
        self.narrow = uniform(rng, 0.12, 0.5, classes)
        self.oriented = np.where(rng.random(classes) < 0.5, 0, uniform(rng, 1, 8, classes)).astype(np.float32)
        self.sharp = np.exp(uniform(rng, np.log(0.5), np.log(6.0), classes))
        self.warp = np.where(rng.random(classes) < 0.4, 0, uniform(rng, 0.02, 0.25, classes)).astype(np.float32)
        self.slope = uniform(rng, 0.6, 2.6, classes)
        self.ratio = np.exp(uniform(rng, -0.9, 0.9, classes))
        self.fill = uniform(rng, 0.25, 0.8, classes)
        self.offset = rng.choice([0, 0.5, 0.25], classes).astype(np.float32)
        self.rounded = rng.random(classes) < 0.5
        self.edges = rng.random(classes) < 0.5

    def draw(self, members: Members, rng: Rng, size: int) -> Array:
        """Tones of one picture for each member: float32 (batch, size, size), 0-1."""
        found = np.empty((len(members), size, size), np.float32)
        painters: tuple[Callable[[Members, Rng, int], Array], ...] = (
            self._grain, self._stripes, self._cells, self._tiles, self._clouds,
        )  # fmt: skip
        for kind, paint in enumerate(painters):
            chosen = self.kind[members] == kind
            if chosen.any():
                found[chosen] = paint(members[chosen], rng, size)
        return found

    def _pose(self, members: Members, rng: Rng) -> Pose:
        """A surface seen from nearer or further, turned a little: the class's own scale and direction times chance."""
        random = pose(rng, len(members), turn=18, zoom=(0.8, 1.25), shift=1.0, shear=0.12)
        cos, sin = np.cos(self.angle[members]), np.sin(self.angle[members])
        own = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2) / self.scale[members, None, None]
        return Pose((random.matrix @ own).astype(np.float32), random.shift)

    def _warped(self, members: Members, rng: Rng, size: int) -> tuple[Array, Array]:
        x, y = grid(size, self._pose(members, rng))
        amount = (self.warp * self.scale)[members, None, None]
        bend = clouds(rng, 2 * len(members), size, smooth=True)
        return x + amount * bend[::2], y + amount * bend[1::2]

    def _spectral(self, envelope: Array, rng: Rng, size: int) -> Array:
        phase = rng.random(envelope.shape, np.float32) * np.float32(2 * np.pi)
        wave = envelope * (np.cos(phase) + 1j * np.sin(phase))
        field: Array = np.fft.irfft2(wave, (size, size)).astype(np.float32)
        field /= field.std((1, 2), keepdims=True) + 1e-9
        return field

    def _frequencies(self, members: Members, rng: Rng, size: int) -> tuple[Array, Array]:
        """Radius in periods a picture and angle of every spectral line, turned with the surface."""
        fx = np.fft.rfftfreq(size, 1 / size).astype(np.float32)[None, None, :]
        fy = np.fft.fftfreq(size, 1 / size).astype(np.float32)[None, :, None]
        turn = (self.angle[members] + uniform(rng, -0.3, 0.3, len(members)))[:, None, None]
        return np.hypot(fx, fy), np.arctan2(fy, fx) - turn

    def _grain(self, members: Members, rng: Rng, size: int) -> Array:
        radius, angle = self._frequencies(members, rng, size)
        centre = (self.scale[members] * np.exp(uniform(rng, -0.2, 0.2, len(members))))[:, None, None] * 1.3
        band = np.exp(-(((radius - centre) / (centre * self.narrow[members, None, None])) ** 2))
        band *= np.exp(-self.oriented[members, None, None] * np.sin(angle) ** 2) + 1e-3
        field = self._spectral(band.astype(np.float32), rng, size)
        return 0.5 + 0.5 * np.tanh(field * self.sharp[members, None, None])

    def _clouds(self, members: Members, rng: Rng, size: int) -> Array:
        radius, angle = self._frequencies(members, rng, size)
        radius = np.where(radius == 0, np.inf, radius)
        law: Array = radius ** -self.slope[members, None, None] * (
            np.exp(-self.oriented[members, None, None] * np.sin(angle) ** 2) + 0.02
        )
        tone: Array = 0.5 + 0.5 * np.tanh(0.7 * self._spectral(law.astype(np.float32), rng, size))
        return tone

    def _stripes(self, members: Members, rng: Rng, size: int) -> Array:
        x, _ = self._warped(members, rng, size)
        wave = np.sin(2 * np.pi * x) - np.cos(np.pi * self.fill[members, None, None])
        return step(wave * 0.5, self.sharp[members, None, None]).astype(np.float32)

    def _tiles(self, members: Members, rng: Rng, size: int) -> Array:
        x, y = self._warped(members, rng, size)
        row = y * self.ratio[members, None, None]
        x = x + np.floor(row) * self.offset[members, None, None]
        u, v = np.abs(x - np.floor(x) - 0.5), np.abs(row - np.floor(row) - 0.5)
        away = np.where(self.rounded[members, None, None], np.hypot(u, v), np.maximum(u, v))
        return step(self.fill[members, None, None] / 2 - away, 4 * self.sharp[members, None, None]).astype(np.float32)

    def _cells(self, members: Members, rng: Rng, size: int) -> Array:
        """Nearest of points scattered one to each cell of a lattice: cells of many tones, or the seams between them."""
        x, y = self._warped(members, rng, size)
        u, v = np.floor(x), np.floor(y)
        seed = rng.integers(1, 2**20, (len(members), 1, 1)).astype(np.float32)
        first = np.full(x.shape, 9, np.float32)
        second = first.copy()
        tone = np.zeros_like(first)
        for du in (-1, 0, 1):
            for dv in (-1, 0, 1):
                chance = _hashed(u + du, v + dv, seed)
                other = chance * 61.7 % 1
                away = (u + du + chance - x) ** 2 + (v + dv + other - y) ** 2
                nearer = away < first
                second = np.where(nearer, first, np.minimum(second, away))
                tone = np.where(nearer, chance * 17.3 % 1, tone)
                first = np.where(nearer, away, first)
        seam = np.clip((np.sqrt(second) - np.sqrt(first)) * (1 + self.sharp[members, None, None]), 0, 1)
        return np.where(self.edges[members, None, None], seam, tone).astype(np.float32)


def _hashed(u: Array, v: Array, seed: Array) -> Array:
    """A number between 0 and 1 for every lattice cell, the same wherever the cell is met."""
    mixed = np.sin(u * np.float32(12.9898) + v * np.float32(78.233) + seed % 613) * np.float32(4375.85)
    return mixed - np.floor(mixed)
