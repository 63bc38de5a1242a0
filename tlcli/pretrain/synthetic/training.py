"""Pretraining on synthetic images: a network learns to tell synthetic classes apart, and which colours there are."""

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
from tlcli.pretrain.synthetic.scene import World
from tlcli.train.freeze import TRAINED_MOMENTUM, batch_norms

# Drawn images ahead of the training step, in batches.
_AHEAD = 8
# Seeds of the images that are held back lie beyond those of any training.
_HELD_BACK = 10**9
# Of red, green and blue each, as far as the second task tells colours apart.
SHADES = 4


@dataclass(frozen=True)
class SyntheticCourse:
    """How a network is trained on synthetic images.

    Attributes:
        classes: Drawn classes.
        images: Images in all; each is drawn once and seen once.
        batch: Images a step.
        easy: Share of the images, 0-1, over which the hardness of what is drawn grows from 0 to 1; it stays there.
            Without the easy beginning a network this small learns almost nothing from its first 100,000 images.
        lr: Highest learning rate of AdamW; it rises for a twentieth of the steps and falls along a cosine to zero.
        weight_decay: Decay of the kernels, times the learning rate a step.
        colour: Weight of the second task, to tell how much of the picture has which colour. Most synthetic classes come in
            any colour, so that the first alone teaches a network not to see any.
        points: Measurements along the way.
        held_back: Images never trained on, for each measurement.
        seed: Of classes, images and weights of the output layer.
    """

    classes: int = 500
    images: int = 1_200_000
    batch: int = 64
    easy: float = 0.6
    lr: float = 3e-3
    weight_decay: float = 0.02
    colour: float = 0.2
    points: int = 40
    held_back: int = 2400
    seed: int = 0


def train_synthetic(
    network: keras.Model,
    preprocess: Callable[[Any], Any],
    course: SyntheticCourse,
    *,
    progress: Callable[[Point], None],
) -> list[Point]:
    """Train a network without top on synthetic images, in place.

    Args:
        network: Takes float32 (batch, size, size, 3) as `preprocess` gives it.
        preprocess: From RGB 0-255 to what the network takes.
        course: How long, and how.
        progress: Told after every measurement.

    Returns:
        The measurements: images seen, seconds, training loss and accuracy on images held back, both of the classes.
    """
    size = network.inputs[0].shape[1]
    world = World(course.classes, course.seed)
    for norm in batch_norms(network):
        norm.momentum = min(norm.momentum, TRAINED_MOMENTUM)
    model = _model(network, preprocess, course)
    steps = max(1, course.images // (course.batch * course.points))
    optimizer = keras.optimizers.AdamW(_rate(course, steps * course.points), weight_decay=course.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        loss=[
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            keras.losses.CategoricalCrossentropy(from_logits=True),
        ],
        loss_weights=[1.0, course.colour],
        jit_compile=keras.config.backend() != "tensorflow",
    )
    labels = np.resize(np.arange(course.classes), course.held_back)
    held = _drawn_in_parts(world, labels, _HELD_BACK, size)
    judge = keras.Model(model.inputs[0], model.outputs[0])
    points: list[Point] = []
    started = time.monotonic()

    def measure(_: int, logs: dict[str, float]) -> None:
        guesses = judge.predict(held, batch_size=256, verbose=0).argmax(axis=1)
        point = Point(
            images=(len(points) + 1) * steps * course.batch,
            seconds=time.monotonic() - started,
            loss=float(logs["classes_loss"]),
            accuracy=float((guesses == labels).mean()),
        )
        points.append(point)
        progress(point)

    # One `fit` over all: at the end of each, Keras would drop an unknown number of batches it had fetched ahead.
    with contextlib.closing(_ahead(_batches(world, course, size))) as batches:
        model.fit(
            batches,
            steps_per_epoch=steps,
            epochs=course.points,
            shuffle=False,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure)],
            verbose=0,
        )
    return points


def _model(network: keras.Model, preprocess: Callable[[Any], Any], course: SyntheticCourse) -> keras.Model:
    pixels = keras.Input(network.inputs[0].shape[1:], dtype="uint8")
    features = network(preprocess(keras.ops.cast(pixels, "float32")))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    start = keras.initializers.GlorotUniform(seed=course.seed)
    outputs = [
        keras.layers.Dense(units, kernel_initializer=start, name=name)(pooled)
        for name, units in (("classes", course.classes), ("colours", SHADES**3))
    ]
    return keras.Model(pixels, outputs)


def colours(pictures: np.ndarray) -> np.ndarray:
    """How much of each picture has which colour: shares of the `SHADES`³ boxes of equal size.

    Args:
        pictures: uint8 (batch, height, width, 3), RGB.

    Returns:
        float32 (batch, 64), 0-1; rows sum to 1.
    """
    box = (pictures // (256 // SHADES)).astype(np.int64) @ np.array([SHADES**2, SHADES, 1])
    box = box.reshape(len(pictures), -1) + np.arange(len(pictures))[:, None] * SHADES**3
    counts = np.bincount(box.ravel(), minlength=len(pictures) * SHADES**3).reshape(len(pictures), -1)
    return (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


def _rate(course: SyntheticCourse, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    warm = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warm), warmup_target=course.lr, warmup_steps=warm)


def _batches(
    world: World, course: SyntheticCourse, size: int
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Pictures, labels and colours in batches without end; batch `k` follows from the seed and `k` alone."""
    number = 0
    while True:
        rng = np.random.default_rng([course.seed, 3, number])
        labels = rng.integers(0, course.classes, course.batch)
        hardness = min(1.0, number * course.batch / max(1.0, course.easy * course.images))
        pictures = world.draw(labels, seed=number, size=size, hardness=hardness)
        yield pictures, (labels, colours(pictures))
        number += 1


def _drawn_in_parts(world: World, labels: np.ndarray, seed: int, size: int) -> np.ndarray:
    parts = [world.draw(labels[at : at + 200], seed=seed + at, size=size) for at in range(0, len(labels), 200)]
    return np.concatenate(parts)


def _ahead(source: Iterator[Any]) -> Generator[Any, None, None]:
    """The same items, made in a thread, a few ahead of who takes them."""
    items: queue.Queue[Any] = queue.Queue(_AHEAD)
    closed = threading.Event()

    def fill() -> None:
        try:
            for item in source:
                items.put(item)
                if closed.is_set():
                    return
        except BaseException as error:
            # Raised again where the items are taken.
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
