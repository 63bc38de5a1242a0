"""How far the pixels of a run, scaled while they were decoded, lead to other answers than whole images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tlcli.data.pixels import read_exactly
from tlcli.errors import DataError
from tlcli.model.classifier import Classifier
from tlcli.model.eager import call_once

# Images that are asked twice. They take well under a second.
MAX_IMAGES = 32
# Pixels a call. All images of 224 pixels are one call, whose largest output takes 150 MB in EfficientNet-Lite0.
PIXELS = MAX_IMAGES * 224 * 224


@dataclass(frozen=True)
class Agreement:
    """Answers of a classifier to whole images, beside those to the pixels of the run: `agreement` in run.json.

    Attributes:
        images: Number of images that were asked twice.
        same_label: Share of them with the same most probable class, 0-1.
        largest_difference: Largest difference of a probability, 0-1.
    """

    images: int
    same_label: float
    largest_difference: float


def measure_agreement(classifier: Classifier, files: Sequence[Path], in_run: np.ndarray) -> Agreement | None:
    """Ask a classifier about at most `MAX_IMAGES` whole images, and compare.

    Args:
        classifier: The finished classifier.
        files: Image files. Those that can no longer be read are left out.
        in_run: Probabilities of the same images in the run, float32 (images, classes).

    Returns:
        The agreement; None if no file can be read.
    """
    images, expected = [], []
    for file, probabilities in zip(files[:MAX_IMAGES], in_run, strict=False):
        try:
            images.append(read_exactly(file, classifier.size, classifier.resize))
        except DataError:
            continue  # Training is over; a file that has gone since must not lose its result.
        expected.append(probabilities)
    if not images:
        return None
    batch = max(1, PIXELS // (classifier.size[0] * classifier.size[1]))
    parts = [np.stack(images[start : start + batch]) for start in range(0, len(images), batch)]
    answers = np.concatenate([keras.ops.convert_to_numpy(call_once(classifier.model, part)) for part in parts])
    return Agreement(
        images=len(images),
        same_label=float((answers.argmax(axis=1) == np.stack(expected).argmax(axis=1)).mean()),
        largest_difference=float(np.abs(answers - np.stack(expected)).max()),
    )
