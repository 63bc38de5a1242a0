"""Outputs of frozen layers for all images: computed once, stored by content."""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.cache import arrays
from tlcli.cache.eviction import DiskSpace
from tlcli.data.augment import Augment, Bounds
from tlcli.data.pixels import Images
from tlcli.model.classifier import POOLED, Classifier, lower_model
from tlcli.model.graph import tensors_at
from tlcli.model.precision import FULL, computing_in, measure_seconds

# Part of the key of every stored activation: raise it when the same images and weights would give others.
FORMAT_VERSION = 3
# Images a step of the pass, at most. Random views are drawn for a step at a time, so this is part of the key, too.
GRAIN = 64
# Weights up to so many bytes become constants of the pass.
CONSTANT_BYTES = 400_000_000
# Images a step while it is measured what is faster: four steps in each precision should take seconds.
MEASURED_IMAGES = 16
# Parts of a layer's config without any influence on what it gives when it does not learn.
TRAINING_ONLY = ("trainable", "momentum")


@dataclass(frozen=True)
class FeatureCache:
    """Where activations are stored, and what tells images apart.

    Attributes:
        folder: The folder of all stored activations; made when needed.
        budget: Bytes that everything in there may take.
        contents: Sha256 of the file behind each row of the pixel cache; with size and resize it decides the pixels.
    """

    folder: Path
    budget: int
    contents: Sequence[str]


@dataclass(frozen=True)
class View:
    """One rendering of some images: plain, or the `number`-th random one (from 1) by `bounds` and `seed`.

    Frozen layers compute it in `precision`, but for the first `exact` images, which are in float32 in any case.
    """

    number: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    precision: str = FULL
    exact: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the pixels are left as they are."""
        return self.number == 0


def extract(
    classifier: Classifier,
    images: Images,
    feature_cache: FeatureCache | None,
    *,
    at: Sequence[str],
    also: Sequence[str] = (),
    view: View,
    progress: Callable[[int, int], None] | None = None,
) -> Sequence[np.ndarray]:
    """What the frozen layers give at one or several cut_points, from the cache or computed in one pass.

    Args:
        classifier: Its layers below the cut_points must not be trained any more.
        images: Which images.
        feature_cache: Where to look first, and where the result is kept; None: nowhere, what is computed goes with the process.
        at: Layers of the backbone, or `POOLED`.
        also: More of them, to be stored in the same pass if one is needed: that costs little, another pass much.
        view: Which rendering.
        progress: Told (images done, images) while they are computed.

    Returns:
        One read-only memory map for each frontier, float32 (images, …), in their order.

    Raises:
        DataError: If there is no room for them.
    """
    if feature_cache is None:
        shapes = [(len(images), *lower_model(classifier, [name]).output_shape[1:]) for name in at]
        return _extract_uncached(_Pass(classifier, images, list(at), view), shapes, progress)
    pictures = _images_key(classifier, images, feature_cache, view)
    entries = [_entry(pictures, lower_model(classifier, [name]), len(images)) for name in at]
    names = list(at)
    if not all((feature_cache.folder / entry.key).is_dir() for entry in entries):
        names += also
        entries += [_entry(pictures, lower_model(classifier, [name]), len(images)) for name in also]
    run = _Pass(classifier, images, names, view)
    return arrays.open_arrays(feature_cache.folder, entries, run, budget=feature_cache.budget, progress=progress)[
        : len(at)
    ]


def measure_precision(classifier: Classifier, images: Images) -> dict[str, float]:
    """Seconds that all frozen layers take for a few plain images in each precision."""
    pixels = images.pixels[images.rows[:MEASURED_IMAGES]]
    lower = lower_model(classifier, [POOLED])

    def step_in(dtype: str) -> Callable[[], object]:
        rendering = _Rendering(None, lower, dtype)
        return lambda: rendering.predict_on_batch(pixels)

    return measure_seconds(step_in)


def _entry(pictures: str, part: keras.Model, rows: int) -> arrays.Entry:
    key = hashlib.sha256(f"{pictures}:{weights_key(part)}".encode()).hexdigest()[:32]
    return arrays.Entry(key, (rows, *part.output_shape[1:]), "float32")


def _extract_uncached(
    run: "_Pass", shapes: Sequence[tuple[int, ...]], progress: Callable[[int, int], None] | None
) -> Sequence[np.ndarray]:
    """Computed into files without a name, so that memory need not hold them."""
    found = []
    for shape in shapes:
        with tempfile.TemporaryFile() as file:
            found.append(np.memmap(file, np.float32, "w+", shape=shape))
    rows = shapes[0][0]
    for start in range(0, rows, run.grain):
        stop = min(start + run.grain, rows)
        for array, block in zip(found, run(start, stop, range(len(shapes))), strict=True):
            array[start:stop] = block
        if progress:
            progress(stop, rows)
    return list(found)


def _images_key(classifier: Classifier, images: Images, feature_cache: FeatureCache, view: View) -> str:
    """What decides the pixels that go in."""
    rendering = [] if view.is_plain else [view.number, view.seed, repr(view.bounds)]
    if view.precision != FULL:
        rendering += [view.precision, view.exact]
    contents = [feature_cache.contents[row] for row in images.rows]
    facts = [FORMAT_VERSION, GRAIN, *classifier.size, classifier.resize, rendering, contents]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def weights_key(part: keras.Model, *, without: Collection[str] = TRAINING_ONLY) -> str:
    """A hash of what decides the outputs for given pixels: the layers, their weights, and what computes them.

    `without` are parts of the layers' configs that do not count.
    """
    config = json.dumps(_normalized_config(part.get_config(), {}, without), sort_keys=True, default=repr)
    facts = [keras.__version__, keras.backend.backend(), keras.config.dtype_policy().name, config]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for weight in part.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight.value)).tobytes())
    return digest.hexdigest()


def _normalized_config(config: Any, numbers: dict[str, int], without: Collection[str]) -> Any:
    """A config less what changes while the outputs stay: flags of training, and names, which become numbers.

    Keras counts through the whole process to name what has no name, the input of the part before all.
    """
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in without}
        return {key: _normalized_item(key, value, numbers, without) for key, value in kept.items()}
    return (
        [_normalized_config(item, numbers, without) for item in config] if isinstance(config, (list, tuple)) else config
    )


def _normalized_item(key: str, value: Any, numbers: dict[str, int], without: Collection[str]) -> Any:
    # What is called a name in a dtype policy is no name of a layer.
    if key == "dtype":
        return value
    if key == "name" and isinstance(value, str):
        return numbers.setdefault(value, len(numbers))
    # The name of a layer, and which of its outputs; in a list of them where there are several.
    if key in ("keras_history", "input_layers", "output_layers") and value and isinstance(value[0], str):
        return [numbers.setdefault(value[0], len(numbers)), *value[1:]]
    if key in ("input_layers", "output_layers") and isinstance(value, (list, tuple)):
        return [_normalized_item(key, item, numbers, without) for item in value]
    return _normalized_config(value, numbers, without)


class _Rendering(keras.Model):
    """Pixels `uint8 (batch, height, width, 3)`, perhaps in a random view, to outputs of frozen layers.

    A subclass for the reason that `Trainee` is one: a functional model would hand `training=False` to the random layer.
    Weights are constants to it, so that the backend can fold BatchNorm into the convolution before it: MobileNetV2
    0.35 at 224 gives 450 instead of 320 images a second.
    """

    def __init__(self, augment: Augment | None, lower: keras.Model, precision: str = FULL) -> None:
        super().__init__(name="rendering")
        self.augment, self.lower, self.precision = augment, lower, precision
        values = [(weight, ops.convert_to_numpy(weight.value)) for weight in lower.weights]
        # A graph holds two gigabytes at most; large networks gain little anyway.
        self.values = values if sum(value.nbytes for _, value in values) <= CONSTANT_BYTES else []

    def call(self, pixels: Any) -> Any:
        """What the frozen layers give, float32."""
        images = ops.cast(pixels, "float32")
        if self.augment is not None:
            images = self.augment(images, training=True)
        constants = [(weight, ops.convert_to_tensor(value)) for weight, value in self.values]
        with keras.StatelessScope(constants), computing_in(self.lower, self.precision):
            found = self.lower(images, training=False)
        return keras.tree.map_structure(lambda output: ops.cast(output, "float32"), found)


class _Pass:
    """Computes blocks of rows. The network is traced when first needed."""

    def __init__(self, classifier: Classifier, images: Images, names: list[str], view: View) -> None:
        self.classifier, self.images, self.names, self.view = classifier, images, names, view
        self.augment = None if view.is_plain else Augment(view.bounds)
        # Steps of one length: another would be traced, or compiled, on its own.
        self.grain = math.ceil(len(images) / math.ceil(len(images) / GRAIN))
        self.models: dict[tuple[str, tuple[int, ...]], keras.Model] = {}
        # Blocks end anywhere, so the grain that one ends in begins the next.
        self.last: tuple[int, tuple[int, ...], list[np.ndarray]] = (-1, (), [])

    def __call__(self, start: int, stop: int, which: Sequence[int]) -> list[np.ndarray]:
        """Outputs of rows `start` to `stop` for the cut_points of these indices."""
        begin = start - start % self.grain
        parts = [self._grain(at, tuple(which)) for at in range(begin, stop, self.grain)]
        return [np.concatenate(outputs)[start - begin : stop - begin] for outputs in zip(*parts, strict=True)]

    def _grain(self, at: int, which: tuple[int, ...]) -> list[np.ndarray]:
        if self.last[:2] == (at, which):
            return self.last[2]
        wanted = np.arange(at, at + self.grain)
        pixels = self.images.pixels[self.images.rows[wanted.clip(max=len(self.images) - 1)]]
        dtype = FULL if at < self.view.exact else self.view.precision
        count, model = int((wanted < len(self.images)).sum()), self._model(which, dtype)
        if self.augment is not None:
            # What is drawn follows from the place alone, so that any block can be computed again.
            order = np.random.default_rng([self.view.seed, self.view.number, at])
            self.augment.seed_generator.state.assign(order.integers(0, 2**31 - 1, size=2, dtype=np.int64))
        found = model.predict_on_batch(pixels)
        outputs = [np.asarray(output[:count], dtype=np.float32) for output in (found if len(which) > 1 else [found])]
        self.last = (at, which, outputs)
        return outputs

    def _model(self, which: tuple[int, ...], dtype: str) -> keras.Model:
        if (dtype, which) not in self.models:
            lower = lower_model(self.classifier, [self.names[index] for index in which])
            self.models[dtype, which] = _Rendering(self.augment, lower, dtype)
        return self.models[dtype, which]


# Images a step of the pass.
DEPTH_BATCH = 64
FLOAT_BYTES = 4


def pooled_model(features: keras.Model, layers: Sequence[str], *, pooling: str) -> keras.Model:
    """What a model gives at the output of these layers, each pooled over all positions.

    Args:
        features: Takes pictures, `float32 (batch, height, width, 3)`, 0-255.
        layers: Names within it, as `graph.measure` gives them.
        pooling: `avg`, `max`, or `avg_max` for both side by side.

    Returns:
        A model from the same pictures to a list of `float32 (batch, channels)`, in the order of `layers`.
    """
    return keras.Model(features.input, [_pool(tensor, pooling) for tensor in tensors_at(features, layers)])


def extract_depths(
    model: keras.Model, images: Images, folder: Path, *, progress: Callable[[int, int], None]
) -> list[np.ndarray]:
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
    room = DiskSpace("features", folder, FLOAT_BYTES * len(images) * sum(widths))
    with ExitStack() as stack, room.claimed():
        folder.mkdir(parents=True, exist_ok=True)
        room.require()
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in widths]
        for start in range(0, len(images), DEPTH_BATCH):
            count = min(DEPTH_BATCH, len(images) - start)
            for file, output in zip(files, _depth_outputs(model, images, start), strict=True):
                file.write(np.ascontiguousarray(output[:count], dtype=np.float32).data)
            progress(start + count, len(images))
        for file in files:
            file.flush()
        shapes = [(len(images), width) for width in widths]
        return [np.memmap(file, np.float32, "r", shape=shape) for file, shape in zip(files, shapes, strict=True)]


def _depth_outputs(model: keras.Model, images: Images, start: int) -> list[np.ndarray]:
    """Outputs for the images from `start`, as many as every step takes: another number would be traced anew."""
    wanted = np.arange(start, start + min(DEPTH_BATCH, len(images))).clip(max=len(images) - 1)
    found = model.predict_on_batch(images.pixels[images.rows[wanted]].astype(np.float32))
    return found if isinstance(found, list) else [found]


def _pool(tensor: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    positions = tuple(range(1, len(tensor.shape) - 1))
    if not positions:
        return ops.cast(tensor, "float32")
    reduce = {"avg": ops.mean, "max": ops.max}
    parts = [reduce[name](ops.cast(tensor, "float32"), axis=positions) for name in pooling.split("_")]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
