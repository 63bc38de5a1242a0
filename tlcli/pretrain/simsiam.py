"""Self-supervised training with SimSiam: random views of an image, the model, its loss, and the training loop.

Ref: Chen & He 2021, "Exploring Simple Siamese Representation Learning", arXiv 2011.10566.
"""

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
from tlcli.train.freeze import BATCH_NORM_MOMENTUM, batch_norms

# Images are decoded larger than views by this factor, so that few crops need enlarging.
OVERSIZE = 1.5
# Minimum fraction of the image's area in a view, and maximum aspect ratio of a crop.
_MIN_AREA, _MAX_ASPECT = 0.2, 4 / 3
_COLOURS = Bounds(flip="horizontal", brightness=0.2, contrast=0.4, saturation=0.4)
_MAX_HUE_RAD = 0.1 * 2 * math.pi
_GREY_FRACTION = 0.2

# A quarter of the paper's widths, for networks a quarter the size of the paper's; the bottleneck ratio is the same.
WIDTH = 512
BOTTLENECK = WIDTH // 4
# Spread of outputs that vary in every direction.
HEALTHY = 1 / math.sqrt(WIDTH)
# Below this fraction of the healthy spread, all images get the same output.
_COLLAPSED = 0.1

_LR_PER_256 = 0.05
_MOMENTUM = 0.9
# The paper adds the decay to the gradient, where momentum multiplies it by ten. Keras subtracts it from the weights.
_WEIGHT_DECAY = 1e-4 / (1 - _MOMENTUM)

# Default training length: about this many images in total, within these limits of epochs.
TOTAL_IMAGES, MIN_EPOCHS, MAX_EPOCHS = 200_000, 10, 200


class Views(Augment):
    """Random views of a batch: `float32 (batch, side, side, 3)`, 0-255, to `(batch, size, size, 3)`, 0-255.

    A view is a random resized crop, mirrored half the time, in one warp; then brightness, contrast, saturation and hue
    change, and one view in five is grey. Unlike the paper there is no blur: enlarged crops are blurred already.
    Ref: Chen & He 2021, arXiv 2011.10566, appendix A.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        super().__init__(_COLOURS, seed=seed)
        self.size = size

    def call(self, images: Any, training: bool = True) -> Any:
        """One random view of each image, in training and inference alike."""
        warped = ops.image.affine_transform(
            images,
            self._matrices(images),
            interpolation="bilinear",
            fill_mode="nearest",
            data_format="channels_last",
        )
        # The warp keeps the shape of its input; the view is its top left corner.
        return self._drop_colour(self._recoloured(self._shift_hue(warped[:, : self.size, : self.size])))

    def _matrices(self, images: Any) -> Any:
        """Affine maps from the pixels of a view to the pixels of its image, `float32 (batch, 8)`."""
        batch, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        area = (1 + _MIN_AREA) / 2 + self._uniform(batch, (1 - _MIN_AREA) / 2)
        aspect_root = ops.exp(self._uniform(batch, math.log(_MAX_ASPECT) / 2))
        crop_width = ops.minimum(ops.sqrt(area) * aspect_root, 1.0) * width
        crop_height = ops.minimum(ops.sqrt(area) / aspect_root, 1.0) * height
        left = (self._uniform(batch, 0.5) + 0.5) * (width - crop_width)
        top = (self._uniform(batch, 0.5) + 0.5) * (height - crop_height)
        mirror = self._signs(batch, is_on=True)
        a, e, zero = mirror * crop_width / self.size, crop_height / self.size, ops.zeros((batch,))
        # Pixel centres lie at halves, and a mirrored view begins at the crop's right edge.
        c = ops.where(mirror > 0, left, left + crop_width) + a / 2 - 0.5
        return ops.stack([a, zero, c, zero, e, top + e / 2 - 0.5, zero, zero], axis=1)

    def _shift_hue(self, images: Any) -> Any:
        """Rotate the colours of each image about the grey axis by a random angle (Rodrigues' formula)."""
        angle = ops.reshape(self._uniform(ops.shape(images)[0], _MAX_HUE_RAD), (-1, 1, 1, 1))
        grey = ops.mean(images, axis=-1, keepdims=True)
        perpendicular = (ops.roll(images, 1, axis=-1) - ops.roll(images, -1, axis=-1)) / math.sqrt(3)
        return grey + (images - grey) * ops.cos(angle) + perpendicular * ops.sin(angle)

    def _drop_colour(self, images: Any) -> Any:
        """Make a random fifth of the images grey."""
        draw = ops.reshape(self._uniform(ops.shape(images)[0], 0.5) + 0.5, (-1, 1, 1, 1))
        return ops.where(draw < _GREY_FRACTION, ops.mean(images, axis=-1, keepdims=True), images)


@dataclass(frozen=True)
class SimSiamConfig:
    """Length, batch size and seed of a training.

    Attributes:
        epochs: Passes over the images, each with two new views of every image.
        batch: Images per step; an incomplete last batch of an epoch is dropped.
        seed: Seed of the views, the order of the images, and the new layers.
    """

    epochs: int
    batch: int
    seed: int = 0

    def steps(self, count: int) -> int:
        """Steps per epoch over `count` images, at least one."""
        return max(1, count // self.batch)

    @property
    def lr(self) -> float:
        """The learning rate at the start."""
        return _LR_PER_256 * self.batch / 256


def choose_config(
    count: int, size: int, *, seed: int, epochs: int | None = None, batch: int | None = None
) -> SimSiamConfig:
    """Choose the epochs and batch size for `count` images at `size` pixels, unless they are given.

    >>> choose_config(4000, 64, seed=0)
    SimSiamConfig(epochs=50, batch=128, seed=0)
    >>> choose_config(100, 224, seed=0, epochs=3)
    SimSiamConfig(epochs=3, batch=32, seed=0)
    """
    # Two views of each image are in memory at once, with the activations of all layers.
    default_batch = 128 if size <= 96 else 64 if size <= 160 else 32
    default_epochs = min(max(round(TOTAL_IMAGES / count), MIN_EPOCHS), MAX_EPOCHS)
    return SimSiamConfig(epochs=epochs or default_epochs, batch=min(batch or default_batch, count), seed=seed)


def train_simsiam(
    backbone: Backbone,
    images: ImageSet,
    config: SimSiamConfig,
    *,
    on_epoch: Callable[[Point], None],
    on_step: Callable[[int, int], None],
    checkpoint: PretrainCheckpoint,
) -> list[Point]:
    """Train the backbone's network in place, starting from its current weights.

    Args:
        backbone: Network, preprocessing and input size.
        images: Images decoded at least as large as the input.
        config: Length, batch size and seed.
        on_epoch: Called after every epoch.
        on_step: Called after every step with the number of images seen and their final total.
        checkpoint: Written after every epoch; an existing state is resumed.

    Returns:
        One point per epoch. The loss is the mean negative cosine, -1 to 1.

    Raises:
        OutputError: The checkpoint belongs to other images or settings.
        RunError: All outputs become the same, the loss is not finite, or the checkpoint is damaged.
    """
    steps = config.steps(len(images))
    model = _build_model(backbone, config, steps)
    points = checkpoint.restore(model)
    seconds_before = points[-1].seconds if points else 0.0
    started = time.perf_counter()
    for epoch in range(len(points) + 1, config.epochs + 1):
        loss, spread_value = _train_epoch(model, images, config, epoch, on_step)
        seconds = seconds_before + time.perf_counter() - started
        points.append(Point(epoch * steps * config.batch, seconds, loss, spread=spread_value))
        _require_healthy(points[-1], epoch, config)
        on_epoch(points[-1])
        checkpoint.write(model, points)
    return points


def _train_epoch(
    model: "SimSiam", images: ImageSet, config: SimSiamConfig, epoch: int, on_step: Callable[[int, int], None]
) -> tuple[float, float]:
    """Train one epoch; return its loss and spread. Its random numbers depend only on the seed and the epoch."""
    steps = config.steps(len(images))
    rng = np.random.default_rng([config.seed, epoch])
    model.views.seed_generator.state.assign(rng.integers(0, 2**31 - 1, size=2, dtype=np.int64))
    history = model.fit(
        _batches(images, config.batch, steps, rng),
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[_StepProgress(on_step, config, steps, epoch)],
        shuffle=False,
    ).history
    return float(history["loss"][0]), float(history["spread"][0])


class SimSiam(keras.Model):
    """The SimSiam model: two random views per image, the network, a projector and a predictor."""

    def __init__(self, backbone: Backbone, *, seed: int) -> None:
        super().__init__(name="simsiam")
        height, width = backbone.size
        seeds = iter(np.random.default_rng([seed, 0]).integers(0, 2**31 - 1, size=8).tolist())

        def dense(units: int, *, bias: bool = False) -> keras.layers.Dense:
            # As in the paper's code. Before a BatchNorm, smaller weights mean larger steps: three times as large as
            # with the Keras default.
            initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=next(seeds))
            return keras.layers.Dense(units, use_bias=bias, kernel_initializer=initializer)

        image = keras.Input((height, width, 3))
        features = backbone.network(preprocess(image, backbone.card.preprocessing or "none"))
        x = keras.layers.GlobalAveragePooling2D()(features)
        for _ in range(2):
            x = keras.layers.ReLU()(_norm()(dense(WIDTH)(x)))
        projection = _norm(center=False, scale=False)(dense(WIDTH)(x))
        self.views = Views(height)
        self.encoder = keras.Model(image, projection, name="encoder")
        projected = keras.Input((WIDTH,))
        hidden = keras.layers.ReLU()(_norm()(dense(BOTTLENECK)(projected)))
        self.predictor = keras.Model(projected, dense(WIDTH, bias=True)(hidden), name="predictor")

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Project and predict two views of each image.

        Args:
            pixels: Images, `uint8 (batch, side, side, 3)`, RGB 0-255.
            training: True to use the statistics of the batch in BatchNorm.

        Returns:
            `float32 (batch, 4, WIDTH)`: projections of the first and second view, then their predictions.
        """
        images = ops.cast(pixels, "float32")
        views = ops.concatenate([self.views(images), self.views(images)], axis=0)
        projections = self.encoder(views, training=training)
        predictions = self.predictor(projections, training=training)
        return ops.stack([*ops.split(projections, 2), *ops.split(predictions, 2)], axis=1)


class NegativeCosine(keras.losses.Loss):
    """Negative cosine between a view's prediction and the other view's projection; projections get no gradient."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each image, `float32 (batch,)`, from the outputs of `SimSiam`; `y_true` is ignored."""
        outputs = _unit(y_pred)
        targets = ops.stop_gradient(ops.flip(outputs[:, :2], axis=1))
        return -ops.mean(ops.sum(outputs[:, 2:] * targets, axis=-1), axis=-1)


def spread(_: Any, outputs: Any) -> Any:
    """Standard deviation of the l2-normalised projections: about `HEALTHY`, or 0 if all projections are the same."""
    projections = ops.reshape(_unit(outputs[:, :2]), (-1, WIDTH))
    return ops.mean(ops.std(projections, axis=0))


def _unit(outputs: Any) -> Any:
    # Where an output is zero, the gradient of keras.ops.normalize is NaN.
    length = ops.sqrt(ops.sum(ops.square(outputs), axis=-1, keepdims=True) + 1e-12)
    return outputs / length


def _norm(*, center: bool = True, scale: bool = True) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, center=center, scale=scale)


def _build_model(backbone: Backbone, config: SimSiamConfig, steps: int) -> SimSiam:
    """The compiled model, with all layers of the network trainable and the optimiser built."""
    for layer in backbone.network._flatten_layers(include_self=True, recursive=True):
        layer.trainable = True
    for norm in batch_norms(backbone.network):
        # With the 0.999 of some networks, the statistics would still be near their initial values at the end.
        norm.momentum = min(norm.momentum, BATCH_NORM_MOMENTUM)
    model = SimSiam(backbone, seed=config.seed)
    lr = keras.optimizers.schedules.CosineDecay(config.lr, steps * config.epochs)
    model.compile(
        keras.optimizers.SGD(lr, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY),
        loss=NegativeCosine(),
        metrics=[spread],
        # XLA is slow on a CPU; see tlcli.train.stage.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" else False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _batches(
    images: ImageSet, batch: int, steps: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one epoch: images `uint8 (batch, side, side, 3)` in random order, and dummy targets."""
    rows = images.rows[rng.permutation(len(images))]
    targets = np.zeros((batch, 1, 1), np.float32)
    for step in range(steps):
        yield images.pixels[rows[step * batch : (step + 1) * batch]], targets


def _require_healthy(point: Point, epoch: int, config: SimSiamConfig) -> None:
    if not math.isfinite(point.loss):
        raise RunError(
            f"the loss is {point.loss} in epoch {epoch}",
            where="pretrain",
            hint=f"Try a --batch-size below {config.batch}, which also lowers the learning rate, or other --weights.",
        )
    if point.spread is not None and not point.spread > _COLLAPSED * HEALTHY:
        raise RunError(
            f"the network collapsed in epoch {epoch}: all images get the same output"
            f" (spread {point.spread:.4f}, healthy {HEALTHY:.4f})",
            where="pretrain",
            hint="Check that the images differ (tlcli check). Then try a smaller --batch-size, which also lowers the"
            " learning rate, or other --weights.",
        )


class _StepProgress(keras.callbacks.Callback):
    """Reports the number of images seen after every step."""

    def __init__(self, on_step: Callable[[int, int], None], config: SimSiamConfig, steps: int, epoch: int) -> None:
        super().__init__()
        self.on_step, self.batch = on_step, config.batch
        self.steps_before, self.total_steps = (epoch - 1) * steps, config.epochs * steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the images seen so far and their total."""
        self.on_step((self.steps_before + batch + 1) * self.batch, self.total_steps * self.batch)
