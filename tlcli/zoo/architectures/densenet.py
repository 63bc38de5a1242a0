"""DenseNet as in torchvision and timm.

Ref: Huang et al. 2016, arXiv 1608.06993; names of modules of `torchvision/models/densenet.py` (BSD-3-Clause).
"""

from collections.abc import Sequence
from typing import Any

import keras

from tlcli.zoo.architectures.modules import activation, conv, image_input, max_pool, norm


def build(size: tuple[int, int], *, growth: int, blocks: Sequence[int], width: int) -> keras.Model:
    """Build the network without its top.

    Args:
        size: Input height and width, pixels.
        growth: Channels that each layer adds.
        blocks: Number of layers in each block.
        width: Channels of the first convolution.
    """
    image = image_input(size)
    x = conv(image, "features.conv0", width, 7, stride=2)
    x = max_pool(activation(norm(x, "features.norm0"), "features.relu0"), "features.pool0")
    for number, count in enumerate(blocks, start=1):
        for layer in range(1, count + 1):
            name = f"features.denseblock{number}.denselayer{layer}"
            y = _norm_conv(x, name, "1", 4 * growth, 1)
            y = _norm_conv(y, name, "2", growth, 3)
            x = keras.layers.Concatenate(name=f"{name}.concat")([x, y])
        if number < len(blocks):
            name = f"features.transition{number}"
            x = _norm_conv(x, name, "", x.shape[-1] // 2, 1)
            x = keras.layers.AveragePooling2D(2, name=f"{name}.pool")(x)
    x = activation(norm(x, "features.norm5"), "features.relu5")
    return keras.Model(image, x, name="densenet")


def _norm_conv(x: Any, name: str, number: str, filters: int, size: int) -> Any:
    x = activation(norm(x, f"{name}.norm{number}"), f"{name}.relu{number}")
    return conv(x, f"{name}.conv{number}", filters, size)
