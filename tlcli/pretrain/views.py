"""Two pictures out of one: the random views that a network must find alike."""

import math
from typing import Any

from keras import ops

from tlcli.data.augment import Augment, Bounds

# Pictures are kept larger than views, so that a crop of them is not all enlargement.
OVERSIZE = 1.5
# Smallest share of the picture's area in a view, and the most a crop is stretched to either side.
_SMALLEST, _STRETCH = 0.2, 4 / 3
_COLOURS = Bounds(flip="horizontal", brightness=0.2, contrast=0.4, saturation=0.4)
_HUE = 0.1 * 2 * math.pi
_GREY_SHARE = 0.2


class Views(Augment):
    """Random views of a batch: `float32 (batch, side, side, 3)`, 0-255, to `(batch, size, size, 3)`, 0-255.

    Random resized crop and mirror in one warp, brightness, contrast, saturation and hue, grey one time in five. Blur is
    left out: small crops, enlarged, are blurred already.
    Ref: Chen & He 2021, arXiv 2011.10566, appendix A.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        super().__init__(_COLOURS, seed=seed)
        self.size = size

    def call(self, images: Any, training: bool = True) -> Any:
        """A view of each picture, always random."""
        warped = ops.image.affine_transform(
            images,
            self._matrices(images),
            interpolation="bilinear",
            fill_mode="nearest",
            data_format="channels_last",
        )
        # The warp keeps the shape of its input; its corner is the view.
        return self._greyed(self._recoloured(self._rehued(warped[:, : self.size, : self.size])))

    def _matrices(self, images: Any) -> Any:
        """`float32 (batch, 8)`: for each image the map from a view's pixel to the source pixel it is sampled from."""
        batch, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        area = (1 + _SMALLEST) / 2 + self._uniform(batch, (1 - _SMALLEST) / 2)
        stretch = ops.exp(self._uniform(batch, math.log(_STRETCH) / 2))
        across = ops.minimum(ops.sqrt(area) * stretch, 1.0) * width
        down = ops.minimum(ops.sqrt(area) / stretch, 1.0) * height
        left = (self._uniform(batch, 0.5) + 0.5) * (width - across)
        top = (self._uniform(batch, 0.5) + 0.5) * (height - down)
        mirror = self._signs(batch, is_on=True)
        a, e, zero = mirror * across / self.size, down / self.size, ops.zeros((batch,))
        # Pixel centres lie at halves, and a mirrored view begins at the crop's right edge.
        c = ops.where(mirror > 0, left, left + across) + a / 2 - 0.5
        return ops.stack([a, zero, c, zero, e, top + e / 2 - 0.5, zero, zero], axis=1)

    def _rehued(self, images: Any) -> Any:
        """Colours turned about the grey axis (Rodrigues' formula)."""
        angle = ops.reshape(self._uniform(ops.shape(images)[0], _HUE), (-1, 1, 1, 1))
        grey = ops.mean(images, axis=-1, keepdims=True)
        across = (ops.roll(images, 1, axis=-1) - ops.roll(images, -1, axis=-1)) / math.sqrt(3)
        return grey + (images - grey) * ops.cos(angle) + across * ops.sin(angle)

    def _greyed(self, images: Any) -> Any:
        chance = ops.reshape(self._uniform(ops.shape(images)[0], 0.5) + 0.5, (-1, 1, 1, 1))
        return ops.where(chance < _GREY_SHARE, ops.mean(images, axis=-1, keepdims=True), images)
