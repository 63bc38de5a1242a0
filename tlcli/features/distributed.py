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
from tlcli.model.precision import computing_in
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
        def piece(number: int) -> tuple[Any, ...]:
            start, stop, which = blocks[number]
            first = start - start % batch
            return first, pixels(first, stop), tuple(which), start - first, stop - first

        return _run(cluster, lower, (load_layers, view, batch), [block[:2] for block in blocks], piece)

    return Distributed(_block_rows(lower, batch), run)


def distributed_depths(
    cluster: Cluster, model: keras.Model, precision: str, pixels: Pixels, *, images: int, batch: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The first position of a block of images, and the outputs of a pooled model for them, in any order.

    Args:
        cluster: The cluster.
        model: A model from images to several outputs.
        precision: Precision of its layers.
        pixels: Returns pixels.
        images: Number of images.
        batch: Images in a batch.
    """
    rows = _block_rows(model, batch)
    spans = [(start, min(start + rows, images)) for start in range(0, images, rows)]

    def piece(number: int) -> tuple[Any, ...]:
        start, stop = spans[number]
        return pixels(start, stop), stop - start

    for number, outputs in _run(cluster, model, (load_depths, precision, batch), spans, piece):
        yield spans[number][0], outputs


def _run(
    cluster: Cluster,
    model: keras.Model,
    preparation: tuple[Any, ...],
    spans: Sequence[tuple[int, int]],
    piece: Callable[[int], tuple[Any, ...]],
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The number of a block and its outputs, from workers that hold a model.

    `preparation` is the function that prepares a worker, and its arguments after the packed model.
    """
    import ray

    cpus, gpus = worker_devices(cluster)
    # Stored in the cluster once, not sent with every worker.
    network = ray.put(_packed(model))
    prepare, *arguments = preparation
    job = crew.Job(NAME, prepare, ([network], *arguments), cpus=cpus, gpus=gpus)
    for number, outputs in crew.run(cluster, job, len(spans), piece):
        if outputs is crew.LOST:
            hint = "They may lack memory. What is done is kept; run the command again to continue."
            where = f"images {spans[number][0]} to {spans[number][1]}"
            raise RunError("every worker that computes them is lost", where=where, hint=hint)
        yield number, outputs


def worker_devices(cluster: Cluster) -> tuple[int, int]:
    """Cores and GPUs of a worker that holds a network."""
    nodes = cluster.nodes()
    # Workers go where the GPUs are.
    fitting = [node for node in nodes if node.gpus] or nodes
    return min(WORKER_CPUS, max(node.cpus for node in fitting) or 1), int(any(node.gpus for node in fitting))


def _block_rows(model: keras.Model, batch: int) -> int:
    """Images in a block: several batches, unless their pixels and outputs are large."""
    sizes = [int(np.prod(model.input_shape[1:])), *(4 * int(np.prod(output.shape[1:])) for output in model.outputs)]
    return batch * max(1, min(BLOCK_BATCHES, BLOCK_BYTES // (batch * sum(sizes))))


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


def load_depths(network: Sequence[Any], precision: str, batch: int) -> Callable[..., list[np.ndarray]]:
    """In a worker: the function that computes a block of all outputs of a model."""
    import ray

    model = _unpacked(ray.get(network[0]))

    def compute(pixels: np.ndarray, count: int) -> list[np.ndarray]:
        with computing_in(model, precision):
            batches = [
                model.predict_on_batch(pixels[start : start + batch].astype(np.float32))
                for start in range(0, len(pixels), batch)
            ]
        batches = [outputs if isinstance(outputs, list) else [outputs] for outputs in batches]
        return [np.concatenate(outputs)[:count].astype(np.float32) for outputs in zip(*batches, strict=True)]

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
