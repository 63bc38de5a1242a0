"""ResNet as in torchvision and timm: the stride of a bottleneck is in its 3 × 3 convolution.

Ref: He et al. 2015, arXiv 1512.03385; names and order of `torchvision/models/resnet.py` (BSD-3-Clause).
"""

from collections.abc import Sequence
from typing import Any

import keras

from tlcli.zoo.architectures.modules import activation, conv, image_input, max_pool, norm


def build(size: tuple[int, int], *, blocks: Sequence[int], is_bottleneck: bool, width: int = 64) -> keras.Model:
    """Build the network without its top.

    Args:
        size: Input height and width, pixels.
        blocks: Number of blocks in each stage.
        is_bottleneck: True for blocks of 1 × 1, 3 × 3 and 1 × 1 convolutions, False for two of 3 × 3.
        width: Channels of the first stage; they double from stage to stage.
    """
    image = image_input(size)
    x = activation(norm(conv(image, "conv1", width, 7, stride=2), "bn1"), "relu")
    x = max_pool(x, "maxpool")
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            name = f"layer{stage + 1}.{block}"
            x = (_bottleneck if is_bottleneck else _basic)(x, name, width * 2**stage, stride)
    return keras.Model(image, x, name="resnet")


def _basic(x: Any, name: str, width: int, stride: int) -> Any:
    y = activation(norm(conv(x, f"{name}.conv1", width, 3, stride=stride), f"{name}.bn1"), f"{name}.relu1")
    y = norm(conv(y, f"{name}.conv2", width, 3), f"{name}.bn2")
    return _sum(x, y, name, stride)


def _bottleneck(x: Any, name: str, width: int, stride: int) -> Any:
    y = activation(norm(conv(x, f"{name}.conv1", width, 1), f"{name}.bn1"), f"{name}.relu1")
    y = activation(norm(conv(y, f"{name}.conv2", width, 3, stride=stride), f"{name}.bn2"), f"{name}.relu2")
    y = norm(conv(y, f"{name}.conv3", 4 * width, 1), f"{name}.bn3")
    return _sum(x, y, name, stride)


def _sum(x: Any, y: Any, name: str, stride: int) -> Any:
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        shortcut = conv(x, f"{name}.downsample.0", y.shape[-1], 1, stride=stride)
        x = norm(shortcut, f"{name}.downsample.1")
    return activation(keras.layers.Add(name=f"{name}.add")([x, y]), f"{name}.relu")
