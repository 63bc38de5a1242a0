"""Movements: affine maps from a pixel of a view to the place in the image that it shows."""

import math
from dataclasses import dataclass
from typing import Any

from keras import ops

# Aspect ratios of a random crop. Ref: Szegedy et al. 2014, arXiv 1409.4842.
LARGEST_ASPECT = 4 / 3


@dataclass(frozen=True)
class Movement:
    """An affine map for each image of a batch, around the centre of the image.

    The point (x, y) maps to (a x + b y + dx, d x + e y + dy).

    Attributes:
        linear: The numbers a, b, d and e, each `float32 (batch,)` or a number.
        offset: The numbers dx and dy, pixels.
    """

    linear: tuple[Any, Any, Any, Any]
    offset: tuple[Any, Any] = (0.0, 0.0)

    def of(self, inner: "Movement") -> "Movement":
        """The map of a point by `inner`, and then by this one."""
        (a, b, d, e), (dx, dy) = self.linear, self.offset
        (p, q, r, s), (ix, iy) = inner.linear, inner.offset
        linear = (a * p + b * r, a * q + b * s, d * p + e * r, d * q + e * s)
        return Movement(linear, (a * ix + b * iy + dx, d * ix + e * iy + dy))

    def matrices(self, height: int, width: int) -> Any:
        """`float32 (batch, 8)`: the maps between pixel indices, for `ops.image.affine_transform`."""
        (a, b, d, e), (dx, dy) = self.linear, self.offset
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        shift_x, shift_y, zero = dx + centre_x, dy + centre_y, ops.zeros_like(a)
        c = shift_x - a * centre_x - b * centre_y
        f = shift_y - d * centre_x - e * centre_y
        return ops.stack([a, b, c, d, e, f, zero, zero], axis=1)


def rotation(angle: Any) -> Movement:
    """A rotation by an angle, radians."""
    return Movement((ops.cos(angle), -ops.sin(angle), ops.sin(angle), ops.cos(angle)))


def shear(tangent_x: Any, tangent_y: Any = 0.0) -> Movement:
    """A shear along the rows and one along the columns, as tangents of their angles."""
    one = ops.ones_like(tangent_x)
    return Movement((one, tangent_x, tangent_y * one, one))


def transposition(is_on: Any, height: int, width: int) -> Movement:
    """Rows and columns swapped where `is_on`, float32 (batch,), is 1. The image keeps its height and width."""
    off = 1 - is_on
    return Movement((off, is_on * width / height, is_on * height / width, off))


def crop(share: Any, aspect: Any, place: tuple[Any, Any], height: int, width: int) -> Movement:
    """A crop, resized to the whole image.

    Args:
        share: Share of the area that is kept, above 0 to 1.
        aspect: Aspect ratio of the crop, relative to that of the image, as far as a crop of this area can have it.
        place: Where the crop lies in the room that it has in x and y, -1 to 1.
        height: Height of the image, pixels.
        width: Width of the image, pixels.
    """
    # A side that would be longer than the image ends there; then the other is the share.
    across, down = (ops.minimum(ops.maximum(ops.sqrt(share * ratio), share), 1.0) for ratio in (aspect, 1 / aspect))
    zero = ops.zeros_like(across)
    offset = (place[0] * (1 - across) / 2 * width, place[1] * (1 - down) / 2 * height)
    return Movement((across, zero, zero, down), offset)


def log_aspect() -> float:
    """The logarithm of `LARGEST_ASPECT`."""
    return math.log(LARGEST_ASPECT)
