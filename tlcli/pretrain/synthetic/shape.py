"""Families of synthetic shapes: fractals, contours, strokes and figures.

Each family stores the parameters of its classes in arrays with the class as first axis, and renders a whole batch at
once.
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
    blur,
    blur_matrices,
    cloud_noise,
    count_points,
    local_grid,
    place,
    random_pose,
    soft_step,
    uniform,
)

# The class of every image in a batch, numbered within its family: (batch,).
Members = NDArray[np.int64]


@dataclass(frozen=True)
class Rendering:
    """A batch of rendered shapes without colours.

    Attributes:
        cover: Fraction of each pixel that the shape covers, float32 (batch, size, size), 0-1.
        tone: Position in the palette, float32 (batch, size, size), 0-1.
    """

    cover: Array
    tone: Array


class Fractals:
    """Attractors of iterated function systems: two to four contracting affine maps per class."""

    CHAINS = 192
    STEPS = 24
    BURN_IN = 6

    def __init__(self, rng: Rng, classes: int) -> None:
        """Draw the random maps of `classes` classes."""
        self.maps = rng.integers(2, 5, classes)
        angles = uniform(rng, -np.pi, np.pi, 2, classes, 4)
        stretch = np.sort(uniform(rng, 0.25, 0.85, classes, 4, 2), -1)
        # A flat second axis would give lines and dust. Mirrored maps give shapes like fern leaves.
        stretch[..., 1] *= np.where(rng.random((classes, 4)) < 0.5, 1, -1)
        self.linear = _rotation(angles[0]) @ (stretch[..., None] * _rotation(angles[1]))
        self.shift = uniform(rng, -1, 1, classes, 4, 2)
        area = np.abs(np.linalg.det(self.linear)) + 0.03
        area[np.arange(4) >= self.maps[:, None]] = 0
        self.cumulative = np.cumsum(area / area.sum(1, keepdims=True), 1)
        self.cumulative[:, -1] = 1

    def render(self, members: Members, rng: Rng, size: int) -> Rendering:
        """Render one image per member."""
        count = len(members)
        linear = self.linear[members] * uniform(rng, 0.94, 1.06, count, 4, 2, 2)
        shift = self.shift[members] + uniform(rng, -0.06, 0.06, count, 4, 2)
        points = self._orbit(linear, shift, self.cumulative[members], rng)
        low, high = np.quantile(points[:, ::7], (0.01, 0.99), axis=1).astype(np.float32)
        points = (points - (low + high)[:, None] / 2) * (1.7 / np.maximum((high - low).max(-1), 1e-3))[:, None, None]
        pose = random_pose(rng, count, max_angle_deg=20, zoom=(0.7, 1.15), max_shift=0.15)
        hits = count_points(place(points, pose), size)
        level = hits / np.maximum(np.quantile(hits.reshape(count, -1)[:, ::3], 0.97, axis=1), 1)[:, None, None]
        return Rendering(np.clip(hits * 0.7, 0, 1), np.clip(np.sqrt(level), 0, 1).astype(np.float32))

    def _orbit(self, linear: Array, shift: Array, cumulative: Array, rng: Rng) -> Array:
        """Points visited by the random iteration, float32 (batch, points, 2)."""
        count = len(linear)
        row = np.arange(count)[:, None]
        point = uniform(rng, -0.5, 0.5, count, self.CHAINS, 2)
        visited = np.empty((count, self.STEPS, self.CHAINS, 2), np.float32)
        for iteration in range(-self.BURN_IN, self.STEPS):
            draw = rng.random((count, self.CHAINS), np.float32)
            chosen = (draw[..., None] > cumulative[:, None, :3]).sum(-1)
            # The maps contract, so that points stay bounded. Jitter can break that, hence the clip.
            point = np.clip((linear[row, chosen] @ point[..., None])[..., 0] + shift[row, chosen], -8, 8)
            if iteration >= 0:
                visited[:, iteration] = point
        return visited.reshape(count, -1, 2)


class Contours:
    """Concentric closed curves around a centre, whose radius is a sum of waves over the angle."""

    WAVES = 9
    ANGLES = 256

    def __init__(self, rng: Rng, classes: int) -> None:
        """Draw the random outlines of `classes` classes."""
        order = np.arange(1, self.WAVES + 1)
        decay = uniform(rng, 0.4, 1.6, classes, 1)
        self.amplitude = uniform(rng, 0, 0.55, classes, self.WAVES) / order**decay
        self.amplitude[rng.random((classes, self.WAVES)) < 0.35] = 0
        self.phase = uniform(rng, 0, 2 * np.pi, classes, self.WAVES)
        self.cornered = np.where(rng.random(classes) < 0.35, uniform(rng, 0.3, 1, classes), 0).astype(np.float32)
        self.sides = rng.integers(3, 7, classes)
        self.rings = np.where(rng.random(classes) < 0.25, 0, uniform(rng, 1, 7, classes)).astype(np.float32)
        self.crisp = rng.random(classes) < 0.5

    def render(self, members: Members, rng: Rng, size: int) -> Rendering:
        """Render one image per member."""
        count = len(members)
        pose = random_pose(rng, count, max_angle_deg=30, zoom=(0.4, 0.8), max_shift=0.3)
        x, y = local_grid(size, pose)
        relative_radius = np.hypot(x, y) / self._radius(members, rng, np.arctan2(y, x))
        pixels_per_unit = size / 2 * np.sqrt(np.abs(np.linalg.det(pose.matrix)))[:, None, None]
        rings = self.rings[members, None, None] * uniform(rng, 0.93, 1.07, count, 1, 1)
        wave = np.sin(relative_radius * rings * np.pi)
        bands = np.where(self.crisp[members, None, None], soft_step(wave, 3), 0.5 + 0.5 * wave)
        return Rendering(soft_step(1 - relative_radius, pixels_per_unit * 0.6), bands.astype(np.float32))

    def _radius(self, members: Members, rng: Rng, angle: Array) -> Array:
        """Radius of the outline at the angle of every pixel, from a lookup table."""
        count = len(members)
        amplitude = self.amplitude[members] * uniform(rng, 0.85, 1.15, count, self.WAVES)
        phase = self.phase[members] + uniform(rng, -0.12, 0.12, count, self.WAVES)
        angles = np.linspace(-np.pi, np.pi, self.ANGLES, dtype=np.float32)
        waves = np.cos(np.arange(1, self.WAVES + 1)[None, :, None] * angles + phase[:, :, None])
        table = 1 + (amplitude[:, :, None] * waves).sum(1)
        sides = self.sides[members, None]
        straight = np.cos(np.pi / sides) / np.cos((angles[None] % (2 * np.pi / sides)) - np.pi / sides)
        table *= 1 + self.cornered[members, None] * (straight - 1)
        table = np.maximum(table, 0.12).astype(np.float32)
        cell = ((angle + np.pi) * ((self.ANGLES - 1) / (2 * np.pi))).astype(np.int32)
        return np.take_along_axis(table, cell.reshape(count, -1), 1).reshape(angle.shape)


class Strokes:
    """Signs of one to four curved pen strokes, like letters of invented alphabets."""

    POINTS = 12
    MAX_STROKES = 4

    def __init__(self, rng: Rng, classes: int) -> None:
        """Draw the random strokes of `classes` signs."""
        self.strokes = rng.choice([1, 1, 2, 2, 2, 3, 3, 4], classes)
        # On a coarse grid the ends of strokes often meet, as in letters.
        self.control = (rng.integers(-2, 3, (classes, self.MAX_STROKES, 4, 2)) * 0.42).astype(np.float32)
        self.control += uniform(rng, -0.12, 0.12, classes, self.MAX_STROKES, 4, 2)
        straight = rng.random((classes, self.MAX_STROKES)) < 0.3
        ends = self.control[:, :, [0, 3]]
        line = ends[:, :, :1] + np.linspace(0, 1, 4, dtype=np.float32)[:, None] * (ends[:, :, 1:] - ends[:, :, :1])
        self.control[straight] = line[straight]
        ring = rng.random((classes, self.MAX_STROKES)) < 0.2
        self.ring = np.where(ring, uniform(rng, 0.2, 0.6, classes, self.MAX_STROKES), 0)
        joined = rng.random((classes, self.MAX_STROKES)) < 0.4
        for later in range(1, self.MAX_STROKES):
            start = self.control[:, later - 1, 3]
            self.control[:, later, 0] = np.where(joined[:, later, None], start, self.control[:, later, 0])
        self._centre()

    def _centre(self) -> None:
        """Centre all signs and scale them to a similar size, whatever the number of their strokes."""
        unused = (np.arange(self.MAX_STROKES) >= self.strokes[:, None])[..., None, None]
        radius = self.ring[..., None, None]
        low = np.where(unused, np.inf, self.control - radius).min((1, 2))
        high = np.where(unused, -np.inf, self.control + radius).max((1, 2))
        scale = np.clip(0.9 / np.maximum((high - low).max(-1) / 2, 1e-3), 0.8, 2)
        self.control = ((self.control - (low + high)[:, None, None] / 2) * scale[:, None, None, None]).astype(
            np.float32
        )
        self.ring = (self.ring * scale[:, None]).astype(np.float32)

    def render(self, members: Members, rng: Rng, size: int) -> Rendering:
        """Render one image per member."""
        count = len(members)
        lines = self._lines(members, rng)
        pose = random_pose(rng, count, max_angle_deg=14, zoom=(0.45, 0.95), max_shift=0.2, max_shear=0.22)
        points = place(lines.reshape(count, -1, 2), pose).reshape(lines.shape)
        width = np.exp(uniform(rng, np.log(0.06), np.log(0.3), count)) * size
        points = (points + 1) * size
        cover = np.stack(
            [
                _draw_strokes(points[k, : self.strokes[member]], float(width[k]), size)
                for k, member in enumerate(members)
            ]
        )
        slope = uniform(rng, -0.3, 0.3, count, 2, 1, 1) * np.linspace(-1, 1, size, dtype=np.float32)
        return Rendering(cover, np.clip(0.5 + slope[:, 0] + slope[:, 1].transpose(0, 2, 1), 0, 1))

    def _lines(self, members: Members, rng: Rng) -> Array:
        """Points along Bézier curves or ellipses, float32 (batch, strokes, points, 2)."""
        count = len(members)
        control = self.control[members] + (rng.standard_normal((count, self.MAX_STROKES, 4, 2)) * 0.06).astype(
            np.float32
        )
        t = np.linspace(0, 1, self.POINTS, dtype=np.float32)
        weight = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
        lines = weight @ control
        angle = 2 * np.pi * t + uniform(rng, -0.3, 0.3, count, self.MAX_STROKES, 1)
        x_radius = self.ring[members][..., None] * uniform(rng, 0.85, 1.15, count, self.MAX_STROKES, 1)
        y_radius = x_radius * uniform(rng, 0.85, 1.2, count, self.MAX_STROKES, 1)
        ellipse = np.stack([x_radius * np.cos(angle), y_radius * np.sin(angle)], -1) + control[:, :, :1]
        return np.where(x_radius[..., None] > 0, ellipse, lines).astype(np.float32)


class Figures:
    """Arrangements of one to four parts (polygons, stars, ellipses, bars), each with its own tone."""

    MAX_PARTS = 4
    ELLIPSE_CORNERS = 24

    def __init__(self, rng: Rng, classes: int) -> None:
        """Draw the random parts of `classes` figures."""
        self.parts = rng.integers(1, self.MAX_PARTS + 1, classes)
        self.corners = rng.choice(
            [3, 4, 4, 5, 6, self.ELLIPSE_CORNERS, self.ELLIPSE_CORNERS], (classes, self.MAX_PARTS)
        )
        self.star = np.where(
            rng.random((classes, self.MAX_PARTS)) < 0.2, uniform(rng, 0.35, 0.7, classes, self.MAX_PARTS), 1
        )
        extent = np.exp(uniform(rng, np.log(0.14), np.log(0.75), classes, self.MAX_PARTS, 2))
        self.middle = uniform(rng, -0.55, 0.55, classes, self.MAX_PARTS, 2)
        extent[:, 0] = np.maximum(extent[:, 0], 0.4)
        self.middle[:, 0] *= 0.3
        self.extent = extent
        self.angle = uniform(rng, 0, 2 * np.pi, classes, self.MAX_PARTS)
        self.tone = uniform(rng, 0, 1, classes, self.MAX_PARTS)
        self.hollow = rng.random((classes, self.MAX_PARTS)) < 0.15

    def render(self, members: Members, rng: Rng, size: int) -> Rendering:
        """Render one image per member."""
        count = len(members)
        pose = random_pose(rng, count, max_angle_deg=25, zoom=(0.5, 1.05), max_shift=0.25)
        extent = self.extent[members] * np.exp(uniform(rng, -0.12, 0.12, count, self.MAX_PARTS, 2))
        middle = self.middle[members] + uniform(rng, -0.06, 0.06, count, self.MAX_PARTS, 2)
        images = [
            np.asarray(self._draw_figure(member, (pose.matrix[k], pose.shift[k]), extent[k], middle[k], size))
            for k, member in enumerate(members)
        ]
        pixels = np.stack(images).astype(np.float32) / 255
        return Rendering(pixels[..., 1], pixels[..., 0] / np.maximum(pixels[..., 1], 1e-2))

    def _draw_figure(
        self, member: int, pose: tuple[Array, Array], extent: Array, middle: Array, size: int
    ) -> Image.Image:
        """An image with tone times cover in the red channel and cover in the green channel."""
        image = Image.new("RGB", (2 * size, 2 * size))
        pen = ImageDraw.Draw(image)
        for part in range(self.parts[member]):
            outline = self._outline(member, part) * extent[part] + middle[part]
            points = ((outline @ pose[0].T + pose[1] + 1) * size).ravel().tolist()
            colour = (int(self.tone[member, part] * 255), 255, 0)
            if self.hollow[member, part]:
                pen.line(points + points[:4], fill=colour, width=max(2, size // 16), joint="curve")
            else:
                pen.polygon(points, fill=colour)
        return image.reduce(2)

    def _outline(self, member: int, part: int) -> Array:
        """The corners of one part around the origin, float32 (corners, 2)."""
        corners = int(self.corners[member, part])
        star = float(self.star[member, part])
        count = corners if star == 1 else 2 * corners
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + self.angle[member, part]
        radius = np.where(np.arange(count) % 2, star, 1.0)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).astype(np.float32)


def roughen_edges(cover: Array, rng: Rng) -> Array:
    """Give covers an uneven edge, like that of torn, crumpled or furry objects."""
    size = cover.shape[-1]
    soft = blur(cover, blur_matrices(size)[4])
    return soft_step(soft - 0.5 + 0.35 * cloud_noise(rng, len(cover), size), 6)


def _rotation(angle: Array) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2).astype(np.float32)


def _draw_strokes(strokes: Array, width: float, size: int) -> Array:
    """Cover of pen strokes, float32 (size, size); drawn at twice the size for smooth edges, then reduced.

    Args:
        strokes: Points (strokes, points, 2), in half pixels.
        width: Width of the pen, half pixels.
        size: Height and width of the result, pixels.
    """
    image = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(image)
    pen_width = max(1, round(width))
    radius = pen_width / 2
    for line in strokes:
        pen.line(line.ravel().tolist(), fill=255, width=pen_width, joint="curve")
        if pen_width > 3:
            for x, y in (line[0], line[-1]):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image.reduce(2), np.float32) / 255
