"""Fixtures: a network that trains in seconds, and images with learnable structure."""

from collections.abc import Callable

import keras
import numpy as np
import pytest

from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.pretrain.images import ImageSet
from tlcli.zoo.card import ModelCard

SIDE, SIZE = 24, 16
CARD = ModelCard(
    name="tiny", source="keras:Tiny", title="Tiny", size=SIZE, min_size=8, preprocessing="tf", licence="free"
)


def network(*, constant: bool = False) -> keras.Model:
    """Two convolutions with the BatchNorm momentum of the zoo; with `constant`, the same output for every image."""
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(momentum=0.999, name="stem_bn")(x))
    x = layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False, name="top_conv")(x)
    x = layers.ReLU(name="top_relu")(layers.BatchNormalization(momentum=0.999, name="top_bn")(x))
    return keras.Model(image, layers.Rescaling(0.0)(x) if constant else x, name="tiny")


@pytest.fixture
def tiny_backbone() -> Callable[..., Backbone]:
    """A function that builds the network with weights from a seed."""

    def make(*, seed: int = 0, constant: bool = False) -> Backbone:
        keras.utils.set_random_seed(seed)
        tiny = network(constant=constant)
        return Backbone(CARD, tiny, (SIZE, SIZE), "random", weights_sha256(tiny))

    return make


@pytest.fixture(scope="session")
def stripes() -> ImageSet:
    """64 images of stripes in many directions, widths and colours, in random rows of a pixel cache of 70."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    pixels = np.empty((70, SIDE, SIDE, 3), np.uint8)
    for image in pixels:
        down, across = random.normal(0, 0.8, 2)
        wave = np.sin(rows * down + columns * across + random.uniform(0, 6))[..., None]
        image[:] = np.clip(127 + wave * random.uniform(-120, 120, 3) + random.uniform(-60, 60, 3), 0, 255)
    return ImageSet("stripes", pixels, random.permutation(70)[:64].astype(np.int64), (), 0, "0" * 64)
