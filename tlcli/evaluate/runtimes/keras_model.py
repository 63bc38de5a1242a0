"""Classifiers in Keras: `.keras` files and run folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcli.recipe.fields import Resize

if TYPE_CHECKING:
    # This module is imported before Keras is loaded.
    from tlcli.model.classifier import Classifier

# Images a call, at most.
BATCH = 32
# Smaller calls are padded to one of these, so that few graphs are traced, and one image does not cost 32.
_PADDED = (1, 4, BATCH)


@dataclass(frozen=True)
class KerasRuntime:
    """A classifier that Keras runs; see `Runtime`. `model` is a `keras.Model`."""

    model: Any
    classes: tuple[str, ...]
    size: tuple[int, int]
    resize: Resize

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """See `Runtime.probabilities`."""
        parts = [self._of_batch(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.classes)), np.float32)

    def _of_batch(self, images: np.ndarray) -> np.ndarray:
        padded = next(count for count in _PADDED if count >= len(images))
        batch = np.zeros((padded, *images.shape[1:]), np.float32)
        batch[: len(images)] = images
        return np.asarray(self.model.predict_on_batch(batch), np.float32)[: len(images)]


def open_file(path: Path) -> KerasRuntime:
    """Open a `.keras` file that tlcli wrote.

    Raises:
        ModelError: The file is damaged, or tlcli did not write it.
    """
    from tlcli.model.classifier import load

    return of(load(path))


def of(classifier: "Classifier") -> KerasRuntime:
    """The runtime of a classifier."""
    return KerasRuntime(classifier.model, classifier.classes, classifier.size, classifier.resize)
