"""Receptive fields: which part of the image a position in a layer's output depends on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from tlcli.model.groups import Pair


@dataclass(frozen=True)
class Window:
    """What one place of a layer's output reads of the layer's input.

    Attributes:
        kernel: How many places in a row, holes of a dilation included.
        stride: How many places the next window is further on; below 1 where the layer enlarges.
        before: By how many places the first window begins before the first place.
        is_local: Off where every place reads the whole input, as after global pooling.
        sees_all: Whether it reads something of the whole input besides, as statistics over all places are.
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
    """What the first place of an output sees of the picture, pixels from its edge, and how far the next is away."""

    stride: float = 1
    first: float = 0
    last: float = 0


@dataclass(frozen=True)
class Field:
    """What each place of an output sees.

    Attributes:
        spans: Along height and width, by way of convolutions and pools; None where no place is nearer than another.
        sees_all: Whether it depends on the whole picture, be it only by way of a gate as in squeeze-and-excitation.
    """

    spans: tuple[Span, Span] | None = (Span(), Span())
    sees_all: bool = False

    @property
    def stride(self) -> Pair | None:
        """Pixels of the picture from one place to the next."""
        return self.spans and (self.spans[0].stride, self.spans[1].stride)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what one place sees, pixels; more than the picture has where it reaches over its edge."""
        if self.spans is None:
            return None
        height, width = (math.ceil(span.last - span.first) + 1 for span in self.spans)
        return height, width


IMAGE = Field()


def through(window: Window | None, below: Field | None) -> Field | None:
    """The field of a layer's output; None where what the layer reads, or what lies below, is not known."""
    if window is None or below is None:
        return None
    if not window.is_local or below.spans is None:
        return Field(None, sees_all=True)
    height, width = (_moved(span, window, axis) for axis, span in enumerate(below.spans))
    return Field((height, width), below.sees_all or window.sees_all)


def join(fields: Sequence[Field | None]) -> Field | None:
    """The field of what is computed from several inputs, place by place. One that sees all is a gate for the others."""
    known = [field for field in fields if field is not None]
    if not known or len(known) < len(fields):
        return None
    local = [field.spans for field in known if field.spans is not None]
    if not local:
        return known[0]
    height, width = (_around([spans[axis] for spans in local]) for axis in (0, 1))
    return replace(known[0], spans=(height, width), sees_all=any(field.sees_all for field in known))


def _moved(span: Span, window: Window, axis: int) -> Span:
    first = span.first - window.before[axis] * span.stride
    last = span.last + (window.kernel[axis] - 1 - window.before[axis]) * span.stride
    return Span(span.stride * window.stride[axis], first, last)


def _around(spans: Sequence[Span]) -> Span:
    return Span(max(span.stride for span in spans), min(span.first for span in spans), max(span.last for span in spans))


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
