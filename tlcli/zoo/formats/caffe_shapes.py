"""What each type of Caffe layer computes, as far as shapes go: outputs, windows and weights.

Sizes follow Caffe: convolutions round down, pooling rounds up, and padding is the same on both sides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tlcli.errors import ModelError
from tlcli.zoo.formats.caffe import CaffeLayer

Shape = tuple[int, ...]
"""Shape of an output without the batch: channels, height, width; or values."""

_MAX_CHANNELS = 65_536
_MAX_KERNEL = 4096
_MAX_ELEMENTS = 2**28
_MAX_LRN_SIZE = 99
# Layers that keep the shape of their input.
POINTWISE = (
    "ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "AbsVal", "Power", "Dropout", "Softmax", "BatchNorm", "Scale", "Bias",
    "LRN",
)  # fmt: skip
# Convolutions by channel of forks of Caffe, and the type they are read as.
DEPTHWISE = ("ConvolutionDepthwise", "DepthwiseConvolution")


@dataclass(frozen=True)
class Window:
    """A window that slides over height and width.

    Attributes:
        kernel: Its height and width.
        stride: Its steps.
        pad: Padding on both sides.
        dilation: Distances of the positions it reads.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def extent(self, axis: int) -> int:
        """Positions from the first to the last that it reads."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


def infer(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    """The shape of the output of a layer.

    Raises:
        ModelError: The type is unknown, the settings are invalid, or the inputs do not fit.
    """
    kind = "Convolution" if layer.type in DEPTHWISE else "Pointwise" if layer.type in POINTWISE else layer.type
    rule = _RULES.get(kind)
    if rule is None:
        known = sorted({*_RULES, *POINTWISE, *DEPTHWISE} - {"Pointwise"})
        raise ModelError("is of a type that is not supported", hint=f"Supported: {', '.join(known)}.")
    shape = rule(layer, inputs)
    if math.prod(shape) > _MAX_ELEMENTS or shape[0] > _MAX_CHANNELS:
        raise ModelError(f"has an output that is too large ({' x '.join(map(str, shape))})")
    return shape


def weight_shapes(layer: CaffeLayer, inputs: Sequence[Shape], output: Shape) -> list[tuple[int, ...]]:
    """Shapes of the blobs of a layer, in their order in the file."""
    channels, settings = output[0], layer.settings
    if layer.type in ("Convolution", *DEPTHWISE):
        kernel = (channels, inputs[0][0] // group(layer, inputs[0]), *convolution_window(layer).kernel)
        return [kernel, (channels,)] if settings.convolution_param.bias_term else [kernel]
    if layer.type == "InnerProduct":
        sides = (channels, math.prod(inputs[0]))
        matrix = sides[::-1] if settings.inner_product_param.transpose else sides
        return [matrix, (channels,)] if settings.inner_product_param.bias_term else [matrix]
    if layer.type == "BatchNorm":
        return [(channels,), (channels,), (1,)]
    if layer.type == "Scale" and len(inputs) == 1:
        return [(channels,), (channels,)] if settings.scale_param.bias_term else [(channels,)]
    if layer.type == "Bias" and len(inputs) == 1:
        return [(channels,)]
    if layer.type == "PReLU":
        return [(1,)] if settings.prelu_param.channel_shared else [(channels,)]
    return []


def convolution_window(layer: CaffeLayer) -> Window:
    """The window of a convolution.

    Raises:
        ModelError: The settings are invalid.
    """
    given = layer.settings.convolution_param
    window = _window(given)
    dilation = _pair(given.dilation, 0, 0, 1)
    return Window(window.kernel, window.stride, window.pad, dilation)


def pooling_window(layer: CaffeLayer, below: Shape) -> Window:
    """The window of a pooling over an input of shape `below`.

    Raises:
        ModelError: The settings are invalid.
    """
    given = layer.settings.pooling_param
    if given.global_pooling:
        return Window((below[1], below[2]), (1, 1), (0, 0))
    window = _window(given)
    if any(pad >= side for pad, side in zip(window.pad, window.kernel, strict=True)):
        raise ModelError(f"has padding {window.pad} that is not smaller than its window {window.kernel}")
    return window


def group(layer: CaffeLayer, below: Shape) -> int:
    """Number of groups of a convolution."""
    given = layer.settings.convolution_param
    return below[0] if layer.type in DEPTHWISE and not given.HasField("group") else given.group


def is_global(layer: CaffeLayer, below: Shape) -> bool:
    """True if the window of a convolution or pooling covers its whole input, without padding."""
    window = pooling_window(layer, below) if layer.type == "Pooling" else convolution_window(layer)
    return window.pad == (0, 0) and all(window.extent(axis) >= below[axis + 1] for axis in (0, 1))


def pooled(side: int, window: Window, axis: int, *, rounds_up: bool = True) -> int:
    """Number of windows of a pooling along an axis of `side` positions.

    Raises:
        ModelError: A window would lie outside the input.
    """
    kernel, stride, pad = window.kernel[axis], window.stride[axis], window.pad[axis]
    free = side + 2 * pad - kernel
    if free < 0 and not rounds_up:
        raise ModelError(f"has a window of {kernel} positions for an input of {side}")
    count = (math.ceil(free / stride) if rounds_up else free // stride) + 1
    if pad and (count - 1) * stride >= side + pad:
        count -= 1
    if count < 1 or (count - 1) * stride >= side + pad:
        raise ModelError(f"has a window of {kernel} positions in steps of {stride} for an input of {side}")
    return count


def rounds_up(layer: CaffeLayer) -> bool:
    """Whether a pooling has a last window that is only partly inside."""
    given = layer.settings.pooling_param
    return bool(given.round_mode == 0 and given.ceil_mode)


def _window(given: Any) -> Window:
    kernel = _pair(given.kernel_size, given.kernel_h, given.kernel_w, 0)
    stride = _pair(given.stride, given.stride_h, given.stride_w, 1)
    return Window(kernel, stride, _pair(given.pad, given.pad_h, given.pad_w, 0, least=0))


def _pair(sides: Sequence[int], height: int, width: int, default: int, *, least: int = 1) -> tuple[int, int]:
    if len(sides) > 2:
        raise ModelError(f"has {len(sides)} sides of its window; only two-dimensional windows are supported")
    first, last = (sides[0], sides[-1]) if sides else (height or default, width or default)
    if not (least <= first <= _MAX_KERNEL and least <= last <= _MAX_KERNEL):
        raise ModelError(f"has an invalid window, step or padding ({first} x {last})")
    return first, last


def _map(inputs: Sequence[Shape]) -> Shape:
    if len(inputs) != 1 or len(inputs[0]) != 3:
        raise ModelError(f"needs one input of channels, height and width (got {_words(inputs)})")
    return inputs[0]


def _words(shapes: Sequence[Shape]) -> str:
    return ", ".join(" x ".join(map(str, shape)) for shape in shapes) or "none"


def _convolution(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    below, given = _map(inputs), layer.settings.convolution_param
    window, groups = convolution_window(layer), group(layer, below)
    filters = given.num_output
    if given.axis not in (1, -3):
        raise ModelError(f"has the axis {given.axis}; only 1 is supported")
    if not 0 < filters <= _MAX_CHANNELS or groups < 1 or below[0] % groups or filters % groups:
        raise ModelError(f"has {filters} outputs in {groups} groups for {below[0]} channels")
    if max(window.stride) > 1 and max(window.dilation) > 1:
        raise ModelError(f"has steps {window.stride} and a dilation {window.dilation}; only one of them is supported")
    sides = [
        (below[axis + 1] + 2 * window.pad[axis] - window.extent(axis)) // window.stride[axis] + 1 for axis in (0, 1)
    ]
    if min(sides) < 1:
        raise ModelError(f"has a window of {window.kernel} positions for an input of {below[1:]}")
    return filters, sides[0], sides[1]


def _pooling(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    below = _map(inputs)
    if layer.settings.pooling_param.pool not in (0, 1):
        raise ModelError("pools at random; only MAX and AVE are supported")
    window = pooling_window(layer, below)
    sides = [pooled(below[axis + 1], window, axis, rounds_up=rounds_up(layer)) for axis in (0, 1)]
    return below[0], sides[0], sides[1]


def _inner_product(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    given = layer.settings.inner_product_param
    if len(inputs) != 1 or given.axis != 1 or not 0 < given.num_output <= _MAX_CHANNELS:
        raise ModelError(f"has {given.num_output} outputs for {len(inputs)} inputs along axis {given.axis}")
    return (given.num_output,)


def _concat(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    given = layer.settings.concat_param
    axis = given.concat_dim if given.HasField("concat_dim") else given.axis
    rest = {shape[1:] for shape in inputs}
    if axis not in (1, -len(inputs[0])) or len(rest) != 1:
        raise ModelError(f"joins {_words(inputs)} along axis {axis}; only channels can be joined")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _eltwise(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    coefficients = layer.settings.eltwise_param.coeff
    if len(set(inputs)) != 1 or len(coefficients) not in (0, len(inputs)):
        raise ModelError(f"combines {_words(inputs)} with {len(coefficients)} factors")
    return inputs[0]


def _pointwise(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    if layer.type == "Scale" and len(inputs) == 2 and inputs[1] == inputs[0][: len(inputs[1])]:
        # The second input is a gate: one factor for each channel.
        return inputs[0]
    if len(inputs) != 1:
        raise ModelError(f"has {len(inputs)} inputs ({_words(inputs)})")
    if layer.type in ("Scale", "Bias"):
        given = layer.settings.scale_param if layer.type == "Scale" else layer.settings.bias_param
        if given.axis != 1 or given.num_axes != 1:
            raise ModelError(f"acts on {given.num_axes} axes from axis {given.axis}; only channels are supported")
    if layer.type == "Softmax" and layer.settings.softmax_param.axis not in (1, -len(inputs[0])):
        raise ModelError(f"acts on axis {layer.settings.softmax_param.axis}; only channels are supported")
    if layer.type == "LRN":
        _map(inputs)
        size = layer.settings.lrn_param.local_size
        if size % 2 == 0 or size > _MAX_LRN_SIZE:
            raise ModelError(f"has the local size {size}; it must be odd and at most {_MAX_LRN_SIZE}")
    return inputs[0]


def _flatten(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    given = layer.settings.flatten_param if hasattr(layer.settings, "flatten_param") else None
    if len(inputs) != 1 or (given is not None and (given.axis, given.end_axis) not in ((1, -1), (1, len(inputs[0])))):
        raise ModelError("flattens only a part of the axes, which is not supported")
    return (math.prod(inputs[0]),)


def _reshape(layer: CaffeLayer, inputs: Sequence[Shape]) -> Shape:
    given, count = layer.settings.reshape_param, math.prod(inputs[0])
    dims = list(given.shape.dim)
    if len(inputs) == 1 and given.axis == 0 and given.num_axes == -1 and len(dims) in (2, 4):
        sides = [inputs[0][i] if side == 0 and i < len(inputs[0]) else side for i, side in enumerate(dims[1:])]
        known = math.prod(side for side in sides if side != -1)
        if sides.count(-1) == 1 and known > 0:
            sides = [count // known if side == -1 else side for side in sides]
        if min(sides) > 0 and math.prod(sides) == count and sides[1:] in ([], [1, 1]):
            return tuple(sides)
    raise ModelError(f"reshapes {_words(inputs)} to {dims[:8]}; only to one position is supported")


_RULES: dict[str, Callable[[CaffeLayer, Sequence[Shape]], Shape]] = {
    "Convolution": _convolution,
    "Pooling": _pooling,
    "InnerProduct": _inner_product,
    "Concat": _concat,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Pointwise": _pointwise,
}
