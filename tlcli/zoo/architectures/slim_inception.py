"""Inception V1 to V3 as TF-Slim builds them (nets/inception_v1.py, _v2.py and _v3.py of its model library).

The last letter-and-number of a block, such as `5b`, is its name in the papers.
"""

from collections.abc import Callable
from typing import Any

import keras

from tlcli.zoo.architectures.slim_layers import Layers, average_pool, concat, max_pool
from tlcli.zoo.architectures.slim_widths import inception_width

Width = Callable[[int], int]

# Filters of the branches: 1×1; 1×1 and 3×3; 1×1 and 3×3; 1×1 after the pooling.
_V1 = {
    "3b": (64, (96, 128), (16, 32), 32), "3c": (128, (128, 192), (32, 96), 64),
    "4b": (192, (96, 208), (16, 48), 64), "4c": (160, (112, 224), (24, 64), 64), "4d": (128, (128, 256), (24, 64), 64),
    "4e": (112, (144, 288), (32, 64), 64), "4f": (256, (160, 320), (32, 128), 128),
    "5b": (256, (160, 320), (32, 128), 128), "5c": (384, (192, 384), (48, 128), 128),
}  # fmt: skip
# Filters of the branches: 1×1; 1×1 and 3×3; 1×1 and twice 3×3; 1×1 after the pooling. Blocks without the first and the
# last branch halve the image.
_V2 = {
    "3b": (64, (64, 64), (64, 96), 32), "3c": (64, (64, 96), (64, 96), 64), "4a": (0, (128, 160), (64, 96), 0),
    "4b": (224, (64, 96), (96, 128), 128), "4c": (192, (96, 128), (96, 128), 128),
    "4d": (160, (128, 160), (128, 160), 96), "4e": (96, (128, 192), (160, 192), 96),
    "5a": (0, (128, 192), (192, 256), 0), "5b": (352, (192, 320), (160, 224), 128),
    "5c": (352, (192, 320), (192, 224), 128),
}  # fmt: skip


def inception_v1(x: Any, *, gamma: bool = False) -> Any:
    """Inception V1 without top (Szegedy et al. 2014, arXiv 1409.4842), with BatchNorm.

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1.
        gamma: Whether BatchNorm scales.

    Returns:
        Symbolic float (batch, height / 32, width / 32, 1024).
    """
    layers = Layers(gamma=gamma)
    x = layers.conv(x, "Conv2d_1a_7x7", 64, stride=2)
    x = layers.conv(max_pool(x, "MaxPool_2a_3x3"), "Conv2d_2b_1x1", 64)
    x = max_pool(layers.conv(x, "Conv2d_2c_3x3", 192), "MaxPool_3a_3x3")
    for block, (one, two, three, pooled) in _V1.items():
        if block in ("4b", "5b"):
            x = max_pool(x, "MaxPool_4a_3x3") if block == "4b" else max_pool(x, "MaxPool_5a_2x2", size=2)
        scope = f"Mixed_{block}"
        last = "Conv2d_0a_3x3" if block == "5b" else "Conv2d_0b_3x3"  # the name in published checkpoints
        pool = max_pool(x, f"{scope}/Branch_3/MaxPool_0a_3x3", stride=1)
        branches = [
            layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", one),
            layers.chain(x, f"{scope}/Branch_1", ("Conv2d_0a_1x1", two[0]), ("Conv2d_0b_3x3", two[1])),
            layers.chain(x, f"{scope}/Branch_2", ("Conv2d_0a_1x1", three[0]), (last, three[1])),
            layers.conv(pool, f"{scope}/Branch_3/Conv2d_0b_1x1", pooled),
        ]
        x = concat(scope, branches)
    return x


def inception_v2(x: Any, *, depth_multiplier: float = 1.0, gamma: bool = False, stem_norm: bool = False) -> Any:
    """Inception V2 without top (Ioffe and Szegedy 2015, arXiv 1502.03167).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1.
        depth_multiplier: Factor on the number of channels.
        gamma: Whether BatchNorm scales.
        stem_norm: Whether the first convolution has BatchNorm too, as in detectors. Otherwise it has a bias.

    Returns:
        Symbolic float (batch, height / 32, width / 32, channels).
    """
    layers = Layers(gamma=gamma)

    def width(channels: int) -> int:
        return inception_width(channels, depth_multiplier)

    x = _separable(layers, x, width(64), norm=stem_norm)
    x = layers.conv(max_pool(x, "MaxPool_2a_3x3"), "Conv2d_2b_1x1", width(64))
    x = max_pool(layers.conv(x, "Conv2d_2c_3x3", width(192)), "MaxPool_3a_3x3")
    for block in _V2:
        x = (_block_v2 if _V2[block][0] else _reduction_v2)(layers, x, block, width)
    return x


def _separable(layers: Layers, x: Any, filters: int, *, norm: bool) -> Any:
    """The first convolution of V2: each colour first goes through up to 8 filters of its own."""
    scope = "Conv2d_1a_7x7"
    layer = keras.layers.SeparableConv2D(
        filters, 7, strides=2, padding="same", depth_multiplier=min(filters // 3, 8), use_bias=not norm, name=scope
    )
    x = layer(x)
    return layers.activate(layers.normalise(x, f"{scope}/BatchNorm") if norm else x, scope)


def _block_v2(layers: Layers, x: Any, block: str, width: Width) -> Any:
    one, two, three, pooled = _V2[block]
    scope, last = f"Mixed_{block}", width(three[1])
    branch = f"{scope}/Branch_3"
    if block == "5c":
        pool = max_pool(x, f"{branch}/MaxPool_0a_3x3", stride=1)
    else:
        pool = average_pool(x, f"{branch}/AvgPool_0a_3x3")
    names = ("Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_3x3")
    branches = [
        layers.conv(x, f"{scope}/Branch_0/{names[0]}", width(one)),
        layers.chain(x, f"{scope}/Branch_1", (names[0], width(two[0])), (names[1], width(two[1]))),
        layers.chain(x, f"{scope}/Branch_2", (names[0], width(three[0])), (names[1], last), (names[2], last)),
        layers.conv(pool, f"{branch}/Conv2d_0b_1x1", width(pooled)),
    ]
    return concat(scope, branches)


def _reduction_v2(layers: Layers, x: Any, block: str, width: Width) -> Any:
    _, two, three, _ = _V2[block]
    scope = f"Mixed_{block}"
    one = layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", width(two[0]))
    more = layers.chain(x, f"{scope}/Branch_1", ("Conv2d_0a_1x1", width(three[0])), ("Conv2d_0b_3x3", width(three[1])))
    branches = [
        layers.conv(one, f"{scope}/Branch_0/Conv2d_1a_3x3", width(two[1]), stride=2),
        layers.conv(more, f"{scope}/Branch_1/Conv2d_1a_3x3", width(three[1]), stride=2),
        max_pool(x, f"{scope}/Branch_2/MaxPool_1a_3x3"),
    ]
    return concat(scope, branches)


def inception_v3(x: Any, *, depth_multiplier: float = 1.0, gamma: bool = False) -> Any:
    """Inception V3 without top (Szegedy et al. 2015, arXiv 1512.00567).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1, at least 75 pixels on each side.
        depth_multiplier: Factor on the number of channels.
        gamma: Whether BatchNorm scales.

    Returns:
        Symbolic float (batch, height', width', channels).
    """
    layers = Layers(gamma=gamma)

    def width(channels: int) -> int:
        return inception_width(channels, depth_multiplier)

    x = layers.conv(x, "Conv2d_1a_3x3", width(32), stride=2, padding="valid")
    x = layers.conv(x, "Conv2d_2a_3x3", width(32), padding="valid")
    x = max_pool(layers.conv(x, "Conv2d_2b_3x3", width(64)), "MaxPool_3a_3x3", padding="valid")
    x = layers.conv(x, "Conv2d_3b_1x1", width(80), padding="valid")
    x = layers.conv(x, "Conv2d_4a_3x3", width(192), padding="valid")
    x = max_pool(x, "MaxPool_5a_3x3", padding="valid")
    for block, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = _block_5_v3(layers, x, block, width, pooled)
    x = _reduction_6_v3(layers, x, width)
    for block, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _block_6_v3(layers, x, block, width, inner)
    x = _reduction_7_v3(layers, x, width)
    for block, second in (("7b", "Conv2d_0b_3x1"), ("7c", "Conv2d_0c_3x1")):  # names in published checkpoints
        x = _block_7_v3(layers, x, block, width, second)
    return x


def _pooled_branch(layers: Layers, x: Any, scope: str, filters: int) -> Any:
    pool = average_pool(x, f"{scope}/Branch_3/AvgPool_0a_3x3")
    return layers.conv(pool, f"{scope}/Branch_3/Conv2d_0b_1x1", filters)


def _block_5_v3(layers: Layers, x: Any, block: str, width: Width, pooled: int) -> Any:
    scope = f"Mixed_{block}"
    # The names in published checkpoints.
    names = ("Conv2d_0b_1x1", "Conv_1_0c_5x5") if block == "5c" else ("Conv2d_0a_1x1", "Conv2d_0b_5x5")
    three = (("Conv2d_0a_1x1", width(64)), ("Conv2d_0b_3x3", width(96)), ("Conv2d_0c_3x3", width(96)))
    branches = [
        layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", width(64)),
        layers.chain(x, f"{scope}/Branch_1", (names[0], width(48)), (names[1], width(64))),
        layers.chain(x, f"{scope}/Branch_2", *three),
        _pooled_branch(layers, x, scope, width(pooled)),
    ]
    return concat(scope, branches)


def _reduction_6_v3(layers: Layers, x: Any, width: Width) -> Any:
    scope, last = "Mixed_6a", "Conv2d_1a_1x1"  # in spite of its name 3×3
    two = layers.chain(x, f"{scope}/Branch_1", ("Conv2d_0a_1x1", width(64)), ("Conv2d_0b_3x3", width(96)))
    branches = [
        layers.conv(x, f"{scope}/Branch_0/{last}", width(384), 3, 2, "valid"),
        layers.conv(two, f"{scope}/Branch_1/{last}", width(96), 3, 2, "valid"),
        max_pool(x, f"{scope}/Branch_2/MaxPool_1a_3x3", padding="valid"),
    ]
    return concat(scope, branches)


def _block_6_v3(layers: Layers, x: Any, block: str, width: Width, inner: int) -> Any:
    scope, narrow, wide = f"Mixed_{block}", width(inner), width(192)
    two = (("Conv2d_0a_1x1", narrow), ("Conv2d_0b_1x7", narrow), ("Conv2d_0c_7x1", wide))
    names = ("Conv2d_0a_1x1", "Conv2d_0b_7x1", "Conv2d_0c_1x7", "Conv2d_0d_7x1")
    branches = [
        layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", wide),
        layers.chain(x, f"{scope}/Branch_1", *two),
        layers.chain(x, f"{scope}/Branch_2", *((name, narrow) for name in names), ("Conv2d_0e_1x7", wide)),
        _pooled_branch(layers, x, scope, wide),
    ]
    return concat(scope, branches)


def _reduction_7_v3(layers: Layers, x: Any, width: Width) -> Any:
    scope, last, wide = "Mixed_7a", "Conv2d_1a_3x3", width(192)
    one = layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", wide)
    names = ("Conv2d_0a_1x1", "Conv2d_0b_1x7", "Conv2d_0c_7x1")
    two = layers.chain(x, f"{scope}/Branch_1", *((name, wide) for name in names))
    branches = [
        layers.conv(one, f"{scope}/Branch_0/{last}", width(320), stride=2, padding="valid"),
        layers.conv(two, f"{scope}/Branch_1/{last}", wide, stride=2, padding="valid"),
        max_pool(x, f"{scope}/Branch_2/MaxPool_1a_3x3", padding="valid"),
    ]
    return concat(scope, branches)


def _block_7_v3(layers: Layers, x: Any, block: str, width: Width, second: str) -> Any:
    scope, wide = f"Mixed_{block}", width(384)
    two = layers.conv(x, f"{scope}/Branch_1/Conv2d_0a_1x1", wide)
    three = layers.chain(x, f"{scope}/Branch_2", ("Conv2d_0a_1x1", width(448)), ("Conv2d_0b_3x3", wide))
    branches = [
        layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", width(320)),
        split(layers, two, f"{scope}/Branch_1", ("Conv2d_0b_1x3", second), wide),
        split(layers, three, f"{scope}/Branch_2", ("Conv2d_0c_1x3", "Conv2d_0d_3x1"), wide),
        _pooled_branch(layers, x, scope, width(192)),
    ]
    return concat(scope, branches)


def split(layers: Layers, x: Any, scope: str, names: tuple[str, str], filters: int) -> Any:
    """Two convolutions of the same tensor, side by side."""
    return concat(scope, [layers.conv(x, f"{scope}/{name}", filters) for name in names])
