"""The images that training and scoring are about: rows of the pixel cache."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Images:
    """Some images of the pixel cache, in a fixed order.

    Attributes:
        pixels: The cache, `uint8 (cached, height, width, 3)`, 0-255.
        rows: Which of its rows, `int64 (images,)`.
    """

    pixels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Examples(Images):
    """Images with their classes.

    Attributes:
        labels: `int64 (images,)`.
    """

    labels: np.ndarray
