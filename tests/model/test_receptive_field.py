"""Receptive fields: those that were published, those that gradients show, and what gates do to them."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tlcli.model import structure
from tlcli.model.graph import measure
from tlcli.model.receptive_field import IMAGE, WHOLE, Field, Span, Window, join, through
from tlcli.zoo import catalogue

# Araujo et al. 2019, Distill, doi:10.23915/distill.00021, the table of networks. VGG-16 there ends with its last pool.
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
def test_fields_are_those_of_the_paper(name: str) -> None:
    card = catalogue.find(name)
    groups = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
    assert groups is not None
    end = groups.groups[-1].end
    assert end is not None
    assert (end.receptive_field, end.stride, end.sees_all) == ((PUBLISHED[name],) * 2, (32, 32), False)


def test_every_layer_of_every_network_has_a_field() -> None:
    seen = 0
    for card in catalogue.load().values():
        groups = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
        assert groups is not None
        for layer in (layer for group in groups for layer in group.members):
            assert layer.sees_all or (layer.receptive_field and layer.stride), f"{card.name}: {layer.name}"
            seen += 1
    assert seen > 10_000


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
def test_fields_are_what_gradients_reach(name: str) -> None:
    """All weights are positive, so nothing cancels: the gradient of a place in the middle marks what it sees."""
    picture = keras.Input((48, 48, 1))
    model = keras.Model(picture, STACKS[name](picture))
    layer = measure(model)[measure(model).output]
    pixels = tf.ones((1, 48, 48, 1))
    reached = []
    for step in (0, 1):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            answer = model(pixels)
            middle = tf.reduce_sum(answer[0, answer.shape[1] // 2 + step, answer.shape[2] // 2 + step])
        seen = np.argwhere(tape.gradient(middle, pixels).numpy()[0, ..., 0] > 0)
        reached.append((seen.min(axis=0), seen.max(axis=0)))
    (low, high), (next_low, next_high) = reached
    size = high - low + 1
    if name == "enlarged":
        # Places see more or less, as they fall on the grid below; the field is the largest.
        assert layer.stride == (1, 1)
        assert all(most - 2 <= got <= most for got, most in zip(size, layer.receptive_field or (), strict=True))
    else:
        assert tuple(size) == layer.receptive_field
        assert tuple(next_low - low) == tuple(next_high - high) == layer.stride


def test_gates_let_the_whole_picture_in_and_leave_the_field() -> None:
    picture = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, name="conv")(picture)
    gate = layers.Reshape((1, 1, 4), name="gate")(layers.GlobalAveragePooling2D(name="mean")(x))
    model = keras.Model(picture, layers.Conv2D(4, 3, name="after")(layers.Multiply()([x, gate])))
    graph = measure(model)
    assert (graph["conv"].receptive_field, graph["conv"].sees_all) == ((3, 3), False)
    assert (graph["mean"].receptive_field, graph["mean"].sees_all) == (None, True)
    assert (graph["gate"].receptive_field, graph["gate"].sees_all) == (None, True)
    assert (graph["after"].receptive_field, graph["after"].sees_all) == ((5, 5), True)


def test_what_is_not_known_stays_unknown() -> None:
    assert through(None, IMAGE) is None
    assert through(Window(), None) is None
    assert join([IMAGE, None]) is None
    assert through(WHOLE, IMAGE) == Field(None, sees_all=True)


def test_what_is_joined_sees_what_either_saw() -> None:
    left = Field((Span(2, -3, 1), Span(2, 0, 0)))
    right = Field((Span(2, 0, 4), Span(2, 0, 0)), sees_all=True)
    assert join([left, right]) == Field((Span(2, -3, 4), Span(2, 0, 0)), sees_all=True)
    assert join([left, right]).size == (8, 1)
