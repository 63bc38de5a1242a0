"""Frozen layers: from batches of pixels to features, the same on every machine."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.data.augment import Augment, Bounds
from tlcli.model.devices import on_devices
from tlcli.model.fold import fold_batch_norm
from tlcli.model.hosts import gathered
from tlcli.model.precision import FULL, computing_in

# Largest batch of a pass. Part of every key, because the random state of a view is set once per batch.
PASS_BATCH = 64
# Weights up to this size become constants of the graph.
CONSTANT_BYTES = 400_000_000


@dataclass(frozen=True)
class View:
    """One rendering of the images: plain or augmented.

    Attributes:
        number: 0 for the plain view, else the number of the augmented view, from 1.
        bounds: Bounds of the augmentation.
        seed: Seed of the augmentation.
        precision: Precision of the frozen layers, float32, bfloat16 or float16.
        exact: Number of images, the first ones, that are computed in float32 in any case.
    """

    number: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    precision: str = FULL
    exact: int = 0

    @property
    def is_plain(self) -> bool:
        """True if the pixels are not augmented."""
        return self.number == 0


class FrozenModel(keras.Model):
    """Frozen layers in inference mode: from pixels, uint8 (batch, height, width, 3), to features, float32.

    A subclass, because a functional model would pass `training=False` on to the augmentation layer.

    On TensorFlow the weights are constants, so the product of a kernel and its BatchNorm is computed once. XLA, on JAX,
    compiles longer with constants.
    """

    def __init__(self, augment: Augment | None, lower: keras.Model, precision: str = FULL) -> None:
        super().__init__(name="frozen_layers")
        self.augment, self.lower, self.precision = augment, lower, precision
        # In half precision, folding would round other numbers than the frozen layers of a step that stores no features.
        self._compute = fold_batch_norm(lower) if precision == FULL else partial(lower, training=False)
        values = [(weight, ops.convert_to_numpy(weight.value)) for weight in lower.weights]
        # A graph holds two gigabytes at most, and large networks gain little.
        is_small = sum(value.nbytes for _, value in values) <= CONSTANT_BYTES
        self.constants = values if is_small and keras.backend.backend() == "tensorflow" else []
        # Otherwise, on JAX, the first batch is computed once more, operation by operation, each compiled by itself.
        self.built = True

    def call(self, pixels: Any) -> Any:
        """The features: one tensor, or a list for several cut points."""
        images = ops.cast(pixels, "float32")
        if self.augment is not None:
            images = self.augment(images, training=True)
        constants = [(weight, ops.convert_to_tensor(value)) for weight, value in self.constants]
        with keras.StatelessScope(constants), computing_in(self.lower, self.precision):
            features = self._compute(images)
        return gathered(keras.tree.map_structure(lambda output: ops.cast(output, "float32"), features))


def computes_in_half(images: int, exact: int) -> bool:
    """True if a pass over so many images has a batch without any of the first `exact` ones, which are in float32."""
    batch = batch_size(images)
    return (images - 1) // batch * batch >= exact


def batch_size(images: int) -> int:
    """Images in a batch of a pass: at most `PASS_BATCH`, and as equal as possible.

    On JAX always `PASS_BATCH`: with one size for any number of images, compiled programs serve other images as well.
    """
    if keras.backend.backend() == "jax":
        return PASS_BATCH
    return math.ceil(images / math.ceil(images / PASS_BATCH))


class FrozenLayers:
    """Computes batches of a pass. Models are built and traced on first use.

    Args:
        lower_of: Takes the indices of cut points; returns the model from images to them.
        view: The view of the images.
    """

    def __init__(self, lower_of: Callable[[tuple[int, ...]], keras.Model], view: View) -> None:
        self.lower_of, self.view = lower_of, view
        self.augment = None if view.is_plain else Augment(view.bounds)
        self._models: dict[tuple[str, tuple[int, ...]], keras.Model] = {}

    def outputs(self, begin: int, pixels: np.ndarray, which: tuple[int, ...]) -> list[np.ndarray]:
        """Features of one batch, `float32 (batch, …)`, at the cut points with the indices `which`.

        Args:
            begin: Position of its first image among the images of the pass.
            pixels: `uint8 (batch, height, width, 3)`, 0-255. All batches have the same size: every other size would be
                traced or compiled separately.
            which: Indices of cut points.
        """
        precision = FULL if begin < self.view.exact else self.view.precision
        model = self._model(which, precision)
        if self.augment is not None:
            # The random state depends on the position alone, so any block can be recomputed, on any machine.
            rng = np.random.default_rng([self.view.seed, self.view.number, begin])
            self.augment.seed_generator.state.assign(rng.integers(0, 2**31 - 1, size=2, dtype=np.int64))
        outputs = on_devices(model.predict_on_batch, pixels)
        return [np.asarray(output, dtype=np.float32) for output in (outputs if len(which) > 1 else [outputs])]

    def _model(self, which: tuple[int, ...], precision: str) -> keras.Model:
        if (precision, which) not in self._models:
            self._models[precision, which] = FrozenModel(self.augment, self.lower_of(which), precision)
        return self._models[precision, which]
