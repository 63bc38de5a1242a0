"""Receptive fields: compared with published ones and with gradients, and the effect of gates."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tlcli.model import structure
from tlcli.model.graph import measure
from tlcli.model.receptive_field import IMAGE, WHOLE, Field, Span, Window, merge, propagate
from tlcli.zoo import catalogue

# Araujo et al. 2019, Distill, doi:10.23915/distill.00021, table of networks. Its VGG-16 ends at the last pooling.
PUBLISHED = {
    "vgg16": 212,
    "mobilenet": 315,
    "resnet50": 483,
    "resnet101": 1027,
    "resnet152": 1507,
    "inception_v3": 1311,
    "inception_resnet_v2": 3039,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fields_equal_the_published_ones(name: str) -> None:
    card = catalogue.find(name)
    groups = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
    assert groups is not None
    end = groups.groups[-1].end
    assert end is not None
    assert (end.receptive_field, end.stride, end.sees_all) == ((PUBLISHED[name],) * 2, (32, 32), False)


def test_every_layer_of_every_network_has_a_field() -> None:
    count = 0
    for card in (card for card in catalogue.load().values() if card.source.startswith("keras:")):
        groups = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
        assert groups is not None
        for layer in (layer for group in groups for layer in group.members):
            assert layer.sees_all or (layer.receptive_field and layer.stride), f"{card.name}: {layer.name}"
            count += 1
    assert count > 10_000


def convolution(size: tuple[int, int], stride: int = 1, padding: str = "same", dilation: int = 1) -> keras.Layer:
    return layers.Conv2D(2, size, strides=stride, padding=padding, dilation_rate=dilation, kernel_initializer="ones")


def branched(x: keras.KerasTensor) -> keras.KerasTensor:
    wide = convolution((1, 5))(convolution((3, 1))(x))
    return layers.Add()([convolution((3, 3))(x), wide])


def dense_block(x: keras.KerasTensor) -> keras.KerasTensor:
    for _ in range(2):
        x = layers.Concatenate()([x, convolution((3, 3))(x)])
    return layers.AveragePooling2D(2)(x)


def nested(x: keras.KerasTensor) -> keras.KerasTensor:
    inside = keras.Sequential([convolution((3, 3)), layers.AveragePooling2D(3, strides=2, padding="same")])
    return convolution((3, 3))(inside(x))


STACKS = {
    "plain": lambda x: convolution((3, 3), stride=2)(convolution((5, 3))(x)),
    "dilated": lambda x: convolution((3, 3), dilation=3)(convolution((3, 3), padding="valid")(x)),
    "padded": lambda x: convolution((3, 3), 2, "valid")(layers.ZeroPadding2D(((2, 0), (1, 1)))(x)),
    "cropped": lambda x: convolution((3, 3))(layers.Cropping2D(((3, 1), (0, 2)))(x)),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, strides=2, padding="same", depthwise_initializer="ones")(x),
    "separable": lambda x: layers.SeparableConv2D(2, 5, depthwise_initializer="ones", pointwise_initializer="ones")(x),
    "branched": branched,
    "dense": dense_block,
    "nested": nested,
    "enlarged": lambda x: convolution((3, 3))(layers.UpSampling2D(2)(layers.AveragePooling2D(2)(x))),
}


@pytest.mark.parametrize("name", STACKS)
def test_fields_equal_the_reach_of_gradients(name: str) -> None:
    """All weights are positive, so gradients never cancel: that of a position marks its receptive field."""
    image = keras.Input((48, 48, 1))
    model = keras.Model(image, STACKS[name](image))
    layer = measure(model)[measure(model).output]
    field = layer.receptive_field
    assert field is not None
    pixels = tf.ones((1, 48, 48, 1))
    reached = []
    for step in (0, 1):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            output = model(pixels)
            middle = tf.reduce_sum(output[0, output.shape[1] // 2 + step, output.shape[2] // 2 + step])
        nonzero = np.argwhere(tape.gradient(middle, pixels).numpy()[0, ..., 0] > 0)
        reached.append((nonzero.min(axis=0), nonzero.max(axis=0)))
    (low, high), (next_low, next_high) = reached
    size = high - low + 1
    if name == "enlarged":
        # The reach varies with the position on the grid below; the field is the largest.
        assert layer.stride == (1, 1)
        assert all(largest - 2 <= reach <= largest for reach, largest in zip(size, field, strict=True))
    else:
        assert tuple(size) == field
        assert tuple(next_low - low) == tuple(next_high - high) == layer.stride


def test_gates_see_the_whole_image_and_keep_the_field() -> None:
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    gate = layers.Reshape((1, 1, 4), name="gate")(layers.GlobalAveragePooling2D(name="mean")(x))
    model = keras.Model(image, layers.Conv2D(4, 3, name="after")(layers.Multiply()([x, gate])))
    graph = measure(model)
    assert (graph["conv"].receptive_field, graph["conv"].sees_all) == ((3, 3), False)
    assert (graph["mean"].receptive_field, graph["mean"].sees_all) == (None, True)
    assert (graph["gate"].receptive_field, graph["gate"].sees_all) == (None, True)
    assert (graph["after"].receptive_field, graph["after"].sees_all) == ((5, 5), True)


def test_unknown_fields_stay_unknown() -> None:
    assert propagate(None, IMAGE) is None
    assert propagate(Window(), None) is None
    assert merge([IMAGE, None]) is None
    assert propagate(WHOLE, IMAGE) == Field(None, sees_all=True)


def test_a_merged_field_covers_all_fields() -> None:
    left = Field((Span(2, -3, 1), Span(2, 0, 0)))
    right = Field((Span(2, 0, 4), Span(2, 0, 0)), sees_all=True)
    assert merge([left, right]) == Field((Span(2, -3, 4), Span(2, 0, 0)), sees_all=True)
    assert merge([left, right]).size == (8, 1)
