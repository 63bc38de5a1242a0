"""Feature extraction: the outputs of frozen layers for many images, computed in one pass and stored by content.

`FeatureExtractor` returns the features at cut points of a classifier, from the feature cache if possible. The key of a
stored array covers everything that determines its values: the image files, their resizing, the view, and the layers
with their weights. `extract_depths` computes pooled features at many layers for a single use, without the cache.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.cache import arrays
from tlcli.cache.entry import Entry
from tlcli.cache.eviction import DiskSpace
from tlcli.cluster import connection
from tlcli.data.pixels import Images
from tlcli.features.frozen import PASS_BATCH, FrozenLayers, FrozenModel, View, batch_size
from tlcli.model.classifier import Classifier, lower_model
from tlcli.model.graph import tensors_at
from tlcli.model.head import POOLED
from tlcli.model.hosts import count as host_count
from tlcli.model.hosts import true_everywhere
from tlcli.model.precision import AUTO, FULL, computing_in, measure_seconds
from tlcli.storage.shared_cache import shared_cache

# Part of every key: increase it if the same images and weights give other features.
FORMAT_VERSION = 4
# Batch for measuring the faster precision: four steps in each should take seconds.
MEASURED_IMAGES = 16
# Parts of a layer's config that do not change its output in inference mode.
TRAINING_ONLY = ("trainable", "momentum")

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all images."""


@dataclass(frozen=True)
class FeatureCache:
    """Disk cache of features.

    Attributes:
        folder: Folder of all stored features; created if missing.
        budget: Maximum size of the folder, bytes.
        contents: SHA-256 of the image file behind each row of the pixel cache. With the size and resize mode it
            identifies the pixels.
    """

    folder: Path
    budget: int
    contents: Sequence[str]


@dataclass(frozen=True)
class FeatureExtractor:
    """Computes the features of images at cut points of a classifier.

    Attributes:
        classifier: An assembled classifier. Its layers below the cut points must stay frozen.
        images: The images.
        view: The view of the images.
    """

    classifier: Classifier
    images: Images
    view: View

    def extract(
        self,
        cut_points: Sequence[str],
        cache: FeatureCache | None,
        *,
        also: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Sequence[np.ndarray]:
        """The features at one or several cut points, read from the cache or computed in one pass.

        Args:
            cut_points: Backbone layers, two layers joined by a slash, or `POOLED`.
            cache: Where features are looked up and stored; None for temporary files, deleted with the arrays.
            also: More cut points to store if a pass is needed; they cost little in the same pass.
            progress: Called during a pass.

        Returns:
            One memory map per cut point, float32 (images, …), in the order of `cut_points`; read-only with a cache.

        Raises:
            DataError: The disk has too little free space.
        """
        if cache is None:
            return self._compute(list(cut_points), progress)
        names = list(cut_points)
        entries, shared = self._entries(names, cache), shared_cache()
        if shared is not None:
            shared.fetch(cache.folder, [entry.key for entry in entries])
        # A key is a hash of many weights: those of `also` are needed only for a pass.
        if host_count() > 1 or not _are_stored(cache.folder, entries):
            more = self._entries(also, cache)
            _share_entries(cache.folder, [*entries, *more])
            if not _are_stored(cache.folder, entries):
                names += also
                entries += more
        forward, keys = self._forward(names), [entry.key for entry in entries]
        stored = arrays.open_arrays(cache.folder, entries, forward, budget=cache.budget, progress=progress)
        if shared is not None:
            shared.put(cache.folder, keys)
        return stored[: len(cut_points)]

    def _forward(self, cut_points: list[str]) -> arrays.Compute | arrays.Distributed:
        """The pass, in this process or on the cluster of the command."""
        local = _Pass(self, cut_points)
        if (cluster := connection.current()) is None:
            return local
        from tlcli.features.distributed import distributed

        lower = lower_model(self.classifier, cut_points)
        return distributed(cluster, lower, self.view, local.pixels, batch=local.batch)

    def _compute(self, cut_points: list[str], progress: Progress | None) -> list[np.ndarray]:
        """The features in unnamed temporary files, which need not fit into memory."""
        features: list[np.ndarray] = []
        for name in cut_points:
            shape = (len(self.images), *lower_model(self.classifier, [name]).output_shape[1:])
            with tempfile.TemporaryFile() as file:
                features.append(np.memmap(file, np.float32, "w+", shape=shape))
        forward, rows = self._forward(cut_points), len(self.images)
        step = forward.block_rows if isinstance(forward, arrays.Distributed) else batch_size(rows)
        which = range(len(cut_points))
        blocks = [(start, min(start + step, rows), which) for start in range(0, rows, step)]
        done = 0
        for number, outputs in arrays.results(forward, blocks):
            start, stop, _ = blocks[number]
            for array, output in zip(features, outputs, strict=True):
                array[start:stop] = output
            done += stop - start
            if progress:
                progress(done, rows)
        return features

    def _entries(self, cut_points: Sequence[str], cache: FeatureCache) -> list[Entry]:
        """The cache entries of the features at these cut points."""
        images_key, entries = self._images_key(cache), []
        for name in cut_points:
            lower = lower_model(self.classifier, [name])
            key = hashlib.sha256(f"{images_key}:{weights_key(lower)}".encode()).hexdigest()[:32]
            entries.append(Entry(key, (len(self.images), *lower.output_shape[1:]), "float32"))
        return entries

    def _images_key(self, cache: FeatureCache) -> str:
        """A hash of everything that determines the pixels fed to the network."""
        view = self.view
        rendering = [] if view.is_plain else [view.number, view.seed, repr(view.bounds)]
        if view.precision != FULL:
            rendering += [view.precision, view.exact]
        contents = [cache.contents[row] for row in self.images.rows]
        facts = [FORMAT_VERSION, PASS_BATCH, *self.classifier.size, self.classifier.resize, rendering, contents]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _are_stored(folder: Path, entries: Sequence[Entry]) -> bool:
    return all((folder / entry.key).is_dir() for entry in entries)


def _share_entries(folder: Path, entries: Sequence[Entry]) -> None:
    """Make the same entries missing on all hosts, because they can compute them only together."""
    if host_count() == 1:
        return
    stored = true_everywhere([arrays.is_stored(folder, entry) for entry in entries])
    for entry in (entry for entry, is_stored in zip(entries, stored, strict=True) if not is_stored):
        arrays.forget(folder, entry)


def measure_precision(classifier: Classifier, images: Images) -> dict[str, float]:
    """Seconds that all frozen layers take for a small batch of plain images, by precision."""
    pixels = images.pixels[images.rows[:MEASURED_IMAGES]]
    lower = lower_model(classifier, [POOLED])

    def step_in(precision: str) -> Callable[[], object]:
        model = FrozenModel(None, lower, precision)
        return lambda: model.predict_on_batch(pixels)

    return measure_seconds(step_in)


def weights_key(part: keras.Model, *, without: Collection[str] = TRAINING_ONLY) -> str:
    """A hash of everything that determines the outputs for given inputs: layers, weights, dtype policy and Keras.

    Args:
        part: The model.
        without: Keys of the layer configs to ignore.
    """
    config = json.dumps(_normalize_config(part.get_config(), {}, without), sort_keys=True, default=repr)
    facts = [keras.__version__, keras.backend.backend(), keras.config.dtype_policy().name, config]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for weight in part.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight.value)).tobytes())
    return digest.hexdigest()


def _normalize_config(config: Any, numbers: dict[str, int], without: Collection[str]) -> Any:
    """The config without the keys in `without`, and with numbers for layer names.

    Names must not count: Keras numbers unnamed layers, such as the input of the part, throughout the process.
    """
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in without}
        return {key: _normalize_item(key, value, numbers, without) for key, value in kept.items()}
    if isinstance(config, (list, tuple)):
        return [_normalize_config(item, numbers, without) for item in config]
    return config


def _normalize_item(key: str, value: Any, numbers: dict[str, int], without: Collection[str]) -> Any:
    # The config of a dtype policy has a `name` that is not a layer name.
    if key == "dtype":
        return value
    if key == "name" and isinstance(value, str):
        return numbers.setdefault(value, len(numbers))
    # One reference is a layer name and the index of its output; several are a list of these.
    if key in ("keras_history", "input_layers", "output_layers") and value and isinstance(value[0], str):
        return [numbers.setdefault(value[0], len(numbers)), *value[1:]]
    if key in ("input_layers", "output_layers") and isinstance(value, (list, tuple)):
        return [_normalize_item(key, item, numbers, without) for item in value]
    return _normalize_config(value, numbers, without)


class _Pass:
    """A pass over the images in batches; called for blocks of rows as `arrays.Compute`."""

    def __init__(self, extractor: FeatureExtractor, cut_points: Sequence[str]) -> None:
        self.images = extractor.images
        self.batch = batch_size(len(self.images))

        def lower_of(which: tuple[int, ...]) -> keras.Model:
            return lower_model(extractor.classifier, [cut_points[index] for index in which])

        self.layers = FrozenLayers(lower_of, extractor.view)
        # A block may end within a batch; the next block starts with the outputs of the same batch.
        self._last: tuple[int, tuple[int, ...], list[np.ndarray]] = (-1, (), [])

    def __call__(self, start: int, stop: int, which: Sequence[int]) -> list[np.ndarray]:
        """Features of the images from `start` to `stop` at the cut points with the indices `which`."""
        pieces = []
        for begin in range(start - start % self.batch, stop, self.batch):
            outputs = self._compute_batch(begin, tuple(which))
            pieces.append([output[max(start - begin, 0) : stop - begin] for output in outputs])
        # Most blocks lie within one batch, which need not be copied.
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def pixels(self, begin: int, end: int) -> np.ndarray:
        """Pixels of whole batches, `uint8 (images, height, width, 3)`."""
        return _whole_batches(self.images, begin, end, self.batch)

    def _compute_batch(self, begin: int, which: tuple[int, ...]) -> list[np.ndarray]:
        if self._last[:2] == (begin, which):
            return self._last[2]
        outputs = self.layers.outputs(begin, self.pixels(begin, begin + self.batch), which)
        count = min(self.batch, len(self.images) - begin)
        self._last = (begin, which, [output[:count] for output in outputs])
        return self._last[2]


# Images per batch of a depth pass.
DEPTH_BATCH = 64
FLOAT_BYTES = 4


def pooled_model(features: keras.Model, layers: Sequence[str], *, pooling: str) -> keras.Model:
    """A model from images to the outputs of layers, each pooled over all positions.

    Args:
        features: A model that takes images, float32 (batch, height, width, 3), 0–255.
        layers: Names of its layers, as in `graph.measure`.
        pooling: `avg`, `max`, or `avg_max` for both side by side.

    Returns:
        A model from the same images to a list of float32 (batch, channels), in the order of `layers`.
    """
    return keras.Model(features.input, [_pool(tensor, pooling) for tensor in tensors_at(features, layers)])


def extract_depths(
    model: keras.Model, images: Images, folder: Path, *, precision: str = FULL, progress: Progress
) -> list[np.ndarray]:
    """All outputs of a `pooled_model` for the images, in unnamed files that disappear with the arrays.

    Args:
        model: A model from `pooled_model`.
        images: The images.
        folder: Folder of the files; created if missing.
        precision: Precision of the layers, float32, bfloat16 or float16; `auto` is float32.
        progress: Called after every batch.

    Returns:
        One read-only memory map per output, float32 (images, channels).

    Raises:
        DataError: The folder cannot be written, or the disk has too little free space.
    """
    widths = [int(output.shape[-1]) for output in model.outputs]
    disk_space = DiskSpace("features", folder, FLOAT_BYTES * len(images) * sum(widths))
    with ExitStack() as stack, disk_space.explain_errors():
        precision = FULL if precision == AUTO else precision
        folder.mkdir(parents=True, exist_ok=True)
        disk_space.require_free()
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in widths]
        done = 0
        for start, outputs in _depth_outputs(model, images, precision):
            for file, output, width in zip(files, outputs, widths, strict=True):
                file.seek(FLOAT_BYTES * width * start)
                file.write(np.ascontiguousarray(output, dtype=np.float32).data)
            done += len(outputs[0])
            progress(done, len(images))
        for file in files:
            file.flush()
        shapes = [(len(images), width) for width in widths]
        return [np.memmap(file, np.float32, "r", shape=shape) for file, shape in zip(files, shapes, strict=True)]


def _depth_outputs(model: keras.Model, images: Images, precision: str) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The first position of some images, and the outputs for them: batch by batch, or in any order from a cluster."""
    batch = min(DEPTH_BATCH, len(images))

    def pixels(begin: int, end: int) -> np.ndarray:
        return _whole_batches(images, begin, end, batch)

    if (cluster := connection.current()) is not None:
        from tlcli.features.distributed import distributed_depths

        yield from distributed_depths(cluster, model, precision, pixels, images=len(images), batch=batch)
        return
    with computing_in(model, precision):
        for start in range(0, len(images), batch):
            outputs = model.predict_on_batch(pixels(start, start + batch).astype(np.float32))
            outputs = outputs if isinstance(outputs, list) else [outputs]
            yield start, [output[: len(images) - start] for output in outputs]


def _whole_batches(images: Images, begin: int, end: int, batch: int) -> np.ndarray:
    """Pixels of whole batches. The last image fills up the last one, because another size would be traced again."""
    end = begin - (begin - end) // batch * batch
    return images.pixels[images.rows[np.arange(begin, end).clip(max=len(images) - 1)]]


def _pool(tensor: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    positions = tuple(range(1, len(tensor.shape) - 1))
    if not positions:
        return ops.cast(tensor, "float32")
    reduce = {"avg": ops.mean, "max": ops.max}
    parts = [reduce[name](ops.cast(tensor, "float32"), axis=positions) for name in pooling.split("_")]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
