"""Networks of Caffe in built-in Keras layers and operations, channels last.

A saved network needs nothing but Keras. Where Caffe and Keras differ, in padding, in the rounding of pooling and in
normalisation across channels, the graph computes what Caffe computes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tlcli.zoo.formats.caffe import Array
from tlcli.zoo.formats.caffe_graph import CaffeGraph, Node
from tlcli.zoo.formats.caffe_shapes import (
    DEPTHWISE,
    Shape,
    Window,
    convolution_window,
    group,
    pooled,
    pooling_window,
    rounds_up,
)

# Weights of grey in an RGB pixel, those of ITU-R 601 and of Pillow.
GREY = (0.299, 0.587, 0.114)
# Smaller than every feature; finite, so that half precision keeps it a number.
_LOWEST = -3.0e38
_PREPROCESS = "preprocess_"


@dataclass(frozen=True)
class Features:
    """The output of a layer.

    Attributes:
        tensor: (batch, height, width, channels) or (batch, channels).
        is_positive: True if no value can be below zero.
    """

    tensor: Any
    is_positive: bool = False


@dataclass(frozen=True)
class _Builder:
    """Builds layers and remembers which of them take the weights of which node."""

    weighted: dict[str, keras.layers.Layer] = field(default_factory=dict)

    def add(self, node: Node, layer: keras.layers.Layer) -> keras.layers.Layer:
        self.weighted[node.name] = layer
        return layer


def build(
    graph: CaffeGraph,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    scale: float,
    weights: Mapping[str, Sequence[Array]] | None,
) -> keras.Model:
    """Build a network without its top.

    Args:
        graph: The network.
        size: Input height and width, pixels.
        mean: Means that are subtracted, 0–255: one for each channel, BGR or grey.
        scale: Factor applied after that.
        weights: Blobs of each node by its name, as from `caffe_graph.match_weights`; None leaves them random.

    Returns:
        A functional model from float32 (batch, height, width, 3), RGB 0–255, to features, float32
        (batch, height, width, channels).
    """
    builder = _Builder()
    image = keras.Input((*size, 3), name=graph.nodes[0].name)
    outputs = [Features(_preprocess(image, mean, scale))]
    for node, shape in zip(graph.nodes[1:], graph.at(size)[1:], strict=True):
        outputs.append(_apply(builder, node, [outputs[source] for source in node.inputs], shape))
    model = keras.Model(image, outputs[-1].tensor, name="caffe")
    if weights is not None:
        for node in graph.nodes:
            if node.name in builder.weighted:
                _set_weights(builder.weighted[node.name], node, weights[node.name])
    return model


def _preprocess(image: Any, mean: Sequence[float], scale: float) -> Any:
    """RGB 0–255 as Caffe expects it: BGR or grey, less the mean, times `scale`; float32 under any policy."""
    if len(mean) == 1:
        weighted = layers.Rescaling(list(GREY), dtype="float32", name=f"{_PREPROCESS}weights")(image)
        values = _named(ops.sum(weighted, axis=-1, keepdims=True), f"{_PREPROCESS}grey")
    else:
        values = _named(ops.flip(image, axis=-1), f"{_PREPROCESS}bgr")
    offset = [-value * scale for value in mean]
    return layers.Rescaling(scale, offset=offset, dtype="float32", name=f"{_PREPROCESS}scale")(values)


def _named(tensor: Any, name: str) -> Any:
    """The tensor, after naming the operation that computes it; unnamed ones are numbered by the process."""
    tensor._keras_history.operation.name = name
    return tensor


def _apply(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    kind = "Convolution" if node.layer.type in DEPTHWISE else node.layer.type
    if kind in _POINTWISE:
        tensor = _named(_POINTWISE[kind](node)(inputs[0].tensor), node.name)
        return Features(tensor, _stays_positive(node, inputs[0]))
    return _LAYERS[kind](builder, node, inputs, shape)


def _stays_positive(node: Node, below: Features) -> bool:
    kind, settings = node.layer.type, node.layer.settings
    if kind == "ReLU":
        return settings.relu_param.negative_slope == 0 or below.is_positive
    return kind in ("Sigmoid", "AbsVal", "Softmax") or (kind == "Dropout" and below.is_positive)


def _shape(tensor: Any) -> Shape:
    """Channels, height and width, or values, of a tensor."""
    return (tensor.shape[3], tensor.shape[1], tensor.shape[2]) if len(tensor.shape) == 4 else tuple(tensor.shape[1:])


def _padded(tensor: Any, before: Sequence[int], after: Sequence[int], name: str) -> Any:
    """Zeros around height and width; the tensor itself if there are none."""
    if not any((*before, *after)):
        return tensor
    padding = ((before[0], after[0]), (before[1], after[1]))
    return layers.ZeroPadding2D(padding, name=name)(tensor)


def _convolution(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    x = inputs[0].tensor
    given, window = node.layer.settings.convolution_param, convolution_window(node.layer)
    groups = group(node.layer, _shape(x))
    options = {
        "strides": window.stride,
        "dilation_rate": window.dilation,
        "use_bias": given.bias_term,
        "name": node.name,
    }
    is_even = window.stride[0] == window.stride[1] and window.dilation[0] == window.dilation[1]
    # TensorFlow has no depthwise convolution with a stride and a dilation.
    if groups > 1 and groups == x.shape[-1] and is_even and 1 in (window.stride[0], window.dilation[0]):
        layer = layers.DepthwiseConv2D(window.kernel, depth_multiplier=shape[0] // groups, **options)
    else:
        layer = layers.Conv2D(shape[0], window.kernel, groups=groups, **options)
    padded = _padded(x, window.pad, window.pad, f"{node.name}_pad")
    return Features(builder.add(node, layer)(padded))


def _pooling(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    x, below = inputs[0], _shape(inputs[0].tensor)
    is_max = node.layer.settings.pooling_param.pool == 0
    if node.layer.settings.pooling_param.global_pooling:
        kind = layers.GlobalMaxPooling2D if is_max else layers.GlobalAveragePooling2D
        return Features(kind(keepdims=True, name=node.name)(x.tensor), x.is_positive)
    window, is_ceil = pooling_window(node.layer, below), rounds_up(node.layer)
    count = (
        pooled(below[1], window, 0, rounds_up=is_ceil),
        pooled(below[2], window, 1, rounds_up=is_ceil),
    )
    pool = _max_pool if is_max else _average_pool
    return Features(pool(x, window, count, node.name), x.is_positive)


def _overflow(x: Any, window: Window, count: Sequence[int], pad: Sequence[int]) -> tuple[int, int]:
    """Positions of the last window beyond the input with `pad` on both sides, along height and width."""
    sides = [
        (count[axis] - 1) * window.stride[axis] + window.kernel[axis] - x.shape[axis + 1] - 2 * pad[axis]
        for axis in (0, 1)
    ]
    return max(sides[0], 0), max(sides[1], 0)


def _is_same(x: Any, window: Window, count: Sequence[int], pad: Sequence[int]) -> bool:
    """Whether Keras's padding "same" gives the windows of Caffe with `pad` on both sides."""
    for axis in (0, 1):
        side, stride = x.shape[axis + 1], window.stride[axis]
        total = max((math.ceil(side / stride) - 1) * stride + window.kernel[axis] - side, 0)
        if math.ceil(side / stride) != count[axis] or total // 2 != pad[axis]:
            return False
    return True


def _max_pool(below: Features, window: Window, count: Sequence[int], name: str) -> Any:
    x, pad = below.tensor, window.pad
    overflow = _overflow(x, window, count, pad)
    options: dict[str, Any] = {"pool_size": window.kernel, "strides": window.stride, "name": name}
    if any((*overflow, *pad)):
        if _is_same(x, window, count, pad):
            return layers.MaxPooling2D(padding="same", **options)(x)
        after = (pad[0] + overflow[0], pad[1] + overflow[1])
        if below.is_positive:
            x = _padded(x, pad, after, f"{name}_pad")
        else:
            sides = ((0, 0), (pad[0], after[0]), (pad[1], after[1]), (0, 0))
            x = _named(ops.pad(x, sides, constant_values=_LOWEST), f"{name}_pad")
    return layers.MaxPooling2D(**options)(x)


def _average_pool(below: Features, window: Window, count: Sequence[int], name: str) -> Any:
    """Averages as in Caffe: the padding counts as zeros, positions beyond it do not count."""
    x = _padded(below.tensor, window.pad, window.pad, f"{name}_pad")
    overflow = _overflow(x, window, count, (0, 0))
    options: dict[str, Any] = {"pool_size": window.kernel, "strides": window.stride}
    if not any(overflow):
        return layers.AveragePooling2D(name=name, **options)(x)
    if _is_same(x, window, count, (0, 0)):
        return layers.AveragePooling2D(padding="same", name=name, **options)(x)
    # The average over zeros and values, divided by the share of the values.
    ones = _padded(_named(ops.ones_like(x), f"{name}_ones"), (0, 0), overflow, f"{name}_ones_pad")
    share = layers.AveragePooling2D(name=f"{name}_share", **options)(ones)
    mean = layers.AveragePooling2D(name=f"{name}_mean", **options)(_padded(x, (0, 0), overflow, f"{name}_end"))
    return _named(ops.divide(mean, share), name)


def _lrn(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    """Local response normalisation (Krizhevsky et al. 2012): x / (k + alpha * mean of squares nearby) ** beta."""
    given, x, name = node.layer.settings.lrn_param, inputs[0].tensor, node.name
    size, reach = given.local_size, given.local_size // 2
    squares = _named(ops.square(x), f"{name}_square")
    if given.norm_region == 1:
        padded = _padded(squares, (reach, reach), (reach, reach), f"{name}_pad")
        near, factor, constant = layers.AveragePooling2D(size, 1, name=f"{name}_mean")(padded), given.alpha, 1.0
    else:
        sides = ((0, 0), (0, 0), (0, 0), (reach, reach))
        padded = _named(ops.pad(squares, sides), f"{name}_pad")
        parts = [_named(padded[..., start : start + shape[0]], f"{name}_neighbour_{start}") for start in range(size)]
        near = layers.Add(name=f"{name}_sum")(parts) if size > 1 else parts[0]
        factor, constant = given.alpha / size, given.k
    base = layers.Rescaling(factor, offset=constant, name=f"{name}_base")(near)
    divisor = _named(ops.power(base, given.beta), f"{name}_power")
    return Features(_named(ops.divide(x, divisor), name), inputs[0].is_positive)


def _inner_product(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    dense = layers.Dense(shape[0], use_bias=node.layer.settings.inner_product_param.bias_term, name=node.name)
    return Features(builder.add(node, dense)(_flat(inputs[0].tensor, f"{node.name}_flat")))


def _flat(x: Any, name: str) -> Any:
    """Values in Caffe's order: channels, height, width."""
    if len(x.shape) == 2:
        return x
    if tuple(x.shape[1:3]) != (1, 1):
        x = layers.Permute((3, 1, 2), name=f"{name}_order")(x)
    return layers.Flatten(name=name)(x)


def _flatten(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    x = inputs[0].tensor
    tensor = layers.Identity(name=node.name)(x) if len(x.shape) == 2 else _flat(x, node.name)
    return Features(tensor, inputs[0].is_positive)


def _reshape(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    flat = _flat(inputs[0].tensor, f"{node.name}_flat")
    target = (1, 1, shape[0]) if len(shape) == 3 else shape
    return Features(layers.Reshape(target, name=node.name)(flat), inputs[0].is_positive)


def _batch_norm(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    given = node.layer.settings.batch_norm_param
    layer = layers.BatchNormalization(
        momentum=given.moving_average_fraction,
        epsilon=given.eps,
        scale=node.affine is not None,
        center=node.affine is not None and node.affine.settings.scale_param.bias_term,
        name=node.name,
    )
    return Features(builder.add(node, layer)(inputs[0].tensor))


def _scale(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    """A factor and an offset for each channel, or a factor from a second input."""
    x = inputs[0].tensor
    if len(inputs) == 2:
        gate = inputs[1].tensor
        if len(gate.shape) < len(x.shape):
            gate = layers.Reshape((1, 1, gate.shape[-1]), name=f"{node.name}_gate")(gate)
        return Features(layers.Multiply(name=node.name)([x, gate]))
    has_bias = node.layer.type == "Bias" or node.layer.settings.scale_param.bias_term
    single = len(x.shape) == 2
    x = layers.Reshape((1, 1, shape[0]), name=f"{node.name}_map")(x) if single else x
    name = f"{node.name}_scale" if single else node.name
    layer = layers.DepthwiseConv2D(1, use_bias=has_bias, depthwise_initializer="ones", name=name)
    x = builder.add(node, layer)(x)
    return Features(layers.Reshape(shape, name=node.name)(x) if single else x)


def _prelu(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    x = inputs[0].tensor
    shared = [1, 2] if len(x.shape) == 4 else []
    if node.layer.settings.prelu_param.channel_shared:
        shared = [*shared, len(x.shape) - 1]
    return Features(builder.add(node, layers.PReLU(shared_axes=shared or None, name=node.name))(x))


def _concat(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    if len(inputs) == 1:
        return inputs[0]
    tensor = layers.Concatenate(axis=-1, name=node.name)([below.tensor for below in inputs])
    return Features(tensor, all(below.is_positive for below in inputs))


def _eltwise(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    given = node.layer.settings.eltwise_param
    tensors, is_positive = [below.tensor for below in inputs], all(below.is_positive for below in inputs)
    if given.operation == 1 and given.coeff:
        is_positive = is_positive and min(given.coeff) >= 0
        tensors = [
            x if factor == 1 else layers.Rescaling(factor, name=f"{node.name}_factor_{number}")(x)
            for number, (x, factor) in enumerate(zip(tensors, given.coeff, strict=True), start=1)
        ]
    if len(tensors) == 1:
        return Features(tensors[0], is_positive)
    kind = (layers.Multiply, layers.Add, layers.Maximum)[given.operation]
    return Features(kind(name=node.name)(tensors), is_positive)


def _power(builder: _Builder, node: Node, inputs: Sequence[Features], shape: Shape) -> Features:
    given, x = node.layer.settings.power_param, inputs[0].tensor
    if given.power == 1:
        return Features(layers.Rescaling(given.scale, offset=given.shift, name=node.name)(x))
    base = layers.Rescaling(given.scale, offset=given.shift, name=f"{node.name}_base")(x)
    return Features(_named(ops.power(base, given.power), node.name))


def _set_weights(layer: keras.layers.Layer, node: Node, blobs: Sequence[Array]) -> None:
    """Copy the blobs of a node, which have Caffe's axes, into its Keras layer."""
    if node.layer.type == "BatchNorm":
        mean, variance, factor, *affine = blobs
        # The blobs are sums over training steps; the third is the sum of their weights.
        share = 0.0 if factor.item() == 0 else 1 / factor.item()
        values = [*affine, mean * share, variance * share]
    elif node.layer.type == "Bias":
        values = [np.ones(layer.weights[0].shape, np.float32), blobs[0]]
    elif isinstance(layer, layers.Conv2D):
        values = [blobs[0].transpose(2, 3, 1, 0), *blobs[1:]]
    elif isinstance(layer, layers.DepthwiseConv2D) and blobs[0].ndim == 4:
        # Filter m of channel c is row c * multiplier + m.
        values = [blobs[0].transpose(2, 3, 0, 1).reshape(layer.weights[0].shape), *blobs[1:]]
    elif isinstance(layer, layers.Dense):
        transposed = node.layer.settings.inner_product_param.transpose
        values = [blobs[0] if transposed else blobs[0].T, *blobs[1:]]
    else:
        values = [blob.reshape(weight.shape) for blob, weight in zip(blobs, layer.weights, strict=True)]
    layer.set_weights(values)


# Layers of Keras that do the same.
_POINTWISE: dict[str, Callable[[Node], Any]] = {
    "ReLU": lambda node: layers.ReLU(negative_slope=node.layer.settings.relu_param.negative_slope, name=node.name),
    "ELU": lambda node: layers.ELU(alpha=node.layer.settings.elu_param.alpha, name=node.name),
    "Sigmoid": lambda node: layers.Activation("sigmoid", name=node.name),
    "TanH": lambda node: layers.Activation("tanh", name=node.name),
    "Softmax": lambda node: layers.Softmax(name=node.name),
    "Dropout": lambda node: layers.Dropout(node.layer.settings.dropout_param.dropout_ratio, name=node.name),
    "AbsVal": lambda node: ops.absolute,
}
_LAYERS: dict[str, Callable[[_Builder, Node, Sequence[Features], Shape], Features]] = {
    "Convolution": _convolution,
    "Pooling": _pooling,
    "LRN": _lrn,
    "InnerProduct": _inner_product,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Bias": _scale,
    "PReLU": _prelu,
    "Power": _power,
    "Concat": _concat,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "Reshape": _reshape,
}
