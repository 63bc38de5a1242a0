"""RandAugment and TrivialAugment: one or two random operations per image.

Refs: Cubuk et al. 2019, arXiv 1909.13719; Müller and Hutter 2021, arXiv 2103.10158 (the wide space). Both choose from
the same fourteen operations. Every image has its own, as in the papers; `keras.layers.RandAugment` chooses once for the
whole batch. Unlike in the papers, two operations are carried out in the order of `OPERATIONS`, so that all movements
are one warp.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from tlcli.data import colour
from tlcli.data.movement import Movement, rotation, shear

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "shift_x", "shift_y", "rotation"),
    *colour.OPERATIONS,
)
# Strongest change by each operation at the largest magnitude: tangents, shares of the image, radians, relative changes,
# bits. Solarize has a threshold from 255 to 0, autocontrast and equalize have no magnitude.
RANDAUGMENT = {
    **{"shear_x": 0.3, "shear_y": 0.3, "shift_x": 150 / 331, "shift_y": 150 / 331, "rotation": 0.5236},
    **{"brightness": 0.9, "colour": 0.9, "contrast": 0.9, "sharpness": 0.9, "posterize": 4.0, "solarize": 1.0},
}
# Shifts are 32 of 224 pixels.
TRIVIALAUGMENT = {
    **{"shear_x": 0.99, "shear_y": 0.99, "shift_x": 1 / 7, "shift_y": 1 / 7, "rotation": 2.3562},
    **{"brightness": 0.99, "colour": 0.99, "contrast": 0.99, "sharpness": 0.99, "posterize": 6.0, "solarize": 1.0},
}
# Operations that have no direction; all others go to either side.
_UNSIGNED = ("posterize", "solarize", "autocontrast", "equalize")
LARGEST_MAGNITUDE = 30


@dataclass(frozen=True)
class RandomOperations:
    """The operations of each image of a batch.

    Attributes:
        strengths: Of each operation the strength by image, `float32 (batch,)`, in its own unit; 0 for images that do
            not undergo it.
    """

    strengths: dict[str, Any]

    def movement(self, height: int, width: int) -> Movement:
        """The movements of all images; pixels outside a view's image are those at its edge."""
        of = self.strengths
        shift = Movement((1.0, 0.0, 0.0, 1.0), (of["shift_x"] * width, of["shift_y"] * height))
        return shift.of(rotation(of["rotation"])).of(shear(of["shear_x"], of["shear_y"]))

    def recoloured(self, images: Any) -> Any:
        """The images after their changes of colour, `float32`, 0-255."""
        images = colour.clip(images)
        for name, change in colour.OPERATIONS.items():
            images = change(images, self.strengths[name])
        return images


def draw(uniform: Callable[[], Any], *, magnitude: float | None) -> RandomOperations:
    """Random operations: two of this magnitude, 0-30, per image, or for None a single one of random magnitude.

    Args:
        uniform: Returns random numbers from -1 to 1, `float32 (batch,)`, one per image.
        magnitude: That of RandAugment; None for TrivialAugment.
    """
    limits = TRIVIALAUGMENT if magnitude is None else RANDAUGMENT
    totals = dict.fromkeys(OPERATIONS, 0.0)
    for _ in range(1 if magnitude is None else 2):
        chosen, sign = _whole(uniform(), len(OPERATIONS)), ops.sign(uniform() + 1e-9)
        steps = _whole(uniform(), LARGEST_MAGNITUDE + 1) if magnitude is None else magnitude * ops.ones_like(sign)
        for index, name in enumerate(OPERATIONS):
            strength = steps / LARGEST_MAGNITUDE * limits[name] if name in limits else ops.ones_like(sign)
            strength = strength if name in _UNSIGNED else strength * sign
            totals[name] = totals[name] + ops.where(chosen == index, strength, 0.0)
    # The same operation twice is at most as strong as its limit.
    bounded = {name: ops.clip(total, -limits.get(name, 1.0), limits.get(name, 1.0)) for name, total in totals.items()}
    return RandomOperations(bounded)


def _whole(uniform: Any, count: int) -> Any:
    """Whole numbers from 0 to count - 1, from numbers between -1 and 1."""
    return ops.minimum(ops.floor((uniform + 1) / 2 * count), count - 1)
