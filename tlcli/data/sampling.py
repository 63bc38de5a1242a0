"""Sampling: which training images an epoch uses, and in which order."""

import numpy as np

from tlcli.recipe.schema import DataSpec


def epoch_order(data: DataSpec, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Positions of the training images of one epoch, `int64 (images,)`, in random order.

    With `sampling: all` every image occurs once. With `balanced` the epoch is as long, but all classes occur equally
    often, up to one image: images of small classes repeatedly, and of large classes a part that differs by epoch.

    Args:
        data: The recipe section.
        labels: The labels of the training images, `int64 (images,)`.
        random: Random state of the epoch.
    """
    if data.sampling == "all":
        return random.permutation(len(labels))
    present = random.permutation(np.unique(labels))
    # The remainder goes to the first classes of a random order.
    counts = np.full(len(present), len(labels) // len(present)) + (np.arange(len(present)) < len(labels) % len(present))
    drawn = [
        _repeated(np.flatnonzero(labels == name), count, random) for name, count in zip(present, counts, strict=True)
    ]
    return random.permutation(np.concatenate(drawn))


def _repeated(positions: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` of the positions at random: none is drawn again before all others are."""
    rounds = -(-count // len(positions))
    return np.concatenate([random.permutation(positions) for _ in range(rounds)])[:count]
