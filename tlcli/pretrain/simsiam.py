"""Two pictures out of one: the random views that a network must find alike."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.data.augment import Augment, Bounds
from tlcli.errors import RunError
from tlcli.model.backbone import Backbone, preprocess
from tlcli.pretrain.card import Point
from tlcli.pretrain.checkpoint import PretrainCheckpoint
from tlcli.pretrain.images import ImageSet
from tlcli.train.freeze import TRAINED_MOMENTUM, batch_norms

# Pictures are kept larger than views, so that a crop of them is not all enlargement.
OVERSIZE = 1.5
# Smallest share of the picture's area in a view, and the most a crop is stretched to either side.
_SMALLEST, _STRETCH = 0.2, 4 / 3
_COLOURS = Bounds(flip="horizontal", brightness=0.2, contrast=0.4, saturation=0.4)
_HUE = 0.1 * 2 * math.pi
_GREY_SHARE = 0.2


class Views(Augment):
    """Random views of a batch: `float32 (batch, side, side, 3)`, 0-255, to `(batch, size, size, 3)`, 0-255.

    Random resized crop and mirror in one warp, brightness, contrast, saturation and hue, grey one time in five. Blur is
    left out: small crops, enlarged, are blurred already.
    Ref: Chen & He 2021, arXiv 2011.10566, appendix A.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        super().__init__(_COLOURS, seed=seed)
        self.size = size

    def call(self, images: Any, training: bool = True) -> Any:
        """A view of each picture, always random."""
        warped = ops.image.affine_transform(
            images,
            self._matrices(images),
            interpolation="bilinear",
            fill_mode="nearest",
            data_format="channels_last",
        )
        # The warp keeps the shape of its input; its corner is the view.
        return self._greyed(self._recoloured(self._rehued(warped[:, : self.size, : self.size])))

    def _matrices(self, images: Any) -> Any:
        """`float32 (batch, 8)`: for each image the map from a view's pixel to the source pixel it is sampled from."""
        batch, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        area = (1 + _SMALLEST) / 2 + self._uniform(batch, (1 - _SMALLEST) / 2)
        stretch = ops.exp(self._uniform(batch, math.log(_STRETCH) / 2))
        across = ops.minimum(ops.sqrt(area) * stretch, 1.0) * width
        down = ops.minimum(ops.sqrt(area) / stretch, 1.0) * height
        left = (self._uniform(batch, 0.5) + 0.5) * (width - across)
        top = (self._uniform(batch, 0.5) + 0.5) * (height - down)
        mirror = self._signs(batch, is_on=True)
        a, e, zero = mirror * across / self.size, down / self.size, ops.zeros((batch,))
        # Pixel centres lie at halves, and a mirrored view begins at the crop's right edge.
        c = ops.where(mirror > 0, left, left + across) + a / 2 - 0.5
        return ops.stack([a, zero, c, zero, e, top + e / 2 - 0.5, zero, zero], axis=1)

    def _rehued(self, images: Any) -> Any:
        """Colours turned about the grey axis (Rodrigues' formula)."""
        angle = ops.reshape(self._uniform(ops.shape(images)[0], _HUE), (-1, 1, 1, 1))
        grey = ops.mean(images, axis=-1, keepdims=True)
        across = (ops.roll(images, 1, axis=-1) - ops.roll(images, -1, axis=-1)) / math.sqrt(3)
        return grey + (images - grey) * ops.cos(angle) + across * ops.sin(angle)

    def _greyed(self, images: Any) -> Any:
        chance = ops.reshape(self._uniform(ops.shape(images)[0], 0.5) + 0.5, (-1, 1, 1, 1))
        return ops.where(chance < _GREY_SHARE, ops.mean(images, axis=-1, keepdims=True), images)


# A quarter of the paper's widths, for networks a quarter the size of its own; the bottleneck keeps its proportion.
WIDTH = 512
BOTTLENECK = WIDTH // 4
HEALTHY = 1 / math.sqrt(WIDTH)
# Below this share of the healthy spread all pictures get one output.
_COLLAPSED = 0.1

_LR_PER_256 = 0.05
_MOMENTUM = 0.9
# The paper adds the decay to the gradient, where momentum makes ten of it; Keras takes it off the weights directly.
_WEIGHT_DECAY = 1e-4 / (1 - _MOMENTUM)

# About how many pictures a training sees unless told otherwise, in how many epochs at least and at most.
PASSES, EPOCHS = 200_000, (10, 200)


@dataclass(frozen=True)
class Course:
    """How long, and how.

    Attributes:
        epochs: Times every picture is seen, each time in two new views.
        batch: Pictures a step; what an epoch leaves over is dropped.
        seed: Of views, order, and new layers.
    """

    epochs: int
    batch: int
    seed: int = 0

    def steps(self, count: int) -> int:
        """Steps of an epoch over `count` pictures, at least one."""
        return max(1, count // self.batch)

    @property
    def lr(self) -> float:
        """The learning rate at the start."""
        return _LR_PER_256 * self.batch / 256


def course_for(count: int, size: int, *, seed: int, epochs: int | None = None, batch: int | None = None) -> Course:
    """The course for so many pictures of so many pixels, with what was asked for instead of its own numbers.

    >>> course_for(4000, 64, seed=0)
    Course(epochs=50, batch=128, seed=0)
    >>> course_for(100, 224, seed=0, epochs=3)
    Course(epochs=3, batch=32, seed=0)
    """
    # Two views of each are in memory at once, with the activations of all layers.
    fitting = 128 if size <= 96 else 64 if size <= 160 else 32
    usual = min(max(round(PASSES / count), EPOCHS[0]), EPOCHS[1])
    return Course(epochs=epochs or usual, batch=min(batch or fitting, count), seed=seed)


def train_simsiam(
    backbone: Backbone,
    pictures: ImageSet,
    course: Course,
    *,
    progress: Callable[[Point], None],
    advance: Callable[[int, int], None],
    unfinished: PretrainCheckpoint,
) -> list[Point]:
    """Train the backbone's network in place, from the weights it has.

    Args:
        backbone: Network, preprocessing and input size.
        pictures: Decoded at least as large as the input.
        course: How long, and how.
        progress: Told after every epoch.
        advance: Told after every step: pictures seen, and all that will be.
        unfinished: Where the state is kept after every epoch, and taken up.

    Returns:
        One measurement per epoch. The loss is the mean negative cosine, -1 to 1.

    Raises:
        RunError: If the outputs collapse to one, or the loss stops being a number.
    """
    steps = course.steps(len(pictures))
    model = _compiled(backbone, course, steps)
    points = unfinished.restore(model)
    before = points[-1].seconds if points else 0.0
    began = time.perf_counter()
    for epoch in range(len(points) + 1, course.epochs + 1):
        order = np.random.default_rng([course.seed, epoch])
        seed_generator = model.views.seed_generator
        seed_generator.state.assign(order.integers(0, 2**31 - 1, size=2, dtype=np.int64))
        shown = _Each(advance, course, steps, epoch)
        batches = _batches(pictures, course.batch, steps, order)
        told = model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[shown], shuffle=False).history
        seconds = before + time.perf_counter() - began
        seen = epoch * steps * course.batch
        points.append(Point(seen, seconds, float(told["loss"][0]), spread=float(told["spread"][0])))
        _require_alive(points[-1], epoch, course)
        progress(points[-1])
        unfinished.write(model, points)
    return points


class SimSiam(keras.Model):
    """A network with a projector and a predictor on top, and views before it."""

    def __init__(self, backbone: Backbone, *, seed: int) -> None:
        super().__init__(name="simsiam")
        height, width = backbone.size
        seeds = iter(np.random.default_rng([seed, 0]).integers(0, 2**31 - 1, size=8).tolist())

        def dense(units: int, *, bias: bool = False) -> keras.layers.Dense:
            # As in the paper's own program. Before a BatchNorm, smaller weights mean larger steps: three times those
            # of Keras's usual start.
            start = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=next(seeds))
            return keras.layers.Dense(units, use_bias=bias, kernel_initializer=start)

        image = keras.Input((height, width, 3))
        network = backbone.network(preprocess(image, backbone.card.preprocessing or "none"))
        x = keras.layers.GlobalAveragePooling2D()(network)
        for _ in range(2):
            x = keras.layers.ReLU()(_norm()(dense(WIDTH)(x)))
        projection = _norm(center=False, scale=False)(dense(WIDTH)(x))
        self.views = Views(height)
        self.encoder = keras.Model(image, projection, name="encoder")
        below = keras.Input((WIDTH,))
        hidden = keras.layers.ReLU()(_norm()(dense(BOTTLENECK)(below)))
        self.predictor = keras.Model(below, dense(WIDTH, bias=True)(hidden), name="predictor")

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Pictures `uint8 (batch, side, side, 3)` to projections and predictions of two views of each.

        Returns:
            `float32 (batch, 4, WIDTH)`: projection of one view and the other, prediction of one and the other.
        """
        images = ops.cast(pixels, "float32")
        views = ops.concatenate([self.views(images), self.views(images)], axis=0)
        projections = self.encoder(views, training=training)
        predictions = self.predictor(projections, training=training)
        return ops.stack([*ops.split(projections, 2), *ops.split(predictions, 2)], axis=1)


class NegativeCosine(keras.losses.Loss):
    """The negative cosine of each view's prediction and the other view's projection, which gets no gradient."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Outputs of SimSiam to `float32 (batch,)`; `y_true` is not looked at."""
        outputs = _unit(y_pred)
        targets = ops.stop_gradient(ops.flip(outputs[:, :2], axis=1))
        return -ops.mean(ops.sum(outputs[:, 2:] * targets, axis=-1), axis=-1)


def spread(_: Any, outputs: Any) -> Any:
    """The standard deviation of the l2-normalised projections: near `HEALTHY`, or 0 where all are one."""
    projections = ops.reshape(_unit(outputs[:, :2]), (-1, WIDTH))
    return ops.mean(ops.std(projections, axis=0))


def _unit(outputs: Any) -> Any:
    # Keras's own normalize takes the root of what may be zero, whose gradient is not a number.
    length = ops.sqrt(ops.sum(ops.square(outputs), axis=-1, keepdims=True) + 1e-12)
    return outputs / length


def _norm(*, center: bool = True, scale: bool = True) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(momentum=TRAINED_MOMENTUM, epsilon=1e-5, center=center, scale=scale)


def _compiled(backbone: Backbone, course: Course, steps: int) -> SimSiam:
    """The whole model with all of the network trainable, ready to fit."""
    for layer in backbone.network._flatten_layers(include_self=True, recursive=True):
        layer.trainable = True
    for norm in batch_norms(backbone.network):
        # Some networks say 0.999: their statistics would still be those of the start when the training ends.
        norm.momentum = min(norm.momentum, TRAINED_MOMENTUM)
    model = SimSiam(backbone, seed=course.seed)
    rate = keras.optimizers.schedules.CosineDecay(course.lr, steps * course.epochs)
    model.compile(
        keras.optimizers.SGD(rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY),
        loss=NegativeCosine(),
        metrics=[spread],
        # XLA is slow on a CPU; see tlcli.train.fit.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" else False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _batches(
    pictures: ImageSet, batch: int, steps: int, order: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: `uint8 (batch, side, side, 3)`, and targets that nobody looks at."""
    shuffled = pictures.rows[order.permutation(len(pictures))]
    nothing = np.zeros((batch, 1, 1), np.float32)
    for step in range(steps):
        yield pictures.pixels[shuffled[step * batch : (step + 1) * batch]], nothing


def _require_alive(point: Point, epoch: int, course: Course) -> None:
    if not math.isfinite(point.loss):
        raise RunError(
            f"the loss is {point.loss} in epoch {epoch}",
            where="pretrain",
            hint=f"Try a smaller --batch-size than {course.batch} (the learning rate follows it), or other --weights.",
        )
    if point.spread is not None and not point.spread > _COLLAPSED * HEALTHY:
        raise RunError(
            f"the network collapsed in epoch {epoch}: all pictures get the same output"
            f" (spread {point.spread:.4f}, healthy {HEALTHY:.4f})",
            where="pretrain",
            hint="Look whether the pictures differ at all (tlcli check). Then try a smaller --batch-size, since the"
            " learning rate follows it, or other --weights.",
        )


class _Each(keras.callbacks.Callback):
    """Tells after every step how many pictures have been seen."""

    def __init__(self, advance: Callable[[int, int], None], course: Course, steps: int, epoch: int) -> None:
        super().__init__()
        self.advance, self.batch = advance, course.batch
        self.before, self.total = (epoch - 1) * steps, course.epochs * steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Pass on the count."""
        self.advance((self.before + batch + 1) * self.batch, self.total * self.batch)
