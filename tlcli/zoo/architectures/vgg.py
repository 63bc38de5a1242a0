"""VGG as in torchvision and timm, with or without BatchNorm.

Ref: Simonyan and Zisserman 2014, arXiv 1409.1556; numbers of modules of `torchvision/models/vgg.py` (BSD-3-Clause).
"""

from collections.abc import Sequence

import keras

from tlcli.zoo.architectures.modules import activation, image_input, norm


def build(size: tuple[int, int], *, counts: Sequence[int], has_norm: bool, width: int = 64) -> keras.Model:
    """Build the network without its top; it ends with the last pooling.

    Args:
        size: Input height and width, pixels.
        counts: Number of convolutions in each of the five stages.
        has_norm: True for a BatchNorm after each convolution.
        width: Channels of the first stage; they double up to eight times that.
    """
    x = image = image_input(size)
    number = 0
    for stage, count in enumerate(counts):
        for _ in range(count):
            x = keras.layers.Conv2D(width * min(2**stage, 8), 3, padding="same", name=f"features.{number}")(x)
            if has_norm:
                number += 1
                x = norm(x, f"features.{number}")
            x = activation(x, f"features.{number + 1}")
            number += 2
        x = keras.layers.MaxPooling2D(2, name=f"features.{number}")(x)
        number += 1
    return keras.Model(image, x, name="vgg")
