"""Receptive fields: which part of the image a position in a layer's output depends on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from tlcli.model.layer_groups import Pair


@dataclass(frozen=True)
class Window:
    """The positions of a layer's input that one position of its output reads.

    Attributes:
        kernel: Extent along height and width, positions; the gaps of a dilation included.
        stride: Distance of neighbouring windows, positions; below 1 if the layer upsamples.
        before: Number of positions by which the first window starts before the first position.
        is_local: False if every output position reads the whole input, as after global pooling.
        sees_all: True if it also reads some value of the whole input, such as statistics over all positions.
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    is_local: bool = True
    sees_all: bool = False


POINT = Window()
WHOLE = Window(is_local=False, sees_all=True)


@dataclass(frozen=True)
class Span:
    """What output positions depend on along one axis of the image.

    Attributes:
        stride: Distance from one output position to the next, pixels.
        first: First pixel that the first output position depends on, counted from the edge of the image.
        last: Last pixel that the first output position depends on.
    """

    stride: float = 1
    first: float = 0
    last: float = 0


@dataclass(frozen=True)
class Field:
    """The receptive field of the positions of an output.

    Attributes:
        spans: Along height and width, through convolutions and pooling; None if the output has no local positions.
        sees_all: True if the output depends on the whole image, possibly only through a gate as in
            squeeze-and-excitation.
    """

    spans: tuple[Span, Span] | None = (Span(), Span())
    sees_all: bool = False

    @property
    def stride(self) -> Pair | None:
        """Distance of neighbouring positions along height and width, pixels of the image."""
        return self.spans and (self.spans[0].stride, self.spans[1].stride)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the receptive field, pixels; can exceed the image, because it includes padding."""
        if self.spans is None:
            return None
        height, width = (math.ceil(span.last - span.first) + 1 for span in self.spans)
        return height, width


IMAGE = Field()


def propagate(window: Window | None, below: Field | None) -> Field | None:
    """The field of a layer's output, from the layer's window and the field of its input; None if either is unknown."""
    if window is None or below is None:
        return None
    if not window.is_local or below.spans is None:
        return Field(None, sees_all=True)
    height, width = (_propagate_span(span, window, axis) for axis, span in enumerate(below.spans))
    return Field((height, width), below.sees_all or window.sees_all)


def merge(fields: Sequence[Field | None]) -> Field | None:
    """The field of an output computed position by position from several inputs; None if one is unknown.

    An input without local positions is a gate for the others.
    """
    known = [field for field in fields if field is not None]
    if not known or len(known) < len(fields):
        return None
    local = [field.spans for field in known if field.spans is not None]
    if not local:
        return known[0]
    height, width = (_union([spans[axis] for spans in local]) for axis in (0, 1))
    return replace(known[0], spans=(height, width), sees_all=any(field.sees_all for field in known))


def _propagate_span(span: Span, window: Window, axis: int) -> Span:
    first = span.first - window.before[axis] * span.stride
    last = span.last + (window.kernel[axis] - 1 - window.before[axis]) * span.stride
    return Span(span.stride * window.stride[axis], first, last)


def _union(spans: Sequence[Span]) -> Span:
    return Span(max(span.stride for span in spans), min(span.first for span in spans), max(span.last for span in spans))


Shape = tuple[int | None, ...]

_SLIDING = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_GLOBAL = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.Attention, keras.layers.AdditiveAttention)


def window(operation: keras.Operation, inputs: list[Shape], output: Shape) -> Window | None:
    """The window of a layer; None if it is unknown.

    Padding is that for input sizes that are multiples of the stride, so the result does not depend on the input size.

    Args:
        operation: A layer or another Keras operation.
        inputs: Shapes of its inputs without the batch; None for an open size.
        output: Shape of its output without the batch.
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
            # Its statistics are computed over all positions.
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
    """The window of a transposed convolution: the largest number of input positions that one output position reads."""
    reach = (-(-layer.kernel_size[0] // layer.strides[0]), -(-layer.kernel_size[1] // layer.strides[1]))
    return Window(reach, (1 / layer.strides[0], 1 / layer.strides[1]), ((reach[0] - 1) // 2, (reach[1] - 1) // 2))


def _by_shape(inputs: list[Shape], output: Shape) -> Window | None:
    """A guess from the shapes: a layer that keeps height and width is pointwise; without them, it reads everything."""
    maps = [shape for shape in inputs if len(shape) == 3]
    if len(output) != 3:
        return WHOLE
    if not maps:
        return WHOLE if inputs else POINT
    # With a feature map and a gate of one position, the map decides.
    sides = max((shape[:2] for shape in maps), key=lambda size: (size[0] or 10**9) * (size[1] or 10**9))
    if sides == output[:2] or None in sides:
        return POINT
    return None
