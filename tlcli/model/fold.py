"""Folding of BatchNorm into the preceding convolution: fewer operations, also in training.

MobileNetV2 0.35 at 224 pixels, trained above block 10, processed 700 instead of 560 images a second. Half of the gain
comes from folding, the rest from computing 1 × 1 convolutions as matrix products (2 cores, TensorFlow 2.21, batches of
32).
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tlcli.model.depthwise import depthwise_conv
from tlcli.model.graph import in_inference_mode, layer_calls

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(model: keras.Model) -> Callable[[Any], Any]:
    """A function that computes the model in inference mode with fewer operations.

    BatchNorm on stored statistics multiplies each channel by a constant and adds another one. If it follows a
    convolution whose output nothing else reads, the kernel and bias are multiplied instead, which are much smaller.

    Args:
        model: A functional network. Layers that act only in training mode, such as dropout, do nothing.

    Returns:
        The same function of the inputs and of all weights, up to rounding. Gradients with respect to all weights,
        those of BatchNorm included, are the same too.
    """
    norms = _foldable_norms(model)
    folded = {id(norm) for norm in norms.values()}

    def operation_fn(operation: keras.Operation) -> Callable[..., Any]:
        if id(operation) in folded:
            return _identity
        norm = norms.get(id(operation))
        if norm is not None:
            return lambda x, mask=None: _convolve_and_normalize(operation, norm, x)
        return in_inference_mode(operation)

    return lambda inputs: model._run_through_graph(inputs, operation_fn=operation_fn)


def _foldable_norms(model: keras.Model) -> dict[int, keras.layers.BatchNormalization]:
    """The BatchNorm layers that can be folded, by the `id` of the convolution before each."""
    nodes = layer_calls(model)
    readers: dict[int, list[Any]] = {}
    for node in nodes:
        for parent in node.parent_nodes:
            readers.setdefault(id(parent), []).append(node.operation)
    uses = [id(node.operation) for node in nodes]
    norms = {}
    outputs = {id(tensor) for tensor in model.outputs}
    for node in nodes:
        after = readers.get(id(node), [])
        if len(after) != 1 or id(node.outputs[0]) in outputs or not _can_fold(node.operation, after[0]):
            continue
        # Another use of the same layer may be followed by a different layer.
        if uses.count(id(node.operation)) == uses.count(id(after[0])) == 1:
            norms[id(node.operation)] = after[0]
    return norms


def _can_fold(operation: Any, after: Any) -> bool:
    return (
        # Subclasses may compute something else.
        type(operation) in _CONVOLUTIONS
        and type(after) is keras.layers.BatchNormalization
        and operation.activation is keras.activations.linear
        and operation.data_format == "channels_last"
        and after.axis in (-1, 3)
    )


def _convolve_and_normalize(layer: Any, norm: Any, x: Any) -> Any:
    scale = ops.rsqrt(ops.cast(norm.moving_variance, "float32") + norm.epsilon)
    if norm.scale:
        scale = scale * ops.cast(norm.gamma, "float32")
    bias = -scale * ops.cast(norm.moving_mean, "float32")
    if norm.center:
        bias = bias + ops.cast(norm.beta, "float32")
    if layer.use_bias:
        bias = bias + scale * ops.cast(layer.bias, "float32")
    kernel, x = ops.cast(layer.kernel, "float32"), ops.cast(x, layer.compute_dtype)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = ops.cast(kernel * ops.reshape(scale, (1, 1, *kernel.shape[2:])), x.dtype)
        x = depthwise_conv(x, kernel, layer)
    else:
        x = _convolve(layer, ops.cast(kernel * scale, x.dtype), x)
    return x + ops.cast(bias, x.dtype)


def _convolve(layer: keras.layers.Conv2D, kernel: Any, x: Any) -> Any:
    """The convolution; one of 1 × 1 is a matrix product, whose gradients are faster on a CPU."""
    size = x.shape[1:3]
    if layer.kernel_size != (1, 1) or layer.strides != (1, 1) or layer.groups != 1 or None in size:
        return ops.conv(x, kernel, layer.strides, layer.padding, "channels_last", layer.dilation_rate)
    positions = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel[0, 0])
    return ops.reshape(positions, (-1, *size, kernel.shape[-1]))


def _identity(x: Any, **_: Any) -> Any:
    return x
