"""What each kind of Keras layer reads of its input, for receptive fields."""

from typing import Any

import keras

from tlcli.model.receptive import POINT, WHOLE, Pair, Window

Shape = tuple[int | None, ...]

_SLIDING = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_GLOBAL = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.Attention, keras.layers.AdditiveAttention)


def window(operation: keras.Operation, inputs: list[Shape], output: Shape) -> Window | None:
    """What one place of the output reads; None where that is not known.

    Padding is taken as it is where the size is a multiple of the stride, so that the answer is the same at every size.

    Args:
        operation: A layer, or an operation that is none.
        inputs: Shapes of its inputs without the batch; None where a size is open.
        output: Shape of its output, likewise.
    """
    layer: Any = operation
    match operation:
        case keras.layers.Conv2DTranspose():
            return _transposed(layer)
        case _ if isinstance(operation, _SLIDING):
            return _sliding(layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate)
        case _ if isinstance(operation, _POOLS):
            return _sliding(layer.pool_size, layer.strides, layer.padding, (1, 1))
        case _ if isinstance(operation, (*_GLOBAL, *_ATTENTION)):
            return WHOLE
        case keras.layers.ZeroPadding2D():
            return Window(before=(layer.padding[0][0], layer.padding[1][0]))
        case keras.layers.Cropping2D():
            return Window(before=(-layer.cropping[0][0], -layer.cropping[1][0]))
        case keras.layers.UpSampling2D():
            reach = 1 if layer.interpolation == "nearest" else 2
            return Window(kernel=(reach, reach), stride=(1 / layer.size[0], 1 / layer.size[1]))
        case keras.layers.GroupNormalization():
            # Its statistics are taken over all places.
            return Window(sees_all=True)
        case _:
            return _by_shape(inputs, output)


def _sliding(kernel: Pair, strides: Pair, padding: str, dilation: Pair) -> Window:
    extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    if padding != "same":
        return Window(extent, strides)
    before = (max(extent[0] - strides[0], 0) // 2, max(extent[1] - strides[1], 0) // 2)
    return Window(extent, strides, before)


def _transposed(layer: Any) -> Window:
    """At most so many places of the input reach one of the output."""
    reach = (-(-layer.kernel_size[0] // layer.strides[0]), -(-layer.kernel_size[1] // layer.strides[1]))
    return Window(reach, (1 / layer.strides[0], 1 / layer.strides[1]), ((reach[0] - 1) // 2, (reach[1] - 1) // 2))


def _by_shape(inputs: list[Shape], output: Shape) -> Window | None:
    """Layers that keep height and width work place by place; what comes out without places has seen all."""
    maps = [shape for shape in inputs if len(shape) == 3]
    if len(output) != 3:
        return WHOLE
    if not maps:
        return WHOLE if inputs else POINT
    # Of a map and a gate of one place it is the map that is kept.
    sides = max((shape[:2] for shape in maps), key=lambda each: (each[0] or 10**9) * (each[1] or 10**9))
    if sides == output[:2] or None in sides:
        return POINT
    return None
