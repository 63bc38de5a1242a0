"""Things with an outline: fractals, contours, strokes and figures.

Every family holds the traits of its classes in arrays with the class first, and draws a batch of members at once.
Ref: Kataoka et al. 2020, "Pre-training without natural images", arXiv 2101.08515 (fractals);
Kataoka et al. 2022, "Replacing labeled real-image datasets with auto-generated contours", arXiv 2206.09132 (contours).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tlcli.pretrain.synthetic.canvas import (
    Array,
    Rng,
    clouds,
    counted,
    grid,
    placed,
    pose,
    softened,
    softeners,
    step,
    uniform,
)

Members = NDArray[np.int64]


@dataclass(frozen=True)
class Drawing:
    """What a family drew.

    Attributes:
        cover: float32 (batch, size, size), 0-1: how much of each pixel the thing covers.
        tone: float32 (batch, size, size), 0-1: place in the palette.
    """

    cover: Array
    tone: Array


class Fractals:
    """Attractors of iterated function systems: two to four contracting affine maps a class."""

    CHAINS = 192
    STEPS = 24
    BURN_IN = 6

    def __init__(self, rng: Rng, classes: int) -> None:
        """Invent the maps of `classes` classes."""
        self.maps = rng.integers(2, 5, classes)
        angles = uniform(rng, -np.pi, np.pi, 2, classes, 4)
        stretch = np.sort(uniform(rng, 0.25, 0.85, classes, 4, 2), -1)
        # A flat second axis would give lines and dust; a mirror now and then gives the leaves of ferns.
        stretch[..., 1] *= np.where(rng.random((classes, 4)) < 0.5, 1, -1)
        self.linear = _rotation(angles[0]) @ (stretch[..., None] * _rotation(angles[1]))
        self.shift = uniform(rng, -1, 1, classes, 4, 2)
        area = np.abs(np.linalg.det(self.linear)) + 0.03
        area[np.arange(4) >= self.maps[:, None]] = 0
        self.chance = np.cumsum(area / area.sum(1, keepdims=True), 1)
        self.chance[:, -1] = 1
        self.tones = uniform(rng, 0, 1, classes, 4)

    def draw(self, members: Members, rng: Rng, size: int) -> Drawing:
        """Draw one picture for each member, given by its class."""
        number = len(members)
        linear = self.linear[members] * uniform(rng, 0.94, 1.06, number, 4, 2, 2)
        shift = self.shift[members] + uniform(rng, -0.06, 0.06, number, 4, 2)
        points = self._orbit(linear, shift, self.chance[members], rng)
        low, high = np.quantile(points[:, ::7], (0.01, 0.99), axis=1).astype(np.float32)
        points = (points - (low + high)[:, None] / 2) * (1.7 / np.maximum((high - low).max(-1), 1e-3))[:, None, None]
        count = counted(placed(points, pose(rng, number, turn=20, zoom=(0.7, 1.15), shift=0.15)), size)
        level = count / np.maximum(np.quantile(count.reshape(number, -1)[:, ::3], 0.97, axis=1), 1)[:, None, None]
        return Drawing(np.clip(count * 0.7, 0, 1), np.clip(np.sqrt(level), 0, 1).astype(np.float32))

    def _orbit(self, linear: Array, shift: Array, chance: Array, rng: Rng) -> Array:
        number = len(linear)
        row = np.arange(number)[:, None]
        point = uniform(rng, -0.5, 0.5, number, self.CHAINS, 2)
        kept = np.empty((number, self.STEPS, self.CHAINS, 2), np.float32)
        for turn in range(-self.BURN_IN, self.STEPS):
            draw = rng.random((number, self.CHAINS), np.float32)
            chosen = (draw[..., None] > chance[:, None, :3]).sum(-1)
            # Contracting maps cannot run away; the bound keeps a jittered one from it.
            point = np.clip((linear[row, chosen] @ point[..., None])[..., 0] + shift[row, chosen], -8, 8)
            if turn >= 0:
                kept[:, turn] = point
        return kept.reshape(number, -1, 2)


class Contours:
    """Closed lines around a centre, radius a sum of waves; one inside the other."""

    WAVES = 9
    ANGLES = 256

    def __init__(self, rng: Rng, classes: int) -> None:
        """Invent the outlines of `classes` classes."""
        order = np.arange(1, self.WAVES + 1)
        steep = uniform(rng, 0.4, 1.6, classes, 1)
        self.height = uniform(rng, 0, 0.55, classes, self.WAVES) / order**steep
        self.height[rng.random((classes, self.WAVES)) < 0.35] = 0
        self.phase = uniform(rng, 0, 2 * np.pi, classes, self.WAVES)
        self.corner = np.where(rng.random(classes) < 0.35, uniform(rng, 0.3, 1, classes), 0).astype(np.float32)
        self.sides = rng.integers(3, 7, classes)
        self.rings = np.where(rng.random(classes) < 0.25, 0, uniform(rng, 1, 7, classes)).astype(np.float32)
        self.crisp = rng.random(classes) < 0.5

    def draw(self, members: Members, rng: Rng, size: int) -> Drawing:
        """Draw one picture for each member, given by its class."""
        number = len(members)
        where = pose(rng, number, turn=30, zoom=(0.4, 0.8), shift=0.3)
        x, y = grid(size, where)
        reach = np.hypot(x, y) / self._radius(members, rng, np.arctan2(y, x))
        pixel = size / 2 * np.sqrt(np.abs(np.linalg.det(where.matrix)))[:, None, None]
        rings = self.rings[members, None, None] * uniform(rng, 0.93, 1.07, number, 1, 1)
        wave = np.sin(reach * rings * np.pi)
        bands = np.where(self.crisp[members, None, None], step(wave, 3), 0.5 + 0.5 * wave)
        return Drawing(step(1 - reach, pixel * 0.6), bands.astype(np.float32))

    def _radius(self, members: Members, rng: Rng, angle: Array) -> Array:
        """Radius of the outline at every pixel's angle, looked up in a table."""
        number = len(members)
        height = self.height[members] * uniform(rng, 0.85, 1.15, number, self.WAVES)
        phase = self.phase[members] + uniform(rng, -0.12, 0.12, number, self.WAVES)
        turn = np.linspace(-np.pi, np.pi, self.ANGLES, dtype=np.float32)
        waves = np.cos(np.arange(1, self.WAVES + 1)[None, :, None] * turn + phase[:, :, None])
        table = 1 + (height[:, :, None] * waves).sum(1)
        sides = self.sides[members, None]
        straight = np.cos(np.pi / sides) / np.cos((turn[None] % (2 * np.pi / sides)) - np.pi / sides)
        table *= 1 + self.corner[members, None] * (straight - 1)
        table = np.maximum(table, 0.12).astype(np.float32)
        cell = ((angle + np.pi) * ((self.ANGLES - 1) / (2 * np.pi))).astype(np.int32)
        return np.take_along_axis(table, cell.reshape(number, -1), 1).reshape(angle.shape)


class Strokes:
    """Signs of one to four bent pen strokes, as in invented alphabets."""

    POINTS = 12
    MOST = 4

    def __init__(self, rng: Rng, classes: int) -> None:
        """Invent the strokes of `classes` signs."""
        self.strokes = rng.choice([1, 1, 2, 2, 2, 3, 3, 4], classes)
        # Ends on a coarse grid meet often, as the strokes of letters do.
        self.control = (rng.integers(-2, 3, (classes, self.MOST, 4, 2)) * 0.42).astype(np.float32)
        self.control += uniform(rng, -0.12, 0.12, classes, self.MOST, 4, 2)
        straight = rng.random((classes, self.MOST)) < 0.3
        ends = self.control[:, :, [0, 3]]
        line = ends[:, :, :1] + np.linspace(0, 1, 4, dtype=np.float32)[:, None] * (ends[:, :, 1:] - ends[:, :, :1])
        self.control[straight] = line[straight]
        ring = rng.random((classes, self.MOST)) < 0.2
        self.ring = np.where(ring, uniform(rng, 0.2, 0.6, classes, self.MOST), 0)
        joined = rng.random((classes, self.MOST)) < 0.4
        for later in range(1, self.MOST):
            start = self.control[:, later - 1, 3]
            self.control[:, later, 0] = np.where(joined[:, later, None], start, self.control[:, later, 0])
        self._centre()

    def _centre(self) -> None:
        """Signs fill about the same space around the middle, however few their strokes are."""
        unused = (np.arange(self.MOST) >= self.strokes[:, None])[..., None, None]
        room = self.ring[..., None, None]
        low = np.where(unused, np.inf, self.control - room).min((1, 2))
        high = np.where(unused, -np.inf, self.control + room).max((1, 2))
        scale = np.clip(0.9 / np.maximum((high - low).max(-1) / 2, 1e-3), 0.8, 2)
        self.control = ((self.control - (low + high)[:, None, None] / 2) * scale[:, None, None, None]).astype(
            np.float32
        )
        self.ring = (self.ring * scale[:, None]).astype(np.float32)

    def draw(self, members: Members, rng: Rng, size: int) -> Drawing:
        """Draw one picture for each member, given by its class."""
        number = len(members)
        lines = self._lines(members, rng)
        where = pose(rng, number, turn=14, zoom=(0.45, 0.95), shift=0.2, shear=0.22)
        spots = placed(lines.reshape(number, -1, 2), where).reshape(lines.shape)
        width = np.exp(uniform(rng, np.log(0.06), np.log(0.3), number)) * size
        spots = (spots + 1) * size
        cover = np.stack(
            [_inked(spots[k, : self.strokes[member]], float(width[k]), size) for k, member in enumerate(members)]
        )
        slope = uniform(rng, -0.3, 0.3, number, 2, 1, 1) * np.linspace(-1, 1, size, dtype=np.float32)
        return Drawing(cover, np.clip(0.5 + slope[:, 0] + slope[:, 1].transpose(0, 2, 1), 0, 1))

    def _lines(self, members: Members, rng: Rng) -> Array:
        """Points along the strokes, float32 (batch, strokes, points, 2)."""
        number = len(members)
        control = self.control[members] + (rng.standard_normal((number, self.MOST, 4, 2)) * 0.06).astype(np.float32)
        t = np.linspace(0, 1, self.POINTS, dtype=np.float32)
        weight = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
        lines = weight @ control
        turn = 2 * np.pi * t + uniform(rng, -0.3, 0.3, number, self.MOST, 1)
        wide = self.ring[members][..., None] * uniform(rng, 0.85, 1.15, number, self.MOST, 1)
        tall = wide * uniform(rng, 0.85, 1.2, number, self.MOST, 1)
        circle = np.stack([wide * np.cos(turn), tall * np.sin(turn)], -1) + control[:, :, :1]
        return np.where(wide[..., None] > 0, circle, lines).astype(np.float32)


class Figures:
    """Arrangements of one to four parts: polygons, stars, ellipses, bars; each part with a tone of its own."""

    MOST = 4
    ROUND = 24

    def __init__(self, rng: Rng, classes: int) -> None:
        """Invent the parts of `classes` figures."""
        self.parts = rng.integers(1, self.MOST + 1, classes)
        self.corners = rng.choice([3, 4, 4, 5, 6, self.ROUND, self.ROUND], (classes, self.MOST))
        self.star = np.where(rng.random((classes, self.MOST)) < 0.2, uniform(rng, 0.35, 0.7, classes, self.MOST), 1)
        extent = np.exp(uniform(rng, np.log(0.14), np.log(0.75), classes, self.MOST, 2))
        self.middle = uniform(rng, -0.55, 0.55, classes, self.MOST, 2)
        extent[:, 0] = np.maximum(extent[:, 0], 0.4)
        self.middle[:, 0] *= 0.3
        self.extent = extent
        self.turn = uniform(rng, 0, 2 * np.pi, classes, self.MOST)
        self.tone = uniform(rng, 0, 1, classes, self.MOST)
        self.hollow = rng.random((classes, self.MOST)) < 0.15

    def draw(self, members: Members, rng: Rng, size: int) -> Drawing:
        """Draw one picture for each member, given by its class."""
        number = len(members)
        where = pose(rng, number, turn=25, zoom=(0.5, 1.05), shift=0.25)
        extent = self.extent[members] * np.exp(uniform(rng, -0.12, 0.12, number, self.MOST, 2))
        middle = self.middle[members] + uniform(rng, -0.06, 0.06, number, self.MOST, 2)
        pictures = [
            np.asarray(self._picture(member, (where.matrix[k], where.shift[k]), extent[k], middle[k], size))
            for k, member in enumerate(members)
        ]
        stack = np.stack(pictures).astype(np.float32) / 255
        return Drawing(stack[..., 1], stack[..., 0] / np.maximum(stack[..., 1], 1e-2))

    def _picture(self, member: int, where: tuple[Array, Array], extent: Array, middle: Array, size: int) -> Image.Image:
        image = Image.new("RGB", (2 * size, 2 * size))
        pen = ImageDraw.Draw(image)
        for part in range(self.parts[member]):
            outline = self._outline(member, part) * extent[part] + middle[part]
            spots = ((outline @ where[0].T + where[1] + 1) * size).ravel().tolist()
            colour = (int(self.tone[member, part] * 255), 255, 0)
            if self.hollow[member, part]:
                pen.line(spots + spots[:4], fill=colour, width=max(2, size // 16), joint="curve")
            else:
                pen.polygon(spots, fill=colour)
        return image.reduce(2)

    def _outline(self, member: int, part: int) -> Array:
        corners = int(self.corners[member, part])
        star = float(self.star[member, part])
        pieces = corners if star == 1 else 2 * corners
        angle = np.linspace(0, 2 * np.pi, pieces, endpoint=False) + self.turn[member, part]
        radius = np.where(np.arange(pieces) % 2, star, 1.0)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).astype(np.float32)


def dented(cover: Array, rng: Rng) -> Array:
    """The same covers with an uneven edge, as of things torn, crumpled or furry."""
    size = cover.shape[-1]
    soft = softened(cover, softeners(size)[4])
    return step(soft - 0.5 + 0.35 * clouds(rng, len(cover), size), 6)


def _rotation(angle: Array) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2).astype(np.float32)


def _inked(strokes: Array, width: float, size: int) -> Array:
    """Cover by pen strokes (strokes, points, 2), in half pixels: drawn twice as large, then reduced."""
    image = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(image)
    across = max(1, round(width))
    half = across / 2
    for line in strokes:
        pen.line(line.ravel().tolist(), fill=255, width=across, joint="curve")
        if across > 3:
            for x, y in (line[0], line[-1]):
                pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
    return np.asarray(image.reduce(2), np.float32) / 255
