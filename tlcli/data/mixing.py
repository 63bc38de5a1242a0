"""Mixing: training images that consist of two, with labels that say how much of each."""

from typing import Any

import numpy as np

from tlcli.recipe.augment import AugmentSpec

Batch = tuple[Any, ...]
"""Inputs, labels `float32 (batch, numbers)` and sample weights above 0, `float32 (batch,)`."""


def mix(batch: Batch, spec: AugmentSpec, random: np.random.Generator) -> Batch:
    """The batch after mixup or CutMix. If both are on, each batch undergoes one of them at random."""
    if spec.mixup and spec.cutmix:
        # All batches of an epoch have one type.
        batch = (batch[0].astype(np.float32), *batch[1:])
        return mixup(batch, spec.mixup, random) if random.random() < 0.5 else cutmix(batch, spec.cutmix, random)
    if spec.cutmix:
        return cutmix(batch, spec.cutmix, random)
    return mixup(batch, spec.mixup, random) if spec.mixup else batch


def mixup(batch: Batch, alpha: float, random: np.random.Generator) -> Batch:
    """The batch, each image mixed with another of it. Ref: Zhang et al. 2018, arXiv 1710.09412."""
    inputs, labels, sample_weights = batch
    share = np.float32(random.beta(alpha, alpha))
    partner = random.permutation(len(inputs))
    mixed = share * inputs.astype(np.float32) + (1 - share) * inputs[partner]
    return mixed, *_interpolated(labels, sample_weights, share, partner)


def cutmix(batch: Batch, alpha: float, random: np.random.Generator) -> Batch:
    """The batch, a rectangle of each image replaced by that of another. Ref: Yun et al. 2019, arXiv 1905.04899.

    The rectangle has the aspect ratio of the image and is cut off at the edge. All images of a batch have the same one.
    """
    inputs, labels, sample_weights = batch
    height, width = inputs.shape[1:3]
    side = np.sqrt(1 - random.beta(alpha, alpha))
    rows, columns = (_span(side * length, length, random) for length in (height, width))
    partner = random.permutation(len(inputs))
    mixed = inputs.copy()
    mixed[:, rows, columns] = inputs[partner, rows, columns]
    share = np.float32(1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width))
    return mixed, *_interpolated(labels, sample_weights, share, partner)


def _span(length: float, limit: int, random: np.random.Generator) -> slice:
    """A span of this length around a random place, cut off at 0 and `limit`."""
    centre = random.uniform(0, limit)
    return slice(round(max(centre - length / 2, 0)), round(min(centre + length / 2, limit)))


def _interpolated(
    labels: np.ndarray, sample_weights: np.ndarray, share: np.float32, partner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights with which the loss, linear in the labels, is the mix of both images' weighted losses."""
    own, other = share * sample_weights, (1 - share) * sample_weights[partner]
    weights = own + other
    part = (own / weights)[:, None]
    return part * labels + (1 - part) * labels[partner], weights
