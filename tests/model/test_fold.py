"""Folding BatchNorm into the preceding convolution: the same outputs and gradients with fewer operations."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlcli.model.fold import fold_batch_norm


def network(body: Callable[[Any], Any]) -> keras.Model:
    """A network whose BatchNorm layers have random statistics, scales and offsets."""
    image = keras.Input((8, 8, 4))
    return randomize_norms(keras.Model(image, body(image)))


def randomize_norms(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, value.shape).astype("float32") for value in layer.get_weights()])
    return model


def conv(**settings: Any) -> keras.layers.Layer:
    return keras.layers.Conv2D(6, 3, padding="same", bias_initializer="random_normal", **settings)


def norm(**settings: Any) -> keras.layers.Layer:
    return keras.layers.BatchNormalization(**settings)


def shared(x: Any) -> Any:
    layer = conv()
    return norm()(layer(x)) + norm()(layer(x[:, ::-1]))


def read_twice(x: Any) -> Any:
    convolved = conv()(x)
    return norm()(convolved) * convolved


BODIES: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: norm()(conv()(x)),
    "without bias": lambda x: norm()(conv(use_bias=False)(x)),
    "without scale": lambda x: norm(scale=False)(conv()(x)),
    "without offset": lambda x: norm(center=False, epsilon=0.1)(conv()(x)),
    "strides": lambda x: norm()(conv(strides=2)(x)),
    "dilated": lambda x: norm()(conv(dilation_rate=2)(x)),
    "in groups": lambda x: norm()(keras.layers.Conv2D(6, 3, groups=2)(x)),
    "depthwise": lambda x: norm()(keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)),
    "an activation between": lambda x: norm()(conv(activation="relu")(x)),
    "another axis": lambda x: norm(axis=1)(conv()(x)),
    "another layer": lambda x: norm()(keras.layers.SeparableConv2D(6, 3)(x)),
    "used twice": shared,
    "read twice": read_twice,
    "before the convolution": lambda x: conv()(norm()(x)),
    "dropout": lambda x: keras.layers.Dropout(0.5)(norm()(conv()(x))),
}


def assert_same(model: keras.Model, pixels: np.ndarray) -> None:
    folded = fold_batch_norm(model)

    def differentiate(call: Callable[[Any], Any]) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            outputs = call(tf.constant(pixels))
            loss = keras.ops.mean(keras.ops.square(outputs))
        return outputs, tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    expected, expected_gradients = differentiate(lambda x: model(x, training=False))
    outputs, gradients = differentiate(folded)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=1e-2, atol=1e-3 * float(np.abs(reference).max()))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_outputs_and_gradients_do_not_change(body: Callable[[Any], Any]) -> None:
    assert_same(network(body), np.random.default_rng(1).normal(size=(5, 8, 8, 4)).astype("float32"))


def test_a_convolution_that_only_another_output_reads_is_not_folded() -> None:
    image = keras.Input((8, 8, 4))
    convolved = conv()(image)
    model = randomize_norms(keras.Model(image, [norm()(convolved), keras.layers.ReLU()(convolved)]))
    pixels = np.random.default_rng(1).normal(size=(5, 8, 8, 4)).astype("float32")
    for output, expected in zip(fold_batch_norm(model)(pixels), model(pixels, training=False), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", [keras.applications.MobileNetV2, keras.applications.DenseNet121], ids=["v2", "dense"])
def test_outputs_and_gradients_of_whole_networks_do_not_change(build: Callable[..., keras.Model]) -> None:
    options = {"alpha": 0.35} if build is keras.applications.MobileNetV2 else {}
    model = build(weights=None, include_top=False, input_shape=(32, 32, 3), **options)
    assert_same(model, np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32"))


def test_no_operation_of_batch_norm_is_left() -> None:
    model = network(BODIES["plain"])
    graph = tf.function(fold_batch_norm(model)).get_concrete_function(tf.TensorSpec((1, 8, 8, 4))).graph
    shaped = [
        operation for operation in graph.get_operations() if operation.outputs and operation.outputs[0].shape.rank == 4
    ]
    # Kernel, convolution and bias; BatchNorm would add another multiplication and addition.
    assert [
        operation.type for operation in shaped if operation.type in ("Mul", "AddV2", "Sub", "Conv2D", "BiasAdd")
    ].count("Conv2D") == 1
    on_maps = [operation for operation in shaped if operation.outputs[0].shape[1:3] == (8, 8)]
    assert {operation.type for operation in on_maps} <= {"Placeholder", "Conv2D", "AddV2", "BiasAdd", "Identity"}
