"""Test-time augmentation: the mean prediction over several fixed views of each image.

The views are the plain image, shifted ones, and their mirror images if the training mirrored images, too. N views cost
N times as much. Refs: Krizhevsky et al. 2012 (shifted and mirrored crops); Shanmugam et al. 2021, arXiv 2011.11156.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from tlcli.evaluate import run_folder
from tlcli.evaluate.runtimes import is_run
from tlcli.evaluate.runtimes.runtime import Runtime
from tlcli.recipe.augment import AugmentSpec

# Shifts down and to the right, in steps of `STEP` of the height and width; nearer ones first.
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
STEP = 1 / 32
MAX_VIEWS = len(SHIFTS)


@dataclass(frozen=True)
class Views:
    """The views of an image at test time.

    Attributes:
        count: Number of views, 1 to `MAX_VIEWS`; the first one is the plain image.
        is_mirrored: True if every second view is the mirror image of the one before.
    """

    count: int = 1
    is_mirrored: bool = False

    def of(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Each view of all images, (images, height, width, 3), of the dtype of the images."""
        for number in range(self.count):
            index, is_mirror = divmod(number, 2) if self.is_mirrored else (number, 0)
            view = _shifted(images, *SHIFTS[index])
            yield view[:, :, ::-1] if is_mirror else view

    def probabilities(self, classifier: Runtime, images: np.ndarray) -> np.ndarray:
        """The probabilities of each view, `float32 (images, views, classes)`."""
        return np.stack([classifier.probabilities(np.ascontiguousarray(view)) for view in self.of(images)], axis=1)


# The plain image alone.
PLAIN = Views()


def _shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """The images moved by steps; the pixels at the edge repeat."""
    for axis, steps in ((1, down), (2, right)):
        side = images.shape[axis]
        places = np.arange(side) - steps * max(1, round(STEP * side))
        images = images if steps == 0 else images.take(places.clip(0, side - 1), axis=axis)
    return images


def views_for(path: Path, count: int) -> Views:
    """The views for a classifier.

    They are mirrored if it is a run whose training mirrored images left to right. Bundles and files do not tell, so
    theirs are not.

    Args:
        path: A run folder, a bundle or a classifier file.
        count: Number of views.

    Raises:
        UsageError: If the record of the run is damaged.
    """
    if count == 1 or not is_run(path):
        return Views(count)
    # It loads Keras, which bundles of other formats do without.
    from tlcli.data.augment import bounds_of

    try:
        spec = AugmentSpec.model_validate(run_folder.read_json(path)["recipe"]["augment"])
    except (ValidationError, KeyError, TypeError) as error:
        raise run_folder.damaged(path, "its recipe has no valid augmentation") from error
    return Views(count, bounds_of(spec).mirrors)
