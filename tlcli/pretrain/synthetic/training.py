"""Supervised pretraining on synthetic images: classify them and predict their colour histograms."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlcli.pretrain.card import Point
from tlcli.pretrain.checkpoint import PretrainCheckpoint
from tlcli.pretrain.synthetic.scene import SyntheticClasses
from tlcli.train.freeze import BATCH_NORM_MOMENTUM, batch_norms

# Batches rendered ahead of the training step.
_PREFETCHED = 8
# Seeds of validation images start here, beyond those of any training image.
_VAL_SEED = 10**9
# Levels of red, green and blue each in a colour histogram.
SHADES = 4


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a training on synthetic images.

    Attributes:
        classes: Number of synthetic classes.
        images: Number of training images; each is rendered and seen once.
        batch: Images per step.
        ramp_fraction: Fraction of the training, 0-1, in which the hardness of the images grows from 0 to 1. Without
            the easy start, a network this small learns almost nothing from its first 100,000 images.
        lr: Highest learning rate of AdamW; it rises over the first twentieth of the steps, then falls along a cosine
            to zero.
        weight_decay: Decay of the kernels per step, as a multiple of the learning rate.
        colour_weight: Loss weight of the second task, the prediction of the colour histogram. Most synthetic classes
            come in random colours, so that classification alone teaches a network to ignore colour.
        points: Number of points of the training curves.
        val_images: Number of validation images, never trained on, for each point.
        seed: Seed of the classes, the images and the output layers.
    """

    classes: int = 500
    images: int = 1_200_000
    batch: int = 64
    ramp_fraction: float = 0.6
    lr: float = 3e-3
    weight_decay: float = 0.02
    colour_weight: float = 0.2
    points: int = 40
    val_images: int = 2400
    seed: int = 0


def train_synthetic(
    network: keras.Model,
    preprocess: Callable[[Any], Any],
    config: SyntheticConfig,
    *,
    on_point: Callable[[Point], None],
    checkpoint: PretrainCheckpoint,
) -> list[Point]:
    """Train a network without top on synthetic images, in place.

    Args:
        network: Takes the output of `preprocess`, float32 (batch, size, size, 3).
        preprocess: Converts RGB 0-255 to the input of the network.
        config: Settings of the training.
        on_point: Called with every new point of the curves.
        checkpoint: Written at every point; an existing state is resumed.

    Returns:
        The training curves: images seen, seconds, training loss of the classification, and accuracy on validation
        images.

    Raises:
        OutputError: The checkpoint belongs to other settings.
        RunError: The checkpoint is damaged.
    """
    size = network.inputs[0].shape[1]
    classes = SyntheticClasses(config.classes, config.seed)
    steps = max(1, config.images // (config.batch * config.points))
    model = _build_model(network, preprocess, config, steps * config.points)
    val_labels = np.resize(np.arange(config.classes), config.val_images)
    val_images = _render_in_parts(classes, val_labels, _VAL_SEED, size)
    classifier = keras.Model(model.inputs[0], model.outputs[0])
    model.optimizer.build(model.trainable_variables)
    points = checkpoint.restore(model)
    started = time.monotonic() - (points[-1].seconds if points else 0.0)

    def add_point(_: int, logs: dict[str, float]) -> None:
        predicted = classifier.predict(val_images, batch_size=256, verbose=0).argmax(axis=1)
        point = Point(
            images=(len(points) + 1) * steps * config.batch,
            seconds=time.monotonic() - started,
            loss=float(logs["classes_loss"]),
            accuracy=float((predicted == val_labels).mean()),
        )
        points.append(point)
        checkpoint.write(model, points)
        on_point(point)

    # A single `fit`: at the end of every fit, Keras drops an unknown number of batches that it has prefetched.
    with contextlib.closing(_prefetch(_batches(classes, config, size, len(points) * steps))) as batches:
        model.fit(
            batches,
            steps_per_epoch=steps,
            epochs=config.points,
            initial_epoch=len(points),
            shuffle=False,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=add_point)],
            verbose=0,
        )
    return points


def _build_model(
    network: keras.Model, preprocess: Callable[[Any], Any], config: SyntheticConfig, steps: int
) -> keras.Model:
    """The compiled model: preprocessing, network, and one output layer per task."""
    for norm in batch_norms(network):
        norm.momentum = min(norm.momentum, BATCH_NORM_MOMENTUM)
    pixels = keras.Input(network.inputs[0].shape[1:], dtype="uint8")
    features = network(preprocess(keras.ops.cast(pixels, "float32")))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    initializer = keras.initializers.GlorotUniform(seed=config.seed)
    outputs = [
        keras.layers.Dense(units, kernel_initializer=initializer, name=name)(pooled)
        for name, units in (("classes", config.classes), ("colours", SHADES**3))
    ]
    model = keras.Model(pixels, outputs)
    optimizer = keras.optimizers.AdamW(_lr_schedule(config, steps), weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        loss=[
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            keras.losses.CategoricalCrossentropy(from_logits=True),
        ],
        loss_weights=[1.0, config.colour_weight],
        jit_compile=keras.config.backend() != "tensorflow",
    )
    return model


def _lr_schedule(config: SyntheticConfig, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    warmup_steps = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup_steps), warmup_target=config.lr, warmup_steps=warmup_steps
    )


def colour_histograms(images: np.ndarray) -> np.ndarray:
    """Compute the colour histogram of each image over `SHADES`³ bins of equal size.

    Args:
        images: uint8 (batch, height, width, 3), RGB.

    Returns:
        float32 (batch, 64), 0-1; rows sum to 1.
    """
    bins = (images // (256 // SHADES)).astype(np.int64) @ np.array([SHADES**2, SHADES, 1])
    bins = bins.reshape(len(images), -1) + np.arange(len(images))[:, None] * SHADES**3
    counts = np.bincount(bins.ravel(), minlength=len(images) * SHADES**3).reshape(len(images), -1)
    return (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


def _batches(
    classes: SyntheticClasses, config: SyntheticConfig, size: int, number: int
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Batches of images, labels and colour histograms without end, from `number`, which with the settings decides."""
    while True:
        rng = np.random.default_rng([config.seed, 3, number])
        labels = rng.integers(0, config.classes, config.batch)
        hardness = min(1.0, number * config.batch / max(1.0, config.ramp_fraction * config.images))
        images = classes.render(labels, seed=number, size=size, hardness=hardness)
        yield images, (labels, colour_histograms(images))
        number += 1


def _render_in_parts(classes: SyntheticClasses, labels: np.ndarray, seed: int, size: int) -> np.ndarray:
    parts = [
        classes.render(labels[start : start + 200], seed=seed + start, size=size)
        for start in range(0, len(labels), 200)
    ]
    return np.concatenate(parts)


def _prefetch(source: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield the items of `source`, which a thread fetches a few items ahead."""
    items: queue.Queue[Any] = queue.Queue(_PREFETCHED)
    closed = threading.Event()

    def fill() -> None:
        try:
            for item in source:
                items.put(item)
                if closed.is_set():
                    return
        except BaseException as error:
            # Raised again by the consumer.
            items.put(error)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                items.get(timeout=0.05)
