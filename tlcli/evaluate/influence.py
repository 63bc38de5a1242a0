"""Influence maps: which parts of an image a prediction rests on."""

from typing import Any

import keras
import numpy as np

from tlcli.model.classifier import Classifier
from tlcli.model.eager import call_once
from tlcli.model.head import POOLED

# Bound of probabilities before their logarithm is taken.
TINY = 1e-30
# Images that go through the network at once.
BATCH = 18


def influence_maps(classifier: Classifier, images: np.ndarray) -> np.ndarray | None:
    """How much each part of an image speaks for the class that is predicted for it.

    The features of the last layer below the pooling are computed once. Each of their positions is then replaced by
    zeros in turn, and only the head is computed again: the influence of a position is the loss of log-odds of the
    predicted class. This is occlusion (Zeiler and Fergus 2014, arXiv 1311.2901) on features instead of pixels. It needs
    no gradients, so it works on every backend. With mean pooling and a linear head, the logits fall by exactly the
    class activation map (Zhou et al. 2016, arXiv 1512.04150), to which Grad-CAM is equal there (Selvaraju et al. 2017,
    arXiv 1610.02391).

    Args:
        classifier: The classifier.
        images: uint8 or float32 (images, height, width, 3), RGB 0-255, of the size of the classifier; at least one.

    Returns:
        float32 (images, rows, columns), 0-1: the highest influence in each image is 1, unless nothing speaks for the
        prediction. None if the network pools its features itself, so that they have no positions, or is an ensemble.
    """
    if (parts := _parts(classifier)) is None:
        return None
    lower, head = parts
    starts = range(0, len(images), BATCH)
    features = np.concatenate([_output(lower, images[start : start + BATCH].astype(np.float32)) for start in starts])
    if features.ndim != 4 or features.shape[1] * features.shape[2] < 2:
        return None
    _, rows, columns, _ = features.shape
    maps = [_influence(head, one).reshape(rows, columns) for one in features]
    return np.stack(maps)


def _influence(head: keras.Function, features: np.ndarray) -> np.ndarray:
    """The influence of each position of the features of one image, float32 (positions,), 0-1."""
    rows, columns, channels = features.shape
    positions = rows * columns
    # The first copy is whole; copy i + 1 lacks position i.
    copies = np.repeat(features.reshape(1, positions, channels), positions + 1, axis=0)
    copies[np.arange(1, positions + 1), np.arange(positions)] = 0
    odds = _log_odds(_output(head, copies.reshape(-1, rows, columns, channels)))
    influence = np.clip(odds[0] - odds[1:], 0, None)
    return (influence / max(float(influence.max()), TINY)).astype(np.float32)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """The log-odds of the class that is predicted in the first row, float64 (rows,)."""
    predicted = probabilities[0].argmax()
    own = probabilities[:, predicted].astype(np.float64)
    # The sum of the others is exact where one less the probability is rounded to 0.
    others = np.delete(probabilities.astype(np.float64), predicted, axis=1).sum(axis=1)
    return np.asarray(np.log(np.maximum(own, TINY)) - np.log(np.maximum(others, TINY)))


def _output(model: Any, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(call_once(model, inputs)))


def _parts(classifier: Classifier) -> tuple[Any, Any] | None:
    """From images to the features of the last layer, and from these to probabilities; None for an ensemble."""
    if classifier.features is not None and classifier.head is not None:
        return classifier.features, classifier.head
    model = classifier.model
    pooling = next((layer for layer in model.layers if layer.name.startswith(POOLED)), None)
    if pooling is None:
        return None
    features = pooling.input
    return keras.Function(model.input, features), keras.Function(features, model.output)
