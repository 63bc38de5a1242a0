"""Pictures of synthetic classes: things and surfaces with colour, light, background, occlusion and blur."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tlcli.pretrain.synthetic.canvas import Array, Rng, clouds, softened, softeners, uniform
from tlcli.pretrain.synthetic.shape import Contours, Drawing, Figures, Fractals, Members, Strokes, dented
from tlcli.pretrain.synthetic.texture import Textures

# Families and their shares of the classes.
SHARES = {"fractal": 0.16, "contour": 0.14, "stroke": 0.24, "figure": 0.14, "texture": 0.12, "object": 0.20}
# Families whose classes have colours of their own; the others come in any.
COLOURED = ("texture", "object")
_THINGS: dict[str, type[Fractals | Contours | Strokes | Figures]] = {
    "fractal": Fractals,
    "contour": Contours,
    "stroke": Strokes,
    "figure": Figures,
}
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class World:
    """All classes of one seed.

    Attributes:
        classes: How many.
        seed: What they are drawn from; the same seed gives the same classes.
    """

    classes: int
    seed: int = 0

    @cached_property
    def first(self) -> dict[str, int]:
        """The first class of every family; the last entry ends the list."""
        edges = np.round(np.cumsum([0, *SHARES.values()]) * self.classes).astype(int)
        return dict(zip([*SHARES, "end"], edges.tolist(), strict=True))

    def family(self, label: int) -> str:
        """The family a class is of."""
        return [name for name in SHARES if self.first[name] <= label][-1]

    def draw(self, labels: NDArray[np.int64], *, seed: int, size: int, hardness: float = 1.0) -> NDArray[np.uint8]:
        """Draw one picture of each label.

        Args:
            labels: Classes, 0 to `classes` - 1, (batch,).
            seed: What is chance in these pictures; the same seed gives the same pictures.
            size: Height and width, pixels.
            hardness: 0-1, how much stands in the way of seeing what is drawn: low contrast, rough backgrounds,
                blur, noise, things in front. Every picture draws its own between 0 and this.

        Returns:
            uint8 (batch, size, size, 3), RGB.
        """
        rng = np.random.default_rng([self.seed, 1, seed])
        cover = np.empty((len(labels), size, size), np.float32)
        tone = np.empty_like(cover)
        names = list(SHARES)
        which = np.searchsorted([self.first[name] for name in names], labels, side="right") - 1
        for number in np.unique(which):
            chosen = which == number
            drawing = self._draw(names[number], labels[chosen] - self.first[names[number]], rng, size)
            cover[chosen], tone[chosen] = drawing.cover, drawing.tone
        coloured = np.isin(which, [names.index(name) for name in COLOURED])
        thing = _painted(tone, self._palettes(labels, coloured, rng))
        solid = which == names.index("object")
        thing[solid] *= _light(cover[solid], rng)
        hard = uniform(rng, 0, hardness, len(labels))
        return _finished(_composed(thing, cover, hard, rng), hard, rng)

    @cached_property
    def _families(self) -> "_Families":
        count = {name: max(1, round(share * self.classes) + 1) for name, share in SHARES.items()}
        rng = {name: np.random.default_rng([self.seed, 0, number]) for number, name in enumerate(SHARES)}
        things = {name: kind(rng[name], count[name]) for name, kind in _THINGS.items()}
        surfaces = Textures(rng["texture"], count["texture"])
        objects, number = rng["object"], count["object"]
        return _Families(
            things, surfaces, Contours(objects, number), Figures(objects, number), Textures(objects, number)
        )

    def _draw(self, family: str, members: Members, rng: Rng, size: int) -> Drawing:
        if family == "texture":
            return self._surface(members, rng, size)
        if family == "object":
            return self._object(members, rng, size)
        return self._families.things[family].draw(members, rng, size)

    def _surface(self, members: Members, rng: Rng, size: int) -> Drawing:
        """A surface all over the picture, or within a blot that says nothing of the class."""
        tone = self._families.surfaces.draw(members, rng, size)
        blot = np.clip(clouds(rng, len(members), size, smooth=True) * 6 + 3, 0, 1)
        whole = rng.random(len(members)) < 0.6
        return Drawing(np.where(whole[:, None, None], 1, blot).astype(np.float32), tone)

    def _object(self, members: Members, rng: Rng, size: int) -> Drawing:
        """A surface within an outline, both of the class."""
        outline = self._families.outlines.draw(members, rng, size).cover
        build = self._families.builds.draw(members, rng, size)
        built = members % 2 == 0
        cover = np.where(built[:, None, None], build.cover, outline)
        torn = members % 5 == 0
        cover[torn] = dented(cover[torn], rng)
        surface = self._families.coats.draw(members, rng, size)
        strength = 0.25 + 0.75 * (members % 3 / 2)[:, None, None].astype(np.float32)
        tone = np.where(built[:, None, None], build.tone, 0.5) * (1 - strength) + surface * strength
        return Drawing(cover, tone.astype(np.float32))

    @cached_property
    def _own_palettes(self) -> Array:
        return palettes(np.random.default_rng([self.seed, 2]), self.classes)

    def _palettes(self, labels: NDArray[np.int64], coloured: NDArray[np.bool_], rng: Rng) -> Array:
        """Three colours a picture, 0-1: the class's own, slightly off, or any."""
        own = self._own_palettes[labels] + (rng.standard_normal((len(labels), 3, 3)) * 0.05).astype(np.float32)
        own *= uniform(rng, 0.8, 1.2, len(labels), 1, 1)
        return np.clip(np.where(coloured[:, None, None], own, palettes(rng, len(labels))), 0, 1)


@dataclass(frozen=True)
class _Families:
    """Things by family, the surfaces of textures, and outlines, builds and surfaces of objects."""

    things: dict[str, Fractals | Contours | Strokes | Figures]
    surfaces: Textures
    outlines: Contours
    builds: Figures
    coats: Textures


def palettes(rng: Rng, number: int) -> Array:
    """Random palettes of three colours: vivid, muted or near grey; float32 (number, 3, 3), 0-1."""
    vivid = uniform(rng, 0, 1, number, 3, 3)
    grey = (vivid @ _GREY)[..., None]
    grey = np.clip((grey - 0.5) * 1.8 + 0.5, 0, 1)
    one_hue = uniform(rng, -0.5, 0.5, number, 1, 3) * 0.7
    chroma = rng.choice([0.05, 0.3, 1.0], number, p=[0.3, 0.3, 0.4])[:, None, None]
    hue = np.where(rng.random(number) < 0.4, 0, 1)[:, None, None]
    mixed: Array = grey + chroma * ((vivid - grey) * hue + one_hue * (1 - hue))
    return np.clip(mixed, 0, 1).astype(np.float32)


def _painted(tone: Array, palette: Array) -> Array:
    """Tones (batch, size, size) through palettes (batch, 3, 3): float32 (batch, size, size, 3)."""
    low = np.clip(1 - 2 * tone, 0, 1)[..., None]
    high = np.clip(2 * tone - 1, 0, 1)[..., None]
    first, middle, last = (palette[:, k, None, None, :] for k in range(3))
    return middle + low * (first - middle) + high * (last - middle)


def _light(cover: Array, rng: Rng) -> Array:
    """Light from one side on a rounded thing: factors (batch, size, size, 1)."""
    size = cover.shape[-1]
    height = softened(cover, softeners(size)[4])
    down, right = np.gradient(height, axis=(1, 2))
    angle = uniform(rng, 0, 2 * np.pi, len(cover), 1, 1)
    strength = uniform(rng, 0, 5, len(cover), 1, 1)
    shade: Array = 1 + strength * (np.cos(angle) * right + np.sin(angle) * down) * (size / 64)
    return np.clip(shade, 0.3, 1.6)[..., None].astype(np.float32)


def _background(hard: Array, size: int, rng: Rng) -> Array:
    """Flat, sloping, cloudy or rough, in any two colours."""
    number = len(hard)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    angle = uniform(rng, 0, 2 * np.pi, number, 1, 1)
    slope = (np.cos(angle) * line[None, None, :] + np.sin(angle) * line[None, :, None]) * uniform(
        rng, 0, 0.5, number, 1, 1
    )
    rough = clouds(rng, number, size) * (hard * uniform(rng, 0, 0.5, number))[:, None, None]
    tone = np.clip(0.5 + slope + rough, 0, 1).astype(np.float32)
    palette = palettes(rng, number)
    spread = np.where(rng.random(number) < 0.6, 0.15, 0.8)[:, None, None]
    return _painted(tone, (palette[:, 1:2] + (palette - palette[:, 1:2]) * spread).astype(np.float32))


def _composed(thing: Array, cover: Array, hard: Array, rng: Rng) -> Array:
    """Things on backgrounds, with a shadow now and then, and something in front now and then."""
    number, size = cover.shape[:2]
    back = _background(hard, size, rng)
    inside = cover[..., None]
    mass = cover.sum((1, 2), keepdims=True)[..., None] + 1
    apart = ((thing - back) * inside).sum((1, 2), keepdims=True) / mass
    # A thing that cannot be told from what is behind it is moved to the other end of the scale.
    pale = np.abs(apart).max(-1, keepdims=True) < (0.5 - 0.35 * hard)[:, None, None, None]
    away = np.where(back.mean((1, 2, 3), keepdims=True) < 0.5, 0.5, -0.5).astype(np.float32)
    back = np.where(pale, np.clip(back + away, 0, 1), back)
    shadow = rng.random(number) < 0.3 * hard
    if shadow.any():
        cast = np.roll(softened(cover[shadow], softeners(size)[3]), (size // 20, size // 24), (1, 2))
        back[shadow] *= 1 - 0.5 * cast[..., None]
    picture = back + (thing - back) * inside
    hidden = np.flatnonzero(rng.random(number) < 0.3 * hard)
    for k in hidden:
        tall, wide = rng.integers(size // 8, size // 3, 2)
        top, left = rng.integers(0, size - tall), rng.integers(0, size - wide)
        picture[k, top : top + tall, left : left + wide] = rng.random(3)
    return picture


def _finished(picture: Array, hard: Array, rng: Rng) -> NDArray[np.uint8]:
    """Light, contrast, colour cast, blur or few pixels, noise; then uint8."""
    number, size = picture.shape[:2]
    kinds = softeners(size)
    # Softeners are in the order of their kind, not of their strength: all are met equally often.
    soft = np.where(rng.random(number) > hard, -1, rng.integers(0, len(kinds), number))
    for kind, matrix in enumerate(kinds):
        if (chosen := soft == kind).any():
            picture[chosen] = softened(picture[chosen], matrix)
    much = hard[:, None, None, None]
    contrast = 1 + much * uniform(rng, -0.5, 0.3, number, 1, 1, 1)
    bright = much * (uniform(rng, -0.2, 0.2, number, 1, 1, 1) + uniform(rng, -0.05, 0.05, number, 1, 1, 3))
    picture = (picture - 0.5) * contrast + (0.5 + bright)
    plain = rng.random(number) < 0.25 * hard
    picture[plain] = (picture[plain] @ _GREY)[..., None]
    grain = np.where(rng.random(number) > hard, 0, uniform(rng, 0, 0.08, number)).astype(np.float32)
    noisy = grain > 0
    noise = rng.standard_normal((int(noisy.sum()), size, size, 3), np.float32)
    picture[noisy] += noise * grain[noisy, None, None, None]
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
