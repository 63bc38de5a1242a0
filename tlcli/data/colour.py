"""Changes of the colours of images, each by one number per image.

Images are `float32 (batch, height, width, 3)`, RGB 0-255; numbers are `float32 (batch,)`. A number of 0 keeps the
image. The formulas are those of Pillow, whose operations RandAugment uses. The layers of Keras do not serve here:
`Equalization` counts the pixels of the whole batch, and others draw their numbers themselves.
"""

from collections.abc import Callable
from typing import Any

from keras import ops


def per_image(numbers: Any) -> Any:
    """The numbers with the shape `(batch, 1, 1, 1)`."""
    return ops.reshape(numbers, (-1, 1, 1, 1))


def select(chosen: Any, changed: Any, images: Any) -> Any:
    """The changed images where `chosen` is above 0, else the images."""
    return ops.where(per_image(chosen) > 0, changed, images)


def clip(images: Any) -> Any:
    """The images within 0-255."""
    return ops.clip(images, 0.0, 255.0)


def grey(images: Any) -> Any:
    """The luma of the images (ITU-R BT.601), in three equal channels."""
    return ops.repeat(ops.image.rgb_to_grayscale(images, data_format="channels_last"), 3, axis=-1)


def shift_hue(images: Any, shift: Any) -> Any:
    """The images with hues shifted by a share of the colour circle."""
    hsv = ops.image.rgb_to_hsv(clip(images) / 255, data_format="channels_last")
    hue = (hsv[..., :1] + per_image(shift)) % 1.0
    shifted = ops.image.hsv_to_rgb(ops.concatenate([hue, hsv[..., 1:]], axis=-1), data_format="channels_last")
    return ops.where(per_image(shift) == 0, images, shifted * 255)


def scale_brightness(images: Any, change: Any) -> Any:
    """The images scaled by 1 + change."""
    return clip(images * (1 + per_image(change)))


def scale_colour(images: Any, change: Any) -> Any:
    """The distance from grey scaled by 1 + change."""
    return _away_from(grey(images), images, change)


def scale_contrast(images: Any, change: Any) -> Any:
    """The distance from the mean luma scaled by 1 + change."""
    return _away_from(ops.mean(grey(images), axis=(1, 2), keepdims=True), images, change)


def scale_sharpness(images: Any, change: Any) -> Any:
    """The distance from a smoothed image scaled by 1 + change. Pixels at the edge are not smoothed."""
    total = 4 * images[:, 1:-1, 1:-1]
    for down in range(3):
        for across in range(3):
            rows, columns = images.shape[1] - 2, images.shape[2] - 2
            total += images[:, down : down + rows, across : across + columns]
    smooth = ops.pad(total / 13 - images[:, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _away_from(images + smooth, images, change)


def _away_from(origin: Any, images: Any, change: Any) -> Any:
    return ops.where(per_image(change) == 0, images, clip(origin + (images - origin) * (1 + per_image(change))))


def posterize(images: Any, bits: Any) -> Any:
    """The images with this number of low bits set to 0."""
    step = ops.power(2.0, per_image(ops.round(bits)))
    return ops.where(step == 1, images, ops.floor(images / step) * step)


def solarize(images: Any, strength: Any) -> Any:
    """The brightest values inverted: those above 255 times 1 - strength."""
    return ops.where(images > 255 * (1 - per_image(strength)), 255 - images, images)


def autocontrast(images: Any, chosen: Any) -> Any:
    """Each channel stretched to 0-255 where `chosen` is above 0."""
    low, high = (reduce(images, axis=(1, 2), keepdims=True) for reduce in (ops.min, ops.max))
    stretched = (images - low) * 255 / ops.maximum(high - low, 1e-3)
    return select(chosen, ops.where(high > low, stretched, images), images)


def equalize(images: Any, chosen: Any) -> Any:
    """The values of each channel spread evenly over 0-255 where `chosen` is above 0."""
    batch = ops.shape(images)[0]
    values = ops.cast(ops.round(clip(images)), "int32")
    channel = ops.reshape(ops.arange(batch * 3, dtype="int32"), (batch, 1, 1, 3))
    places = ops.reshape(channel * 256 + values, (-1,))
    counts = ops.segment_sum(ops.ones_like(places, dtype="float32"), places, num_segments=batch * 3 * 256)
    counts = ops.reshape(counts, (batch * 3, 256))
    below = ops.cumsum(counts, axis=1) - counts
    # All pixels but the brightest ones spread over 255 steps, as in Pillow.
    step = ops.floor(ops.max(ops.where(counts > 0, below, 0.0), axis=1, keepdims=True) / 255)
    spread = ops.clip(ops.floor((below + ops.floor(step / 2)) / ops.maximum(step, 1.0)), 0.0, 255.0)
    spread = ops.where(step > 0, spread, ops.arange(256, dtype="float32"))
    result = ops.reshape(ops.take(ops.reshape(spread, (-1,)), places), ops.shape(images))
    return select(chosen, result, images)


# By the name of an operation of RandAugment: how it changes the colours.
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "brightness": scale_brightness,
    "colour": scale_colour,
    "contrast": scale_contrast,
    "sharpness": scale_sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
