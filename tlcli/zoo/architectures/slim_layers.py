"""The layers that all networks of TF-Slim consist of, named after Slim's variable scopes.

The layer of the scope `Mixed_5b/Branch_0` is called `Mixed_5b__Branch_0`, because names of layers contain no slash. So
the name of a layer gives the names of its variables in a checkpoint, and no table of names is needed.
"""

import re
from dataclasses import dataclass
from typing import Any

import keras

_SLASH = "__"
# The sizes in the names of Slim's scopes, as in `Conv2d_0b_1x7`.
_KERNEL = re.compile(r"_(\d+)x(\d+)$")


def layer_name(scope: str) -> str:
    """The name of the layer of a scope."""
    return scope.replace("/", _SLASH)


def scope_of(name: str) -> str:
    """The scope of a layer, the inverse of `layer_name`."""
    return name.replace(_SLASH, "/")


@dataclass(frozen=True)
class Layers:
    """Builds layers as one family of networks does.

    All convolutions have the padding `same` of TensorFlow unless stated. BatchNorm updates its moving statistics at
    Keras's rate, as the networks of keras.applications do: Slim's rate is for trainings of a hundred epochs.

    Attributes:
        activation: `relu` or `relu6`.
        epsilon: That of BatchNorm.
        gamma: Whether BatchNorm scales.
        batch_norm: False for networks with biases in place of BatchNorm.
    """

    activation: str = "relu"
    epsilon: float = 1e-3
    gamma: bool = True
    batch_norm: bool = True

    def conv(self, x: Any, scope: str, filters: int, kernel: int = 0, stride: int = 1, padding: str = "same") -> Any:
        """Convolution, BatchNorm and activation. `kernel` 0 is the size in the name of the scope, or 1."""
        x = self.plain(x, scope, filters, kernel, stride, padding)
        return self.activate(self.normalise(x, f"{scope}/BatchNorm") if self.batch_norm else x, scope)

    def plain(self, x: Any, scope: str, filters: int, kernel: int = 0, stride: int = 1, padding: str = "same") -> Any:
        """Convolution alone. It has a bias if the family has no BatchNorm."""
        layer = keras.layers.Conv2D(
            filters,
            (kernel, kernel) if kernel else _kernel(scope),
            strides=stride,
            padding=padding,
            use_bias=not self.batch_norm,
            name=layer_name(scope),
        )
        return layer(x)

    def biased(self, x: Any, scope: str, filters: int, stride: int = 1) -> Any:
        """1×1 convolution with bias alone."""
        return keras.layers.Conv2D(filters, 1, strides=stride, padding="same", name=layer_name(scope))(x)

    def depthwise(self, x: Any, scope: str, stride: int) -> Any:
        """3×3 depthwise convolution, BatchNorm and activation."""
        layer = keras.layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=layer_name(scope))
        return self.activate(self.normalise(layer(x), f"{scope}/BatchNorm"), scope)

    def chain(self, x: Any, scope: str, *steps: tuple[str, int]) -> Any:
        """Convolutions in a row, each with a name inside `scope` and its filters."""
        for name, filters in steps:
            x = self.conv(x, f"{scope}/{name}", filters)
        return x

    def normalise(self, x: Any, scope: str) -> Any:
        """BatchNorm."""
        layer = keras.layers.BatchNormalization(epsilon=self.epsilon, scale=self.gamma, name=layer_name(scope))
        return layer(x)

    def activate(self, x: Any, scope: str) -> Any:
        """Activation of the layer of a scope."""
        name = layer_name(f"{scope}/{self.activation.capitalize()}")
        return keras.layers.Activation(self.activation, name=name)(x)


def max_pool(x: Any, scope: str, size: int = 3, stride: int = 2, padding: str = "same") -> Any:
    """Max pooling."""
    return keras.layers.MaxPooling2D(size, strides=stride, padding=padding, name=layer_name(scope))(x)


def average_pool(x: Any, scope: str) -> Any:
    """Mean of 3×3 neighbours; those outside the image do not count."""
    return keras.layers.AveragePooling2D(3, strides=1, padding="same", name=layer_name(scope))(x)


def concat(scope: str, branches: list[Any]) -> Any:
    """The channels of several branches in a row."""
    return keras.layers.Concatenate(name=layer_name(f"{scope}/concat"))(branches)


def add(scope: str, shortcut: Any, residual: Any) -> Any:
    """The sum of two tensors."""
    return keras.layers.Add(name=layer_name(f"{scope}/add"))([shortcut, residual])


def _kernel(scope: str) -> tuple[int, int]:
    found = _KERNEL.search(scope)
    return (int(found[1]), int(found[2])) if found else (1, 1)
