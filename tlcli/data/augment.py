"""Augmentation: one Keras layer that makes all movements in a single warp, and then changes the colours."""

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tlcli.data import colour, filters, movement, random_operations
from tlcli.data.movement import Movement
from tlcli.data.random_operations import RandomOperations
from tlcli.recipe.augment import OPERATIONS, AugmentSpec

# Bounds of the presets, in the units of AugmentSpec.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "light": {"flip": "horizontal", "rotation": 10.0, "zoom": 0.1, "shift": 0.05},
    "strong": {
        "flip": "horizontal",
        "rotation": 20.0,
        "zoom": 0.25,
        "shift": 0.1,
        "brightness": 0.15,
        "contrast": 0.25,
        "saturation": 0.25,
    },
    "randaugment": {"flip": "horizontal", "randaugment": 9.0},
    "trivialaugment": {"flip": "horizontal", "trivialaugment": True},
}
# Area and aspect ratio of erased rectangles, and the share of images with one. Ref: Zhong et al., arXiv 1708.04896.
LEAST_ERASED, LARGEST_ERASED_ASPECT, ERASED_IMAGES = 0.02, 3.3, 0.5


@dataclass(frozen=True)
class Bounds:
    """The bound of every operation, in the units of AugmentSpec; 0 turns it off."""

    flip: str = "none"
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    transpose: bool = False
    shear: float = 0.0
    crop: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    jpeg: int = 0
    erasing: float = 0.0
    randaugment: float = 0.0
    trivialaugment: bool = False

    @property
    def warps(self) -> bool:
        """True if any operation moves pixels."""
        is_moved = self.flip != "none" or self.transpose or self.is_automatic
        return is_moved or max(self.rotation, self.zoom, self.shift, self.shear, self.crop) > 0

    @property
    def recolours(self) -> bool:
        """True if any operation changes colours by one scale or offset."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    @property
    def is_automatic(self) -> bool:
        """True if every image has random operations."""
        return self.randaugment > 0 or self.trivialaugment

    @property
    def mirrors(self) -> bool:
        """True if views are mirrored left to right."""
        return self.flip in ("horizontal", "both")


def bounds_of(spec: AugmentSpec) -> Bounds:
    """The bounds of a preset and of the operations that the spec names."""
    values = {name: value for name in OPERATIONS if (value := getattr(spec, name)) is not None}
    return Bounds(**(PRESETS.get(spec.preset, {}) | values))


class Augment(keras.layers.Layer):
    """Random views of a batch while training; outside training the batch itself.

    Input and output are `float32 (batch, height, width, 3)`, 0-255. All movements of an image form one affine matrix,
    so that it is resampled once, bilinearly. Colours change by one scale for saturation, one scale for contrast and
    one offset for brightness. Operations that are off draw no random numbers, so further ones do not change the views
    of those before.
    """

    def __init__(self, bounds: Bounds, *, seed: int = 0) -> None:
        super().__init__(name="augment", trainable=False, dtype="float32")
        self.bounds = bounds
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        """The views if `training`, else the images."""
        if not training:
            return images
        chosen = self._random_operations(ops.shape(images)[0]) if self.bounds.is_automatic else None
        if self.bounds.warps:
            images = ops.image.affine_transform(
                images,
                self._matrices(images) if chosen is None else self._matrices_with(chosen, images),
                interpolation="bilinear",
                fill_mode="nearest",
                data_format="channels_last",
            )
        if self.bounds.recolours:
            images = self._recoloured(images)
        if chosen is not None:
            images = chosen.recoloured(images)
        return self._filtered(images)

    def _uniform(self, batch: Any, bound: float) -> Any:
        """Random numbers from -bound to bound, `float32 (batch,)`."""
        return keras.random.uniform((batch,), -bound, bound, seed=self.seed_generator)

    def _shares(self, batch: Any) -> Any:
        """Random numbers from 0 to 1, `float32 (batch,)`."""
        return (self._uniform(batch, 1.0) + 1) / 2

    def _signs(self, batch: Any, is_on: bool) -> Any:
        """Random signs, `float32 (batch,)`; all 1 if not `is_on`."""
        if not is_on:
            return ops.ones((batch,))
        return ops.sign(self._uniform(batch, 1.0) + 1e-9)

    def _random_operations(self, batch: Any) -> RandomOperations:
        magnitude = None if self.bounds.trivialaugment else self.bounds.randaugment
        return random_operations.draw(lambda: self._uniform(batch, 1.0), magnitude=magnitude)

    def _matrices(self, images: Any) -> Any:
        """`float32 (batch, 8)`: for each image the map from a pixel of the view to the source pixel it samples."""
        return self._movement(images).matrices(images.shape[1], images.shape[2])

    def _matrices_with(self, chosen: RandomOperations, images: Any) -> Any:
        """The same with random operations."""
        height, width = images.shape[1], images.shape[2]
        return self._movement(images).of(chosen.movement(height, width)).matrices(height, width)

    def _movement(self, images: Any) -> Movement:
        """The movement of each image, without random operations."""
        batch, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        angle = self._uniform(batch, math.radians(self.bounds.rotation))
        scale = ops.exp(self._uniform(batch, math.log1p(self.bounds.zoom)))
        mirror_x = self._signs(batch, self.bounds.mirrors)
        mirror_y = self._signs(batch, self.bounds.flip in ("vertical", "both"))
        cosine, sine = ops.cos(angle) * scale, ops.sin(angle) * scale
        linear = (cosine * mirror_x, -sine * mirror_y, sine * mirror_x, cosine * mirror_y)
        shift = (self._uniform(batch, self.bounds.shift * width), self._uniform(batch, self.bounds.shift * height))
        whole = Movement(linear, shift)
        for part in self._further_movements(batch, height, width):
            whole = whole.of(part)
        return whole

    def _further_movements(self, batch: Any, height: int, width: int) -> list[Movement]:
        """Shear, crop and transposition, if they are on."""
        bounds, parts = self.bounds, []
        if bounds.shear:
            parts.append(movement.shear(ops.tan(self._uniform(batch, math.radians(bounds.shear)))))
        if bounds.crop:
            share = 1 - bounds.crop * self._shares(batch)
            aspect = ops.exp(self._uniform(batch, movement.log_aspect()))
            place = (self._uniform(batch, 1.0), self._uniform(batch, 1.0))
            parts.append(movement.crop(share, aspect, place, height, width))
        if bounds.transpose:
            is_on = (self._signs(batch, True) + 1) / 2
            parts.append(movement.transposition(is_on, height, width))
        return parts

    def _recoloured(self, images: Any) -> Any:
        """The images with random saturation, contrast and brightness, clipped to 0-255."""
        batch = ops.shape(images)[0]

        def per_image(bound: float) -> Any:
            return colour.per_image(self._uniform(batch, bound))

        grey = ops.mean(images, axis=-1, keepdims=True)
        level = ops.mean(grey, axis=(1, 2), keepdims=True)
        images = grey + (images - grey) * (1 + per_image(self.bounds.saturation))
        images = level + (images - level) * (1 + per_image(self.bounds.contrast))
        return ops.clip(images + 255 * per_image(self.bounds.brightness), 0.0, 255.0)

    def _filtered(self, images: Any) -> Any:
        """The images with hue, grey, blur, JPEG compression and erasing, those that are on."""
        batch, bounds = ops.shape(images)[0], self.bounds
        if bounds.hue:
            images = colour.shift_hue(images, self._uniform(batch, bounds.hue))
        if bounds.grey:
            images = colour.select(bounds.grey - self._shares(batch), colour.grey(images), images)
        if bounds.blur:
            images = filters.blur(images, bounds.blur * self._shares(batch))
        if bounds.jpeg:
            images = filters.jpeg(images, 100 - (100 - bounds.jpeg) * self._shares(batch))
        return self._erased(images) if bounds.erasing else images

    def _erased(self, images: Any) -> Any:
        """The images, half of them with a random rectangle of noise."""
        batch, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        least = min(LEAST_ERASED, self.bounds.erasing)
        area = least + (self.bounds.erasing - least) * self._shares(batch)
        aspect = ops.exp(self._uniform(batch, math.log(LARGEST_ERASED_ASPECT)))
        is_on = ops.cast(self._shares(batch) < ERASED_IMAGES, "float32")
        sides = ((height, ops.sqrt(area * aspect)), (width, ops.sqrt(area / aspect)))
        size = tuple(ops.round(ops.minimum(share, 1.0) * side) * is_on for side, share in sides)
        place = (self._shares(batch), self._shares(batch))
        noise = keras.random.uniform(ops.shape(images), 0.0, 255.0, seed=self.seed_generator)
        return filters.erase(images, (size[0], size[1]), place, noise)
