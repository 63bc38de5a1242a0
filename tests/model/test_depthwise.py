"""Depthwise convolution with a faster gradient: the same numbers as Keras, from narrow kernels only."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlcli.model.depthwise import FAST_COLUMNS, depthwise_conv


@pytest.mark.parametrize("side", [7, 12])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [4, 5, (3, 7)])
def test_outputs_and_gradients_are_those_of_keras(kernel, stride, padding, side):
    layer = keras.layers.DepthwiseConv2D(kernel, stride, padding, depth_multiplier=2, use_bias=False)
    x = tf.random.stateless_normal((3, side, side, 4), (1, 2))
    layer.build(x.shape)
    expected = _outputs_and_gradients(layer, x, layer.kernel.value)
    found = _outputs_and_gradients(lambda x: depthwise_conv(x, layer.kernel.value, layer), x, layer.kernel.value)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(np.abs(other).max()))


def _outputs_and_gradients(call, x, kernel):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = call(x)
        loss = tf.reduce_sum(outputs**2)
    return [outputs, *tape.gradient(loss, [x, kernel])]


def test_no_gradient_of_a_wide_kernel_is_left():
    layer = keras.layers.DepthwiseConv2D(5, padding="same")
    layer.build((None, 8, 8, 4))

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 4))])
    def kernel_gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(depthwise_conv(x, layer.kernel.value, layer) ** 2)
        return tape.gradient(loss, layer.kernel.value)

    graph = kernel_gradient.get_concrete_function().graph
    found = [operation for operation in graph.get_operations() if "BackpropFilter" in operation.type]
    widths = [operation.outputs[0].shape[1] for operation in found]
    assert widths == [3, 2]
    assert max(widths) <= FAST_COLUMNS
