"""The modules of PyTorch as layers of Keras, with equal outputs: explicit padding, and its names and defaults.

Keras pads a convolution with stride 2 on one side only, PyTorch on both. Layers have the names of modules, with dots.
"""

from typing import Any

import keras

layers = keras.layers


def conv(x: Any, name: str, filters: int, size: int, *, stride: int = 1, groups: int = 1, bias: bool = False) -> Any:
    """A convolution that pads half its size on each side, as `Conv2d(padding=size // 2)`; odd sizes only."""
    padding = "same"
    if stride > 1 and size > 1:
        x, padding = layers.ZeroPadding2D(size // 2, name=f"{name}.pad")(x), "valid"
    options = {"strides": stride, "padding": padding, "use_bias": bias, "name": name}
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
