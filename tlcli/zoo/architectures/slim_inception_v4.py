"""Inception V4 and Inception-ResNet V2 as TF-Slim builds them (nets/inception_v4.py and inception_resnet_v2.py)."""

from typing import Any

import keras

from tlcli.zoo.architectures.slim_inception import split
from tlcli.zoo.architectures.slim_layers import Layers, add, average_pool, concat, layer_name, max_pool

# Convolutions of the branches of a block: names and filters.
_A = (
    (("Conv2d_0a_1x1", 96),),
    (("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96)),
    (("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96), ("Conv2d_0c_3x3", 96)),
)
_B = (
    (("Conv2d_0a_1x1", 384),),
    (("Conv2d_0a_1x1", 192), ("Conv2d_0b_1x7", 224), ("Conv2d_0c_7x1", 256)),
    (
        ("Conv2d_0a_1x1", 192), ("Conv2d_0b_7x1", 192), ("Conv2d_0c_1x7", 224), ("Conv2d_0d_7x1", 224),
        ("Conv2d_0e_1x7", 256),
    ),
)  # fmt: skip
_BLOCK_35 = (
    (("Conv2d_1x1", 32),),
    (("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 32)),
    (("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 48), ("Conv2d_0c_3x3", 64)),
)
_BLOCK_17 = (
    (("Conv2d_1x1", 192),),
    (("Conv2d_0a_1x1", 128), ("Conv2d_0b_1x7", 160), ("Conv2d_0c_7x1", 192)),
)
_BLOCK_8 = (
    (("Conv2d_1x1", 192),),
    (("Conv2d_0a_1x1", 192), ("Conv2d_0b_1x3", 224), ("Conv2d_0c_3x1", 256)),
)
Branches = tuple[tuple[tuple[str, int], ...], ...]


def inception_v4(x: Any, *, gamma: bool = False) -> Any:
    """Inception V4 without top (Szegedy et al. 2016, arXiv 1602.07261).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1, at least 75 pixels on each side.
        gamma: Whether BatchNorm scales.

    Returns:
        Symbolic float (batch, height', width', 1536).
    """
    layers = Layers(gamma=gamma)
    x = _stem_v4(layers, x)
    for letter in "bcde":
        x = _pooled_block(layers, x, f"Mixed_5{letter}", _A, 96)
    x = _reduction(layers, x, "Mixed_6a", ((("Conv2d_1a_3x3", 384),), (
        ("Conv2d_0a_1x1", 192), ("Conv2d_0b_3x3", 224), ("Conv2d_1a_3x3", 256),
    )))  # fmt: skip
    for letter in "bcdefgh":
        x = _pooled_block(layers, x, f"Mixed_6{letter}", _B, 128)
    x = _reduction(layers, x, "Mixed_7a", ((("Conv2d_0a_1x1", 192), ("Conv2d_1a_3x3", 192)), (
        ("Conv2d_0a_1x1", 256), ("Conv2d_0b_1x7", 256), ("Conv2d_0c_7x1", 320), ("Conv2d_1a_3x3", 320),
    )))  # fmt: skip
    for letter in "bcd":
        x = _block_c(layers, x, f"Mixed_7{letter}")
    return x


def inception_resnet_v2(x: Any, *, gamma: bool = False) -> Any:
    """Inception-ResNet V2 without top (Szegedy et al. 2016, arXiv 1602.07261).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1, at least 75 pixels on each side.
        gamma: Whether BatchNorm scales.

    Returns:
        Symbolic float (batch, height', width', 1536).
    """
    layers = Layers(gamma=gamma)
    x = _stem_resnet(layers, x)
    for number in range(1, 11):
        x = _residual(layers, x, f"Repeat/block35_{number}", _BLOCK_35, 0.17)
    x = _reduction(layers, x, "Mixed_6a", ((("Conv2d_1a_3x3", 384),), (
        ("Conv2d_0a_1x1", 256), ("Conv2d_0b_3x3", 256), ("Conv2d_1a_3x3", 384),
    )))  # fmt: skip
    for number in range(1, 21):
        x = _residual(layers, x, f"Repeat_1/block17_{number}", _BLOCK_17, 0.10)
    x = _reduction(layers, x, "Mixed_7a", (
        (("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 384)),
        (("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 288)),
        (("Conv2d_0a_1x1", 256), ("Conv2d_0b_3x3", 288), ("Conv2d_1a_3x3", 320)),
    ))  # fmt: skip
    for number in range(1, 10):
        x = _residual(layers, x, f"Repeat_2/block8_{number}", _BLOCK_8, 0.20)
    x = _residual(layers, x, "Block8", _BLOCK_8, 1.0)
    return layers.conv(x, "Conv2d_7b_1x1", 1536)


def _stem_v4(layers: Layers, x: Any) -> Any:
    x = layers.conv(x, "Conv2d_1a_3x3", 32, stride=2, padding="valid")
    x = layers.conv(x, "Conv2d_2a_3x3", 32, padding="valid")
    x = layers.conv(x, "Conv2d_2b_3x3", 64)
    pool = max_pool(x, "Mixed_3a/Branch_0/MaxPool_0a_3x3", padding="valid")
    wide = layers.conv(x, "Mixed_3a/Branch_1/Conv2d_0a_3x3", 96, stride=2, padding="valid")
    x = concat("Mixed_3a", [pool, wide])
    scopes, last = ("Mixed_4a/Branch_0", "Mixed_4a/Branch_1"), "Conv2d_1a_3x3"
    one = layers.conv(x, f"{scopes[0]}/Conv2d_0a_1x1", 64)
    two = layers.chain(x, scopes[1], ("Conv2d_0a_1x1", 64), ("Conv2d_0b_1x7", 64), ("Conv2d_0c_7x1", 64))
    both = zip((one, two), scopes, strict=True)
    x = concat("Mixed_4a", [layers.conv(branch, f"{scope}/{last}", 96, padding="valid") for branch, scope in both])
    wide = layers.conv(x, f"Mixed_5a/Branch_0/{last}", 192, stride=2, padding="valid")
    return concat("Mixed_5a", [wide, max_pool(x, "Mixed_5a/Branch_1/MaxPool_1a_3x3", padding="valid")])


def _stem_resnet(layers: Layers, x: Any) -> Any:
    x = layers.conv(x, "Conv2d_1a_3x3", 32, stride=2, padding="valid")
    x = layers.conv(x, "Conv2d_2a_3x3", 32, padding="valid")
    x = max_pool(layers.conv(x, "Conv2d_2b_3x3", 64), "MaxPool_3a_3x3", padding="valid")
    x = layers.conv(x, "Conv2d_3b_1x1", 80)
    x = max_pool(layers.conv(x, "Conv2d_4a_3x3", 192, padding="valid"), "MaxPool_5a_3x3", padding="valid")
    branches: Branches = (
        (("Conv2d_1x1", 96),),
        (("Conv2d_0a_1x1", 48), ("Conv2d_0b_5x5", 64)),
        (("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96), ("Conv2d_0c_3x3", 96)),
    )
    return _pooled_block(layers, x, "Mixed_5b", branches, 64)


def _branches(layers: Layers, x: Any, scope: str, branches: Branches) -> list[Any]:
    return [layers.chain(x, f"{scope}/Branch_{number}", *steps) for number, steps in enumerate(branches)]


def _pooled_block(layers: Layers, x: Any, scope: str, branches: Branches, pooled: int) -> Any:
    """A block whose last branch is an average pooling and a 1×1 convolution."""
    pool = average_pool(x, f"{scope}/Branch_3/AvgPool_0a_3x3")
    last = layers.conv(pool, f"{scope}/Branch_3/Conv2d_0b_1x1", pooled)
    return concat(scope, [*_branches(layers, x, scope, branches), last])


def _reduction(layers: Layers, x: Any, scope: str, branches: Branches) -> Any:
    """A block that halves the image: the last convolution of each branch has a stride."""
    ends = []
    for number, (*steps, (name, filters)) in enumerate(branches):
        inner = layers.chain(x, f"{scope}/Branch_{number}", *steps)
        ends.append(layers.conv(inner, f"{scope}/Branch_{number}/{name}", filters, stride=2, padding="valid"))
    return concat(scope, [*ends, max_pool(x, f"{scope}/Branch_{len(branches)}/MaxPool_1a_3x3", padding="valid")])


def _block_c(layers: Layers, x: Any, scope: str) -> Any:
    two = layers.conv(x, f"{scope}/Branch_1/Conv2d_0a_1x1", 384)
    steps = (("Conv2d_0a_1x1", 384), ("Conv2d_0b_3x1", 448), ("Conv2d_0c_1x3", 512))
    three = layers.chain(x, f"{scope}/Branch_2", *steps)
    pool = average_pool(x, f"{scope}/Branch_3/AvgPool_0a_3x3")
    branches = [
        layers.conv(x, f"{scope}/Branch_0/Conv2d_0a_1x1", 256),
        split(layers, two, f"{scope}/Branch_1", ("Conv2d_0b_1x3", "Conv2d_0c_3x1"), 256),
        split(layers, three, f"{scope}/Branch_2", ("Conv2d_0d_1x3", "Conv2d_0e_3x1"), 256),
        layers.conv(pool, f"{scope}/Branch_3/Conv2d_0b_1x1", 256),
    ]
    return concat(scope, branches)


def _residual(layers: Layers, x: Any, scope: str, branches: Branches, scale: float) -> Any:
    """A residual block; only the last one of the network has the scale 1, and no activation."""
    mixed = concat(scope, _branches(layers, x, scope, branches))
    up = layers.biased(mixed, f"{scope}/Conv2d_1x1", x.shape[-1])
    if scale == 1.0:
        return add(scope, x, up)
    scaled = keras.layers.Rescaling(scale, name=layer_name(f"{scope}/scale"))(up)
    return layers.activate(add(scope, x, scaled), scope)
