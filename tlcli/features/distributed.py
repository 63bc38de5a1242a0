"""A pass over frozen layers on a cluster: the network travels to every worker once, pixels and features by blocks.

The bytes are those of a pass in one process: the same batches of the same size go through the same layers.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.cache.arrays import Block, Distributed
from tlcli.cluster import crew
from tlcli.cluster.connection import Cluster
from tlcli.errors import RunError
from tlcli.features.frozen import FrozenLayers, View
from tlcli.zoo.sources import keras_file

# Largest number of batches in a block, and most bytes of its pixels and features.
BLOCK_BATCHES, BLOCK_BYTES = 4, 2**26
# Most cores of a worker. More workers of fewer cores are faster, but each holds the network and TensorFlow.
WORKER_CPUS = 4
NAME = "frozen layers"

Pixels = Callable[[int, int], np.ndarray]
"""Takes the first position and the one after the last; returns the pixels of whole batches."""


def distributed(cluster: Cluster, lower: keras.Model, view: View, pixels: Pixels, *, batch: int) -> Distributed:
    """A pass on a cluster, for `arrays.open_arrays`.

    Args:
        cluster: The cluster.
        lower: The model from images to all cut points, in the order of their indices.
        view: The view of the images.
        pixels: Returns pixels.
        batch: Images in a batch.
    """

    def run(blocks: Sequence[Block]) -> Iterator[tuple[int, list[np.ndarray]]]:
        import ray

        nodes = cluster.nodes()
        gpus = 1 if any(node.gpus for node in nodes) else 0
        cpus = min(WORKER_CPUS, max(node.cpus for node in nodes) or 1)
        # Stored in the cluster once, not sent with every worker.
        network = ray.put(_packed(lower))
        job = crew.Job(NAME, load_layers, ([network], view, batch), cpus=cpus, gpus=gpus)

        def piece(number: int) -> tuple[Any, ...]:
            start, stop, which = blocks[number]
            first = start - start % batch
            return first, pixels(first, stop), tuple(which), start - first, stop - first

        for number, features in crew.run(cluster, job, len(blocks), piece):
            if features is crew.LOST:
                hint = "They may lack memory. What is done is kept; run the command again to continue."
                where = f"images {blocks[number][0]} to {blocks[number][1]}"
                raise RunError("every worker that computes them is lost", where=where, hint=hint)
            yield number, features

    image_bytes = int(np.prod(lower.input_shape[1:])) + 4 * sum(
        int(np.prod(output.shape[1:])) for output in lower.outputs
    )
    return Distributed(batch * max(1, min(BLOCK_BATCHES, BLOCK_BYTES // (batch * image_bytes))), run)


def load_layers(network: Sequence[Any], view: View, batch: int) -> Callable[..., list[np.ndarray]]:
    """In a worker: the function that computes a block."""
    import ray

    lower = _unpacked(ray.get(network[0]))

    def lower_of(which: tuple[int, ...]) -> keras.Model:
        outputs = [lower.outputs[index] for index in which]
        return keras.Model(lower.input, outputs if len(outputs) > 1 else outputs[0])

    layers = FrozenLayers(lower_of, view)

    def compute(first: int, pixels: np.ndarray, which: tuple[int, ...], begin: int, end: int) -> list[np.ndarray]:
        batches = [
            layers.outputs(first + start, pixels[start : start + batch], which)
            for start in range(0, len(pixels), batch)
        ]
        return [np.concatenate(outputs)[begin:end] for outputs in zip(*batches, strict=True)]

    return compute


def _packed(model: keras.Model) -> bytes:
    """The file of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.keras"
        model.save(path)
        return path.read_bytes()


def _unpacked(content: bytes) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.keras"
        path.write_bytes(content)
        return keras_file.load(path)
