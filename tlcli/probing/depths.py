"""Pooled features of plain images at several depths of a network, from one pass."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tlcli.model.graph import tensors_at
from tlcli.room import Room
from tlcli.train.examples import Images

# Images a step of the pass.
GRAIN = 64
FLOAT_BYTES = 4


def pooled(features: keras.Model, layers: Sequence[str], *, pooling: str) -> keras.Model:
    """What a model gives at the output of these layers, each pooled over all positions.

    Args:
        features: Takes pictures, `float32 (batch, height, width, 3)`, 0-255.
        layers: Names within it, as `graph.measure` gives them.
        pooling: `avg`, `max`, or `avg_max` for both side by side.

    Returns:
        A model from the same pictures to a list of `float32 (batch, channels)`, in the order of `layers`.
    """
    return keras.Model(features.input, [_pool(tensor, pooling) for tensor in tensors_at(features, layers)])


def run(model: keras.Model, images: Images, folder: Path, *, progress: Callable[[int, int], None]) -> list[np.ndarray]:
    """All that a model of `pooled` gives for these images, in files without a name that go with the arrays.

    Args:
        model: From `pooled`.
        images: Which images.
        folder: Where the files lie; made if missing.
        progress: Told (images done, images).

    Returns:
        One read-only memory map for each output, `float32 (images, channels)`.

    Raises:
        DataError: The folder cannot be written, or the disk has too little room.
    """
    widths = [int(output.shape[-1]) for output in model.outputs]
    room = Room("features", folder, FLOAT_BYTES * len(images) * sum(widths))
    with ExitStack() as stack, room.claimed():
        folder.mkdir(parents=True, exist_ok=True)
        room.require()
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in widths]
        for start in range(0, len(images), GRAIN):
            count = min(GRAIN, len(images) - start)
            for file, output in zip(files, _outputs(model, images, start), strict=True):
                file.write(np.ascontiguousarray(output[:count], dtype=np.float32).data)
            progress(start + count, len(images))
        for file in files:
            file.flush()
        shapes = [(len(images), width) for width in widths]
        return [np.memmap(file, np.float32, "r", shape=shape) for file, shape in zip(files, shapes, strict=True)]


def _outputs(model: keras.Model, images: Images, start: int) -> list[np.ndarray]:
    """Outputs for the images from `start`, as many as every step takes: another number would be traced anew."""
    wanted = np.arange(start, start + min(GRAIN, len(images))).clip(max=len(images) - 1)
    found = model.predict_on_batch(images.pixels[images.rows[wanted]].astype(np.float32))
    return found if isinstance(found, list) else [found]


def _pool(tensor: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    positions = tuple(range(1, len(tensor.shape) - 1))
    if not positions:
        return ops.cast(tensor, "float32")
    reduce = {"avg": ops.mean, "max": ops.max}
    parts = [reduce[name](ops.cast(tensor, "float32"), axis=positions) for name in pooling.split("_")]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
