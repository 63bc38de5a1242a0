"""Sparsity: how many weights of the kernels are near zero, and models in which these are exactly zero.

Kernels are the weights of convolutions and dense layers; biases, normalisation and embeddings do not count.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    # Reading a record must not load Keras.
    import keras

# Absolute value below which a weight counts as near zero in the record of a run.
NEAR_ZERO = 1e-3


def share_below(layers: "Iterable[keras.layers.Layer]", threshold: float) -> float:
    """Share (0-1) of the weights of the layers' kernels whose absolute value is below a threshold."""
    total = below = 0
    for kernel in _kernels(layers):
        values = kernel.numpy()
        total, below = total + values.size, below + int(np.count_nonzero(np.abs(values) < threshold))
    return below / total if total else 0.0


@contextmanager
def zeroed(model: "keras.Model", threshold: float) -> Iterator[float]:
    """A context in which every weight of a kernel is zero if its absolute value is below a threshold.

    Yields:
        Share (0-1) of the weights that are zero.
    """
    kernels = _kernels(model.layers)
    before = [kernel.numpy() for kernel in kernels]
    for kernel, values in zip(kernels, before, strict=True):
        kernel.assign(np.where(np.abs(values) < threshold, 0.0, values))
    try:
        yield share_below(model.layers, float(np.finfo(np.float32).tiny))
    finally:
        for kernel, values in zip(kernels, before, strict=True):
            kernel.assign(values)


def _kernels(layers: "Iterable[keras.layers.Layer]") -> "list[keras.Variable]":
    found = {id(variable): variable for layer in layers for variable in layer.weights if "kernel" in variable.name}
    return list(found.values())
