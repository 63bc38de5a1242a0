"""MobileNetV2 as in torchvision and timm.

Ref: Sandler et al. 2018, arXiv 1801.04381; numbers of modules of `torchvision/models/mobilenetv2.py` (BSD-3-Clause).
"""

from collections.abc import Sequence
from typing import Any

import keras

from tlcli.zoo.architectures.modules import conv, conv_norm, divisible, image_input, norm

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def build(
    size: tuple[int, int], *, stages: Sequence[Sequence[int]] = _STAGES, width: float = 1.0, last: int = 1280
) -> keras.Model:
    """Build the network without its top.

    Args:
        size: Input height and width, pixels.
        stages: Factor of expansion, channels, number of blocks and stride of each stage.
        width: Factor on all channels.
        last: Channels of the last convolution.
    """
    image = image_input(size)
    x = conv_norm(image, "features.0", divisible(32 * width), 3, stride=2, function="relu6")
    number = 1
    for expansion, channels, count, stride in stages:
        for block in range(count):
            x = _block(x, f"features.{number}.conv", expansion, divisible(channels * width), 1 if block else stride)
            number += 1
    x = conv_norm(x, f"features.{number}", divisible(last * max(1.0, width)), 1, function="relu6")
    return keras.Model(image, x, name="mobilenet_v2")


def _block(x: Any, name: str, expansion: int, channels: int, stride: int) -> Any:
    y, number, expanded = x, 0, x.shape[-1] * expansion
    if expansion != 1:
        y = conv_norm(y, f"{name}.{number}", expanded, 1, function="relu6")
        number += 1
    y = conv_norm(y, f"{name}.{number}", expanded, 3, stride=stride, groups=expanded, function="relu6")
    y = norm(conv(y, f"{name}.{number + 1}", channels, 1), f"{name}.{number + 2}")
    is_same = stride == 1 and x.shape[-1] == channels
    return keras.layers.Add(name=f"{name}.add")([x, y]) if is_same else y
