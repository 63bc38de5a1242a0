"""ConvNeXt as in torchvision and timm.

Ref: Liu et al. 2022, arXiv 2201.03545; numbers of modules of `torchvision/models/convnext.py` (BSD-3-Clause).
"""

from collections.abc import Sequence
from typing import Any

import keras

from tlcli.zoo.architectures.modules import image_input

layers = keras.layers


def build(size: tuple[int, int], *, depths: Sequence[int], widths: Sequence[int]) -> keras.Model:
    """Build the network without its top: without the normalisation after the pooling, too.

    Args:
        size: Input height and width, pixels.
        depths: Number of blocks in each stage.
        widths: Channels of each stage.
    """
    image = image_input(size)
    x = layers.Conv2D(widths[0], 4, strides=4, name="features.0.0")(image)
    x = _norm(x, "features.0.1")
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            x = _norm(x, f"features.{2 * stage}.0")
            x = layers.Conv2D(width, 2, strides=2, name=f"features.{2 * stage}.1")(x)
        for block in range(depth):
            x = _block(x, f"features.{2 * stage + 1}.{block}")
    return keras.Model(image, x, name="convnext")


def _block(x: Any, name: str) -> Any:
    width = x.shape[-1]
    y = layers.DepthwiseConv2D(7, padding="same", name=f"{name}.block.0")(x)
    y = layers.Dense(4 * width, name=f"{name}.block.3")(_norm(y, f"{name}.block.2"))
    y = layers.Dense(width, name=f"{name}.block.5")(layers.Activation("gelu", name=f"{name}.block.4")(y))
    # One factor a channel is a depthwise convolution of one pixel.
    y = layers.DepthwiseConv2D(1, use_bias=False, name=f"{name}.layer_scale")(y)
    return layers.Add(name=f"{name}.add")([x, y])


def _norm(x: Any, name: str) -> Any:
    return layers.LayerNormalization(epsilon=1e-6, name=name)(x)
