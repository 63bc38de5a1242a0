"""The modules of PyTorch as layers of Keras, with equal outputs: explicit padding, and its names and defaults.

Keras pads a convolution with stride 2 on one side only, PyTorch on both. Layers have the names of modules, with dots.
"""

from dataclasses import dataclass
from typing import Any

import keras

layers = keras.layers


def conv(x: Any, name: str, filters: int, size: int, *, stride: int = 1, groups: int = 1) -> Any:
    """A convolution without bias that pads half its odd size on each side, as `Conv2d(padding=size // 2)`."""
    padding = "same"
    if stride > 1 and size > 1:
        x, padding = layers.ZeroPadding2D(size // 2, name=f"{name}.pad")(x), "valid"
    options = {"strides": stride, "padding": padding, "use_bias": False, "name": name}
    if groups > 1 and groups == x.shape[-1]:
        return layers.DepthwiseConv2D(size, depth_multiplier=filters // groups, **options)(x)
    return layers.Conv2D(filters, size, groups=groups, **options)(x)


def norm(x: Any, name: str, epsilon: float = 1e-5) -> Any:
    """BatchNorm with the momentum of PyTorch."""
    return layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=name)(x)


def activation(x: Any, name: str, function: str = "relu") -> Any:
    """An activation layer."""
    return layers.Activation(function, name=name)(x)


def max_pool(x: Any, name: str) -> Any:
    """The pooling of 3 × 3 pixels with stride 2 after a ReLU, as `MaxPool2d(3, 2, padding=1)`."""
    # The values are not negative, so that zeros pad like minus infinity.
    return layers.MaxPooling2D(3, strides=2, name=name)(layers.ZeroPadding2D(1, name=f"{name}.pad")(x))


def image_input(size: tuple[int, int]) -> Any:
    """The input for images of a height and width, pixels."""
    return keras.Input((*size, 3), name="image")


def conv_norm(x: Any, name: str, filters: int, size: int, *, function: str = "linear", **options: Any) -> Any:
    """`Conv2dNormActivation`: modules 0 and 1 are a convolution and a BatchNorm; then an activation.

    Args:
        x: Input.
        name: Name of the module.
        filters: Number of output channels.
        size: Size of the kernel.
        function: The activation.
        options: `stride` and `groups` of the convolution, `epsilon` of the BatchNorm.
    """
    epsilon = options.pop("epsilon", 1e-5)
    x = norm(conv(x, f"{name}.0", filters, size, **options), f"{name}.1", epsilon)
    return x if function == "linear" else activation(x, f"{name}.2", function)


def squeeze_excitation(x: Any, name: str, channels: int, functions: tuple[str, str]) -> Any:
    """A factor for each channel from the means of all, as `SqueezeExcitation` with modules `fc1` and `fc2`."""
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.avgpool")(x)
    gate = layers.Conv2D(channels, 1, name=f"{name}.fc1")(gate)
    gate = layers.Conv2D(x.shape[-1], 1, name=f"{name}.fc2")(activation(gate, f"{name}.activation", functions[0]))
    return layers.Multiply(name=f"{name}.scale")([x, activation(gate, f"{name}.scale_activation", functions[1])])


@dataclass(frozen=True)
class InvertedResidual:
    """A block that expands, filters each channel, scales the channels, and projects.

    Attributes:
        expanded: Channels inside.
        channels: Channels at the end.
        size: Size of the kernel.
        stride: Stride.
        squeezed: Channels of the squeeze and excitation; 0 for none.
        function: The activation.
        gates: The activations of the squeeze and excitation.
        epsilon: Of BatchNorm.
    """

    expanded: int
    channels: int
    size: int
    stride: int
    squeezed: int
    function: str
    gates: tuple[str, str]
    epsilon: float


def inverted_residual(x: Any, name: str, block: InvertedResidual) -> Any:
    """The modules of a block, numbered in order; a shortcut if the shape stays."""
    options: dict[str, Any] = {"epsilon": block.epsilon}
    y, number = x, 0
    if block.expanded != x.shape[-1]:
        y = conv_norm(y, f"{name}.{number}", block.expanded, 1, function=block.function, **options)
        number += 1
    depthwise: dict[str, Any] = {"stride": block.stride, "groups": block.expanded, "function": block.function}
    y = conv_norm(y, f"{name}.{number}", block.expanded, block.size, **depthwise, **options)
    number += 1
    if block.squeezed:
        y = squeeze_excitation(y, f"{name}.{number}", block.squeezed, block.gates)
        number += 1
    y = conv_norm(y, f"{name}.{number}", block.channels, 1, **options)
    is_same = block.stride == 1 and x.shape[-1] == block.channels
    return layers.Add(name=f"{name}.add")([x, y]) if is_same else y


def divisible(value: float, by: int = 8) -> int:
    """The multiple of `by` nearest to a number of channels, but not below nine tenths of it."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded
