"""Depthwise convolution with a faster gradient of its kernel, for TensorFlow on a CPU.

There the gradient of a kernel of more than three columns takes up to ten times as long as that of a narrower one,
because oneDNN has no program for it: 62 % of a training step of EfficientNet-Lite0, which has 5 × 5 kernels. Here it is
computed in blocks of three columns. Each block is the gradient of a narrower convolution on a part of the image. With
14 × 14 × 672 values and batches of 32 that took 6.6 instead of 14.6 ms (2 cores, TensorFlow 2.21).
"""

from typing import Any

import keras
from keras import ops

# Columns of a kernel whose gradient is fast.
FAST_COLUMNS = 3


def depthwise_conv(x: Any, kernel: Any, layer: keras.layers.DepthwiseConv2D) -> Any:
    """Convolve each channel with its own kernels, as a layer with "channels_last" does, without its bias.

    Args:
        x: Tensor (batch, height, width, channels).
        kernel: Tensor (rows, columns, channels, multiplier) of the same dtype, in place of the kernel of the layer.
        layer: Has the strides, the padding and the dilation rate.

    Returns:
        Tensor (batch, rows, columns, channels × multiplier). It and its gradients are those of Keras, up to rounding.
    """
    if _has_slow_gradient(x, kernel, layer):
        return _with_fast_gradient(x, kernel, layer.strides[0], layer.padding)
    return ops.depthwise_conv(x, kernel, layer.strides, layer.padding, "channels_last", layer.dilation_rate)


def _has_slow_gradient(x: Any, kernel: Any, layer: keras.layers.DepthwiseConv2D) -> bool:
    is_usual = len(set(layer.strides)) == 1 and set(layer.dilation_rate) == {1} and None not in x.shape[1:]
    is_wide = kernel.shape[1] > FAST_COLUMNS and keras.backend.standardize_dtype(x.dtype) == "float32"
    return is_usual and is_wide and _is_tensorflow_on_cpu()


def _is_tensorflow_on_cpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def _with_fast_gradient(x: Any, kernel: Any, stride: int, padding: str) -> Any:
    import tensorflow as tf

    strides = [1, stride, stride, 1]

    @tf.custom_gradient
    def convolve(x: Any, kernel: Any) -> Any:
        def gradients(upstream: Any) -> tuple[Any, Any]:
            of_x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=strides,
                padding=padding.upper(),
            )
            return of_x, _kernel_gradient(x, kernel.shape, upstream, stride, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding.upper()), gradients

    return convolve(x, kernel)


def _kernel_gradient(x: Any, kernel: Any, upstream: Any, stride: int, padding: str) -> Any:
    """The gradient of a kernel of the given shape, from the gradient of the output."""
    import tensorflow as tf

    rows, columns, channels, multiplier = kernel
    if padding == "same":
        height, width = _padding(x.shape[1], rows, stride), _padding(x.shape[2], columns, stride)
        x = tf.pad(x, [(0, 0), height, width, (0, 0)])
    reach = (upstream.shape[2] - 1) * stride
    blocks = []
    for first in range(0, columns, FAST_COLUMNS):
        count = min(FAST_COLUMNS, columns - first)
        block = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x[:, :, first : first + reach + count],
            filter_sizes=[rows, count, channels, multiplier],
            out_backprop=upstream,
            strides=[1, stride, stride, 1],
            padding="VALID",
        )
        blocks.append(block)
    return tf.concat(blocks, axis=1)


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, so that "same" padding is stated."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
