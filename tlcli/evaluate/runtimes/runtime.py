"""What every runtime of a classifier offers, and what every file of a classifier states."""

from typing import Protocol

import numpy as np

from tlcli.recipe.fields import Resize


class Runtime(Protocol):
    """A classifier that is ready to run, whatever its format.

    Attributes:
        classes: Class names in the order of the probabilities.
        size: Height and width of the images that it takes, pixels.
        resize: How images are resized to `size`: crop, pad or stretch.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102 – see the attributes of the class

    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def resize(self) -> Resize: ...  # noqa: D102

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The probabilities of some images.

        Args:
            images: float32 or uint8 (images, height, width, 3) of `size`, RGB 0-255. Files that take whole numbers get
                the pixels rounded.

        Returns:
            float32 (images, classes), 0-1.
        """
        ...
