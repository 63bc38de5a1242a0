"""Synthetic classes and their images: shapes and textures with colour, shading, background, occlusion and blur."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tlcli.pretrain.synthetic.canvas import Array, Rng, blur, blur_matrices, cloud_noise, uniform
from tlcli.pretrain.synthetic.shape import Contours, Figures, Fractals, Members, Rendering, Strokes, roughen_edges
from tlcli.pretrain.synthetic.texture import Textures

# Families and their fractions of the classes.
SHARES = {"fractal": 0.16, "contour": 0.14, "stroke": 0.24, "figure": 0.14, "texture": 0.12, "object": 0.20}
# Families whose classes have their own colours. Classes of the other families have random colours in every image.
COLOURED = ("texture", "object")
_SHAPES: dict[str, type[Fractals | Contours | Strokes | Figures]] = {
    "fractal": Fractals,
    "contour": Contours,
    "stroke": Strokes,
    "figure": Figures,
}
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class _Families:
    """The shapes by family, the textures, and the contours, figures and textures that make up objects."""

    shapes: dict[str, Fractals | Contours | Strokes | Figures]
    textures: Textures
    object_contours: Contours
    object_figures: Figures
    object_textures: Textures


@dataclass(frozen=True)
class SyntheticClasses:
    """A number of random classes of synthetic images.

    Attributes:
        count: Number of classes.
        seed: Seed of the classes; the same count and seed give the same classes.
    """

    count: int
    seed: int = 0

    @cached_property
    def first_labels(self) -> dict[str, int]:
        """The first label of every family, and the number of classes under `end`."""
        edges = np.round(np.cumsum([0, *SHARES.values()]) * self.count).astype(int)
        return dict(zip([*SHARES, "end"], edges.tolist(), strict=True))

    def family(self, label: int) -> str:
        """The family of a class."""
        return [name for name in SHARES if self.first_labels[name] <= label][-1]

    def render(self, labels: NDArray[np.int64], *, seed: int, size: int, hardness: float = 1.0) -> NDArray[np.uint8]:
        """Render one image per label.

        Args:
            labels: Classes, 0 to `count` - 1, (batch,).
            seed: Seed of the random parts of the images; the same seed gives the same images.
            size: Height and width, pixels.
            hardness: How hard the images are to recognise, 0-1: low contrast, rough backgrounds, blur, noise and
                occlusion. The hardness of each image is uniform between 0 and this value.

        Returns:
            uint8 (batch, size, size, 3), RGB.
        """
        rng = np.random.default_rng([self.seed, 1, seed])
        cover = np.empty((len(labels), size, size), np.float32)
        tone = np.empty_like(cover)
        names = list(SHARES)
        families = np.searchsorted([self.first_labels[name] for name in names], labels, side="right") - 1
        for index in np.unique(families):
            chosen = families == index
            members = labels[chosen] - self.first_labels[names[index]]
            rendering = self._render_family(names[index], members, rng, size)
            cover[chosen], tone[chosen] = rendering.cover, rendering.tone
        is_coloured = np.isin(families, [names.index(name) for name in COLOURED])
        foreground = _colourise(tone, self._choose_palettes(labels, is_coloured, rng))
        is_object = families == names.index("object")
        foreground[is_object] *= _shading(cover[is_object], rng)
        hardnesses = uniform(rng, 0, hardness, len(labels))
        return _degrade(_compose(foreground, cover, hardnesses, rng), hardnesses, rng)

    @cached_property
    def _families(self) -> _Families:
        counts = {name: max(1, round(share * self.count) + 1) for name, share in SHARES.items()}
        rngs = {name: np.random.default_rng([self.seed, 0, index]) for index, name in enumerate(SHARES)}
        rng, count = rngs["object"], counts["object"]
        return _Families(
            shapes={name: family(rngs[name], counts[name]) for name, family in _SHAPES.items()},
            textures=Textures(rngs["texture"], counts["texture"]),
            # The three parts of objects share a generator: their order matters.
            object_contours=Contours(rng, count),
            object_figures=Figures(rng, count),
            object_textures=Textures(rng, count),
        )

    def _render_family(self, family: str, members: Members, rng: Rng, size: int) -> Rendering:
        if family == "texture":
            return self._render_texture(members, rng, size)
        if family == "object":
            return self._render_object(members, rng, size)
        return self._families.shapes[family].render(members, rng, size)

    def _render_texture(self, members: Members, rng: Rng, size: int) -> Rendering:
        """A texture that fills the image, or a random blot that does not depend on the class."""
        tone = self._families.textures.render(members, rng, size)
        blot = np.clip(cloud_noise(rng, len(members), size, smooth=True) * 6 + 3, 0, 1)
        fills_image = rng.random(len(members)) < 0.6
        return Rendering(np.where(fills_image[:, None, None], 1, blot).astype(np.float32), tone)

    def _render_object(self, members: Members, rng: Rng, size: int) -> Rendering:
        """A texture inside a contour or a figure, all specific to the class."""
        contour = self._families.object_contours.render(members, rng, size).cover
        figure = self._families.object_figures.render(members, rng, size)
        is_figure = members % 2 == 0
        cover = np.where(is_figure[:, None, None], figure.cover, contour)
        is_rough = members % 5 == 0
        cover[is_rough] = roughen_edges(cover[is_rough], rng)
        texture = self._families.object_textures.render(members, rng, size)
        strength = 0.25 + 0.75 * (members % 3 / 2)[:, None, None].astype(np.float32)
        tone = np.where(is_figure[:, None, None], figure.tone, 0.5) * (1 - strength) + texture * strength
        return Rendering(cover, tone.astype(np.float32))

    @cached_property
    def _class_palettes(self) -> Array:
        return random_palettes(np.random.default_rng([self.seed, 2]), self.count)

    def _choose_palettes(self, labels: NDArray[np.int64], is_coloured: NDArray[np.bool_], rng: Rng) -> Array:
        """Three colours per image, 0-1: those of the class with some jitter, or random ones."""
        own = self._class_palettes[labels] + (rng.standard_normal((len(labels), 3, 3)) * 0.05).astype(np.float32)
        own *= uniform(rng, 0.8, 1.2, len(labels), 1, 1)
        return np.clip(np.where(is_coloured[:, None, None], own, random_palettes(rng, len(labels))), 0, 1)


def random_palettes(rng: Rng, count: int) -> Array:
    """Random palettes of three colours: vivid, muted or near grey; float32 (count, 3, 3), 0-1."""
    vivid = uniform(rng, 0, 1, count, 3, 3)
    grey = (vivid @ _GREY)[..., None]
    grey = np.clip((grey - 0.5) * 1.8 + 0.5, 0, 1)
    one_hue = uniform(rng, -0.5, 0.5, count, 1, 3) * 0.7
    chroma = rng.choice([0.05, 0.3, 1.0], count, p=[0.3, 0.3, 0.4])[:, None, None]
    hue = np.where(rng.random(count) < 0.4, 0, 1)[:, None, None]
    mixed: Array = grey + chroma * ((vivid - grey) * hue + one_hue * (1 - hue))
    return np.clip(mixed, 0, 1).astype(np.float32)


def _colourise(tone: Array, palette: Array) -> Array:
    """Map tones (batch, size, size) to colours of palettes (batch, 3, 3): float32 (batch, size, size, 3)."""
    low = np.clip(1 - 2 * tone, 0, 1)[..., None]
    high = np.clip(2 * tone - 1, 0, 1)[..., None]
    first, middle, last = (palette[:, k, None, None, :] for k in range(3))
    return middle + low * (first - middle) + high * (last - middle)


def _shading(cover: Array, rng: Rng) -> Array:
    """Brightness factors (batch, size, size, 1) of a rounded object lit from one side."""
    size = cover.shape[-1]
    height = blur(cover, blur_matrices(size)[4])
    down, right = np.gradient(height, axis=(1, 2))
    angle = uniform(rng, 0, 2 * np.pi, len(cover), 1, 1)
    strength = uniform(rng, 0, 5, len(cover), 1, 1)
    factors: Array = 1 + strength * (np.cos(angle) * right + np.sin(angle) * down) * (size / 64)
    return np.clip(factors, 0.3, 1.6)[..., None].astype(np.float32)


def _background(hardness: Array, size: int, rng: Rng) -> Array:
    """Flat, sloping, cloudy or rough backgrounds in random colours, float32 (batch, size, size, 3)."""
    count = len(hardness)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    angle = uniform(rng, 0, 2 * np.pi, count, 1, 1)
    slope = (np.cos(angle) * line[None, None, :] + np.sin(angle) * line[None, :, None]) * uniform(
        rng, 0, 0.5, count, 1, 1
    )
    rough = cloud_noise(rng, count, size) * (hardness * uniform(rng, 0, 0.5, count))[:, None, None]
    tone = np.clip(0.5 + slope + rough, 0, 1).astype(np.float32)
    palette = random_palettes(rng, count)
    spread = np.where(rng.random(count) < 0.6, 0.15, 0.8)[:, None, None]
    return _colourise(tone, (palette[:, 1:2] + (palette - palette[:, 1:2]) * spread).astype(np.float32))


def _compose(foreground: Array, cover: Array, hardness: Array, rng: Rng) -> Array:
    """Put foregrounds on backgrounds, some with a shadow and some with an occluding rectangle."""
    count, size = cover.shape[:2]
    back = _background(hardness, size, rng)
    alpha = cover[..., None]
    area = cover.sum((1, 2), keepdims=True)[..., None] + 1
    contrast = ((foreground - back) * alpha).sum((1, 2), keepdims=True) / area
    # Where the foreground is hardly visible, the background becomes brighter or darker.
    is_faint = np.abs(contrast).max(-1, keepdims=True) < (0.5 - 0.35 * hardness)[:, None, None, None]
    brightness = np.where(back.mean((1, 2, 3), keepdims=True) < 0.5, 0.5, -0.5).astype(np.float32)
    back = np.where(is_faint, np.clip(back + brightness, 0, 1), back)
    has_shadow = rng.random(count) < 0.3 * hardness
    if has_shadow.any():
        shadow = np.roll(blur(cover[has_shadow], blur_matrices(size)[3]), (size // 20, size // 24), (1, 2))
        back[has_shadow] *= 1 - 0.5 * shadow[..., None]
    images = back + (foreground - back) * alpha
    for k in np.flatnonzero(rng.random(count) < 0.3 * hardness):
        height, width = rng.integers(size // 8, size // 3, 2)
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        images[k, top : top + height, left : left + width] = rng.random(3)
    return images


def _degrade(images: Array, hardness: Array, rng: Rng) -> NDArray[np.uint8]:
    """Blur images or reduce them to few pixels, change contrast, brightness and colour, add noise; return uint8."""
    count, size = images.shape[:2]
    matrices = blur_matrices(size)
    # The matrices are sorted by kind, not by strength. All are equally likely.
    blur_kind = np.where(rng.random(count) > hardness, -1, rng.integers(0, len(matrices), count))
    for kind, matrix in enumerate(matrices):
        if (chosen := blur_kind == kind).any():
            images[chosen] = blur(images[chosen], matrix)
    strength = hardness[:, None, None, None]
    contrast = 1 + strength * uniform(rng, -0.5, 0.3, count, 1, 1, 1)
    brightness = strength * (uniform(rng, -0.2, 0.2, count, 1, 1, 1) + uniform(rng, -0.05, 0.05, count, 1, 1, 3))
    images = (images - 0.5) * contrast + (0.5 + brightness)
    is_grey = rng.random(count) < 0.25 * hardness
    images[is_grey] = (images[is_grey] @ _GREY)[..., None]
    noise_level = np.where(rng.random(count) > hardness, 0, uniform(rng, 0, 0.08, count)).astype(np.float32)
    is_noisy = noise_level > 0
    noise = rng.standard_normal((int(is_noisy.sum()), size, size, 3), np.float32)
    images[is_noisy] += noise * noise_level[is_noisy, None, None, None]
    return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)
