"""TensorFlow 1 checkpoints with weights that follow from their names, so that none need storing."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Input sizes of the stored outputs: the smallest multiple of 32 that the network takes.
SIZE = 64
LARGE_SIZE = 96
MEAN = (123.68, 116.78, 103.94)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a variable: random, seeded by its name, scaled so that activations neither vanish nor explode."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition("/")[2]
    if kind == "moving_variance":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    draw = rng.standard_normal(shape, dtype=np.float32)
    if kind == "gamma":
        return (1 + 0.1 * draw).astype(np.float32)
    if kind == "depthwise_weights":
        return (draw / np.sqrt(shape[0] * shape[1])).astype(np.float32)
    if kind.endswith("weights"):
        return (draw * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
    return (0.1 * draw).astype(np.float32)


def image(size: int, scale: float) -> np.ndarray:
    """A random image, float32 (1, size, size, 3), within ±scale."""
    return (scale * np.random.default_rng(size).uniform(-1, 1, (1, size, size, 3))).astype(np.float32)


def weights_of(network: Any, root: str) -> dict[str, np.ndarray]:
    """Values for all variables of a Keras network, by their names in a checkpoint."""
    from tlcli.zoo.sources.slim import _variables

    return {f"{root}/{name}": weight(f"{root}/{name}", tuple(var.shape)) for name, var in _variables(network)}


def save(path: Path, values: Mapping[str, Any], *, version: int = 2, slices: Mapping[str, str] | None = None) -> Path:
    """Write a checkpoint with the operations that `tf.train.Saver` runs; `slices` says which part a value is."""
    import tensorflow as tf

    names = sorted(values)
    parts = [(slices or {}).get(name, "") for name in names]
    tensors = [tf.constant(values[name]) for name in names]
    if version == 1:
        tf.raw_ops.SaveSlices(filename=str(path), tensor_names=names, shapes_and_slices=parts, data=tensors)
    else:
        tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=parts, tensors=tensors)
    return path
