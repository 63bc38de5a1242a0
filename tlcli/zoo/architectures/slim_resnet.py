"""ResNet V1 and V2 as TF-Slim builds them (nets/resnet_v1.py, resnet_v2.py and resnet_utils.py of its model library).

They differ from those of keras.applications: the last unit of a block has the stride, in its 3×3 convolution, which is
padded by one pixel on each side.
"""

from typing import Any

import keras

from tlcli.zoo.architectures.slim_layers import Layers, add, layer_name, max_pool

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
"""Units of the four blocks, by the number of layers."""

_LAYERS = Layers(epsilon=1e-5)
# Red, green and blue of the ImageNet images, 0-255, as Slim's VGG preprocessing subtracts it.
_MEAN = (123.68, 116.78, 103.94)


def minus_mean(x: Any) -> Any:
    """RGB images, 0-255, less the mean of ImageNet; the input of Slim's VGG and ResNet V1.

    In float32 under any dtype policy, because pixel values lose bits in half precision.
    """
    layer = keras.layers.Normalization(mean=list(_MEAN), variance=[1.0, 1.0, 1.0], dtype="float32", name="mean")
    return layer(x)


def resnet_v1(x: Any, *, depth: int) -> Any:
    """ResNet V1 without top (He et al. 2015, arXiv 1512.03385).

    Args:
        x: Symbolic float (batch, height, width, 3), 0 to 255.
        depth: Number of layers, a key of `UNITS`.

    Returns:
        Symbolic float (batch, height / 32, width / 32, 2048).
    """
    x = _padded(minus_mean(x), "conv1", 3)
    x = _LAYERS.conv(x, "conv1", 64, kernel=7, stride=2, padding="valid")
    return _blocks(max_pool(x, "pool1"), _unit_v1, UNITS[depth])


def resnet_v2(x: Any, *, depth: int) -> Any:
    """ResNet V2 without top (He et al. 2016, arXiv 1603.05027).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1.
        depth: Number of layers, a key of `UNITS`.

    Returns:
        Symbolic float (batch, height / 32, width / 32, 2048).
    """
    x = _padded(x, "conv1", 3)
    x = keras.layers.Conv2D(64, 7, strides=2, name="conv1")(x)
    x = _blocks(max_pool(x, "pool1"), _unit_v2, UNITS[depth])
    return _LAYERS.activate(_LAYERS.normalise(x, "postnorm"), "postnorm")


def _blocks(x: Any, unit: Any, counts: tuple[int, ...]) -> Any:
    for block, count in enumerate(counts, start=1):
        for number in range(1, count + 1):
            stride = 2 if number == count and block < len(counts) else 1
            x = unit(x, f"block{block}/unit_{number}", 32 << block, stride)
    return x


def _unit_v1(x: Any, scope: str, width: int, stride: int) -> Any:
    scope = f"{scope}/bottleneck_v1"
    if x.shape[-1] == 4 * width:
        shortcut = _subsampled(x, scope, stride)
    else:
        name = f"{scope}/shortcut"
        shortcut = _LAYERS.normalise(_LAYERS.plain(x, name, 4 * width, stride=stride), f"{name}/BatchNorm")
    x = _LAYERS.conv(x, f"{scope}/conv1", width)
    x = _conv_same(x, f"{scope}/conv2", width, stride)
    x = _LAYERS.normalise(_LAYERS.plain(x, f"{scope}/conv3", 4 * width), f"{scope}/conv3/BatchNorm")
    return _LAYERS.activate(add(scope, shortcut, x), scope)


def _unit_v2(x: Any, scope: str, width: int, stride: int) -> Any:
    scope = f"{scope}/bottleneck_v2"
    active = _LAYERS.activate(_LAYERS.normalise(x, f"{scope}/preact"), f"{scope}/preact")
    if x.shape[-1] == 4 * width:
        shortcut = _subsampled(x, scope, stride)
    else:
        shortcut = _LAYERS.biased(active, f"{scope}/shortcut", 4 * width, stride)
    x = _LAYERS.conv(active, f"{scope}/conv1", width)
    x = _conv_same(x, f"{scope}/conv2", width, stride)
    return add(scope, shortcut, _LAYERS.biased(x, f"{scope}/conv3", 4 * width))


def _subsampled(x: Any, scope: str, stride: int) -> Any:
    return x if stride == 1 else max_pool(x, f"{scope}/shortcut", size=1, stride=stride)


def _conv_same(x: Any, scope: str, filters: int, stride: int) -> Any:
    """3×3 convolution with a padding that does not depend on the size of the image, unlike `same` with a stride."""
    if stride == 1:
        return _LAYERS.conv(x, scope, filters, kernel=3)
    return _LAYERS.conv(_padded(x, scope, 1), scope, filters, kernel=3, stride=stride, padding="valid")


def _padded(x: Any, scope: str, pixels: int) -> Any:
    return keras.layers.ZeroPadding2D(pixels, name=layer_name(f"{scope}/pad"))(x)
