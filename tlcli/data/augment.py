"""Augmentation: one Keras layer that flips, rotates, scales and shifts in a single warp, and changes colours."""

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tlcli.recipe.schema import OPERATIONS, AugmentSpec

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
}


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

    @property
    def warps(self) -> bool:
        """True if any operation moves pixels."""
        return self.flip != "none" or max(self.rotation, self.zoom, self.shift) > 0

    @property
    def recolours(self) -> bool:
        """True if any operation changes colours."""
        return max(self.brightness, self.contrast, self.saturation) > 0


def bounds_of(spec: AugmentSpec) -> Bounds:
    """The bounds of a preset, or of the operations that a custom spec names."""
    if spec.preset != "custom":
        return Bounds(**PRESETS[spec.preset])
    values = {name: getattr(spec, name) for name in OPERATIONS}
    return Bounds(**{name: value for name, value in values.items() if value is not None})


class Augment(keras.layers.Layer):
    """Random views of a batch while training; outside training the batch itself.

    Input and output are `float32 (batch, height, width, 3)`, 0-255. All movements of an image form one affine matrix,
    so that it is resampled once, bilinearly. Colours change by one scale for saturation, one scale for contrast and
    one offset for brightness.
    """

    def __init__(self, bounds: Bounds, *, seed: int = 0) -> None:
        super().__init__(name="augment", trainable=False, dtype="float32")
        self.bounds = bounds
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """The views if `training`, else the images."""
        if not training:
            return images
        if self.bounds.warps:
            images = ops.image.affine_transform(
                images,
                self._matrices(images),
                interpolation="bilinear",
                fill_mode="nearest",
                data_format="channels_last",
            )
        return self._recoloured(images) if self.bounds.recolours else images

    def _uniform(self, batch: Any, bound: float) -> Any:
        """Random numbers from -bound to bound, `float32 (batch,)`."""
        return keras.random.uniform((batch,), -bound, bound, seed=self.seed_generator)

    def _signs(self, batch: Any, is_on: bool) -> Any:
        """Random signs, `float32 (batch,)`; all 1 if not `is_on`."""
        if not is_on:
            return ops.ones((batch,))
        return ops.sign(self._uniform(batch, 1.0) + 1e-9)

    def _matrices(self, images: Any) -> Any:
        """`float32 (batch, 8)`: for each image the map from a pixel of the view to the source pixel it samples."""
        batch, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        angle = self._uniform(batch, math.radians(self.bounds.rotation))
        scale = ops.exp(self._uniform(batch, math.log1p(self.bounds.zoom)))
        mirror_x = self._signs(batch, self.bounds.flip in ("horizontal", "both"))
        mirror_y = self._signs(batch, self.bounds.flip in ("vertical", "both"))
        cosine, sine = ops.cos(angle) * scale, ops.sin(angle) * scale
        a, b, d, e = cosine * mirror_x, -sine * mirror_y, sine * mirror_x, cosine * mirror_y
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        shift_x = self._uniform(batch, self.bounds.shift * width) + centre_x
        shift_y = self._uniform(batch, self.bounds.shift * height) + centre_y
        zero = ops.zeros((batch,))
        c = shift_x - a * centre_x - b * centre_y
        f = shift_y - d * centre_x - e * centre_y
        return ops.stack([a, b, c, d, e, f, zero, zero], axis=1)

    def _recoloured(self, images: Any) -> Any:
        """The images with random saturation, contrast and brightness, clipped to 0-255."""
        batch = ops.shape(images)[0]

        def per_image(bound: float) -> Any:
            return ops.reshape(self._uniform(batch, bound), (batch, 1, 1, 1))

        grey = ops.mean(images, axis=-1, keepdims=True)
        level = ops.mean(grey, axis=(1, 2), keepdims=True)
        images = grey + (images - grey) * (1 + per_image(self.bounds.saturation))
        images = level + (images - level) * (1 + per_image(self.bounds.contrast))
        return ops.clip(images + 255 * per_image(self.bounds.brightness), 0.0, 255.0)
